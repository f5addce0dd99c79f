"""What a file really is, by its first bytes, where it is not what its name says: for error messages.

Most files that "cannot be read" are something else: a pointer that Git LFS left in place of the file, the page of a
download service, an archive that was not unpacked, a photo in a format that a phone renamed.
"""

from __future__ import annotations

HEAD_BYTES = 512  # what `describe_content` looks at, at most

_DOWNLOAD = "download the file itself, in a browser if need be"
_STARTS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file: run `git lfs pull`"),
    (b"/annex/objects/", "a git-annex pointer, not the file: run `git annex get`"),
    (b"\x00\x05\x16\x07", "what macOS stores beside a file (AppleDouble)"),
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (b"Rar!", "a rar archive: unpack it"),
    (b"\xfd7zXZ\x00", "an xz archive: unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it"),
    (b"BZh", "a bzip2 archive: unpack it"),
    (b"%PDF", "a PDF"),
    (b"GIF8", "a GIF"),
    (b"II*\x00", "a TIFF"),
    (b"MM\x00*", "a TIFF"),
    (b"8BPS", "a Photoshop file"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
)
_BRANDS = {b"avif": "an AVIF", b"avis": "an AVIF", b"heic": "a HEIC photo", b"heix": "a HEIC photo"}
_BRANDS |= {b"mif1": "a HEIC photo", b"msf1": "a HEIC photo"}


def describe_content(head: bytes) -> str:
    """What a file with these first bytes is, with what to do about it, as "a zip archive: unpack it"; "" if unknown."""
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "a film")
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:32].lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<script")):
        return f"a web page (HTML): {_DOWNLOAD}"
    if text.startswith(b"<?xml"):
        return f"XML, as servers send in place of a file: {_DOWNLOAD}"
    if head and not head.strip(b"\x00"):
        return "zeros: an incomplete download or copy"
    return ""
