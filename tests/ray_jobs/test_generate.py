import importlib.util
import json
import signal

import pytest
from support.commands import run_here, start, wait_for, workers_of

from facelib.data import FaceDataset

OF_ANY_GENERATOR = (
    "--generate.identities", 12, "--generate.images_per_identity", 3, "--generate.identities_per_part", 2,
    "--generate.identities_per_task", 1, "--generate.heldout_identities", 2, "--generate.actors", 1,
    "--tracking.system_metrics", "false",
)  # fmt: skip

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]


@pytest.fixture(scope="module")
def brake(tmp_path_factory):
    """While this file exists a part takes seconds, so that a killed job has parts left to make."""
    return tmp_path_factory.mktemp("generator") / "brake"


@pytest.fixture(scope="module")
def settings(brake):
    """Flags of a generation of twelve identities."""
    return (
        *OF_ANY_GENERATOR,
        "--generate.generator",
        "braked",
        "--generate.options",
        json.dumps({"brake": str(brake)}),
    )


def files(folder):
    """Name → bytes of what makes the dataset."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name.startswith("part-") or p.suffix == ".json"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, settings, ray_cluster):
    """A dataset made in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run_here("generate", "--output", folder / "out", *settings, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().splitlines()[-1].endswith(f"wrote {folder}/out/faces, {folder}/out/heldout")
    return folder / "out"


def test_every_identity_exactly_once(undisturbed):
    dataset = FaceDataset(str(undisturbed / "faces"))
    dataset.verify()
    seen = [i for table in dataset.tables(["identity"]) for i in table["identity"].to_pylist()]
    assert set(seen) == set(range(12))
    assert seen == sorted(seen)
    counts = dataset.manifest.counts
    assert (
        counts["requested"] == 36 == counts["aligned"] + sum(v for k, v in counts.items() if k.startswith("rejected"))
    )
    assert (undisturbed / "faces" / "contact_sheet.png").stat().st_size > 10_000
    heldout = FaceDataset(str(undisturbed / "heldout"))
    held = {i for table in heldout.tables(["identity"]) for i in table["identity"].to_pylist()}
    assert len(held) == 2
    assert not held & set(seen)


def test_killed_actor_and_killed_driver_change_no_byte(undisturbed, settings, brake, tmp_path):
    brake.touch()
    arguments = ("--output", tmp_path / "out", *settings, "--generate.heldout_identities", 0)
    faces = tmp_path / "out" / "faces"
    driver = start("generate", *arguments, folder=tmp_path)
    wait_for(lambda: workers_of(driver, "GeneratorActor"), what="a generator actor")
    wait_for(lambda: list(faces.glob("part-*")), what="a first part")
    for actor in workers_of(driver, "GeneratorActor"):
        actor.send_signal(signal.SIGKILL)
    before = len(list(faces.glob("part-*")))
    wait_for(lambda: len(list(faces.glob("part-*"))) > before, what="a part after the actor was killed")
    assert not workers_of(driver, "ray-dashboard-NodeHead")
    # Tasks that write parts outlive the driver for a moment, and finish what they are at.
    writers = [*workers_of(driver, "ray::MapBatches"), *workers_of(driver, "ray::IDLE")]
    driver.kill()
    driver.wait()
    brake.unlink()
    wait_for(lambda: not any(p.is_running() for p in writers), what="the end of the killed job's writers")
    assert not (faces / "manifest.json").exists(), "the job finished before it was killed: nothing was tested"
    kept = {p.name: p.stat().st_mtime_ns for p in faces.glob("part-*")}
    assert 1 < len(kept) < 6

    again = run_here("generate", *arguments, folder=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{len(kept)} of 6 parts already exist" in again.stdout
    assert {name: (faces / name).stat().st_mtime_ns for name in kept} == kept
    assert files(faces) == files(undisturbed / "faces")

    third = run_here("generate", *arguments, folder=tmp_path)
    assert third.returncode == 0
    assert files(faces) == files(undisturbed / "faces")


def test_another_setting_in_an_old_folder_is_refused(undisturbed, settings):
    before = files(undisturbed / "faces")
    done = run_here("generate", "--output", undisturbed, *settings, "--seed", 5, folder=undisturbed)
    assert done.returncode == 1
    assert "made with other settings: seed: 0, now 5." in done.stderr
    assert files(undisturbed / "faces") == before


def test_an_unwritable_target_is_a_clear_error(tmp_path, settings):
    (tmp_path / "file").write_text("in the way")
    done = run_here("generate", "--output", tmp_path / "file" / "out", *settings, folder=tmp_path)
    assert done.returncode == 1
    assert "cannot be created" in done.stderr
    assert "Traceback" not in done.stderr


def test_more_identities_are_added_to_a_finished_dataset(undisturbed, settings, tmp_path):
    """Full parts keep their bytes; the last one, of a single identity, is made again with two."""
    arguments = ("--output", tmp_path / "out", *settings, "--generate.heldout_identities", 0)
    few = run_here("generate", *arguments, "--generate.identities", 5, folder=tmp_path)
    assert few.returncode == 0, few.stdout + few.stderr
    faces = tmp_path / "out" / "faces"
    before = files(faces)
    more = run_here("generate", *arguments, folder=tmp_path)
    assert more.returncode == 0, more.stdout + more.stderr
    assert "2 of 6 parts already exist" in more.stdout
    after = files(faces)
    for part in ("part-0000000.parquet", "part-0000001.parquet"):
        assert after[part] == before[part]
    grown, at_once = FaceDataset(str(faces)), FaceDataset(str(undisturbed / "faces"))
    grown.verify()
    assert list(grown.tables(["image", "identity", "index"])) == list(at_once.tables(["image", "identity", "index"]))
    assert after["part-0000003.parquet"] == files(undisturbed / "faces")["part-0000003.parquet"]
    fewer = run_here("generate", *arguments, "--generate.identities", 5, folder=tmp_path)
    assert "made with other settings: identities: 12, now 5." in fewer.stderr


MIXTURE = '[{"name": "mobilestylegan", "share": 2}, {"name": "morphable", "share": 1}]'


@pytest.mark.parametrize("generator", ["mobilestylegan", MIXTURE], ids=["mobilestylegan", "mixture"])
def test_photographs_and_mixtures_resume_to_the_same_bytes(generator, tmp_path):
    if importlib.util.find_spec("random_face") is None:
        pytest.skip("the weights of mobilestylegan are not installed (see Makefile)")
    arguments = (
        *("--output", tmp_path / "out", *OF_ANY_GENERATOR, "--generate.heldout_identities", 0),
        *("--generate.identities", 4, "--generate.images_per_identity", 2, "--generate.generator", generator),
    )
    done = run_here("generate", *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "license: " in done.stdout
    assert "non-commercial" in done.stdout
    faces = tmp_path / "out" / "faces"
    dataset = FaceDataset(str(faces))
    assert "non-commercial" in dataset.manifest.spec["generator_licence"]
    assert dataset.manifest.counts["aligned"] == 8
    sources = {name for table in dataset.tables(["source"]) for name in table["source"].to_pylist()}
    assert sources == ({"mobilestylegan"} if generator == "mobilestylegan" else {"mobilestylegan", "morphable"})

    before = files(faces)
    for name in ("manifest.json", "part-0000001.parquet"):
        (faces / name).unlink()
    # Another division of the work, by which every image is asked for in another batch.
    again = run_here("generate", *arguments, "--generate.identities_per_task", 2, folder=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert files(faces) == before
