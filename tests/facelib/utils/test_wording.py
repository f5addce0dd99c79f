import pytest

from facelib.utils.wording import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "GPU", "1 GPU"),
        (1.0, "CPU", "1 CPU"),
        (0, "GPU", "0 GPUs"),
        (0.5, "CPU", "0.5 CPUs"),
        (2, "node", "2 nodes"),
        (1, "identity", "1 identity"),
        (12345, "identity", "12345 identities"),
        (2, "key", "2 keys"),
        (16.0, "CPU", "16 CPUs"),
    ],
)
def test_one_is_singular(number, noun, text):
    assert counted(number, noun) == text
