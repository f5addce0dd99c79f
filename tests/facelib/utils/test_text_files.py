import pytest

from facelib.utils.text_files import TextFileError, check_encoding, decode_text, read_lines, read_text


def write(folder, data):
    path = folder / "list.txt"
    path.write_bytes(data)
    return path


def test_smallest_example(tmp_path):
    path = write(tmp_path, b"a 0\n\n  b 1\n")
    assert list(read_lines(path)) == [(1, "a 0"), (3, "  b 1")]
    assert read_text(path) == "a 0\n\n  b 1\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_marks_and_line_ends(tmp_path, end, mark):
    """A mark also begins a later line: `cat` of two files that have one."""
    path = write(tmp_path, f"{mark}é{end}{end}{mark}b{end}c".encode())
    assert list(read_lines(path)) == [(1, "é"), (3, "b"), (4, "c")]
    assert read_text(path) == "é\n\nb\nc"


def test_only_line_ends_end_lines(tmp_path):
    """`str.splitlines` also cuts at characters that may stand in a name."""
    path = write(tmp_path, "a\x0bb\x1cc\x85d\u2028e\n".encode())
    assert list(read_lines(path)) == [(1, "a\x0bb\x1cc\x85d\u2028e")]


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("utf-16", r"UTF-16 \(little endian\)"),
        ("utf-16-le", r"UTF-16 \(little endian, without a byte-order mark\)"),
        ("utf-16-be", r"UTF-16 \(big endian, without a byte-order mark\)"),
        ("utf-32", r"UTF-32 \(little endian\)"),
    ],
)
def test_wide_encodings_are_refused_by_name(tmp_path, encoding, named):
    path = write(tmp_path, "a.jpg 0\nb.jpg 1\n".encode(encoding))
    for read in (lambda: list(read_lines(path, escape=True)), lambda: read_text(path), lambda: check_encoding(path)):
        with pytest.raises(TextFileError, match=rf"list\.txt: is {named}, not UTF-8; save it as UTF-8"):
            read()


def test_other_bytes_are_refused_by_line_or_carried_along(tmp_path):
    path = write(tmp_path, b"a\r\nb\r\ncaf\xe9\r\n")
    for read in (lambda: list(read_lines(path)), lambda: read_text(path)):
        with pytest.raises(TextFileError, match=r"list\.txt: line 3 is not UTF-8 \(byte 0xe9; Latin-1"):
            read()
    assert list(read_lines(path, escape=True))[-1] == (3, "caf\udce9")


def test_binary_files_are_refused(tmp_path):
    path = write(tmp_path, b"a\n" * 5000 + b"b\0\n")
    with pytest.raises(TextFileError, match="line 5001 holds NUL bytes"):
        list(read_lines(path))
    with pytest.raises(FileNotFoundError):
        list(read_lines(tmp_path / "none"))
    assert decode_text(b"", "x") == ""
