"""Random folders, and the check that each thing in a folder is listed or left out, once."""

import os

NAMES = ["a", "b", "ann", ".git", "@eaDir", "__MACOSX", "é", os.fsdecode(b"lat\xe9"), "10:30", "a b"]
FILES = ["1.jpg", "2.JPG", "3.png", "._1.jpg", ".4.jpg", "notes.txt", "Thumbs.db", os.fsdecode(b"\xff.jpg"), "5.webp"]


def random_tree(root, rng, files=FILES, names=NAMES, depth=3):
    """Folders, files, and links (within, back, out, to nothing) below `root`; `root`'s parent gets an `out` folder."""
    os.makedirs(root.parent / "out/deep", exist_ok=True)
    (root.parent / "out/deep/o.jpg").write_bytes(b"out")
    folders = [root]
    root.mkdir(exist_ok=True)
    for _ in range(rng.integers(1, 8)):
        parent = folders[rng.integers(len(folders))]
        if len(parent.relative_to(root).parts) < depth:
            folder = parent / names[rng.integers(len(names))]
            folder.mkdir(exist_ok=True)
            folders.append(folder)
    for _ in range(rng.integers(1, 15)):
        path = folders[rng.integers(len(folders))] / files[rng.integers(len(files))]
        if not path.exists():
            path.write_bytes(rng.bytes(8))
    targets = [root, root.parent / "out", root.parent / "out/deep/o.jpg", root / "gone", *folders, *root.rglob("*.jpg")]
    for number in range(rng.integers(0, 5)):
        link = folders[rng.integers(len(folders))] / f"link{number}{('', '.jpg')[rng.integers(2)]}"
        os.symlink(targets[rng.integers(len(targets))], link)


def accounted(root, listed, left_out, elsewhere=()):
    """Assert that every file and link below `root` is listed or left out, by itself or by a folder above it, once.

    Args:
        listed, left_out: paths relative to `root`; bytes that are not UTF-8 as `\\xe9`.
        elsewhere: what was left out and is not in the folder: lines of a list, images that a pair names.
    """
    assert len(set(listed)) == len(listed), "listed twice"
    assert len(set(left_out)) == len(left_out), "left out twice"
    assert not set(listed) & set(left_out), "listed and left out"
    there = {place for place in left_out if place not in elsewhere}
    for folder, folders, files in os.walk(os.fsencode(root)):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in (*files, *links):
            place = os.path.relpath(os.path.join(folder, name), os.fsencode(root))
            place = place.decode("utf-8", "backslashreplace")
            covered = [p for p in (*listed, *there) if place == p or place.startswith(p + "/")]
            followed = name in links and not covered and (below(place, (*listed, *there)) or is_empty(folder, name))
            assert len(covered) == 1 or followed, f"{place} is covered by {covered}"


def below(place, places):
    """Those of `places` that are below the folder `place`."""
    return [other for other in places if other.startswith(place + "/")]


def is_empty(folder, name):
    """Whether there is no file in a folder, nor in one below it."""
    return not any(files for _, _, files in os.walk(os.path.join(folder, name)))
