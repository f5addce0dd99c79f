import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from facelib.synthesis.mobilestylegan.weights import (
    FILES,
    LICENSE,
    RESOLUTIONS,
    Weights,
    files_sha256,
    load_weights,
    read_files,
    weights_folder,
)


def test_every_constant_is_found_by_name(weights: Weights) -> None:
    tables = weights.tables
    assert len(tables) == 8 * 2 + 1 + 1 + 5 + len(RESOLUTIONS) * (2 + 6 + 6) + 4
    assert tables["layers.3.conv2.weight"].shape == (512, 512, 1, 1)
    assert tables["layers.3.conv2.depthwise"].shape == (512, 1, 3, 3)
    assert tables["layers.6.conv1.noise"].shape == (512, 512)
    assert tables["to_img.weight"].shape == (12, 64, 1, 1)
    assert all(table.dtype == np.float32 for table in tables.values())
    assert tables["mapping.gain"] == pytest.approx(2**0.5)


def test_the_wheel_is_not_imported(folder: str) -> None:
    assert Path(folder).parts[-2:] == ("random_face", "data")
    assert "random_face" not in sys.modules


def test_from_a_folder_or_a_uri(folder: str, weights: Weights, tmp_path) -> None:
    for name in FILES:
        shutil.copy(Path(folder) / name, tmp_path / name)
    copied = load_weights(f"file://{tmp_path}")
    assert copied.sha256 == weights.sha256 == files_sha256(read_files(str(tmp_path)))
    np.testing.assert_array_equal(copied.tables["input"], weights.tables["input"])


def test_a_missing_wheel_is_named_with_the_command(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps random-face==2021\.7\.21\.1") as caught:
        weights_folder()
    assert LICENSE in str(caught.value)
    assert "non-commercial" in LICENSE


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"MappingNetwork\.xml.*pip install --no-deps"):
        load_weights(str(tmp_path))


def test_another_network_is_refused(folder: str, tmp_path) -> None:
    for name in FILES:
        shutil.copy(Path(folder) / name, tmp_path / name)
    (tmp_path / FILES[2]).write_bytes((Path(folder) / FILES[0]).read_bytes())
    with pytest.raises(ValueError, match=r"SynthesisNetwork\.xml: has no 'm\.input\.input'"):
        load_weights(str(tmp_path))
    shutil.copy(Path(folder) / FILES[2], tmp_path)
    (tmp_path / FILES[3]).write_bytes((Path(folder) / FILES[3]).read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"does not fit into the \.bin file"):
        load_weights(str(tmp_path))
