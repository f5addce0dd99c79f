import numpy as np
import pytest

from facelib.utils.flip import flip_key, flip_rule, join_flipped


def test_sum_and_concatenation():
    plain, flipped = np.float32([[1, 2]]), np.float32([[3, 5]])
    assert join_flipped(plain, flipped, "sum").tolist() == [[4, 7]]
    assert join_flipped(plain, flipped, "concat").tolist() == [[1, 2, 3, 5]]


@pytest.mark.parametrize(
    ("given", "rule", "key"), [(True, "sum", True), (False, "none", False), ("concat", "concat", "concat")]
)
def test_rules_and_their_hashes(given, rule, key):
    assert flip_rule(given) == rule
    assert flip_key(rule) is key or flip_key(rule) == key == "concat"


def test_unknown_rules_are_refused():
    with pytest.raises(ValueError, match=r"flip=mean: choose one of sum, concat, none"):
        flip_rule("mean")
