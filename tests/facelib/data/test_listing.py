import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.listing import accounted, random_tree

from facelib.data import Folder
from facelib.data.listing import image_files, is_hidden, is_image_name, is_inside, is_utf8, printable, sized_images


def make(folder, *places):
    for place in places:
        path = os.path.join(os.fsencode(folder), os.fsencode(place))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"x")


def listed(folder, follow_links=False):
    skipped = []
    found = list(image_files(folder, lambda *row: skipped.append(row), follow_links))
    return found, {place: reason for reason, place, _ in skipped}


def test_smallest_example(tmp_path):
    make(tmp_path, "b/2.JPG", "a/1.png", "a/notes.txt", "a/.hidden.jpg")
    assert listed(tmp_path) == (
        ["a/1.png", "b/2.JPG"],
        {"a/.hidden.jpg": "hidden_file", "a/notes.txt": "not_a_picture_file"},
    )


@pytest.mark.parametrize("follow_links", [False, True])
def test_links_that_lead_back_end(tmp_path, follow_links):
    make(tmp_path, "in/a/1.jpg")
    for link, target in (("l1", ".."), ("l2", ".."), ("self", "."), ("up", "../.."), ("again", "1.jpg"), ("0", "../a")):
        os.symlink(target, tmp_path / "in/a" / link)
    found, left_out = listed(tmp_path / "in", follow_links)
    assert found == ["a/1.jpg"]
    assert Counter(left_out.values())["link_within_folder"] == (6 if follow_links else 5)


def test_links_out_of_the_folder(tmp_path):
    make(tmp_path, "in/a/1.jpg", "out/b/2.jpg", "out/3.jpg")
    os.symlink(tmp_path / "out", tmp_path / "in/z")
    os.symlink(tmp_path / "out/b", tmp_path / "in/y")
    os.symlink(tmp_path / "out/3.jpg", tmp_path / "in/a/3.jpg")
    os.symlink("nothing.jpg", tmp_path / "in/a/4.jpg")
    assert listed(tmp_path / "in") == (
        ["a/1.jpg"],
        {"a/3.jpg": "outside_folder", "a/4.jpg": "missing_file", "y": "outside_folder", "z": "outside_folder"},
    )
    # What the first link leads to is taken there, and not again below another.
    found, left_out = listed(tmp_path / "in", follow_links=True)
    assert found == ["a/1.jpg", "a/3.jpg", "y/2.jpg"]
    assert left_out == {"a/4.jpg": "missing_file", "z/b": "link_within_folder", "z/3.jpg": "link_within_folder"}


def test_a_link_to_what_is_not_listed_itself_is_followed(tmp_path):
    """git-annex keeps the files in a hidden folder, other stores without a suffix."""
    make(tmp_path, ".git/objects/1.jpg", "blobs/0123")
    os.symlink(".git/objects/1.jpg", tmp_path / "1.jpg")
    os.symlink("blobs/0123", tmp_path / "2.jpg")
    found, left_out = listed(tmp_path, follow_links=True)
    assert found == ["1.jpg", "2.jpg"]
    assert left_out == {".git/objects/1.jpg": "hidden_file", "blobs/0123": "not_a_picture_file"}


def test_names_that_are_not_utf8(tmp_path):
    make(tmp_path, b"lat\xe9/x.jpg", b"lat\xe9/x.txt", b"y\xff.jpg", "é/x.jpg")
    assert listed(tmp_path) == (
        ["é/x.jpg"],
        {"lat\\xe9/x.jpg": "name_not_utf8", "lat\\xe9/x.txt": "not_a_picture_file", "y\\xff.jpg": "name_not_utf8"},
    )
    assert printable("é") == "é"
    assert not is_utf8(os.fsdecode(b"\xe9"))


def test_what_systems_put_beside_images_is_hidden(tmp_path):
    make(tmp_path, "a/._1.jpg", "__MACOSX/a/1.jpg", "a/@eaDir/1.jpg/THUMB.jpg", "a/.ipynb_checkpoints/1.jpg", "a/1.jpg")
    found, left_out = listed(tmp_path)
    assert found == ["a/1.jpg"]
    assert set(left_out.values()) == {"hidden_file"}
    assert len(left_out) == 4


def test_deep_folders(tmp_path):
    """Deeper than Python's recursion limit, as deep as a path of 4,096 bytes can be."""
    depth = (4000 - len(str(tmp_path))) // 2
    folder = tmp_path
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open("1.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    found, _ = listed(tmp_path)
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # shutil.rmtree, with which pytest tidies up, recurses
    assert found == ["d/" * depth + "1.jpg"]


@pytest.mark.parametrize("follow_links", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_listed_and_left_out_are_what_is_there(tmp_path, seed, follow_links):
    random_tree(tmp_path / "in", np.random.default_rng(seed))
    found, left_out = listed(tmp_path / "in", follow_links)
    accounted(tmp_path / "in", found, list(left_out))
    assert found == listed(tmp_path / "in", follow_links)[0]
    sized = sized_images(Folder(str(tmp_path / "in")), lambda *row: None, follow_links)
    assert [name for name, _ in sized] == sorted(found)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_names_and_text_do_not_depend_on_the_locale(tmp_path, locale):
    """Containers run with LANG=C and TERM=dumb."""
    make(tmp_path, "a b/josé 1.jpg", "样本/2.jpg")
    (tmp_path / "list.yaml").write_text("name: josé\n", encoding="utf-8")
    code = (
        "import sys\n"
        "from facelib.config import load_settings\n"
        "from facelib.data.listing import image_files\n"
        "print(load_settings(sys.argv[1] + '/list.yaml').name, *image_files(sys.argv[1], lambda *row: None), sep='|')\n"
    )
    environment = {**os.environ, "LANG": locale, "LC_ALL": "", "TERM": "dumb"}
    done = subprocess.run([sys.executable, "-c", code, tmp_path], env=environment, capture_output=True, check=True)
    assert done.stdout.decode("utf-8") == "josé|a b/josé 1.jpg|样本/2.jpg\n"


def test_any_file_system_with_sizes(tmp_path):
    make(tmp_path, "b/2.JPG", "a.png", "a/notes.txt", ".x.jpg")
    skipped = []
    for uri in (str(tmp_path), f"file://{tmp_path}"):
        assert sized_images(Folder(uri), lambda *row: skipped.append(row[:2])) == [("a.png", 1), ("b/2.JPG", 1)]
    assert Counter(skipped) == {("hidden_file", ".x.jpg"): 2, ("not_a_picture_file", "a/notes.txt"): 2}


def test_words():
    assert is_hidden(".a")
    assert is_hidden("__MACOSX")
    assert not is_hidden("a")
    assert is_image_name("A.JPEG")
    assert not is_image_name("a.txt")
    assert is_inside("/a/b", Path("/a"))
    assert not is_inside("/ab", Path("/a"))
