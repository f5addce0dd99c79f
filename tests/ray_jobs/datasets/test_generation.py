"""Generator and aligner actors against the library without Ray."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from support.discofacegan import converted_folder

from facelib.alignment import Aligner, build_detector
from facelib.config import SettingsError, load_settings
from facelib.data import encode_image
from facelib.data.image_tree import usynthface_path
from facelib.synthesis import build_generator
from ray_jobs.actors import device_options
from ray_jobs.datasets.generation import AlignedChunk, Chunk, check_actors, face_stages, faces_spec, make_generator
from ray_jobs.errors import user_error
from ray_jobs.training.online_faces import FacePool
from ray_jobs.validation import check_faces


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return converted_folder(tmp_path_factory.mktemp("weights") / "discofacegan")


def settings(weights, *more):
    options = json.dumps({"folder": str(weights)})
    return load_settings(
        None, ["generate.generator=discofacegan", f"generate.options={options}", "generate.images_per_identity=2",
               "generate.actors=1", "generate.cpus_per_actor=0.5", "align.cpus_per_actor=0.5", "seed=11", *more],
    )  # fmt: skip


def test_discofacegan_in_actors_gives_the_librarys_images(weights, ray_cluster):
    cfg = settings(weights, "align.detector=whole_picture")
    with FacePool.start(cfg) as pool:
        (made,) = pool.make([Chunk(0, first=5, count=3, first_image=1)])
    generator = build_generator("discofacegan", folder=str(weights))
    identities, indices = np.repeat([5, 6, 7], 2), np.tile([1, 2], 3)
    factors = generator.image_factors(11, identities, indices)
    images = generator.render(generator.identity_codes(11, identities), factors)
    assert made.table["identity"].to_pylist() == identities.tolist()
    assert made.table["index"].to_pylist() == indices.tolist()
    np.testing.assert_array_equal(made.table["factors"].to_pylist(), factors)
    crops = Aligner(build_detector("whole_picture")).align(list(images))
    assert made.table["image"].to_pylist() == [encode_image(crop.image, cfg.generate.jpeg_quality) for crop in crops]


def test_usynthface_s_stream_as_its_script_writes_it(weights, tmp_path):
    """Whole images without detection: those of the export module, JPEG byte for byte."""
    from facelib.synthesis.discofacegan.export import main

    stream = f'{{"folder": "{weights}", "latents": "usynthface", "stream_images": 3}}'
    cfg = settings(weights, "align.detector=none", f"generate.options={stream}", "generate.images_per_identity=3",
                   "generate.jpeg_quality=75", "seed=42")  # fmt: skip
    spec = faces_spec(cfg)
    assert (spec["template"], spec["size"]) == ("none", 32)
    row = asdict(Chunk(0, first=1, count=2))
    for stage in face_stages(cfg):
        row = stage.actor_class(*stage.args)(row)
    table = AlignedChunk.from_row(row).table
    main([str(weights), str(tmp_path), "--subjects", "3", "--images", "3"])
    names = [usynthface_path(i, j) for i, j in zip(table["identity"].to_pylist(), table["index"].to_pylist())]
    assert names == [usynthface_path(identity, index) for identity in (1, 2) for index in range(3)]
    assert table["image"].to_pylist() == [(tmp_path / name).read_bytes() for name in names]
    assert np.isnan(table["score"].to_numpy()).all()


def test_training_on_generated_faces_needs_a_detector(weights):
    with pytest.raises(SettingsError, match=r"align\.detector: none, but data\.stream"):
        check_faces(settings(weights, "align.detector=none", "data.stream=true"), 1)
    assert check_faces(settings(weights, "align.detector=none"), 1) is None


def test_mtcnn_aligns_rendered_faces(ray_cluster):
    cfg = load_settings(
        None,
        ["align.detector=mtcnn", "generate.images_per_identity=2", "generate.actors=1", "align.cpus_per_actor=0.5"],
    )
    with FacePool.start(cfg) as pool:
        (made,) = pool.make([Chunk(0, first=0, count=4)])
    assert len(made.table) + sum(made.rejected.values()) == 8
    assert len(made.table) >= 5
    assert min(made.table["score"].to_pylist()) >= 0.8


def test_version_and_weights_are_in_the_spec(weights):
    spec = faces_spec(settings(weights))
    assert spec["generator_version"] == 1
    assert len(spec["generator_weights"]) == 64
    assert "non-commercial" in spec["generator_licence"]


MIXTURE = (
    'generate.generator=[{"name": "morphable", "share": 1}, '
    '{"name": "morphable", "share": 1, "options": {"variation": 0}}]'
)


def test_the_spec_of_a_mixture_names_all_its_generators():
    spec = faces_spec(load_settings(None, [MIXTURE]))
    assert spec["generator"] == "mixture"
    assert [part["options"] for part in spec["generator_mixture"]] == [{}, {"variation": 0}]
    assert spec["generator_licence"].startswith("morphable: Drawn from random numbers")
    assert "generator_mixture" not in faces_spec(load_settings(None))
    with pytest.raises(ValueError, match="options of their own"):
        faces_spec(load_settings(None, [MIXTURE, "generate.options={image_size: 64}"]))


def test_faces_of_a_mixture_say_which_generator_made_them(ray_cluster):
    cfg = load_settings(None, [MIXTURE, "align.detector=whole_picture", "generate.images_per_identity=2"])
    generator = make_generator(cfg.generate)
    with FacePool.start(cfg) as pool:
        (made,) = pool.make([Chunk(0, first=5, count=4)])
    assert made.table["source"].to_pylist() == ["morphable"] * 8
    identities, indices = np.repeat(np.arange(5, 9), 2), np.tile([0, 1], 4)
    np.testing.assert_array_equal(
        made.table["factors"].to_pylist(), generator.image_factors(cfg.seed, identities, indices)
    )


def test_actors_with_a_gpu_use_it():
    cfg = load_settings(
        None, ["generate.gpus_per_actor=0.25", "align.gpus_per_actor=0.5", 'align.options={"device": "cpu"}']
    )
    assert device_options(cfg.generate.options, cfg.generate.gpus_per_actor) == {"device": "cuda"}
    assert device_options(cfg.align.options, cfg.align.gpus_per_actor) == {"device": "cpu"}
    defaults = load_settings(None).generate
    assert device_options(defaults.options, defaults.gpus_per_actor) == {}


def test_one_actor_of_each_kind_is_tried_where_nodes_are_added(ray_cluster):
    cfg = load_settings(None, ["ray.autoscaling=true", "generate.cpus_per_actor=0.25", "align.cpus_per_actor=0.25"])
    check_actors(cfg)
    broken = load_settings(None, ["ray.autoscaling=true", "align.detector=mtcnn", 'align.options={"device": "cuda"}'])
    with pytest.raises(Exception, match="PyTorch sees no GPU in this process") as caught:
        check_actors(broken)
    assert "PyTorch sees no GPU" in str(user_error(caught.value))
    check_actors(
        load_settings(None, ["align.detector=mtcnn", 'align.options={"device": "cuda"}'])
    )  # one node: not tried
