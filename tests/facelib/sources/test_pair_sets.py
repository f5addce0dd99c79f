import numpy as np
import pytest
from support.datasets import pattern, write_dataset

from facelib.data import DatasetError, ImageSpec, decode_image, encode_image
from facelib.data.pairs import draw_pairs
from facelib.sources import BinError, read_bin, write_bin
from facelib.sources.pair_sets import load_pair_set, read_bins


def bin_file(path, people, size=112):
    """A set with a genuine and an impostor pair of each of `people`."""
    images = []
    for person in people:
        for identity, index in ((person, 0), (person, 1), (person, 2), (person + 500, 0)):
            images.append(encode_image(pattern(identity, index, size)))
    write_bin(path, images, [True, False] * len(people))
    return path


def test_pairs_of_a_face_dataset(tmp_path):
    write_dataset(tmp_path / "heldout", identities=12, images=4, first=1000)
    found = load_pair_set(str(tmp_path / "heldout"), pairs=50, seed=3)
    assert found.name == "heldout"
    assert found.issame.sum() == 50 == (~found.issame).sum()
    assert found.image_spec == ImageSpec(template="arcface", size=112)
    # What the labels say is what the images show.
    people = {encode_image(pattern(i, j)): i for i in range(1000, 1012) for j in range(4)}
    identity = np.array([people[data] for data in found.images])
    assert np.array_equal(identity[found.first] == identity[found.second], found.issame)
    again = load_pair_set(str(tmp_path / "heldout"), pairs=50, seed=3)
    assert again.images == found.images
    assert np.array_equal(again.first, found.first)
    assert not np.array_equal(load_pair_set(str(tmp_path / "heldout"), pairs=50, seed=4).second, found.second)


@pytest.mark.parametrize("identities", [[5, 5, 5], [1, 2, 3]])
def test_identities_without_pairs_are_refused(identities, tmp_path):
    with pytest.raises(ValueError, match="two identities, and one with two images"):
        draw_pairs(np.array(identities), 10, seed=0)
    write_dataset(tmp_path, identities=len(set(identities)), images=identities.count(identities[0]))
    with pytest.raises(DatasetError, match=f"{tmp_path}: pairs: need two identities"):
        load_pair_set(str(tmp_path))


def test_a_bin_brings_its_own_pairs(tmp_path):
    path = bin_file(tmp_path / "lfw.bin", range(3))
    found = load_pair_set(str(path), pairs=1)
    assert found.name == "lfw"
    assert found.issame.tolist() == [True, False] * 3
    assert found.first.tolist() == [0, 2, 4, 6, 8, 10]
    assert found.second.tolist() == [1, 3, 5, 7, 9, 11]
    assert np.abs(decode_image(found.images[1]).astype(int) - pattern(0, 1)).mean() < 3
    assert found.image_spec == ImageSpec(template="arcface", size=112)
    other = load_pair_set(str(bin_file(tmp_path / "small.bin", [1], size=96)), template="arcface-96")
    assert other.image_spec == ImageSpec(template="arcface-96", size=96)


def test_bins_are_joined_and_named(tmp_path):
    folder = tmp_path / "c++"  # a plus that joins nothing
    folder.mkdir()
    one, two = bin_file(folder / "a.bin", range(2)), bin_file(folder / "b.bin", range(10, 13))
    joined = load_pair_set(f"{one}+{two}")
    assert joined.name == "a-b"
    assert len(joined.images) == 20
    assert joined.issame.tolist() == [True, False] * 5
    assert np.array_equal(joined.second - joined.first, np.ones(10))
    assert joined.images[8:] == load_pair_set(str(two)).images
    assert load_pair_set(f"both={one}+{two}").name == "both"


def test_suffixes_in_any_case_and_any_character_in_a_name(tmp_path):
    bin_file(tmp_path / "LFW.BIN", range(2))
    bin_file(tmp_path / "lfw (1).bin", range(2))
    assert load_pair_set(str(tmp_path / "LFW.BIN")).name == "LFW"
    joined = load_pair_set(f"{tmp_path}/LFW.BIN+{tmp_path}/lfw (1).bin", name="both")
    assert (joined.name, len(joined.images)) == ("both", 16)


def test_the_image_that_does_not_fit_is_named(tmp_path):
    """Set, file, number and both sizes; two sets share the file."""
    images, labels = read_bin(bin_file(tmp_path / "a.bin", range(3)))
    for data, message in (
        (encode_image(pattern(1, 1, 128)), "has 128x128 pixels, not 112x112"),
        (b"GIF89a", "6 bytes that are not a decodable image"),
    ):
        write_bin(tmp_path / "b.bin", [*images[:7], data, *images[8:]], labels)
        for name in ("lfw", "mine"):
            with pytest.raises(ValueError, match=rf"set {name}: .*b\.bin: image 7:? {message}"):
                load_pair_set(f"{tmp_path}/a.bin+{tmp_path}/b.bin", name=name)
    write_bin(tmp_path / "b.bin", [b"GIF89a", *images[1:]], labels)
    with pytest.raises(ValueError, match=r"b\.bin: image 0: 6 bytes"):
        load_pair_set(str(tmp_path / "b.bin"))


def test_bins_are_read_with_their_size(tmp_path):
    images, issame, size = read_bins(str(bin_file(tmp_path / "a.bin", range(2), 96)), "a")
    assert (len(images), issame.tolist(), size) == (8, [True, False] * 2, 96)


def test_a_name_before_a_dataset(tmp_path):
    write_dataset(tmp_path, identities=3, images=2)
    assert load_pair_set(f"strangers={tmp_path}").name == "strangers"


def test_an_equals_sign_in_a_path_names_nothing(tmp_path):
    folder = tmp_path / "size=112"
    write_dataset(folder / "people", identities=4, images=3)
    assert load_pair_set(f"{folder}/people", 5).name == "people"
    assert load_pair_set(f"mine={folder}/people", 5).name == "mine"


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.bin"):
        load_pair_set(str(tmp_path / "no.bin"))
    with pytest.raises(DatasetError, match="nowhere is no face dataset"):
        load_pair_set(str(tmp_path / "nowhere"))
    (tmp_path / "broken.bin").write_bytes(bin_file(tmp_path / "whole.bin", [0]).read_bytes()[:-40])
    with pytest.raises(BinError, match=r"broken\.bin"):
        load_pair_set(str(tmp_path / "broken.bin"))
    write_bin(tmp_path / "empty.bin", [], [])
    with pytest.raises(ValueError, match=r"empty\.bin: holds no pairs"):
        load_pair_set(str(tmp_path / "empty.bin"))


def test_identities_of_a_bin(tmp_path):
    """Unknown; from the file that an import writes beside it; from LFW's pair file, in the same order."""
    path = bin_file(tmp_path / "lfw.bin", (1, 2))
    assert load_pair_set(str(path)).identities is None
    lines = ["1\t1", "Ann 1 2", "Ann 3 Bob 1"]
    (tmp_path / "one.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"one\.txt: 2 pairs, .*lfw\.bin holds 4"):
        load_pair_set(str(path), names=str(tmp_path / "one.txt"))
    pairs = ["2\t1", "Ann 1 2", "Ann 3 Bob 1", "Cy 1 2", "Cy 3 Ann 1"]
    (tmp_path / "pairs.txt").write_text("\n".join(pairs) + "\n")
    named = load_pair_set(str(path), names=str(tmp_path / "pairs.txt"))
    assert named.identities.tolist() == [0, 0, 0, 1, 2, 2, 2, 0]
    (tmp_path / "lfw.identities.txt").write_text("7 7\n7 8\n9 9\n9 7\n")
    assert load_pair_set(str(path)).identities.tolist() == [0, 0, 0, 1, 2, 2, 2, 0]
    (tmp_path / "lfw.identities.txt").write_text("7 7\n7 8\n9 9\n9 9\n")
    with pytest.raises(ValueError, match=r"pair 3 is of 9 and 9, in .*lfw\.bin it is an impostor pair"):
        load_pair_set(str(path))
    both = f"{path}+{bin_file(tmp_path / 'other.bin', (3,))}"
    (tmp_path / "lfw.identities.txt").unlink()
    assert load_pair_set(both).identities is None
    with pytest.raises(ValueError, match=r"pairs\.txt: 4 pairs, .*lfw\.bin and .*other\.bin holds 6"):
        load_pair_set(both, names=str(tmp_path / "pairs.txt"))


def test_identities_of_a_dataset(tmp_path):
    write_dataset(tmp_path / "heldout", identities=12, images=4, first=1000)
    found = load_pair_set(str(tmp_path / "heldout"), pairs=50)
    assert np.array_equal(found.identities[found.first] == found.identities[found.second], found.issame)
    assert found.identities.min() >= 1000
    with pytest.raises(ValueError, match=r"names=x is for \.bin files"):
        load_pair_set(str(tmp_path / "heldout"), names="x")
