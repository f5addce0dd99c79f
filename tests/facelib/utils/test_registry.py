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


def test_a_preset_is_overridden_by_the_callers_settings():
    animals = Registry("animal", "facelib.test_animals", {})

    @animals.register("kitten", name="Kit", lives=9)
    @animals.register("cat", lives=9)
    class Cat:
        def __init__(self, name: str, lives: int) -> None:
            self.name, self.lives = name, lives

    assert animals.build("kitten", lives=8).__dict__ == {"name": "Kit", "lives": 8}
    assert animals.find("kitten") is animals.find("cat") is Cat
    with pytest.raises(ValueError, match="animal 'cat' needs the setting 'name'"):
        animals.build("cat")


def test_the_name_of_a_built_in_component_is_taken_before_its_module_is_imported():
    animals = Registry("animal", "facelib.test_animals", {"decimal": "decimal"})
    with pytest.raises(ValueError, match="animal name 'decimal' is taken by decimal"):
        animals.register("decimal")(dict)
