"""The evaluation job on a small trained-looking network, a face dataset and a .bin file."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from support.datasets import pattern, write_dataset
from support.models import TINY
from support.releases import write_ijb

from facelib.config import SettingsError, load_settings
from facelib.data import DatasetError, Folder, decode_image, encode_image
from facelib.data.lock import FolderInUseError, directory_lock
from facelib.embedding import embed_images
from facelib.evaluation import PixelEmbedding
from facelib.models import build_backbone, load_backbone, save_backbone
from facelib.sources import write_bin
from facelib.sources.pair_sets import load_pair_set
from facelib.tracking import Run
from ray_jobs.errors import JobError
from ray_jobs.evaluate import evaluate


def checkpoint(path, seed=0, template="arcface", **image_spec):
    torch.manual_seed(seed)
    save_backbone(
        path,
        build_backbone("iresnet", **TINY),
        "iresnet",
        TINY,
        {"template": template, "size": 112, "color": "RGB", **image_spec},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """<output> of a finished label-free training, with a .bin file of other people beside it."""
    path = tmp_path_factory.mktemp("evaluate")
    write_dataset(path / "out" / "faces", identities=24, images=3)
    write_dataset(path / "out" / "heldout", identities=8, images=4, first=1000)
    checkpoint(path / "out" / "ssl" / "model.pt", training={"epoch": 2, "metric": 0.5})
    history = [{"epoch": e, "loss": 1.0 / e, "contrast_accuracy": 0.1 * e, "learning_rate": 0.1} for e in (1, 2, 3)]
    (path / "out" / "ssl" / "history.json").write_text(json.dumps(history))
    people = [(p, 0, p, 1) if genuine else (p, 2, p + 50, 0) for p in range(2000, 2015) for genuine in (True, False)]
    images = [encode_image(pattern(*side)) for a, i, b, j in people for side in ((a, i), (b, j))]
    write_bin(path / "people.bin", images, [a == b for a, _, b, _ in people])
    return path


@pytest.fixture(scope="module")
def cfg(folder):
    """Function: settings of an evaluation below `folder`."""

    def build(*overrides, sets=("heldout", f"people={folder}/people.bin")):
        return load_settings(
            None,
            [
                f"output={folder}/out", f"tracking.uri=sqlite:///{folder}/mlflow.db", "tracking.system_metrics=false",
                "evaluate.pairs=40", "evaluate.bootstrap=50", "evaluate.fars=[0.1, 0.01]", "evaluate.batch_size=32",
                f"evaluate.sets={json.dumps(sets)}", *overrides,
            ],
        )  # fmt: skip

    return build


@pytest.fixture(scope="module")
def judged(folder, cfg, ray_cluster):
    """(MLflow run, results.json) of the evaluation."""
    with Run.open(cfg(), "evaluate") as opened:
        result = evaluate(cfg(), opened)
    assert result.written == (f"{folder}/out/evaluation/results.json",)
    assert 0 <= result.metrics["people/raw_pixels/auc"] <= 1
    return opened, json.loads((folder / "out" / "evaluation" / "results.json").read_text())


def auc(embeddings, pairs):
    """Brute force: the share of (genuine, impostor) combinations in the right order."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores = (unit[pairs.first] * unit[pairs.second]).sum(1)
    return (scores[pairs.issame][:, None] > scores[~pairs.issame]).mean()


def test_a_model_stands_beside_its_baselines(judged):
    _, result = judged
    assert set(result["reports"]) == {"ssl", "untrained", "raw pixels", "whitened pixels"}
    for by_set in result["reports"].values():
        assert set(by_set) == {"heldout", "people"}
        assert (by_set["heldout"]["genuine"], by_set["heldout"]["impostors"]) == (40, 40)
        assert (by_set["people"]["genuine"], by_set["people"]["impostors"]) == (15, 15)
        for report in by_set.values():
            assert set(report["tar_at_far"]) == {"0.1", "0.01"}
            assert report["intervals"]["auc"]["low"] <= report["auc"] <= report["intervals"]["auc"]["high"]


def test_the_numbers_are_those_of_the_pairs(folder, judged):
    _, result = judged
    sets = [load_pair_set(f"{folder}/out/heldout", 40), load_pair_set(f"people={folder}/people.bin")]
    torch.manual_seed(0)
    models = {"ssl": load_backbone(folder / "out" / "ssl" / "model.pt")}
    for s in sets:
        pixels = np.stack([decode_image(data) for data in s.images])
        expected = {name: auc(embed_images(model, pixels).astype(float), s) for name, model in models.items()}
        expected["raw pixels"] = auc(PixelEmbedding().embed(pixels).astype(float), s)
        for name, value in expected.items():
            assert result["reports"][name][s.name]["auc"] == pytest.approx(value, abs=0.01), (name, s.name)
    # Patterns of one identity look alike: that pixels find it shows that pairs and pictures belong together.
    assert result["reports"]["raw pixels"]["people"]["auc"] > 0.7


def test_the_untrained_twin_is_the_same_network_with_other_weights(judged, folder):
    _, result = judged
    # The checkpoint above was drawn with seed 0, as the twin is: the same numbers prove the same architecture.
    assert result["reports"]["untrained"]["people"]["auc"] == result["reports"]["ssl"]["people"]["auc"]
    assert result["gains"]["ssl"]["untrained"]["people"]["difference"] == 0
    gain = result["gains"]["ssl"]["raw pixels"]["heldout"]
    difference = result["reports"]["ssl"]["heldout"]["auc"] - result["reports"]["raw pixels"]["heldout"]["auc"]
    assert gain["difference"] == pytest.approx(difference)
    assert gain["low"] <= gain["difference"] <= gain["high"]


def test_training_accuracy_of_the_chosen_epoch_is_beside_it(judged, folder):
    _, result = judged
    assert result["models"] == {
        "ssl": {
            "path": f"{folder}/out/ssl/model.pt",
            "training": {"epoch": 2, "loss": 0.5, "contrast_accuracy": pytest.approx(0.2)},
        }
    }


def test_pictures_and_metrics_are_kept(folder, judged):
    run, result = judged
    kinds = ("roc", "det", "scores_ssl", "worst_ssl", "map_ssl")
    names = {f"{kind}_{s}.png" for s in ("heldout", "people") for kind in kinds}
    for name in names:
        assert (folder / "out" / "evaluation" / name).read_bytes()[:4] == b"\x89PNG"
        assert (folder / "out" / "evaluation" / name).stat().st_size > 5_000
    client = MlflowClient(tracking_uri=run.uri)
    assert {f"pictures/{n}" for n in names} == {a.path for a in client.list_artifacts(run.run_id, "pictures")}
    assert "results.json" in {a.path for a in client.list_artifacts(run.run_id)}
    metrics = client.get_run(run.run_id).data.metrics
    for model in ("ssl", "untrained", "raw_pixels", "whitened_pixels"):
        assert {f"people/{model}/{m}" for m in ("auc", "eer", "accuracy", "tar_at_far_0.01")} <= metrics.keys()
    assert metrics["heldout/raw_pixels/auc"] == result["reports"]["raw pixels"]["heldout"]["auc"]


def test_two_checkpoints_of_one_name_are_both_judged(folder, cfg, judged, ray_cluster):
    run, _ = judged
    checkpoint(folder / "other" / "ssl" / "model.pt", seed=5)
    both = cfg(f'evaluate.models=["ssl/model.pt", "{folder}/other/ssl/model.pt"]', "evaluate.baselines=false",
               sets=[f"{folder}/people.bin"])  # fmt: skip
    evaluate(both, Run.attach(run.uri, run.run_id))
    reports = json.loads((folder / "out" / "evaluation" / "results.json").read_text())["reports"]
    assert set(reports) == {"out-ssl", "other-ssl"}
    assert reports["out-ssl"]["people"] != reports["other-ssl"]["people"]


def test_a_set_of_another_template_is_refused_naming_both(folder, cfg, judged):
    write_dataset(folder / "shifted", identities=4, images=3, template="arcface-96")
    with pytest.raises(DatasetError, match=r"model ssl and set shifted .*'arcface' against 'arcface-96'"):
        evaluate(cfg(sets=[f"{folder}/shifted"]), judged[0])
    checkpoint(folder / "out" / "narrow.pt", template="arcface-96")
    with pytest.raises(DatasetError, match=r"model narrow and set heldout .*'arcface-96' against 'arcface'"):
        evaluate(cfg('evaluate.models=["narrow.pt"]'), judged[0])


def results(folder):
    return json.loads((folder / "out" / "evaluation" / "results.json").read_text())


@pytest.mark.parametrize(
    ("faces", "reason"),
    [
        ("other_faces", r"on people: dataset .*other_faces and set people do not fit"),
        ("none", "is no face dataset"),
    ],
)
def test_without_fitting_faces_the_whitened_pixels_are_left_out_with_a_reason(
    folder, cfg, judged, ray_cluster, capsys, faces, reason
):
    if faces == "other_faces":
        write_dataset(folder / faces, identities=4, images=3, template="arcface-96")
    settings = cfg(f"data.dataset={folder}/{faces}", sets=[f"{folder}/people.bin"])
    evaluate(settings, Run.attach(judged[0].uri, judged[0].run_id))
    assert set(results(folder)["reports"]) == {"ssl", "untrained", "raw pixels"}
    assert re.search(f"whitened pixels are left out.*{reason}", capsys.readouterr().out)


def test_what_is_missing_or_there_twice_is_named(folder, cfg, judged):
    with pytest.raises(JobError, match=r"evaluate\.models: .*/out/unpg/model\.pt does not exist"):
        evaluate(cfg('evaluate.models=["unpg/model.pt"]'), judged[0])
    with pytest.raises(FileNotFoundError, match=r"gone\.bin"):
        evaluate(cfg(sets=[f"{folder}/gone.bin"]), judged[0])
    with pytest.raises(SettingsError, match=r"evaluate\.models: duplicate name ssl"):
        evaluate(cfg('evaluate.models=["ssl/model.pt", "ssl/model.pt"]'), judged[0])
    with pytest.raises(SettingsError, match=r"evaluate\.sets: duplicate name people; give the sets names, name=path"):
        evaluate(cfg(sets=[f"{folder}/people.bin", f"people={folder}/people.bin"]), judged[0])


def test_a_second_evaluation_of_the_same_folder_is_refused(folder, cfg, judged):
    results = folder / "out" / "evaluation" / "results.json"
    before = results.read_bytes()
    with (
        directory_lock(Folder(str(folder / "out" / "evaluation")), "evaluate"),
        pytest.raises(FolderInUseError, match="in use by evaluate"),
    ):
        evaluate(cfg(), judged[0])
    assert results.read_bytes() == before


def test_too_few_pairs_for_the_folds(folder, cfg, judged):
    write_dataset(folder / "few", identities=4, images=2)
    with pytest.raises(JobError, match=r"few has 8 pairs, .* needs at least 10; .* raise generate\.heldout_identities"):
        evaluate(cfg(sets=[f"{folder}/few"]), judged[0])


def test_every_protocol_in_one_run_and_a_threshold_from_one_set(folder, cfg, judged, ray_cluster):
    """Groups, IJB 1:1 and 1:N beside pairs; thresholds of one set are applied to the others."""
    (folder / "groups").mkdir()
    for name in ("north", "south"):
        shutil.copy(folder / "people.bin", folder / "groups" / f"{name}.bin")
    write_ijb(folder / "ijb", search=True)
    sets = [f"{folder}/people.bin", f"rfw=groups:{folder}/groups", f"ijb(weighted=true):{folder}/ijb",
            f"search=ijb-1n:{folder}/ijb"]  # fmt: skip
    options = ("evaluate.baselines=false", "evaluate.threshold_set=people", "evaluate.fpirs=[0.2]", "evaluate.actors=2")
    evaluate(cfg(*options, sets=sets), Run.attach(judged[0].uri, judged[0].run_id))
    found = results(folder)
    reports = found["reports"]["ssl"]
    assert set(reports) == {"people", "rfw", "ijb", "search"}
    # Two copies of one set: no gap, and each group is what the set alone is.
    assert reports["rfw"]["groups"]["north"]["auc"] == pytest.approx(reports["people"]["auc"], abs=1e-6)
    assert [point["fnmr_gap"] for point in reports["rfw"]["errors"]] == [0.0]
    assert reports["search"]["gallery"] == [6]
    assert 0 <= reports["search"]["rank"]["1"] <= reports["search"]["rank"]["5"] <= 1
    # 15 impostor pairs set a threshold at FAR 0.1 but none at 0.01.
    assert {name: [p["far"] for p in points] for name, points in found["thresholds"]["ssl"].items()} == {
        "rfw": [0.1],
        "ijb": [0.1],
    }
    for name in ("roc_ijb", "roc_groups_ssl_rfw", "map_ssl_search", "worst_ssl_ijb"):
        assert (folder / "out" / "evaluation" / f"{name}.png").stat().st_size > 5_000


def test_embeddings_come_from_the_cache_the_second_time(folder, cfg, judged, ray_cluster, monkeypatch):
    run = Run.attach(judged[0].uri, judged[0].run_id)
    once = cfg("evaluate.baselines=false", "evaluate.batch_size=16", sets=[f"{folder}/people.bin"])
    evaluate(once, run)
    first = results(folder)["reports"]
    monkeypatch.setattr("ray_jobs.embedding.pool._run", lambda *_: pytest.fail("embedded again"))
    evaluate(once, run)
    assert results(folder)["reports"] == first
    # Another flip is another embedding; so is a damaged part.
    with pytest.raises(pytest.fail.Exception):
        evaluate(once.model_copy(update={"evaluate": once.evaluate.model_copy(update={"flip": False})}), run)
    for part in (folder / "out" / "evaluation" / "embeddings").iterdir():
        part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(pytest.fail.Exception):
        evaluate(once, run)


def test_a_checkpoint_behind_a_uri_with_half_a_contract(folder, cfg, judged, ray_cluster, capsys):
    run = Run.attach(judged[0].uri, judged[0].run_id)
    torch.manual_seed(0)
    network = build_backbone("iresnet", **TINY)
    save_backbone(folder / "half.pt", network, "iresnet", TINY, {"size": 112})
    evaluate(cfg(f'evaluate.models=["file://{folder}/half.pt"]', "evaluate.baselines=false",
                 sets=[f"{folder}/people.bin"]), run)  # fmt: skip
    assert "half: the checkpoint does not say its template, color" in capsys.readouterr().out
    assert set(results(folder)["reports"]) == {"half"}
    with pytest.raises(JobError, match=r"evaluate\.models: .*gone\.pt does not exist"):
        evaluate(cfg(f'evaluate.models=["file://{folder}/gone.pt"]'), run)


def test_a_set_may_say_the_template_of_its_bin(folder, cfg, judged):
    sets = [f"people=pairs(template=arcface-96):{folder}/people.bin"]
    with pytest.raises(DatasetError, match=r"model ssl and set people .*'arcface' against 'arcface-96'"):
        evaluate(cfg(sets=sets), judged[0])
