"""Opening and measuring sets of faces."""

import json

import numpy as np
import pytest
from support.datasets import pattern, write_dataset

from facelib.config import load_settings
from facelib.data import encode_image
from facelib.sources import write_bin
from ray_jobs.datasets.inspection import make_set_report, measure_set, open_face_set
from ray_jobs.errors import JobError


@pytest.fixture
def output(tmp_path):
    """A dataset of row groups of three identities, and a .bin file."""
    write_dataset(tmp_path / "faces", identities=12, images=3, per_part=6, per_group=3)
    write_bin(tmp_path / "real.bin", [encode_image(pattern(i, 0)) for i in range(8)], [True] * 4)
    return tmp_path


def settings(output, *overrides):
    sets = json.dumps(["faces", f"real={output}/real.bin"])
    return load_settings(None, [f"output={output}", f"inspect.sets={sets}", "inspect.cpus_per_actor=0.5", *overrides])


def test_measures_of_all_faces_in_order(output, ray_cluster):
    cfg = settings(output, "inspect.actors=2")
    face_set = open_face_set(cfg, "faces")
    measured = measure_set(face_set, cfg.inspect, model="")
    assert measured["identity"].tolist() == np.repeat(np.arange(12), 3).tolist()
    assert measured["location"][:, 0].tolist() == np.repeat(np.arange(4), 9).tolist()
    assert measured["hash"].shape == (36, 32)
    load = face_set.face_loader(measured)
    assert np.abs(load(35).astype(int) - pattern(11, 2)).mean() < 10
    report = make_set_report(face_set, measured, cfg.inspect, seed=0)
    assert (report.faces, report.identities) == (36, None)


def test_large_sets_are_sampled_by_row_groups(output):
    face_set = open_face_set(settings(output, "inspect.images=20"), "faces")
    assert [(b.part, b.group) for b in face_set.batches] == [("part-0000000.parquet", 0), ("part-0000001.parquet", 0)]
    few = open_face_set(settings(output, "inspect.images=3"), f"{output}/real.bin")
    assert sum(len(batch.images) for batch in few.batches) == 3


def test_a_set_without_faces_is_refused(output):
    write_bin(output / "empty.bin", [], [])
    with pytest.raises(JobError, match=r"inspect\.sets: .*empty\.bin: holds no pairs"):
        open_face_set(settings(output), f"{output}/empty.bin")
