"""The cost model: its arithmetic on numbers that can be done by hand."""

import dataclasses

import pytest

from benchmarks import scale


def test_generation_is_limited_by_renderers_or_by_the_driver(monkeypatch):
    monkeypatch.setattr(scale, "GENERATED_PER_CORE", 50.0)
    monkeypatch.setattr(scale, "ALIGNED_PER_CORE", 50.0)  # 25 images/s and core together
    monkeypatch.setattr(scale, "CORES", {"cpu": 10.0, "gpu": 10.0})
    monkeypatch.setattr(scale, "DRIVER_PER_CORE", 2000.0)
    monkeypatch.setattr(scale, "VIRTUAL_CPU", 0.5)
    work = dataclasses.replace(scale.WORKLOADS[0], images=3_600_000)
    small, large = (scale.stages(work, nodes, 1)[0] for nodes in (2, 10))
    assert (small.limit, small.time) == ("generation and alignment", pytest.approx(2.0))
    assert (large.limit, large.time) == ("driver", pytest.approx(1.0))


def test_training_counts_the_passes_of_its_method(monkeypatch):
    monkeypatch.setattr(scale, "GPU_FLOPS", 1e12)
    monkeypatch.setitem(scale.FORWARD_FLOPS, "iresnet50", 1e9)
    supervised = scale.Workload("", "import", 1, "iresnet50", 1, 3_600_000, 1, 1)
    contrastive = dataclasses.replace(supervised, views=2)
    assert scale.training(supervised, 1)["GPUs"] == pytest.approx(3 * 3.6e15 / 4e12 / 3600)
    assert scale.training(contrastive, 1)["GPUs"] == pytest.approx(4 * 3.6e15 / 4e12 / 3600)
    assert scale.head_gigabytes(10_000_000, 16) == pytest.approx(3.84)


def test_more_nodes_cost_the_same_where_they_help_and_more_where_they_do_not():
    few, many = (scale.rows(nodes, 4, 1.0, 1.0) for nodes in (10, 80))
    assert float(many[0][2]) < float(few[0][2])
    assert float(many[0][4].replace(",", "")) > float(few[0][4].replace(",", ""))
    assert next(row[5] for row in many if row[1] == "faces") == "driver"


def test_storage_counts_what_is_read_and_not_what_is_used(monkeypatch):
    monkeypatch.setattr(scale, "S3_MB_PER_NODE", 100.0)
    monkeypatch.setattr(scale, "BYTES_PER_FACE", 10_000)
    work = dataclasses.replace(scale.WORKLOADS[0], images=3_600_000, samples=10, passes=20)
    assert scale.training(work, 2)["storage"] == pytest.approx(20 * 3_600_000 * 1e4 / 200e6 / 3600)
    assert scale.training(dataclasses.replace(work, passes=200), 2)["storage"] == pytest.approx(10.0)


def test_gradients_cross_the_network_twice_and_a_sharded_head_does_not(monkeypatch):
    monkeypatch.setattr(scale, "NETWORK_MB_PER_NODE", 1000.0)
    monkeypatch.setitem(scale.PARAMETERS, "iresnet100", 1e6)
    work = scale.Workload("", "import", 1, "iresnet100", 1, 16 * scale.BATCH * 3600, 1, 1, classes=2000)
    both = 2 * 4 * (1e6 + 2000 * 512)
    assert scale.training(work, 4)["gradients"] == pytest.approx(both / 1e9)
    assert scale.training(dataclasses.replace(work, sharded=True), 4)["gradients"] == pytest.approx(2 * 4e6 / 1e9)
    assert scale.training(work, 1)["gradients"] == 0


def test_epoch_ends_are_added_to_what_runs_in_parallel(monkeypatch):
    monkeypatch.setattr(scale, "epoch_end", lambda work, gpus: 36.0)
    work = dataclasses.replace(scale.WORKLOADS[0], epochs=100)
    stage = scale.stages(work, 40, 4)[1]
    assert stage.time == pytest.approx(stage.hours[stage.limit] + 1.0)


def test_an_epoch_end_evaluates_on_all_gpus_and_copies_one_state(monkeypatch):
    monkeypatch.setattr(scale, "DECODED_PER_CORE", scale.EVALUATED)
    monkeypatch.setattr(scale, "HOST_COPY_MB", 100.0)
    monkeypatch.setitem(scale.PARAMETERS, "iresnet50", 1e6)
    assert scale.epoch_end(scale.WORKLOADS[0], 4) == pytest.approx(1 / 4 + 3 * 4 / 100)
