import pytest

from facelib.sources import RecordFile, write_recordio
from ray_jobs.recordio_data import RecordIODatasource, read_recordio

FACES = [(person, [bytes([person, number]) * 2000 for number in range(4)]) for person in range(5)]


@pytest.fixture
def rec(tmp_path):
    write_recordio(tmp_path / "train.rec", tmp_path / "train.idx", FACES)
    return tmp_path / "train.rec"


@pytest.mark.usefixtures("ray_cluster")
def test_smallest_example(rec):
    rows = sorted(read_recordio(rec, parallelism=4).take_all(), key=lambda row: row["offset"])
    pictures = [(int(row["labels"][0]), row["image"]) for row in rows if row["image"]]
    assert pictures == [(person, picture) for person, images in FACES for picture in images]
    assert not any(row["damage"] for row in rows)


@pytest.mark.usefixtures("ray_cluster")
def test_damage_is_a_row(rec):
    data = bytearray(rec.read_bytes())
    data[len(data) // 2] = 0
    hurt = [r.offset for r in RecordFile(rec).scan()][3]
    data[hurt] ^= 1
    rec.write_bytes(data)
    rows = read_recordio(rec, parallelism=3).take_all()
    assert [row["offset"] for row in rows if row["damage"]] == [hurt]
    assert len(rows) == 1 + 20 + 5


def test_tasks_share_the_bytes(rec):
    tasks = RecordIODatasource(rec).get_read_tasks(4)
    assert len(tasks) == 4
    assert sum(task.metadata.size_bytes for task in tasks) == rec.stat().st_size
    rows = [row for task in tasks for table in task() for row in table.to_pylist()]
    assert len(rows) == 1 + 20 + 5
    assert len(RecordIODatasource(rec).get_read_tasks(10**6)) < 100  # no range smaller than a page
