import pytest

from facelib.utils.registry import Registry


def test_smallest_example():
    animals = Registry("animal", "facelib.test_animals", {"decimal": "decimal", "absent": "no_such_module"})

    @animals.register("cat")
    class Cat:
        def __init__(self, name: str, lives: int = 9) -> None:
            self.name, self.lives = name, lives

    assert animals.names() == ["cat", "decimal"]
    assert animals.build("cat", name="Tom").lives == 9
    with pytest.raises(ValueError, match="animal 'cat' needs the setting 'name'"):
        animals.build("cat")
    with pytest.raises(ValueError, match="animal 'cat' has no setting 'legs'; it has: name, lives"):
        animals.build("cat", name="Tom", legs=4)
    with pytest.raises(ValueError, match="unknown animal 'absent': choose one of cat, decimal"):
        animals.build("absent")
    with pytest.raises(ValueError, match=r"animal name 'cat' is taken by .*Cat: choose another name"):
        animals.register("cat")(dict)
    animals.register("cat")(Cat)  # the same class again, as a reloaded module does
