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
    supervised = scale.Workload("", "import", 1, "iresnet50", 1, 3_600_000)
    contrastive = dataclasses.replace(supervised, views=2)
    assert scale.training(supervised, 1)["GPUs"] == pytest.approx(3 * 3.6e15 / 4e12 / 3600)
    assert scale.training(contrastive, 1)["GPUs"] == pytest.approx(4 * 3.6e15 / 4e12 / 3600)
    assert scale.head_gigabytes(10_000_000, 16) == pytest.approx(3.84)


def test_more_nodes_cost_the_same_where_they_help_and_more_where_they_do_not():
    few, many = (scale.rows(nodes, 4, 1.0, 1.0) for nodes in (10, 80))
    assert float(many[0][2]) < float(few[0][2])
    assert float(many[0][4].replace(",", "")) > float(few[0][4].replace(",", ""))
    assert next(row[5] for row in many if row[1] == "faces") == "driver"
