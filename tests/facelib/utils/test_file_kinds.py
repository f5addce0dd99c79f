import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest

from facelib.data import encode_image
from facelib.data.image_headers import declared_size
from facelib.sources import BinError, SourceError, build_source, read_bin
from facelib.utils.file_kinds import HEAD_BYTES, describe_content
from facelib.utils.text_files import TextFileError, read_lines, read_text

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4665a5ea" * 8 + b"\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"


def archive(kind):
    data = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(data, "w") as file:
            file.writestr("a.jpg", "x")
    else:
        with tarfile.open(fileobj=data, mode="w") as file:
            file.addfile(tarfile.TarInfo("a.jpg"))
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (POINTER, "a Git LFS pointer, not the file: run `git lfs pull`"),
        (PAGE, "a web page (HTML): download the file itself"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML, as servers send in place of a file"),
        (archive("zip"), "a zip archive: unpack it"),
        (archive("tar"), "a tar archive: unpack it"),
        (gzip.compress(b"\xff\xd8", mtime=0), "a gzip archive: unpack it"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "a HEIC photo"),
        (b"\x00\x00\x00\x20ftypavif", "an AVIF"),
        (b"\x00\x00\x00\x20ftypisom", "a film"),
        (b"GIF89a", "a GIF"),
        (b"II*\x00\x08\x00\x00\x00", "a TIFF"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "what macOS stores beside a file"),
        (b"\x00" * 600, "zeros: an incomplete download"),
    ],
    ids=lambda value: value if isinstance(value, str) else "data",  # archives hold the time
)
def test_what_a_file_is_in_place_of_what_it_should_be(tmp_path, data, kind):
    """git-lfs 4366, facenet-pytorch 90, stb 427 (images of ImageNet that are gzip archives), facerecognition 635."""
    assert describe_content(data[:HEAD_BYTES]).startswith(kind)
    with pytest.raises(ValueError, match="not a decodable image") as error:
        declared_size(data)
    assert kind in str(error.value)
    for name, read, complaint in (
        ("lfw.bin", read_bin, BinError),
        ("train.rec", lambda path: build_source("recordio", str(path)), SourceError),
        ("list.txt", lambda path: list(read_lines(path)), TextFileError),
        ("a.yaml", read_text, TextFileError),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(complaint, match=name) as error:
            read(tmp_path / name)
        assert kind in str(error.value)


def test_what_is_nothing_else():
    for data in (b"", b"a.jpg 0\n", encode_image(np.zeros((8, 8, 3), np.uint8)), b"\x80\x04\x95"):
        assert describe_content(data) == ""
