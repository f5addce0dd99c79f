"""The embed job: a face dataset and a folder of images to Parquet, also after an interruption."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.datasets import pattern, write_dataset
from support.models import TINY

from facelib.config import load_settings
from facelib.data import DatasetError, encode_image
from facelib.embedding import embed_images
from facelib.models import build_backbone, load_backbone, save_backbone
from facelib.synthesis import build_generator
from ray_jobs.embed import embed
from ray_jobs.embedding import writing
from ray_jobs.errors import JobError


@pytest.fixture
def cfg(tmp_path, ray_cluster):
    """Function: settings of tmp_path, which has a model."""
    torch.manual_seed(0)
    image_spec = {"template": "arcface", "size": 112, "color": "RGB"}
    save_backbone(tmp_path / "ssl" / "model.pt", build_backbone("iresnet", **TINY), "iresnet", TINY, image_spec)
    return lambda *overrides: load_settings(None, [f"output={tmp_path}", "embed.images_per_task=5", *overrides])


def unit(embeddings):
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def test_a_dataset_is_embedded_in_its_order(tmp_path, cfg, run):
    dataset = write_dataset(tmp_path / "faces", identities=20, images=2)
    result = embed(cfg(), run)
    assert result.written == (f"{tmp_path}/embeddings/parts",)
    assert result.metrics == {"images": 40, "embedded": 40}
    table = pq.read_table(tmp_path / "embeddings" / "parts")
    images = [data for part in dataset.tables(["image"]) for data in part["image"].to_pylist()]
    expected = unit(embed_images(load_backbone(tmp_path / "ssl" / "model.pt"), images))
    np.testing.assert_allclose(np.array(table["embedding"].to_pylist()), expected, atol=1e-5)
    assert table["identity"].to_pylist() == np.repeat(np.arange(20), 2).tolist()
    assert table["name"].to_pylist()[:3] == ["0/0", "0/1", "1/0"]
    manifest = json.loads((tmp_path / "embeddings" / "manifest.json").read_text())
    assert (manifest["images"], manifest["embedded"], manifest["dimensions"]) == (40, 40, 16)
    assert len(manifest["parts"]) == 3


def test_only_missing_parts_are_embedded(tmp_path, cfg, run, monkeypatch):
    write_dataset(tmp_path / "faces", identities=20, images=2)
    embed(cfg(), run)
    folder = tmp_path / "embeddings"
    complete = {p.name: p.read_bytes() for p in folder.rglob("*.parquet")}
    (folder / "manifest.json").unlink()
    (folder / "parts" / "part-0000001.parquet").unlink()
    requested = []
    real = writing.embedding_stream
    monkeypatch.setattr(
        writing, "embedding_stream", lambda *arguments: requested.append(arguments[-1]) or real(*arguments)
    )
    embed(cfg(), run)
    assert {task.part for task in requested[0]} == {1}
    assert {p.name: p.read_bytes() for p in folder.rglob("*.parquet")} == complete
    # A finished folder is recognized, and other settings are refused.
    embed(cfg(), run)
    assert len(requested) == 1
    with pytest.raises(DatasetError, match="flip: True, now False"):
        embed(cfg("embed.flip=false"), run)


def test_a_folder_of_images(tmp_path, cfg, run):
    generator, first = build_generator("morphable", max_yaw_degrees=10.0), np.zeros(1, np.int64)
    face = generator.render(generator.identity_codes(0, first), generator.image_factors(0, first, first))[0]
    album = tmp_path / "album"
    (album / "anna").mkdir(parents=True)
    (album / "anna" / "1.jpg").write_bytes(encode_image(face))
    (album / "anna" / "2.JPG").write_bytes(encode_image(pattern(1, 1)))
    (album / "broken.png").write_bytes(b"nothing")
    (album / "notes.txt").write_text("not an image")
    (album / "anna" / "loop").symlink_to("..")
    embed(cfg("embed.input=album"), run)
    manifest = json.loads((tmp_path / "embeddings" / "manifest.json").read_text())
    assert (manifest["images"], manifest["left_out"]) == (3, {"link_within_folder": 1, "not_a_picture_file": 1})
    left_out = json.loads((tmp_path / "embeddings" / "left_out.json").read_text())
    assert [row[:2] for row in left_out] == [["link_within_folder", "anna/loop"], ["not_a_picture_file", "notes.txt"]]
    table = pq.read_table(tmp_path / "embeddings" / "parts").to_pylist()
    assert [row["name"] for row in table] == ["anna/1.jpg", "anna/2.JPG", "broken.png"]
    assert np.linalg.norm(table[0]["embedding"]) == pytest.approx(1, abs=1e-5)
    assert table[0]["score"] > 0.8
    assert [row["embedding"] for row in table[1:]] == [None, None]
    assert table[1]["rejected"].startswith("no_face")
    assert "not a decodable image" in table[2]["rejected"]
    # As crops: the pattern has the right size, the render does not.
    embed(cfg("embed.input=album", "embed.aligned=true", "embed.folder=crops"), run)
    table = pq.read_table(tmp_path / "crops" / "parts").to_pylist()
    assert "128x128 pixels instead of 112x112" in table[0]["rejected"]
    backbone = load_backbone(tmp_path / "ssl" / "model.pt")
    expected = unit(embed_images(backbone, [encode_image(pattern(1, 1))]))[0]
    np.testing.assert_allclose(table[1]["embedding"], expected, atol=1e-5)


def test_invalid_inputs_are_refused(tmp_path, cfg, run):
    (tmp_path / "empty").mkdir()
    with pytest.raises(JobError, match=r"embed\.input: .*/empty is not a face dataset and contains no images"):
        embed(cfg("embed.input=empty"), run)
    with pytest.raises(JobError, match=r"embed\.model: .*gone\.pt does not exist"):
        embed(cfg("embed.model=gone.pt"), run)
    write_dataset(tmp_path / "shifted", identities=4, images=2, template="arcface-96")
    with pytest.raises(DatasetError, match="'arcface' against 'arcface-96'"):
        embed(cfg("embed.input=shifted"), run)
