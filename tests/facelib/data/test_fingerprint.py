import pytest

from facelib.data import DatasetError, Folder
from facelib.data.fingerprint import claim_output_dir, compare_specs, former_fingerprints, spec_fingerprint


def test_a_folder_belongs_to_one_spec(tmp_path):
    folder = Folder(str(tmp_path / "faces")).create()
    claim_output_dir(folder, {"seed": 1, "identities": 10})
    claim_output_dir(folder, {"seed": 1, "identities": 10})
    with pytest.raises(DatasetError, match=r"other settings: seed: 1, now 2\."):
        claim_output_dir(folder, {"seed": 2, "identities": 10})
    other = tmp_path / "photos"
    other.mkdir()
    (other / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(DatasetError, match="not this job's"):
        claim_output_dir(Folder(str(other)), {"seed": 1})


def test_the_order_of_settings_does_not_matter():
    assert spec_fingerprint({"a": 1, "b": 2}) == spec_fingerprint({"b": 2, "a": 1}) != spec_fingerprint({"a": 1})


def test_differences_are_named():
    assert compare_specs({"a": [1, 2]}, {"a": (1, 2)}) == []  # JSON has no tuples
    assert compare_specs({"a": 1}, {"a": 1}) == []
    assert compare_specs({"a": 1}, {"b": 2}) == ["a: 1, now 'unset'", "b: 'unset', now 2"]


def test_a_folder_may_grow_and_knows_what_it_grew_from(tmp_path):
    folder = Folder(str(tmp_path))
    specs = [{"seed": 1, "identities": n} for n in (10, 20, 30)]
    for spec in specs:
        claim_output_dir(folder, spec, "identities", "manifest.json")
        assert not folder.exists("manifest.json")
        folder.write("manifest.json", b"{}")
        claim_output_dir(folder, spec, "identities", "manifest.json")
        assert folder.exists("manifest.json")  # finished, and of this size
    assert former_fingerprints(folder) == [spec_fingerprint(spec) for spec in specs[:2]]
    for other in ({"seed": 1, "identities": 20}, {"seed": 2, "identities": 40}):
        with pytest.raises(DatasetError, match="made with other settings"):
            claim_output_dir(folder, other, "identities", "manifest.json")
    with pytest.raises(DatasetError, match="identities: 30, now 40"):
        claim_output_dir(folder, {"seed": 1, "identities": 40})
