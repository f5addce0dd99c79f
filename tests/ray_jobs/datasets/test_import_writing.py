"""Writing an imported dataset."""

import json

import pytest

from facelib.config import load_settings
from facelib.data import Folder
from facelib.sources import build_source
from ray_jobs.datasets import import_writing
from ray_jobs.datasets.import_writing import write_imported_parts
from ray_jobs.datasets.importing import PartResult
from ray_jobs.errors import JobError


def test_a_damaged_entry_stops_a_strict_import(tmp_path, monkeypatch):
    (tmp_path / "in" / "p0").mkdir(parents=True)
    (tmp_path / "in" / "p0" / "0.jpg").write_bytes(b"damaged")
    source = build_source("folders", f"{tmp_path}/in")
    settings = load_settings(None, [f"output={tmp_path}/out", f"import_data.path={tmp_path}/in"])
    monkeypatch.setattr(
        import_writing, "import_stream", lambda *args: (PartResult(r, None, "p0/0.jpg: truncated") for r in args[6])
    )
    folder = Folder(f"{tmp_path}/out/faces").create()
    spec = json.loads('{"alignment": "none"}')
    with pytest.raises(JobError, match=r"p0/0\.jpg: truncated; set import_data\.damaged=skip to leave it out"):
        write_imported_parts(folder, settings, spec, source, source.index(), run=None)
    assert folder.names() == []
