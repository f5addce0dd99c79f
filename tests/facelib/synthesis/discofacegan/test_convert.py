"""Conversion of the published layout, and folders that lack something."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from facelib.synthesis.discofacegan import read_network_pickle
from facelib.synthesis.discofacegan.convert import convert, main, read_average
from facelib.synthesis.discofacegan.weights import load_weights, read_header


def test_smallest_example(published, golden, tiny):
    path = convert(published)
    assert path == published / "discofacegan.npz"
    weights = load_weights(published)
    expected = read_network_pickle(golden / "tiny_r32.pkl")
    assert weights.networks.static_kwargs == expected.static_kwargs
    for name, array in expected.variables.items():
        np.testing.assert_array_equal(weights.networks.variables[name], array)
    np.testing.assert_array_equal(weights.average_w_id, np.tile(tiny["average_w_id"], (8, 1)))
    assert {f: len(tables) for f, tables in weights.decoders.items()} == {"id": 8, "exp": 8, "gamma": 8, "rot": 8}
    assert len(weights.sources) == 10
    for name, source in weights.sources.items():
        assert source["sha256"] == hashlib.sha256((published / name).read_bytes()).hexdigest()
    assert not [p for p in published.iterdir() if p.name.startswith(".")]


@pytest.mark.slow
def test_command_line(published):
    root = Path(__file__).parents[4]
    command = [sys.executable, "-m", "facelib.synthesis.discofacegan.convert", str(published)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"wrote {published / 'discofacegan.npz'}")


def test_twice_gives_the_same_hash(published):
    convert(published)
    first = read_header(published)["sha256"]
    convert(published)
    assert read_header(published)["sha256"] == first


def test_missing_average_is_computed(published):
    (published / "network-snapshot-020126-average_w_id.txt").unlink()
    convert(published, average_draws=700)
    weights = load_weights(published)
    assert weights.sources["network-snapshot-020126-average_w_id.txt"] == {"computed": "mean of 700 draws"}
    # The same by hand, in float64: one draw at a time, as the original does it.
    stream, styles = np.random.RandomState(1), []
    for _ in range(700):
        latents, noise = stream.normal(size=[1, 179]), stream.normal(size=[1, 32])
        x = latents[:, :128]
        for layer in ("fc0", "fc1", "fc2", "x_hat"):
            tables = weights.decoders["id"]
            x = x @ tables[f"{layer}/kernel"].astype("f8") + tables[f"{layer}/bias"]
            x = x if layer == "x_hat" else np.maximum(x, 0)
        x = np.concatenate([x, np.zeros((1, 94)), noise], axis=1)
        for layer in range(8):
            weight = weights.networks.variables[f"G_mapping/Dense{layer}/weight"].astype("f8")
            bias = weights.networks.variables[f"G_mapping/Dense{layer}/bias"]
            x = x @ weight * (np.sqrt(2 / len(weight)) * 0.01) + bias * 0.01
            x = np.maximum(x, 0.2 * x)
        styles.append(x)
    expected = np.tile(np.mean(np.concatenate(styles), axis=0), (8, 1))
    np.testing.assert_allclose(weights.average_w_id, expected, rtol=0, atol=1e-5)


def test_missing_files_are_listed_with_their_license(published, capsys):
    (published / "vae/weights/rot/stage1_epoch_395.ckpt.index").unlink()
    assert main([str(published)]) == 1
    message = capsys.readouterr().err
    assert "MISSING  vae/weights/rot/stage1_epoch_395.ckpt.index" in message
    assert "found    network-snapshot-020126.pkl" in message
    for word in ("Nothing is downloaded", "non-commercial", "CC BY-NC", "FFHQ", "github.com/microsoft/DiscoFaceGAN"):
        assert word in message


def test_a_refused_pickle_writes_nothing(published, capsys):
    (published / "network-snapshot-020126.pkl").write_bytes(b"\x80\x04\x8c\x02os\x8c\x06system\x93.")
    assert main([str(published)]) == 1
    assert "network-snapshot-020126.pkl: refused, its pickle asks for os.system" in capsys.readouterr().err
    assert not (published / "discofacegan.npz").exists()


@pytest.mark.filterwarnings("ignore:loadtxt")
@pytest.mark.parametrize(
    "text", ["", "abc", "1 2 3", "nan " * 16, "__import__('os')"], ids=["empty", "words", "short", "nan", "code"]
)
def test_wrong_average_is_named(golden, tmp_path, text):
    path = tmp_path / "average_w_id.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"average_w_id\.txt: not the average style vectors"):
        read_average(path, read_network_pickle(golden / "tiny_r32.pkl"))
