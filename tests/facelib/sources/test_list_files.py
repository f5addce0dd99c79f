import numpy as np
import pytest

from facelib.sources import SourceError, build_source
from facelib.sources.list_files import ListLine, list_alignment, read_list
from facelib.utils.text_files import TextFileError


def write(folder, text, name="list.txt"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows(path):
    return [row if isinstance(row, str) else (row.path, row.identity) for _, row in read_list(path)]


def test_smallest_example(tmp_path):
    path = write(tmp_path, "a.jpg 0\n\nb.jpg 1 0 1 2 3 4 5 6 7 8 9 0.5\n")
    (_, first), (number, second) = read_list(path)
    assert first == ListLine("a.jpg", "0", None, pytest.approx(float("nan"), nan_ok=True))
    assert (number, second.path, second.score) == (3, "b.jpg", 0.5)
    assert second.landmarks.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert list_alignment(path) == "detect"


def test_the_first_image_after_a_byte_order_mark(tmp_path):
    """Editors on Windows write one: eyegrade 70, textgrid 21."""
    assert rows(write(tmp_path, b"\xef\xbb\xbfa.jpg 0\r\nb.jpg 0\r\n")) == [("a.jpg", "0"), ("b.jpg", "0")]


def test_other_encodings_are_refused(tmp_path):
    for text in ("a.jpg 0\nb.jpg 1\n".encode("utf-16"), "a.jpg 0\n".encode("utf-16-le")):
        with pytest.raises(TextFileError, match=r"list\.txt: is UTF-16"):
            rows(write(tmp_path, text))
    assert rows(write(tmp_path, b"lat\xe9.jpg 0\n")) == [("lat\udce9.jpg", "0")]


def test_tables(tmp_path):
    assert rows(write(tmp_path, '"a, b.jpg",ann\nc d.jpg,"bob"\n')) == [("a, b.jpg", "ann"), ("c d.jpg", "bob")]
    assert rows(write(tmp_path, "a b.jpg\tann lee\n")) == [("a b.jpg", "ann lee")]


def test_damaged_lines_say_what_is_wrong(tmp_path):
    text = "alone\na.jpg 1 2 3\na.jpg 1 x\n" + "a.jpg 1" + " nan" * 10 + "\n\t1\n"
    assert all(isinstance(row, str) for row in rows(write(tmp_path, text)))


def test_lists_of_insightface(tmp_path):
    """insightface 80 and 127: aligned, picture, label, box, landmarks x1 … x5 y1 … y5."""
    path = write(tmp_path, "1\ta.jpg\t0\n1\tb c.jpg\t7\n", "train.lst")
    assert rows(path) == [("a.jpg", "0"), ("b c.jpg", "7")]
    assert list_alignment(path) == "none"
    points = "\t".join(map(str, range(10)))
    path = write(tmp_path, f"0\ta.jpg\t3\t1\t2\t3\t4\t{points}\n0\tb.jpg\n0\tc.jpg\tx\n", "train.lst")
    (_, first), *damaged = read_list(path)
    assert first.landmarks.tolist() == [[0, 5], [1, 6], [2, 7], [3, 8], [4, 9]]
    assert list_alignment(path) == "given"
    assert all(isinstance(row, str) for _, row in damaged)


def test_lists_of_im2rec(tmp_path):
    path = write(tmp_path, "0\t7.000000\tann/a.jpg\n1\t8\tbob/b c.jpg\n2\tnan\tc.jpg\n", "train.LST")
    assert rows(path)[:2] == [("ann/a.jpg", "7"), ("bob/b c.jpg", "8")]
    assert isinstance(rows(path)[2], str)
    assert list_alignment(path) == "detect"


def test_absolute_paths_inside_the_folder(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(b"x")
    write(tmp_path, f"1\t{tmp_path}/a.jpg\t0\n1\t{tmp_path}/b.jpg\t1\n", "absolute.lst")
    source = build_source("folders", str(tmp_path), layout="list", list="absolute.lst")
    index = source.index()
    assert [(e.name, e.place) for e in index.entries(0, 2)] == [("0", "a.jpg"), ("1", "b.jpg")]
    assert not index.skipped
    assert source.read(index.entries(0, 1)[0]) == b"x"


def test_refuses(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such list file"):
        list_alignment(tmp_path / "none.txt")
    with pytest.raises(SourceError, match="an empty list file"):
        list_alignment(write(tmp_path, "\n"))
    assert list_alignment(write(tmp_path, "alone\n")) == "detect"
    assert np.isnan(ListLine("a", "b").score)
