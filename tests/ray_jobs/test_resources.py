"""Jobs that do not fit on the cluster are refused at once, and stalled streams name the settings to change."""

import pytest
import ray

from facelib.config import load_settings
from ray_jobs.cluster import configure_data
from ray_jobs.errors import JobError, user_error
from ray_jobs.generate import generate
from ray_jobs.resources import ActorRequest, check_resources
from ray_jobs.training.driver import check_training_resources


@pytest.fixture
def nodes(monkeypatch):
    """Function: a cluster of these nodes, (CPUs, GPUs) each."""

    def make(*nodes):
        live = [{"Alive": True, "Resources": {"CPU": c, **({"GPU": g} if g else {})}} for c, g in nodes]
        monkeypatch.setattr(ray, "nodes", lambda: [*live, {"Alive": False, "Resources": {"CPU": 1000.0}}])

    return make


def check(count, cpus, gpus=0.0, aligners=1, autoscaling=False):
    settings = load_settings(None, [f"generate.cpus_per_actor={cpus}", f"generate.gpus_per_actor={gpus}",
                                    "align.cpus_per_actor=0.5"])  # fmt: skip
    check_resources(
        autoscaling, ActorRequest("generate", settings.generate, count), ActorRequest("align", settings.align, aligners)
    )


@pytest.mark.parametrize(
    ("cluster", "requested"),
    [
        ([(2, 0)], (3, 0.5)),
        ([(2, 0), (2, 0)], (7, 0.5)),
        ([(3, 0), (3, 0)], (2, 2)),
        ([(8, 1), (1, 0)], (2, 4, 0.5)),  # the aligner leaves the GPU's CPUs alone
        ([(0, 0), (4, 0)], (1, 3.5)),
    ],
)
def test_requests_that_fit_pass(nodes, cluster, requested):
    nodes(*cluster)
    check(*requested)


@pytest.mark.parametrize(
    ("cluster", "requested"),
    [
        ([(2, 0)], (4, 0.5)),  # the aligner would never start
        ([(3, 0), (3, 0)], (3, 2)),  # 6 CPUs, but an actor is on a single node
        ([(8, 1), (1, 0)], (3, 0.5, 0.5)),
        ([(8, 0), (1, 1)], (1, 4, 0.5)),  # CPUs and GPU on different nodes
        ([(0, 0)], (1, 0.5)),
    ],
)
def test_requests_that_do_not_fit_are_refused(nodes, cluster, requested, caplog):
    nodes(*cluster)
    with pytest.raises(
        JobError, match=rf"{requested[0]} of generate\.actors with generate\.cpus_per_actor={requested[1]}"
    ):
        check(*requested)
    with caplog.at_level("INFO"):
        check(*requested, autoscaling=True)
    assert "waiting for nodes for" in caplog.text


def test_trainers_with_their_readers_must_fit(nodes):
    cfg = ["train.workers=2", "train.cpus_per_worker=1", "data.readers=1", "data.cpus_per_reader=0.5"]
    nodes((1.5, 0), (1.5, 0))
    check_training_resources(load_settings(None, cfg))
    nodes((1, 0), (1, 0))
    message = r"train\.workers=2 need 4 CPUs with their readers .* the cluster has 2 CPUs and 0 GPUs on 2"
    with pytest.raises(JobError, match=message):
        check_training_resources(load_settings(None, cfg))
    nodes((8, 1))
    with pytest.raises(JobError, match=r"train\.gpus_per_worker=1.* 8 CPUs and 1 GPU on 1 node\b"):
        check_training_resources(load_settings(None, [*cfg, "train.use_gpu=true"]))


def test_a_job_that_does_not_fit_is_refused(ray_cluster, run, tmp_path):
    with pytest.raises(JobError, match=r"300 of generate\.actors"):
        generate(load_settings(None, [f"output={tmp_path}", "generate.actors=300", "generate.cpus_per_actor=2",
                                      "generate.identities=4800"]), run)  # fmt: skip


def test_the_error_of_a_stalled_stream_names_the_setting(ray_cluster, run, tmp_path):
    """An actor takes longer to start than this timeout."""
    settings = load_settings(None, [f"output={tmp_path}", "generate.identities=4", "generate.heldout_identities=0",
                                    "generate.actors=1", "ray.no_progress_minutes=0.002"])  # fmt: skip
    configure_data(settings)
    try:
        with pytest.raises(Exception) as raised:  # noqa: PT011
            generate(settings, run)
    finally:
        configure_data(load_settings(None))
    assert "ray.no_progress_minutes" in str(user_error(raised.value))
    assert "GeneratorActor" in str(user_error(raised.value))


def test_autoscaling_clusters_have_an_hour(ray_cluster):
    try:
        configure_data(load_settings(None, ["ray.autoscaling=true"]))
        assert ray.data.DataContext.get_current().execution_no_progress_timeout_s == 3600
    finally:
        configure_data(load_settings(None))
