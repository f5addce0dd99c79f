import os
import subprocess
import sys

import numpy as np
import pytest
from support.datasets import pattern, write_dataset

from facelib.data import (
    MANIFEST_NAME,
    DatasetError,
    Face,
    FaceDataset,
    Folder,
    ImageSpec,
    decode_image,
    encode_image,
    faces_to_table,
    read_part_info,
    write_part,
)
from facelib.data.fingerprint import claim_output_dir


def test_a_dataset_is_written_and_read(tmp_path):
    dataset = write_dataset(tmp_path, identities=5, images=3, per_part=2, per_group=2)
    assert dataset.manifest.identities == 5
    assert dataset.manifest.images == 15
    rows = [row for table in dataset.tables() for row in table.to_pylist()]
    assert [r["identity"] for r in rows] == np.repeat(np.arange(5), 3).tolist()
    difference = decode_image(rows[4]["image"]).astype(int) - pattern(1, 1)
    assert np.abs(difference).mean() < 3
    dataset.verify()
    dataset.check_parts()


def test_an_identity_never_crosses_a_row_group(tmp_path):
    dataset = write_dataset(tmp_path, identities=7, images=3, per_part=7, per_group=2)
    seen: set[int] = set()
    for part, index, identities, rows in dataset.row_groups():
        found = dataset.read_row_groups(part, [index], ["identity"])["identity"].to_pylist()
        assert len(found) == rows
        assert len(set(found)) == identities
        assert not seen & set(found)
        seen |= set(found)
    assert seen == set(range(7))


def test_codec_keeps_colors_and_refuses_what_is_no_picture():
    image = np.zeros((40, 30, 3), np.uint8)
    image[..., 0] = 200
    decoded = decode_image(encode_image(image, 95))
    assert decoded.shape == (40, 30, 3)
    assert decoded[..., 0].mean() > 190
    assert decoded[..., 2].mean() < 10
    with pytest.raises(ValueError, match="not a decodable image"):
        decode_image(b"not a picture")
    with pytest.raises(ValueError, match="empty"):
        decode_image(b"")
    with pytest.raises(ValueError, match="uint8"):
        encode_image(image.astype(np.float32))


def test_a_pixel_bomb_is_refused_before_it_is_decoded():
    data = bytearray(encode_image(np.zeros((16, 16, 3), np.uint8)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"  # declares 65535 x 65535 pixels
    with pytest.raises(ValueError, match="exceed the limit"):
        decode_image(bytes(data))


def test_an_unfinished_folder_is_no_dataset(tmp_path):
    with pytest.raises(DatasetError, match="is no face dataset"):
        FaceDataset(str(tmp_path / "nothing"))
    write_dataset(tmp_path)
    (tmp_path / MANIFEST_NAME).unlink()
    with pytest.raises(DatasetError, match="is unfinished"):
        FaceDataset(str(tmp_path))


def test_damage_is_found_and_named(tmp_path):
    dataset = write_dataset(tmp_path)
    victim = tmp_path / dataset.manifest.parts[1].name
    data = bytearray(victim.read_bytes())
    data[100] ^= 1
    victim.write_bytes(data)
    with pytest.raises(DatasetError, match=victim.name):
        dataset.verify()
    victim.write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match=victim.name):
        read_part_info(dataset.folder, victim.name)
    with pytest.raises(DatasetError, match=f"{victim.name}: has"):
        dataset.check_parts()
    victim.unlink()
    with pytest.raises(DatasetError, match=f"{victim.name}: is missing"):
        dataset.check_parts()
    (tmp_path / MANIFEST_NAME).write_text('{"format": 1}')
    with pytest.raises(DatasetError, match="damaged"):
        FaceDataset(str(tmp_path))


def test_parts_are_the_same_bytes_each_time(tmp_path):
    first, second = write_dataset(tmp_path / "a"), write_dataset(tmp_path / "b")
    assert [p.sha256 for p in first.manifest.parts] == [p.sha256 for p in second.manifest.parts]
    assert (tmp_path / "a" / MANIFEST_NAME).read_bytes() == (tmp_path / "b" / MANIFEST_NAME).read_bytes()


def test_contracts_that_differ_are_refused_naming_both_sides():
    ours, theirs = ImageSpec(template="arcface", size=112), ImageSpec(template="arcface-96", size=112)
    ours.require(ours, "a", "b")
    with pytest.raises(DatasetError, match=r"the model and set lfw do not fit.*'arcface' against 'arcface-96'"):
        ours.require(theirs, "the model", "set lfw")


def test_identities_out_of_order_are_refused(tmp_path):
    zeros = np.zeros((5, 2), np.float32)
    faces = [Face(b"x", i, 0, 1.0, zeros, np.zeros(0, np.float32), "t") for i in (2, 1)]
    with pytest.raises(ValueError, match="ascend"):
        write_part(Folder(str(tmp_path)), "part-0000000.parquet", faces_to_table(faces), 2, {}, "h")


def test_a_full_disk_leaves_nothing_that_looks_whole(tmp_path):
    # A file-size limit stands in for a full disk: the write fails half-way in the same place.
    code = (
        "import resource, sys\n"
        "from facelib.data import DatasetError, Folder\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n    Folder(sys.argv[1]).write('part-0000000.parquet', bytes(1_000_000))\n"
        "except DatasetError as error:\n    print(error); sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert "part-0000000.parquet: cannot be written" in done.stdout
    assert os.listdir(tmp_path) == []


def test_a_folder_belongs_to_one_plan(tmp_path):
    folder = Folder(str(tmp_path / "faces")).create()
    claim_output_dir(folder, {"seed": 1, "identities": 10})
    claim_output_dir(folder, {"seed": 1, "identities": 10})
    with pytest.raises(DatasetError, match=r"other settings: seed: 1, now 2\."):
        claim_output_dir(folder, {"seed": 2, "identities": 10})
    other = tmp_path / "photos"
    other.mkdir()
    (other / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(DatasetError, match="not this job's"):
        claim_output_dir(Folder(str(other)), {"seed": 1})
