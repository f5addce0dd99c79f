"""IJB-B/C 1:N."""

import numpy as np
import pytest
from support.releases import write_ijb

from facelib.evaluation import EvaluationOptions
from facelib.evaluation.protocols import open_set


def pixels(faces):
    """Embeddings that know whom a pattern shows: small gray images."""
    images = faces.decode().astype(np.float32).mean(axis=3)[:, ::8, ::8].reshape(len(faces), -1)
    return images - images.mean(axis=1, keepdims=True)


def test_ijb_identification(tmp_path):
    write_ijb(tmp_path / "ijb", search=True)
    opened = open_set(f"ijb-1n:{tmp_path}/ijb")
    report = opened.measure(pixels(opened.faces), EvaluationOptions(ranks=(1, 2), fpirs=(0.4,), bootstrap=20)).report
    assert (report.gallery, report.mated, report.nonmated) == ([6], [6], [3])
    assert report.rank[1] > 0.6
    assert report.identities == 9
    expected = np.repeat(np.arange(100, 109), 4)
    expected[[24, 25, 28, 29, 32, 33]] = -1  # the first templates of the last three identities are in no list
    assert opened.identities.tolist() == expected.tolist()
    with (tmp_path / "ijb" / "meta" / "ijbc_1N_probe_mixed.csv").open("a") as file:
        file.write("999,5,x\n")
    with pytest.raises(ValueError, match=r"ijbc_1N_probe_mixed\.csv: template 999 has no image"):
        open_set(f"ijb-1n:{tmp_path}/ijb")
    (tmp_path / "ijb" / "meta" / "ijbc_1N_gallery_G1.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no ijbc_1N_gallery\*\.csv"):
        open_set(f"ijb-1n:{tmp_path}/ijb")


def test_bytes_of_another_encoding_in_a_list_do_no_harm(tmp_path):
    write_ijb(tmp_path / "ijb", search=True)
    expected = open_set(f"ijb-1n:{tmp_path}/ijb").probes
    probes = tmp_path / "ijb" / "meta" / "ijbc_1N_probe_mixed.csv"
    probes.write_bytes(probes.read_bytes().replace(b"\n", b",J\xf6rg\n"))
    for first, second in zip(open_set(f"ijb-1n:{tmp_path}/ijb").probes, expected, strict=True):
        assert np.array_equal(first, second)
