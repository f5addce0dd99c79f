"""The guarded pickle reader: plain data as Python's own unpickler reads it, and nothing else."""

import os
import pickle
import struct

import pytest

from facelib.utils.safe_pickle import (
    DamagedPickleError,
    Name,
    UnsafePickleError,
    make_dict,
    make_set,
    read_pickle,
)

PLAIN = [
    {"a": (1, -2, 1 << 40, 3.5), "b": [None, True, False], 7: {"deep": [[]]}},
    ("a" * 300, "text" * 100, "\u00e9\n", ()),
    list(range(3000)),
]


def test_smallest_example():
    assert read_pickle(pickle.dumps(([b"image"], [True]))) == ([b"image"], [True])


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", PLAIN, ids=["dict", "texts", "list"])
def test_plain_data_of_every_protocol(value, protocol):
    assert read_pickle(pickle.dumps(value, protocol)) == value


def test_sets_of_protocol_4():
    value = [{1, 2}, frozenset("ab")]
    assert read_pickle(pickle.dumps(value, 4)) == value


@pytest.mark.parametrize(
    "data", [b"S'\\xff\\n\xfe'\n.", b'S"\\xff\\n\xfe"\n.', b"U\x03\xff\n\xfe.", b"T\x03\x00\x00\x00\xff\n\xfe."]
)
def test_strings_of_python_2_are_bytes(data):
    assert read_pickle(data) == pickle.loads(data, encoding="bytes") == b"\xff\n\xfe"


def test_stack_opcodes():
    assert read_pickle(b"(I1\nI2\n1K\x05K\x0702\x86.") == (5, 5)  # POP_MARK, POP, DUP


def test_names_come_from_the_callers_table_and_state_from_its_objects():
    class Point:
        def set_state(self, state):
            self.state = state

    def names(module, name):
        return Name("a point", new=lambda arguments: Point()) if (module, name) == ("geometry", "Point") else None

    data = b"\x80\x02cgeometry\nPoint\n)\x81}U\x01xK\x05sb."
    assert read_pickle(data, names).state == {b"x": 5}
    with pytest.raises(UnsafePickleError, match="it calls a point"):
        read_pickle(b"cgeometry\nPoint\n)R.", names)
    with pytest.raises(UnsafePickleError, match=r"asks for os\.system") as error:
        read_pickle(b"cos\nsystem\n)R.", names)
    assert error.value.name == "os.system"


def test_persistent_ids():
    assert read_pickle(b"\x80\x02K\x05Q.", persistent_load=lambda identifier: identifier + 1) == 6
    for data in (b"\x80\x02K\x05Q.", b"Px\n."):
        with pytest.raises(UnsafePickleError, match="persistent id"):
            read_pickle(data)


def test_bytes_can_stay_in_the_file():
    data = pickle.dumps([b"abc", b"defg"], 3)
    positions = read_pickle(data, make_bytes=lambda content, start: (start, len(content)))
    assert [data[start : start + size] for start, size in positions] == [b"abc", b"defg"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"(ios\nsystem\n.", r"asks for os\.system"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02(N}o.", "OBJ"),
        (b"\x80\x04N)}\x92.", "NEWOBJ_EX"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x02]}b.", "sets the state of a list"),
        (b"\x80\x02](K\x01)u.", "list"),
        (b"\x80\x02})K\x01s.", "only scalars"),
        (b"\x80\x02}(K\x01u.", "a key but no value"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "memo slot"),
        (b"\x80\x02h\x05.", "memo slot 5 is empty"),
        (b"\x8b" + struct.pack("<i", 1000) + b"\x7f" * 1000 + b".", "bits"),
        (b"\x80\x02NN.", "left over"),
        (b"\x80\x02.", "missing on the stack"),
        (b"\x80\x02t.", "mark is missing"),
    ],
)
def test_what_is_refused(data, message):
    with pytest.raises(UnsafePickleError, match=message):
        read_pickle(data)


@pytest.mark.parametrize("data", [b"", b"\x80\x04", b"\xff\xd8\xff", b"Sx\n.", b"C\x05ab", b"Iabc\n."])
def test_damage(data):
    with pytest.raises(DamagedPickleError):
        read_pickle(data)


def test_limits():
    with pytest.raises(UnsafePickleError, match="more than 100 opcodes"):
        read_pickle(pickle.dumps(list(range(200))), max_opcodes=100)
    with pytest.raises(UnsafePickleError, match="characters"):
        read_pickle(pickle.dumps("x" * (5 << 20)))


def test_nothing_runs(tmp_path):
    class Call:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    for protocol in range(6):
        with pytest.raises(UnsafePickleError, match=r"(posix|nt)\.mkdir"):
            read_pickle(pickle.dumps(Call(), protocol))
    assert not (tmp_path / "ran").exists()


def test_constructors_of_containers():
    assert make_dict(()) == {}
    assert make_dict(([("a", 1), ["b", 2]],)) == {"a": 1, "b": 2}
    assert make_set(([1, "a"],)) == {1, "a"}
    for make, arguments in ((make_dict, ([1],)), (make_dict, ([((), 1)],)), (make_set, ([[]],)), (make_set, (1,))):
        with pytest.raises(UnsafePickleError):
            make(arguments)
