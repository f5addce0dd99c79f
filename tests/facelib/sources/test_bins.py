import io
import os
import pickle
import struct

import numpy as np
import pytest

from facelib.sources import read_bin, write_bin

IMAGES = [b"\xff\xd8one", b"\xff\xd8two\n", b"\xff\xd8" + bytes(range(256)) * 3, b"\xff\xd8four"]
ISSAME = [True, False]


def python2_pickle(protocol):
    """What Python 2's cPickle writes for (list of str, list of bool)."""
    if protocol == 2:
        strings = b"".join(b"T" + struct.pack("<i", len(image)) + image for image in IMAGES)
        return b"\x80\x02](" + strings + b"e](" + b"\x88\x89" + b"e\x86."
    # Protocol 0 escapes only what its quoting needs.
    strings = b"".join(b"S" + ("'" + "".join(f"\\x{b:02x}" for b in image) + "'").encode() + b"\na" for image in IMAGES)
    return b"((lp1\n" + strings + b"(lp2\nI01\naI00\natp3\n."


def test_smallest_example(tmp_path):
    write_bin(tmp_path / "set.bin", IMAGES, ISSAME)
    images, issame = read_bin(tmp_path / "set.bin")
    assert images == IMAGES
    assert issame.dtype == bool
    assert issame.tolist() == ISSAME


@pytest.mark.parametrize("protocol", range(6))
def test_reads_python_3(tmp_path, protocol):
    """Protocols 0 to 2 have no opcode for bytes: Python 3 writes a call of `_codecs.encode`."""
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps((IMAGES, ISSAME), protocol=protocol))
    assert read_bin(path)[0] == IMAGES


def test_calls_that_make_bytes_take_latin_1_only(tmp_path):
    path = tmp_path / "set.bin"
    for call in (
        b"c_codecs\nencode\n(Vab\nVutf-7\ntR.",
        b"c_codecs\nencode\n(VabVlatin1\ntR.",
        b"c_codecs\nencode\n(V\\u20ac\nVlatin1\ntR.",
        b"c__builtin__\nbytes\n(I1000000000\ntR.",
    ):
        path.write_bytes(call)
        with pytest.raises(ValueError, match=r"set\.bin"):
            read_bin(path)


def test_labels_as_floats(tmp_path):
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps((IMAGES, [1.0, 0.0]), protocol=4))
    assert read_bin(path)[1].tolist() == ISSAME
    path.write_bytes(pickle.dumps((IMAGES, [1.0, 0.5]), protocol=4))
    with pytest.raises(ValueError, match=r"issame\[1\] must be True or False, found 0\.5"):
        read_bin(path)


@pytest.mark.parametrize("protocol", [0, 2])
def test_reads_python_2(tmp_path, protocol):
    path = tmp_path / "set.bin"
    path.write_bytes(python2_pickle(protocol))
    images, issame = read_bin(path)
    assert images == IMAGES
    assert issame.tolist() == ISSAME


def test_protocol_0_with_raw_image_bytes(tmp_path):
    path = tmp_path / "set.bin"
    path.write_bytes(b"((lp1\nS'\xff\xd8a'\naS'\xff\xd8b'\na(lp2\nI01\natp3\n.")
    assert read_bin(path)[0] == [b"\xff\xd8a", b"\xff\xd8b"]


def test_written_file_is_plain_for_other_readers(tmp_path):
    write_bin(tmp_path / "set.bin", IMAGES, np.array(ISSAME))
    images, issame = pickle.loads((tmp_path / "set.bin").read_bytes(), encoding="bytes")
    assert images == IMAGES
    assert all(type(label) is bool for label in issame)
    assert os.listdir(tmp_path) == ["set.bin"]


class Hostile:
    def __init__(self, function, *arguments):
        self.reduction = (function, arguments)

    def __reduce__(self):
        return self.reduction


@pytest.mark.parametrize("protocol", range(6))
def test_code_in_the_pickle_never_runs(tmp_path, protocol):
    target = tmp_path / "ran"
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(([Hostile(os.mkdir, str(target))], ISSAME), protocol=protocol))
    with pytest.raises(ValueError, match=r"set\.bin.*refused.*(posix|nt)\.mkdir"):
        read_bin(path)
    assert not target.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # GLOBAL, REDUCE
        b"(S'true'\nios\nsystem\n.",  # INST
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",  # STACK_GLOBAL
        b"Pid\n.",  # PERSID
        b"\x80\x02]}b.",  # BUILD
    ],
)
def test_opcodes_that_build_objects_are_refused(tmp_path, payload):
    path = tmp_path / "set.bin"
    path.write_bytes(payload)
    with pytest.raises(ValueError, match="refused"):
        read_bin(path)


def test_numpy_labels_are_refused_with_advice(tmp_path):
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps((IMAGES, [np.bool_(True), np.bool_(False)]), protocol=4))
    with pytest.raises(ValueError, match=r"numpy.*write_bin"):
        read_bin(path)


def test_huge_memo_index_is_refused_before_it_allocates(tmp_path):
    path = tmp_path / "set.bin"
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    with pytest.raises(ValueError, match="memo slot"):
        read_bin(path)


def test_every_truncation_is_an_error_that_names_the_file(tmp_path):
    buffer = io.BytesIO()
    pickle.dump((IMAGES, ISSAME), buffer, protocol=4)
    path = tmp_path / "set.bin"
    for length in range(len(buffer.getvalue()) - 1):
        path.write_bytes(buffer.getvalue()[:length])
        with pytest.raises(ValueError, match=r"set\.bin"):
            read_bin(path)


def test_every_flipped_byte_is_read_or_refused(tmp_path):
    whole = bytearray(pickle.dumps((IMAGES, ISSAME), protocol=4))
    path = tmp_path / "set.bin"
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            images, issame = read_bin(path)
        except ValueError as error:
            assert "set.bin" in str(error)  # noqa: PT017
        else:
            assert len(images) == 2 * len(issame)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((IMAGES, [True]), "4 images for 1 pairs"),
        (IMAGES, r"expected the pair \(images, issame\)"),
        ((IMAGES, ISSAME, 1), "tuple of length 3"),
        ((b"abc", ISSAME), "images must be a list"),
        ((["text", *IMAGES[1:]], ISSAME), "image 0 must be encoded bytes"),
        ((IMAGES, [True, 2]), r"issame\[1\]"),
        ((IMAGES, [True, None]), r"issame\[1\]"),
    ],
)
def test_other_content_is_refused(tmp_path, content, message):
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(ValueError, match=message):
        read_bin(path)


def test_not_a_pickle_and_missing_file(tmp_path):
    path = tmp_path / "set.bin"
    path.write_bytes(b"\xff\xd8\xff\xe0 a JPEG")
    with pytest.raises(ValueError, match="not a verification set"):
        read_bin(path)
    with pytest.raises(FileNotFoundError, match=r"other\.bin"):
        read_bin(tmp_path / "other.bin")


def test_write_refuses_what_does_not_match(tmp_path):
    with pytest.raises(ValueError, match="4 images for 3 pairs"):
        write_bin(tmp_path / "set.bin", IMAGES, [True, False, True])
    assert os.listdir(tmp_path) == []
