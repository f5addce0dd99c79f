"""Which rules a set is evaluated by: settings, a publication's, options of the set."""

import gzip
from pathlib import Path

import pytest
import torch
from support.datasets import write_dataset
from support.models import TINY

from facelib.config import SettingsError, load_settings
from facelib.evaluation.protocols import open_set, parse_spec
from facelib.models import build_backbone, save_backbone
from ray_jobs.embedding.rules import (
    describe_rules,
    evaluation_options,
    model_normalization,
    set_defaults,
    set_rules,
)

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    path = tmp_path_factory.mktemp("rules") / "faces"
    write_dataset(path, identities=6, images=2)
    return path


def rules(settings, text):
    spec = parse_spec(text)
    opened = open_set(text, set_defaults(settings, spec))
    return set_rules(settings, spec, opened, evaluation_options(settings))


def test_a_publication_sets_all_rules_at_once(faces):
    settings = load_settings(None, ["evaluate.published=unpg", "evaluate.pairs=6"])
    found = rules(settings, f"mine={faces}")
    assert found == {
        "flip": "concat", "far_rule": "nearest", "accuracy_rule": "best_threshold",
        "published": "unpg", "overrides": {},
    }  # fmt: skip
    assert describe_rules(found) == (
        "flip concat, far_rule nearest, accuracy_rule best_threshold, as published by unpg"
    )


def test_without_a_publication_the_settings_hold(faces):
    plain = rules(load_settings(None, ["evaluate.pairs=6"]), f"mine={faces}")
    assert describe_rules(plain) == "flip sum, far_rule strict, accuracy_rule kfold"
    given = load_settings(None, ["evaluate.pairs=6", "evaluate.flip=none", "evaluate.far_rule=nearest"])
    assert describe_rules(rules(given, f"mine={faces}")) == "flip none, far_rule nearest, accuracy_rule kfold"


def test_an_option_of_a_set_overrides_the_publication_by_name(faces):
    settings = load_settings(None, ["evaluate.published=unpg", "evaluate.pairs=6"])
    found = rules(settings, f"mine=pairs(flip=none):{faces}")
    assert (found["flip"], found["overrides"]) == ("none", {"flip": "concat"})
    assert describe_rules(found).endswith("as published by unpg except flip concat there")


@pytest.mark.parametrize(
    ("source", "override", "message"),
    [
        ("unpg", "far_rule=strict", r"evaluate\.far_rule: strict, but evaluate\.published=unpg has nearest; leave"),
        ("insightface", "accuracy_rule=best_threshold", r"evaluate\.accuracy_rule: best_threshold, but .* has kfold"),
        ("unpg", "flip=sum", r"evaluate\.flip: sum, but by evaluate\.published=unpg set x has flip=concat; leave"),
    ],
)
def test_a_setting_that_contradicts_the_publication_is_refused(source, override, message):
    settings = load_settings(None, [f"evaluate.published={source}", f"evaluate.{override}"])
    with pytest.raises(SettingsError, match=message):
        evaluation_options(settings), set_defaults(settings, parse_spec("x=/data/x.bin"))


def test_a_setting_that_agrees_or_that_a_publication_leaves_open_is_fine():
    agreeing = load_settings(None, ["evaluate.published=usynthface", "evaluate.flip=sum", "evaluate.far_rule=nearest"])
    assert evaluation_options(agreeing).rule == "nearest"
    assert set_defaults(agreeing, parse_spec("x=/data/x.bin"))["flip"] == "sum"


def test_a_protocol_without_published_results_keeps_the_defaults():
    settings = load_settings(None, ["evaluate.published=usynthface"])
    assert set_defaults(settings, parse_spec("q4=kface-q4:/data"))["flip"] == "sum"


def test_pixels_of_a_checkpoint_that_does_not_state_them(tmp_path):
    """UNPG's own format states them; a state_dict does not; ours does."""
    settings = load_settings(None, ["evaluate.published=unpg"])
    (tmp_path / "unpg.pt").write_bytes(gzip.decompress((GOLDEN / "unpg_checkpoint_tiny.pt.gz").read_bytes()))
    network = build_backbone("iresnet18", embedding_size=8)
    with torch.no_grad():
        network.features.weight.mul_(1.5)  # Trained, as UNPG's is: it does not show the pixels.
    torch.save(network.state_dict(), tmp_path / "bare.pth")
    save_backbone(tmp_path / "ours.pt", build_backbone("iresnet", **TINY), "iresnet", TINY, {})
    found = {name: model_normalization(settings, str(tmp_path / name)) for name in ("unpg.pt", "bare.pth", "ours.pt")}
    assert found == {"unpg.pt": "auto", "bare.pth": "imagenet", "ours.pt": "auto"}
    assert model_normalization(settings, str(tmp_path / "gone.pt")) == "auto"
    given = load_settings(None, ["evaluate.published=unpg", "model.normalization=symmetric"])
    assert model_normalization(given, str(tmp_path / "bare.pth")) == "symmetric"
