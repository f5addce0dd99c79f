import numpy as np
import pytest
import torch
from support.datasets import pattern, write_dataset
from support.releases import write_ijb

from facelib.config import change_settings, load_settings
from facelib.data import DatasetError, FaceDataset, ImageSpec, encode_image
from facelib.embedding import embed_images
from facelib.evaluation import kfold_accuracy
from facelib.models import build_backbone
from facelib.sources import write_bin
from facelib.sources.pair_sets import load_pair_set
from facelib.utils import distributed
from ray_jobs.errors import JobError
from ray_jobs.training import validator
from ray_jobs.training.validator import Validator


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    write_dataset(folder / "heldout", identities=6, images=3, first=1000)
    return load_settings(None, [f"output={folder}", "evaluate.pairs=20", "train.precision=float32"])


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return build_backbone("iresnet", embedding_size=16, layers=[1, 1, 1, 1], width=0.25, stem_stride=2)


def spec_of(settings):
    return FaceDataset(settings.path("heldout")).image_spec


def test_held_out_pairs_select_the_model(settings, backbone):
    result = Validator(settings, spec_of(settings)).evaluate(backbone)
    assert result.metrics.keys() == {"heldout/auc"}
    assert result.selected == result.metrics["heldout/auc"]
    assert 0 <= result.selected <= 1


def test_verification_sets_can_select_it_by_their_mean_accuracy(settings, backbone, tmp_path):
    images = [image for table in FaceDataset(settings.path("heldout")).tables(["image"]) for image in table["image"]]
    encoded = [image.as_py() for image in images]
    paths = []
    for name, order in (("a", range(18)), ("b", np.random.default_rng(0).permutation(18))):
        paths.append(f"{tmp_path}/{name}.bin")
        chosen = [encoded[i] for i in order] + [encoded[i] for i in reversed(list(order))]
        write_bin(paths[-1], chosen, [i % 2 == 0 for i in range(18)])
    by_sets = change_settings(settings, {"train.selection": "sets", "train.sets": paths}, "test")
    result = Validator(by_sets, spec_of(settings)).evaluate(backbone)
    assert set(result.metrics) == {f"{s}/{metric}" for s in "ab" for metric in ("auc", "accuracy", "xnorm")}
    assert result.selected == pytest.approx((result.metrics["a/accuracy"] + result.metrics["b/accuracy"]) / 2)
    # USynthFace: the mean of some of the sets, flipped.
    chosen = change_settings(by_sets, {"train.selection_sets": ["b"], "train.flip": "sum"}, "test")
    flipped = Validator(chosen, spec_of(settings)).evaluate(backbone)
    pairs = load_pair_set(f"b={paths[1]}")
    embeddings = embed_images(backbone, pairs.images)
    expected = kfold_accuracy(embeddings[pairs.first], embeddings[pairs.second], pairs.issame).accuracy
    assert flipped.selected == flipped.metrics["b/accuracy"] == pytest.approx(expected)
    # XNorm: the mean length of plain and flipped embeddings before they are added, of the faces of the set.
    sides = embed_images(backbone, list(dict.fromkeys(pairs.images)), flip="concat").reshape(-1, 2, 16)
    assert flipped.metrics["b/xnorm"] == pytest.approx(np.linalg.norm(sides, axis=2).mean(), rel=1e-5)


def test_ijb_and_kface_can_select_the_model(settings, backbone, tmp_path):
    write_ijb(tmp_path / "ijb", people=3)
    names = [f"1908{p}/S001/L1/E01/C{pose}.jpg" for p in range(3) for pose in (1, 2)]
    for number, name in enumerate(names):
        (tmp_path / "kface" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "kface" / name).write_bytes(encode_image(pattern(number // 2, number % 2)))
    lines = [f"{a} {b} {int(a[:5] == b[:5])}" for i, a in enumerate(names) for b in names[i + 1 :]]
    (tmp_path / "kface" / "kface.Q1.txt").write_text("\n".join(lines))
    sets = [f"ijb:{tmp_path}/ijb", f"q1=kface-q1(template=arcface):{tmp_path}/kface"]
    chosen = {"train.selection": "sets", "train.sets": sets, "evaluate.published": "unpg"}
    by_both = change_settings(settings, chosen, "test")
    found = Validator(by_both, spec_of(settings)).evaluate(backbone)
    assert set(found.metrics) == {
        "ijb/auc", "ijb/tar_at_far_0.001", "ijb/xnorm", "q1/auc", "q1/accuracy", "q1/xnorm",
    }  # fmt: skip
    assert found.selected == pytest.approx((found.metrics["ijb/tar_at_far_0.001"] + found.metrics["q1/accuracy"]) / 2)
    by_tar = change_settings(
        by_both, {"train.selection_metric": "tar_at_far_2e-2", "train.selection_sets": ["q1"]}, "test"
    )
    selected = Validator(by_tar, spec_of(settings)).evaluate(backbone)
    assert selected.selected == selected.metrics["q1/tar_at_far_0.02"]
    missing = change_settings(by_both, {"train.selection_metric": "rank_1"}, "test")
    with pytest.raises(JobError, match=r"train\.selection_metric: set ijb has no rank_1; it has auc"):
        Validator(missing, spec_of(settings)).evaluate(backbone)


def test_another_image_spec_is_refused(settings):
    with pytest.raises(DatasetError, match="template"):
        Validator(settings, ImageSpec(template="arcface-96", size=112))


def evaluated(output, flags):
    """Rank r: metrics, and the running means before and after, of a network with statistics of its own."""
    torch.manual_seed(0)
    backbone = build_backbone("iresnet", embedding_size=16, layers=[1, 1, 1, 1], width=0.25, stem_stride=2)
    mean = next(buffer for name, buffer in backbone.named_buffers() if name.endswith("running_mean"))
    mean += distributed.rank() * 0.3
    before = mean.clone()
    settings = load_settings(None, [f"output={output}", *flags])
    embedded = []
    original = validator.embed_images

    def counting(backbone, images, **options):
        embedded.append(len(images))
        return original(backbone, images, **options)

    validator.embed_images = counting
    try:
        result = Validator(settings, spec_of(settings)).evaluate(backbone)
    finally:
        validator.embed_images = original
    return result.metrics, sum(embedded), torch.equal(mean, before)


def test_ranks_share_the_work_and_evaluate_the_model_of_rank_0(settings, gloo_pool):
    flags = ["evaluate.pairs=20", "train.precision=float32", "evaluate.batch_size=4"]
    alone, images, _ = evaluated(settings.output, flags)
    (first, own, first_kept), (second, others, second_kept) = gloo_pool.run(evaluated, settings.output, flags)
    assert first == second == alone  # the same batches: the same bits
    assert own + others == images
    assert 0 < own < images
    assert first_kept
    assert second_kept
