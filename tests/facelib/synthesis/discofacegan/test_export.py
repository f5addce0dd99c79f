"""Pictures under USynthFace's names, and back through the folder generator."""

import numpy as np
import pytest

from facelib.synthesis import build_generator
from facelib.synthesis.discofacegan.export import main


@pytest.fixture(scope="module")
def exported(converted, tmp_path_factory):
    output = tmp_path_factory.mktemp("exported")
    assert main([str(converted), str(output), "--subjects", "2", "--images", "3", "--offset", "100"]) == 0
    return output


def test_smallest_example(exported, golden):
    with np.load(golden / "usynth_stream.npz") as expected:
        names = expected["file_names"].tolist()
    assert sorted(str(path.relative_to(exported)) for path in exported.rglob("*.*")) == names


def test_the_folder_generator_reads_it(exported, converted):
    original = build_generator("discofacegan", folder=str(converted), latents="usynthface", stream_images=3)
    copy = build_generator("folder", folder=str(exported))
    identities, indices = np.array([1, 0]), np.array([2, 1])
    images = [
        generator.render(generator.identity_codes(42, identities), generator.image_factors(42, identities, indices))
        for generator in (original, copy)
    ]
    # JPEG of noise-like pictures: near, and nearer than to each other.
    same = np.abs(images[0].astype(float) - images[1]).mean()
    other = np.abs(images[0][::-1].astype(float) - images[1]).mean()
    assert same < other / 2


def test_a_stopped_run_goes_on(exported, converted, capsys):
    kept, removed = exported / "0000100/0000100_000.jpg", exported / "0000101/0000101_001.jpg"
    before, time = removed.read_bytes(), kept.stat().st_mtime_ns
    removed.unlink()
    assert main([str(converted), str(exported), "--subjects", "2", "--images", "3", "--offset", "100"]) == 0
    assert "wrote 1 pictures" in capsys.readouterr().out
    assert removed.read_bytes() == before
    assert kept.stat().st_mtime_ns == time


def test_wrong_settings_are_named(converted, tmp_path, capsys):
    assert main([str(converted), str(tmp_path), "--subjects", "0"]) == 1
    assert "subjects is 0" in capsys.readouterr().err
    assert main([str(tmp_path), str(tmp_path)]) == 1
    assert "MISSING  network-snapshot-020126.pkl" in capsys.readouterr().err
