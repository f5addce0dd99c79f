"""What does not fit on the cluster is said at once, and what stands still is said in the settings' own words."""

import pytest
import ray

from facelib.config import load_settings
from ray_jobs.generate import generate
from ray_jobs.running.room import Pool, require_actors
from ray_jobs.running.session import JobError, configure_data, user_error


def room(*overrides):
    settings = load_settings(None, overrides)
    require_actors(settings, Pool("generate", settings.generate, 100), Pool("align", settings.align, 100))


def test_what_fits_is_let_through(ray_cluster):
    cpus = ray.cluster_resources()["CPU"]
    room(f"generate.actors={int(cpus * 2) - 1}", "generate.cpus_per_actor=0.5", "align.cpus_per_actor=0.5")


def test_pools_that_wait_for_each_other_are_refused(ray_cluster):
    many = int(ray.cluster_resources()["CPU"] * 2)
    asked = f"generate.actors={many}"
    said = rf"generate\.actors={many} of generate\.cpus_per_actor=0\.5 and align\.actors=1"
    with pytest.raises(JobError, match=said):
        room(asked, "generate.cpus_per_actor=0.5", "align.cpus_per_actor=0.5")
    room(asked, "generate.cpus_per_actor=0.5", "align.cpus_per_actor=0.5", "ray.autoscaling=true")


def test_no_more_actors_are_counted_than_there_is_work(ray_cluster):
    settings = load_settings(None, ["generate.actors=1000"])
    require_actors(settings, Pool("generate", settings.generate, 1), Pool("align", settings.align, 1))


def test_a_gpu_that_is_nowhere_is_named(ray_cluster):
    with pytest.raises(JobError, match=r"align\.gpus_per_actor=0\.5 need 0\.5 GPUs at once, the cluster has 0 on 1"):
        room("align.gpus_per_actor=0.5")


def test_the_job_refuses_before_it_begins(ray_cluster, run, tmp_path):
    with pytest.raises(JobError, match=r"generate\.actors=3 of generate\.cpus_per_actor=2"):
        generate(load_settings(None, [f"output={tmp_path}", "generate.actors=3", "generate.cpus_per_actor=2",
                                      "generate.identities=64"]), run)  # fmt: skip


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


def test_a_cluster_that_grows_is_given_an_hour(ray_cluster):
    try:
        configure_data(load_settings(None, ["ray.autoscaling=true"]))
        assert ray.data.DataContext.get_current().execution_no_progress_timeout_s == 3600
    finally:
        configure_data(load_settings(None))
