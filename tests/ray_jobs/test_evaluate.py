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
from support.tracking import new_store

from facelib.config import SettingsError, load_settings
from facelib.data import DatasetError, Folder, decode_image, encode_image
from facelib.data.lock import FolderInUseError, directory_lock
from facelib.embedding import embed_images
from facelib.evaluation import PixelEmbedding
from facelib.models import build_backbone, load_backbone, network_entry, save_backbone
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
    """<output> of a finished label-free training, with a .bin file of other identities beside it."""
    path = tmp_path_factory.mktemp("evaluate")
    write_dataset(path / "out" / "faces", identities=24, images=3)
    write_dataset(path / "out" / "heldout", identities=8, images=4, first=1000)
    checkpoint(path / "out" / "ssl" / "model.pt", training={"epoch": 2, "metric": 0.5})
    history = [{"epoch": e, "loss": 1.0 / e, "contrast_accuracy": 0.1 * e, "learning_rate": 0.1} for e in (1, 2, 3)]
    (path / "out" / "ssl" / "history.json").write_text(json.dumps(history))
    sides = [(p, 0, p, 1) if genuine else (p, 2, p + 50, 0) for p in range(2000, 2015) for genuine in (True, False)]
    images = [encode_image(pattern(*side)) for a, i, b, j in sides for side in ((a, i), (b, j))]
    write_bin(path / "real.bin", images, [a == b for a, _, b, _ in sides])
    return path


@pytest.fixture(scope="module")
def cfg(folder):
    """Function: settings of an evaluation below `folder`."""

    def build(*overrides, sets=("heldout", f"real={folder}/real.bin")):
        return load_settings(
            None,
            [
                f"output={folder}/out", f"tracking.uri={new_store(folder)}", "tracking.system_metrics=false",
                "evaluate.pairs=40", "evaluate.bootstrap=50", "evaluate.fars=[0.1, 0.01]", "evaluate.batch_size=32",
                f"evaluate.sets={json.dumps(sets)}", *overrides,
            ],
        )  # fmt: skip

    return build


@pytest.fixture(scope="module")
def evaluated(folder, cfg, ray_cluster):
    """(MLflow run, results.json) of the evaluation."""
    with Run.open(cfg(), "evaluate") as opened:
        result = evaluate(cfg(), opened)
    assert result.written == (f"{folder}/out/evaluation/results.json",)
    assert 0 <= result.metrics["real/raw_pixels/auc"] <= 1
    return opened, json.loads((folder / "out" / "evaluation" / "results.json").read_text())


def auc(embeddings, pairs):
    """Brute force: the share of (genuine, impostor) combinations that are ordered correctly."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores = (unit[pairs.first] * unit[pairs.second]).sum(1)
    return (scores[pairs.issame][:, None] > scores[~pairs.issame]).mean()


def test_a_model_and_its_baselines(evaluated):
    _, result = evaluated
    assert set(result["reports"]) == {"ssl", "untrained", "raw pixels", "whitened pixels", "whitened LBP"}
    for by_set in result["reports"].values():
        assert set(by_set) == {"heldout", "real"}
        assert (by_set["heldout"]["genuine"], by_set["heldout"]["impostors"]) == (40, 40)
        assert (by_set["real"]["genuine"], by_set["real"]["impostors"]) == (15, 15)
        for report in by_set.values():
            assert set(report["tar_at_far"]) == {"0.1", "0.01"}
            assert report["intervals"]["auc"]["low"] <= report["auc"] <= report["intervals"]["auc"]["high"]


def test_what_intervals_rest_on_is_in_results_and_tracking(evaluated):
    opened, result = evaluated
    identities = result["reports"]["ssl"]["heldout"]["identities"]
    expected = {"heldout": f"over {identities} identities", "real": "pairs only, identities unknown"}
    assert identities > 2
    for name, text in expected.items():
        assert result["reports"]["raw pixels"][name]["resampling"] == text
        assert result["gains"]["ssl"]["raw pixels"][name]["resampling"] == text
        tags = opened.client.get_run(opened.run_id).data.tags
        assert tags[f"intervals.{name}"] == text
        assert tags[f"rules.{name}"] == "flip sum, far_rule strict, accuracy_rule kfold"
        assert result["rules"][name]["published"] is None
    assert any("fewer than 300" in warning for warning in result["reports"]["ssl"]["real"]["warnings"])


def test_metrics_match_a_brute_force_computation(folder, evaluated):
    _, result = evaluated
    sets = [load_pair_set(f"{folder}/out/heldout", 40), load_pair_set(f"real={folder}/real.bin")]
    torch.manual_seed(0)
    models = {"ssl": load_backbone(folder / "out" / "ssl" / "model.pt")}
    for s in sets:
        pixels = np.stack([decode_image(data) for data in s.images])
        expected = {name: auc(embed_images(model, pixels).astype(float), s) for name, model in models.items()}
        expected["raw pixels"] = auc(PixelEmbedding().embed(pixels).astype(float), s)
        for name, value in expected.items():
            assert result["reports"][name][s.name]["auc"] == pytest.approx(value, abs=0.01), (name, s.name)
    # Patterns of one identity look alike: an AUC above chance shows that pairs and images correspond.
    assert result["reports"]["raw pixels"]["real"]["auc"] > 0.7


def test_the_untrained_baseline_has_the_same_architecture(evaluated, folder):
    _, result = evaluated
    # The checkpoint was initialized with seed 0, as the baseline is: equal numbers prove the same architecture.
    assert result["reports"]["untrained"]["real"]["auc"] == result["reports"]["ssl"]["real"]["auc"]
    assert result["gains"]["ssl"]["untrained"]["real"]["difference"] == 0
    gain = result["gains"]["ssl"]["raw pixels"]["heldout"]
    difference = result["reports"]["ssl"]["heldout"]["auc"] - result["reports"]["raw pixels"]["heldout"]["auc"]
    assert gain["difference"] == pytest.approx(difference)
    assert gain["low"] <= gain["difference"] <= gain["high"]


def test_training_accuracy_of_the_selected_epoch_is_reported(evaluated, folder):
    _, result = evaluated
    assert result["models"] == {
        "ssl": {
            "path": f"{folder}/out/ssl/model.pt",
            "training": {"epoch": 2, "loss": 0.5, "contrast_accuracy": pytest.approx(0.2)},
        }
    }


def test_figures_and_metrics_are_logged(folder, evaluated):
    run, result = evaluated
    kinds = ("roc", "det", "scores_ssl", "worst_ssl", "map_ssl")
    names = {f"{kind}_{s}.png" for s in ("heldout", "real") for kind in kinds}
    for name in names:
        assert (folder / "out" / "evaluation" / name).read_bytes()[:4] == b"\x89PNG"
        assert (folder / "out" / "evaluation" / name).stat().st_size > 5_000
    client = MlflowClient(tracking_uri=run.uri)
    assert {f"plots/{n}" for n in names} <= {a.path for a in client.list_artifacts(run.run_id, "plots")}
    assert "results.json" in {a.path for a in client.list_artifacts(run.run_id)}
    metrics = client.get_run(run.run_id).data.metrics
    for model in ("ssl", "untrained", "raw_pixels", "whitened_pixels", "whitened_LBP"):
        assert {f"test/real/{model}/{m}" for m in ("auc", "eer", "accuracy", "tar_at_far_0.01")} <= metrics.keys()
    assert metrics["test/heldout/raw_pixels/auc"] == result["reports"]["raw pixels"]["heldout"]["auc"]


def test_two_checkpoints_of_one_name_are_both_evaluated(folder, cfg, evaluated, ray_cluster):
    run, _ = evaluated
    checkpoint(folder / "other" / "ssl" / "model.pt", seed=5)
    both = cfg(f'evaluate.models=["ssl/model.pt", "{folder}/other/ssl/model.pt"]', "evaluate.baselines=false",
               "evaluate.figures=false", sets=[f"{folder}/real.bin"])  # fmt: skip
    evaluate(both, Run.attach(run.uri, run.run_id))
    reports = json.loads((folder / "out" / "evaluation" / "results.json").read_text())["reports"]
    assert set(reports) == {"out-ssl", "other-ssl"}
    assert reports["out-ssl"]["real"] != reports["other-ssl"]["real"]
    assert not list((folder / "out" / "evaluation").glob("*out-ssl*.png"))


def test_all_kept_checkpoints_of_a_training_are_a_row_each_and_one_curve(folder, cfg, evaluated, ray_cluster):
    run, _ = evaluated
    for epoch in (1, 2):
        torch.manual_seed(epoch)
        network = build_backbone("iresnet", **TINY)
        method = {f"network.{name}": value for name, value in network.state_dict().items()}
        spec = {"template": "arcface", "size": 112, "color": "RGB", "training": {"epoch": float(epoch)}}
        state = {**network_entry("network.", "iresnet", TINY, spec, "symmetric"), "method": method}
        path = folder / "out" / "unpg" / "training" / f"checkpoint_{epoch}" / "state.pt"
        path.parent.mkdir(parents=True)
        torch.save(state, path)
    settings = cfg("evaluate.models=unpg/training/*", "evaluate.baselines=false", sets=[f"{folder}/real.bin"])
    evaluate(settings, Run.attach(run.uri, run.run_id))
    reports = results(folder)["reports"]
    assert list(reports) == ["unpg epoch 1", "unpg epoch 2"]
    history = MlflowClient(tracking_uri=run.uri).get_metric_history(run.run_id, "test/real/unpg/auc")
    assert [(point.step, point.value) for point in history] == [
        (epoch, pytest.approx(reports[f"unpg epoch {epoch}"]["real"]["auc"])) for epoch in (1, 2)
    ]


def test_a_set_with_another_template_is_refused(folder, cfg, evaluated):
    write_dataset(folder / "shifted", identities=4, images=3, template="arcface-96")
    with pytest.raises(DatasetError, match=r"model ssl and set shifted .*'arcface' against 'arcface-96'"):
        evaluate(cfg(sets=[f"{folder}/shifted"]), evaluated[0])
    checkpoint(folder / "out" / "narrow.pt", template="arcface-96")
    with pytest.raises(DatasetError, match=r"model narrow and set heldout .*'arcface-96' against 'arcface'"):
        evaluate(cfg('evaluate.models=["narrow.pt"]'), evaluated[0])


def results(folder):
    return json.loads((folder / "out" / "evaluation" / "results.json").read_text())


@pytest.mark.parametrize(
    ("faces", "reason"),
    [
        ("other_faces", r"on real: dataset .*other_faces and set real do not fit"),
        ("none", "is no face dataset"),
    ],
)
def test_whitened_baselines_need_matching_faces(folder, cfg, evaluated, ray_cluster, capsys, faces, reason):
    if faces == "other_faces":
        write_dataset(folder / faces, identities=4, images=3, template="arcface-96")
    settings = cfg(f"data.dataset={folder}/{faces}", sets=[f"{folder}/real.bin"])
    evaluate(settings, Run.attach(evaluated[0].uri, evaluated[0].run_id))
    assert set(results(folder)["reports"]) == {"ssl", "untrained", "raw pixels"}
    assert re.search(f"whitened baselines are left out.*{reason}", capsys.readouterr().out)


def test_missing_and_duplicate_models_and_sets_are_refused(folder, cfg, evaluated):
    with pytest.raises(JobError, match=r"evaluate\.models: .*/out/unpg/model\.pt does not exist"):
        evaluate(cfg('evaluate.models=["unpg/model.pt"]'), evaluated[0])
    with pytest.raises(FileNotFoundError, match=r"gone\.bin"):
        evaluate(cfg(sets=[f"{folder}/gone.bin"]), evaluated[0])
    with pytest.raises(SettingsError, match=r"evaluate\.models: duplicate name .*ssl; give each checkpoint once"):
        evaluate(cfg('evaluate.models=["ssl/model.pt", "ssl/model.pt"]'), evaluated[0])
    with pytest.raises(SettingsError, match=r"evaluate\.sets: duplicate name real; give the sets names, name=path"):
        evaluate(cfg(sets=[f"{folder}/real.bin", f"real={folder}/real.bin"]), evaluated[0])


def test_a_second_evaluation_of_the_same_folder_is_refused(folder, cfg, evaluated):
    results = folder / "out" / "evaluation" / "results.json"
    before = results.read_bytes()
    with (
        directory_lock(Folder(str(folder / "out" / "evaluation")), "evaluate"),
        pytest.raises(FolderInUseError, match="in use by evaluate"),
    ):
        evaluate(cfg(), evaluated[0])
    assert results.read_bytes() == before


def test_too_few_pairs_for_the_folds(folder, cfg, evaluated):
    write_dataset(folder / "few", identities=4, images=2)
    with pytest.raises(JobError, match=r"few has 8 pairs, .* needs at least 10; .* raise generate\.heldout_identities"):
        evaluate(cfg(sets=[f"{folder}/few"]), evaluated[0])


def test_every_protocol_in_one_run_and_a_threshold_from_one_set(folder, cfg, evaluated, ray_cluster, capsys):
    """Groups, IJB 1:1 and 1:N beside pairs, by published rules; thresholds of one set are applied to the others."""
    (folder / "groups").mkdir()
    for name in ("north", "south"):
        shutil.copy(folder / "real.bin", folder / "groups" / f"{name}.bin")
    write_ijb(folder / "ijb", search=True)
    sets = [f"{folder}/real.bin", f"rfw=groups:{folder}/groups", f"ijb(weighted=true):{folder}/ijb",
            f"search=ijb-1n:{folder}/ijb"]  # fmt: skip
    options = (
        "evaluate.baselines=false",
        "evaluate.published=unpg",
        "evaluate.threshold_set=real",
        "evaluate.fpirs=[0.2]",
        "evaluate.actors=2",
        "evaluate.score_files=distance",
    )
    evaluate(cfg(*options, sets=sets), Run.attach(evaluated[0].uri, evaluated[0].run_id))
    output = results(folder)
    reports = output["reports"]["ssl"]
    assert set(reports) == {"real", "rfw", "ijb", "search"}
    # Two copies of one set: no gap, and each group has the result of the set alone.
    assert reports["rfw"]["groups"]["north"]["auc"] == pytest.approx(reports["real"]["auc"], abs=1e-6)
    assert [point["fnmr_gap"] for point in reports["rfw"]["errors"]] == [0.0]
    assert reports["search"]["gallery"] == [6]
    assert 0 <= reports["search"]["rank"]["1"] <= reports["search"]["rank"]["5"] <= 1
    scores = folder / "out" / "evaluation" / "scores" / "ssl"
    assert {path.name for path in scores.iterdir()} == {
        f"{name}{ending}" for name in ("real", "rfw", "ijb") for ending in (".npy", "_genuines.txt", "_impostors.txt")
    }
    distances = np.loadtxt(scores / "ijb_genuines.txt")
    assert len(distances) == reports["ijb"]["genuine"]
    assert (distances >= -1e-6).all()
    rules = output["rules"]
    assert {name: (rules[name]["flip"], rules[name]["published"]) for name in rules} == {
        "real": ("concat", "unpg"), "rfw": ("concat", "unpg"), "ijb": ("none", "unpg"), "search": ("sum", None),
    }  # fmt: skip
    assert rules["ijb"]["overrides"] == {"weighted": False}
    assert (
        "rules on ijb: flip none, far_rule nearest, unit false, weighted true, mode N1D1F0" in capsys.readouterr().out
    )
    assert (reports["real"]["accuracy_rule"], reports["real"]["rule"]) == ("best_threshold", "nearest")
    # 15 impostor pairs determine a threshold at FAR 0.1 but not at 0.01.
    assert {name: [p["far"] for p in points] for name, points in output["thresholds"]["ssl"].items()} == {
        "rfw": [0.1],
        "ijb": [0.1],
    }
    for name in ("roc_ijb", "roc_groups_ssl_rfw", "map_ssl_search", "worst_ssl_ijb"):
        assert (folder / "out" / "evaluation" / f"{name}.png").stat().st_size > 5_000


def test_cached_embeddings_are_reused(folder, cfg, evaluated, ray_cluster, monkeypatch):
    run = Run.attach(evaluated[0].uri, evaluated[0].run_id)
    settings = cfg("evaluate.baselines=false", "evaluate.batch_size=16", sets=[f"{folder}/real.bin"])
    evaluate(settings, run)
    first = results(folder)["reports"]
    monkeypatch.setattr("ray_jobs.embedding.evaluation_sets.embed_parts", lambda *_: pytest.fail("embedded again"))
    evaluate(settings, run)
    assert results(folder)["reports"] == first
    # Another flip needs new embeddings, and so does a damaged part.
    with pytest.raises(pytest.fail.Exception):
        evaluate(settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"flip": False})}), run)
    for part in (folder / "out" / "evaluation" / "embeddings").iterdir():
        part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(pytest.fail.Exception):
        evaluate(settings, run)


def test_a_checkpoint_behind_a_uri_with_an_incomplete_image_spec(folder, cfg, evaluated, ray_cluster, capsys):
    run = Run.attach(evaluated[0].uri, evaluated[0].run_id)
    torch.manual_seed(0)
    network = build_backbone("iresnet", **TINY)
    save_backbone(folder / "half.pt", network, "iresnet", TINY, {"size": 112})
    evaluate(cfg(f'evaluate.models=["file://{folder}/half.pt"]', "evaluate.baselines=false",
                 sets=[f"{folder}/real.bin"]), run)  # fmt: skip
    assert "half: the checkpoint does not state its template, color" in capsys.readouterr().out
    assert set(results(folder)["reports"]) == {"half"}
    with pytest.raises(JobError, match=r"evaluate\.models: .*gone\.pt does not exist"):
        evaluate(cfg(f'evaluate.models=["file://{folder}/gone.pt"]'), run)


def test_a_set_may_state_the_template_of_its_bin(folder, cfg, evaluated):
    sets = [f"real=pairs(template=arcface-96):{folder}/real.bin"]
    with pytest.raises(DatasetError, match=r"model ssl and set real .*'arcface' against 'arcface-96'"):
        evaluate(cfg(sets=sets), evaluated[0])
