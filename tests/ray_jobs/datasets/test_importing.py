"""Accounts of imported parts, and the actor that writes a part."""

import json

import ray
from support.datasets import pattern

from facelib.config import load_settings
from facelib.data import Folder, encode_image
from facelib.sources import Skipped, build_source
from facelib.sources.importing import ImportedPart
from ray_jobs.datasets.importing import ImportActor, ImportInputs, account_bytes, account_name, account_uri


def test_an_account_names_what_was_left_out():
    part = ImportedPart(skipped=[Skipped("few_images", "p1/0.jpg", "1 left", damage=False)], resized=2)
    account = json.loads(account_bytes(part))
    assert account["skipped"] == [["few_images", "p1/0.jpg", "1 left", False, 1]]
    assert account["resized"] == 2
    assert (account_uri("out/faces/"), account_name(12)) == ("out/faces/import", "part-0000012.json")


def test_an_actor_writes_a_part_and_its_account(tmp_path, ray_cluster):
    for identity in range(2):
        (tmp_path / "in" / f"p{identity}").mkdir(parents=True)
        (tmp_path / "in" / f"p{identity}" / "0.jpg").write_bytes(encode_image(pattern(identity, 0)))
    settings = load_settings(None, ["import_data.source=folders", f"import_data.path={tmp_path}/in"])
    source = build_source("folders", f"{tmp_path}/in")
    folder = Folder(f"{tmp_path}/out").create()
    Folder(account_uri(folder.uri)).create()
    inputs = ray.put(ImportInputs(source, source.index(), None))
    row = ImportActor(settings, "none", folder.uri, "fingerprint", inputs)({"part": 0, "begin": 0, "end": 2})
    info = json.loads(row["info"])
    assert (info["rows"], row["damage"]) == (2, "")
    assert (tmp_path / "out" / "part-0000000.parquet").exists()
    assert (tmp_path / "out" / "import" / "part-0000000.json").exists()
