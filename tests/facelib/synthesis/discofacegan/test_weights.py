"""The converted file: checked when it is read."""

import io
import json
import shutil
import zipfile

import numpy as np
import pytest

from facelib.synthesis.discofacegan.weights import load_weights, read_header


def test_smallest_example(converted):
    weights = load_weights(converted)
    assert weights.networks.topology.resolution == 32
    assert weights.average_w_id.shape == (8, 16)
    assert weights.sha256 == read_header(converted)["sha256"]


def _rewrite(folder, change, compress=zipfile.ZIP_STORED):
    """The archive with its entries changed: name -> bytes."""
    path = folder / "discofacegan.npz"
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def _npy(array, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def _header(entries, **changes) -> None:
    header = json.loads(np.load(io.BytesIO(entries["header.npy"])).tobytes())
    entries["header.npy"] = _npy(np.frombuffer(json.dumps({**header, **changes}).encode(), np.uint8))


BIAS = "Gs/G_mapping/Dense0/bias.npy"
DAMAGE = {
    "one value": (lambda e: e.update({BIAS: _npy(np.zeros(16, np.float32))}), "recorded SHA-256"),
    "shape": (
        lambda e: e.update({BIAS: _npy(np.zeros(17, np.float32))}),
        r"Gs/G_mapping/Dense0/bias is float32 \(17,\)",
    ),
    "type": (lambda e: e.update({BIAS: _npy(np.zeros(16))}), "bias is float64"),
    "not finite": (lambda e: e.update({BIAS: _npy(np.full(16, np.nan, np.float32))}), "bias is float32"),
    "objects": (lambda e: e.update({BIAS: _npy(np.array([print], object), allow_pickle=True)}), "Object arrays"),
    "missing": (lambda e: e.pop(BIAS), "arrays are missing or unknown"),
    "unknown": (lambda e: e.update({"more.npy": _npy(np.zeros(1))}), "arrays are missing or unknown"),
    "no header": (lambda e: e.pop("header.npy"), "header"),
    "settings": (lambda e: _header(e, static_kwargs={"resolution": 33}), "resolution is 33"),
    "format": (lambda e: _header(e, format=2), "another format"),
    "hash": (lambda e: _header(e, sha256="0" * 64), "recorded SHA-256"),
}


@pytest.mark.parametrize("name", list(DAMAGE))
def test_damage_is_named(converted, tmp_path, name):
    change, message = DAMAGE[name]
    folder = shutil.copytree(converted, tmp_path / "damaged")
    _rewrite(folder, change)
    with pytest.raises(ValueError, match=rf"discofacegan\.npz: damaged .*{message}.*convert again"):
        load_weights(folder)


def test_compressed_and_cut_files(converted, tmp_path):
    folder = shutil.copytree(converted, tmp_path / "damaged")
    _rewrite(folder, lambda entries: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="it is compressed"):
        load_weights(folder)
    path = folder / "discofacegan.npz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        read_header(folder)


def test_missing_and_unconverted_folders(tmp_path, published):
    with pytest.raises(FileNotFoundError, match=r"MISSING  network-snapshot-020126\.pkl"):
        read_header(tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError, match=r"not there yet; .*python -m facelib\.synthesis\.discofacegan\.convert"
    ):
        read_header(published)


def test_weights_behind_a_uri(converted, tmp_path, monkeypatch):
    monkeypatch.setenv("FACELIB_CACHE", str(tmp_path / "cache"))
    uri = f"file://{converted}"
    assert read_header(uri) == read_header(converted)
    assert not (tmp_path / "cache").exists()  # the head needs the header only
    assert load_weights(uri).sha256 == load_weights(converted).sha256
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 1
    with pytest.raises(FileNotFoundError, match=r"convert the published files on one machine"):
        read_header(f"file://{tmp_path}/nowhere")
