import pytest

from facelib.config import Settings, SettingsError, load_settings


def test_fingerprints_follow_the_sections_they_cover():
    a, b = load_settings(None), load_settings(None, ["train.epochs=3"])
    assert a.fingerprint("generate") == b.fingerprint("generate")
    assert a.fingerprint("train") != b.fingerprint("train")


def test_paths_are_below_output_unless_absolute():
    settings = load_settings(None, ["output=s3://bucket/run/"])
    assert settings.path("faces") == "s3://bucket/run/faces"
    assert settings.path("/data/faces") == "/data/faces"
    assert settings.path("gs://other/faces") == "gs://other/faces"


def test_environment_variables_change_nothing(monkeypatch):
    monkeypatch.setenv("SEED", "7")
    monkeypatch.setenv("NAME", "other")
    assert Settings() == load_settings(None)
    assert load_settings(None).seed == 0


@pytest.mark.parametrize(
    "override",
    [
        "output=s3://AKIAKEY:hunter2@bucket/run",
        "tracking.uri=postgresql://me:hunter2@db/mlflow",
        'evaluate.sets=["lfw=s3://a:hunter2@b/lfw.bin"]',
    ],
)
def test_passwords_are_refused_and_not_repeated_in_the_message(override):
    with pytest.raises(SettingsError, match="contains a password") as refused:
        load_settings(None, [override])
    assert override.partition("=")[0] in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.selection=sets"], r"train\.selection=sets needs train\.sets"),
        (["data.heldout="], r"train\.selection=heldout needs data\.heldout"),
        (["train.warmup_epochs=50"], r"train\.warmup_epochs=50\.0 must be less than train\.epochs=40"),
        (["train.schedule=plateau", "train.selection=last"], r"train\.schedule=plateau needs a metric"),
        (["train.min_workers=2"], r"train\.min_workers=2 must not exceed train\.workers=1"),
        (["unpg.sample_rate=0.5"], r"unpg\.sample_rate=0\.5 needs unpg\.shard_head=true"),
        (["generate.heldout_identities=1"], "gives no impostor pairs"),
    ],
)
def test_impossible_combinations_are_refused(overrides, message):
    with pytest.raises(SettingsError, match=message):
        load_settings(None, overrides)
