"""What does not fit on the cluster is said at once, and what stands still is said in the settings' own words."""

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

    def make(*those):
        found = [{"Alive": True, "Resources": {"CPU": c, **({"GPU": g} if g else {})}} for c, g in those]
        monkeypatch.setattr(ray, "nodes", lambda: [*found, {"Alive": False, "Resources": {"CPU": 1000.0}}])

    return make


def room(count, cpus, gpus=0.0, aligners=1, grows=False):
    settings = load_settings(None, [f"generate.cpus_per_actor={cpus}", f"generate.gpus_per_actor={gpus}",
                                    "align.cpus_per_actor=0.5"])  # fmt: skip
    check_resources(
        grows, ActorRequest("generate", settings.generate, count), ActorRequest("align", settings.align, aligners)
    )


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        ([(2, 0)], (3, 0.5)),
        ([(2, 0), (2, 0)], (7, 0.5)),
        ([(3, 0), (3, 0)], (2, 2)),
        ([(8, 1), (1, 0)], (2, 4, 0.5)),  # the aligner leaves the GPU's CPUs alone
        ([(0, 0), (4, 0)], (1, 3.5)),
    ],
)
def test_what_fits_is_let_through(nodes, there, asked):
    nodes(*there)
    room(*asked)


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        ([(2, 0)], (4, 0.5)),  # the aligner would never start
        ([(3, 0), (3, 0)], (3, 2)),  # 6 CPUs, but no actor is on two nodes
        ([(8, 1), (1, 0)], (3, 0.5, 0.5)),
        ([(8, 0), (1, 1)], (1, 4, 0.5)),  # CPUs here, the GPU there
        ([(0, 0)], (1, 0.5)),
    ],
)
def test_what_does_not_fit_is_refused(nodes, there, asked):
    nodes(*there)
    with pytest.raises(JobError, match=rf"{asked[0]} of generate\.actors with generate\.cpus_per_actor={asked[1]}"):
        room(*asked)
    room(*asked, grows=True)


def test_trainers_with_their_readers_must_fit(nodes):
    cfg = ["train.workers=2", "train.cpus_per_worker=1", "data.readers=1", "data.cpus_per_reader=0.5"]
    nodes((1.5, 0), (1.5, 0))
    check_training_resources(load_settings(None, cfg))
    nodes((1, 0), (1, 0))
    said = r"train\.workers=2 need 4 CPUs with their readers .* are 2 CPUs and 0 GPUs on 2"
    with pytest.raises(JobError, match=said):
        check_training_resources(load_settings(None, cfg))
    nodes((8, 1))
    with pytest.raises(JobError, match=r"train\.gpus_per_worker=1.* 8 CPUs and 1 GPUs on 1 nodes"):
        check_training_resources(load_settings(None, [*cfg, "train.use_gpu=true"]))


def test_the_job_refuses_before_it_begins(ray_cluster, run, tmp_path):
    with pytest.raises(JobError, match=r"300 of generate\.actors"):
        generate(load_settings(None, [f"output={tmp_path}", "generate.actors=300", "generate.cpus_per_actor=2",
                                      "generate.identities=4800"]), run)  # fmt: skip


def test_a_stream_that_stands_still_ends_in_the_settings_words(ray_cluster, run, tmp_path):
    """An actor needs longer to start than this patience."""
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


def test_a_cluster_that_grows_is_given_an_hour(ray_cluster):
    try:
        configure_data(load_settings(None, ["ray.autoscaling=true"]))
        assert ray.data.DataContext.get_current().execution_no_progress_timeout_s == 3600
    finally:
        configure_data(load_settings(None))
