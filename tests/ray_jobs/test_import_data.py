import json
import os
import re
import shutil
import urllib.request

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from support.commands import CEILING_S, start, wait_for
from support.commands import run as run_command
from support.datasets import pattern, write_dataset
from support.tracking import new_store

from facelib.config import SettingsError, load_settings
from facelib.data import FaceDataset, decode_image, encode_image
from facelib.models import build_backbone, save_backbone
from facelib.sources import read_bin, write_bin, write_recordio
from facelib.tracking import Run
from ray_jobs.errors import JobError
from ray_jobs.import_data import import_data, validate

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One MLflow run for all tests here: making a new store takes seconds."""
    uri = new_store(tmp_path_factory.mktemp("mlflow"))
    given = load_settings(None, ["tracking.system_metrics=false", f"tracking.uri={uri}"])
    with Run.open(given, "import_data") as opened:
        yield opened


def settings(output, source, path, options=None, **cfg):
    flags = {"source": source, "path": path, "options": json.dumps(options or {}), "images_per_part": 4, "actors": 1}
    flags |= cfg
    align = flags.pop("align", {})
    given = load_settings(
        None,
        ["tracking.system_metrics=false", f"output={output}"]
        + [f"import_data.{name}={value}" for name, value in flags.items()]
        + [f"align.{name}={value}" for name, value in align.items()],
    )
    validate(given)
    return given


def make_folders(folder, identities=6, images=3):
    for person in range(identities):
        (folder / f"p{person}").mkdir(parents=True)
        for number in range(images):
            (folder / f"p{person}" / f"{number}.jpg").write_bytes(encode_image(pattern(person, number)))
    return folder


def make_rec(folder, identities=6, images=3):
    faces = [(n, [encode_image(pattern(n, i)) for i in range(images)]) for n in range(identities)]
    write_recordio(folder / "train.rec", folder / "train.idx", faces)
    return folder / "train.rec"


def files(folder):
    """Name → bytes of what makes the dataset."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.suffix in (".json", ".parquet")}


def report_of(folder):
    return json.loads((folder / "import_report.json").read_text())


def test_smallest_example(tmp_path, run):
    make_folders(tmp_path / "in")
    written = import_data(settings(tmp_path / "out", "folders", tmp_path / "in", alignment="none"), run)
    assert written.written == (f"{tmp_path}/out/faces",)
    assert written.metrics == {"faces/requested": 18, "faces/aligned": 18}
    dataset = FaceDataset(written.written[0])
    dataset.verify()
    rows = [row for table in dataset.tables() for row in table.to_pylist()]
    assert [(row["identity"], row["index"]) for row in rows] == [(p, n) for p in range(6) for n in range(3)]
    assert rows[4]["image"] == encode_image(pattern(1, 1))
    assert rows[4]["source"] == "folders:p1/1.jpg"
    # A row group holds whole identities; about four images are a part.
    assert [part.rows for part in dataset.manifest.parts] == [6, 6, 6]
    assert dataset.manifest.counts == {"requested": 18, "aligned": 18}
    assert [group for part in dataset.manifest.parts for group in part.row_groups] == [(2, 6)] * 3
    names = pq.read_table(tmp_path / "out/faces/identities.parquet").to_pylist()
    assert names[5] == {"identity": 5, "name": "p5", "listed": 3, "imported": 3}
    assert (tmp_path / "out/faces/contact_sheet.png").stat().st_size > 10_000


def test_everything_left_out_is_reported(tmp_path, run, capsys):
    folder = make_folders(tmp_path / "in")
    (folder / "p0" / "1.jpg").write_bytes(b"not an image")
    image = (folder / "p1" / "0.jpg").read_bytes()
    (folder / "p1" / "0.jpg").write_bytes(image[: len(image) // 2])
    shutil.rmtree(folder / "p2")
    (folder / "p2").mkdir()
    (folder / "p2" / "only.jpg").write_bytes(image)
    (folder / "p3" / "again.jpg").write_bytes(encode_image(decode_image(encode_image(pattern(3, 0))), 60))
    (folder / "p4" / "else's.jpg").write_bytes(encode_image(pattern(5, 0)))
    (folder / "p5" / "notes.txt").write_text("x")
    (folder / "p5" / "link.jpg").symlink_to(tmp_path / "nowhere")
    (folder / "p5" / "._0.jpg").write_bytes(b"\x00\x05\x16\x07")
    (folder / "p5[" / "red]").mkdir(parents=True)  # what rich takes for markup
    (folder / "p5[" / "red]" / "x.txt").write_text("x")
    with open(os.path.join(os.fsencode(folder), b"p5", b"lat\xe9.jpg"), "wb") as file:
        file.write(image)
    cfg = settings(tmp_path / "out", "folders", folder, alignment="none", duplicates="hash", min_images=2)
    import_data(cfg, run)
    report = report_of(tmp_path / "out/faces")
    assert report["listed"] == {
        "identities": 6, "images": 18, "not_listed": {
            "hidden_file": 1, "name_not_utf8": 1, "not_a_picture_file": 2, "outside_folder": 1,
        },
    }  # fmt: skip
    assert report["left_out"] == {"damaged_picture": 1, "duplicate": 1, "few_images": 1, "not_a_picture": 1}
    assert report["imported"] == {"identities": 5, "images": 14, "resized": 0, "identities_without_a_face": 1}
    assert report["examples"]["damaged_picture"][0].startswith("p1/0.jpg: ")
    assert report["same_image_in_two_identities"]["images"] == 1
    assert report["same_image_in_two_identities"]["examples"] == [["p4, image 3", "p5, image 0"]]
    counts = FaceDataset(f"{tmp_path}/out/faces").manifest.counts
    assert counts["requested"] == 18 == counts["aligned"] + sum(v for k, v in counts.items() if "rejected" in k)
    listing = json.loads((tmp_path / "out/faces/import/listing.json").read_text())
    assert sorted(row[1] for row in listing) == [
        "p5/._0.jpg", "p5/lat\\xe9.jpg", "p5/link.jpg", "p5/notes.txt", "p5[/red]/x.txt",
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "14 of 18 images imported" in printed
    assert "p0/1.jpg" in printed
    assert "p5/lat\\xe9.jpg" in printed


def test_strict_import_names_the_damaged_record(tmp_path, run):
    rec = make_rec(tmp_path)
    offsets = dict(map(int, line.split()) for line in rec.with_suffix(".idx").read_text().splitlines())
    data = bytearray(rec.read_bytes())
    data[offsets[8]] ^= 1
    rec.write_bytes(data)
    with pytest.raises(JobError, match=r"record 8: damaged_record .* at byte .*set import_data.damaged=skip"):
        import_data(settings(tmp_path / "strict", "recordio", rec, damaged="fail"), run)
    assert not (tmp_path / "strict/faces/manifest.json").exists()
    import_data(settings(tmp_path / "out", "recordio", rec), run)
    assert report_of(tmp_path / "out/faces")["left_out"] == {"damaged_record": 1}
    # Damage that the listing finds is refused before anything is written.
    (tmp_path / "other").mkdir()
    broken = make_rec(tmp_path / "other")
    broken.write_bytes(broken.read_bytes()[:-400])
    broken.with_suffix(".idx").unlink()
    with pytest.raises(JobError, match="1 entries are damaged, the first is byte "):
        import_data(settings(tmp_path / "listing", "recordio", broken, damaged="fail"), run)
    assert not (tmp_path / "listing").exists()


def test_missing_parts_are_written_again_with_the_same_bytes(tmp_path, run):
    rec = make_rec(tmp_path)
    cfg = settings(tmp_path / "out", "recordio", rec, actors=2)
    import_data(cfg, run)
    folder = tmp_path / "out/faces"
    before = files(folder)
    kept = (folder / "part-0000000.parquet").stat().st_mtime_ns
    for name in ("manifest.json", "part-0000001.parquet", "import/part-0000002.json", "part-0000002.parquet"):
        (folder / name).unlink()
    import_data(settings(tmp_path / "out", "recordio", rec, actors=1, threads=3), run)
    assert files(folder) == before
    assert (folder / "part-0000000.parquet").stat().st_mtime_ns == kept
    import_data(cfg, run)
    assert files(folder) == before
    with pytest.raises(ValueError, match="min_images: 1, now 2"):
        import_data(settings(tmp_path / "out", "recordio", rec, min_images=2), run)


@pytest.mark.slow
def test_killed_driver(tmp_path, run):
    """In a separate process, and without an index: the file is streamed."""
    rec = make_rec(tmp_path, identities=150, images=1)
    rec.with_suffix(".idx").unlink()
    arguments = (
        "--output", tmp_path / "out", "--import_data.source", "recordio", "--import_data.path", rec,
        "--import_data.images_per_part", 1, "--tracking.system_metrics", "false",
    )  # fmt: skip
    faces = tmp_path / "out" / "faces"
    driver = start("import_data", *arguments, "--ray.dashboard", "true", folder=tmp_path)
    log = tmp_path / "import_data.log"
    wait_for(lambda: "Ray: dashboard" in log.read_text(), what="the dashboard's address")
    address = re.search(r"^Ray: dashboard at (http://127\.0\.0\.1:\d+) ", log.read_text(), re.MULTILINE)
    with urllib.request.urlopen(address[1], timeout=CEILING_S) as answer:
        assert answer.status == 200
    wait_for(lambda: list(faces.glob("part-*")), what="a first part")
    driver.kill()
    driver.wait()
    assert not (faces / "manifest.json").exists(), "the job finished before it was killed: nothing was tested"
    import_data(settings(tmp_path / "out", "recordio", rec, images_per_part=1), run)
    dataset = FaceDataset(str(faces))
    dataset.verify()
    seen = [row for table in dataset.tables(["identity", "image"]) for row in table.to_pylist()]
    assert seen == [{"identity": n, "image": encode_image(pattern(n, 0))} for n in range(150)]


def test_identities_of_an_evaluation_set_are_left_out(tmp_path, run):
    make_folders(tmp_path / "in", images=1)
    model = {"name": "iresnet10-narrow", "embedding_size": 16}
    image_spec = {"template": "arcface", "size": 112, "color": "RGB"}
    save_backbone(tmp_path / "model.pt", build_backbone(**model), model["name"], {"embedding_size": 16}, image_spec)
    write_bin(tmp_path / "set.bin", [encode_image(pattern(2, 0)), encode_image(pattern(77, 0))], [False])
    heldout = write_dataset(tmp_path / "heldout", identities=1, images=1, first=4)
    sets = json.dumps([str(tmp_path / "set.bin"), heldout.folder.uri])
    given = {"model": tmp_path / "model.pt", "overlap_sets": sets, "overlap_similarity": 0.99999, "alignment": "none"}
    import_data(settings(tmp_path / "out", "folders", tmp_path / "in", **given), run)
    report = report_of(tmp_path / "out/faces")
    assert [o["name"] for o in report["overlaps"]] == ["p2", "p4"]
    assert report["overlaps"][0]["picture"] == f"{tmp_path}/set.bin, image 0"
    assert report["left_out"] == {"overlap": 2}
    with pytest.raises(ValueError, match="template: 'arcface' against 'arcface-96'"):
        import_data(
            settings(tmp_path / "x", "folders", tmp_path / "in", **given, align={"template": "arcface-96"}), run
        )


def test_lfw_pairs_become_a_verification_set(tmp_path, run):
    from facelib.synthesis import build_generator

    generator = build_generator("morphable", image_size=128)
    identities, numbers = np.repeat([0, 1], 2), np.tile([0, 1], 2)
    codes, factors = generator.identity_codes(0, identities), generator.image_factors(0, identities, numbers)
    for image, person, number in zip(generator.render(codes, factors), identities, numbers, strict=True):
        directory = tmp_path / "lfw" / f"Person_{person}"
        directory.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(directory / f"Person_{person}_{number + 1:04d}.jpg"), image[:, :, ::-1])
    (tmp_path / "lfw/Person_1/Person_1_0003.jpg").write_bytes(encode_image(np.zeros((128, 128, 3), np.uint8)))
    (tmp_path / "mine.txt").write_text("2\nPerson_0 1 2\nPerson_1 1 3\nPerson_0 1 Person_1 1\nPerson_0 2 Person_1 2\n")
    cfg = settings(tmp_path / "out", "lfw", tmp_path, {"view": str(tmp_path / "mine.txt")}, align={"min_score": 0.5})
    written = import_data(cfg, run)
    assert str(written) == f"{tmp_path}/out/faces, {tmp_path}/out/faces/mine.bin"
    images, issame = read_bin(tmp_path / "out/faces/mine.bin")
    # The black image has no face: its pair is missing, and the report names it.
    assert issame.tolist() == [True, False, False]
    assert decode_image(images[0]).shape == (112, 112, 3)
    pairs = report_of(tmp_path / "out/faces")["pairs"][0]
    assert (pairs["pairs"], pairs["missing"]) == (3, 1)
    assert pairs["examples"] == ["Person_1/Person_1_0001.jpg Person_1/Person_1_0003.jpg"]


def test_no_face_left_is_an_error(tmp_path, run):
    folder = make_folders(tmp_path / "in", identities=2)
    with pytest.raises(JobError, match=r"no face is left of 6 images.*few_images"):
        import_data(settings(tmp_path / "out", "folders", folder, alignment="none", min_images=9), run)
    assert not (tmp_path / "out/faces/manifest.json").exists()


@pytest.mark.parametrize(
    ("source", "cfg", "message"),
    [
        ("zip", {}, r"import_data.source.*unknown source 'zip'"),
        ("folders", {"path": ""}, "import_data.path: empty"),
        ("folders", {"path": "/nowhere"}, "no such folder"),
        ("folders", {"options": {"depth": 2}}, "no setting 'depth'"),
        ("folders", {"alignment": "given"}, "has no landmarks"),
        ("folders", {"duplicates": "embedding"}, "import_data.model: empty"),
        ("folders", {"overlap_sets": '["/nowhere.bin"]', "model": "none.pt"}, r"none.pt does not exist"),
        ("folders", {"align": {"template": "mine"}}, "align.template: unknown 'mine'"),
        ("folders", {"align": {"detector": "mine"}}, "align.detector"),
    ],
)
def test_invalid_settings_are_refused(tmp_path, source, cfg, message):
    with pytest.raises(SettingsError, match=message):
        settings(tmp_path / "out", source, **{"path": tmp_path, **cfg})


def test_exit_codes(tmp_path):
    done = run_command("import_data", "--import_data.path", tmp_path / "nowhere", folder=tmp_path)
    assert done.returncode == 2
    assert "no such folder" in done.stderr
    assert "Traceback" not in done.stderr
