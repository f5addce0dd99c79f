import pytest

from facelib.config import Settings, SettingsError, describe_settings, load_settings, parse_command_line


def test_file_and_overrides_meet_in_one_tree(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("train: {epochs: 7, batch_size: 64}\nmodel: {name: mobilefacenet}\n")
    settings = load_settings(path, ["train.epochs=2", "--augment.strength_start", "0.3"])
    assert settings.train.epochs == 2
    assert settings.train.batch_size == 64
    assert settings.model.name == "mobilefacenet"
    assert settings.augment.strength_start == 0.3


def test_lists_mappings_and_null_can_be_given_as_flags():
    settings = load_settings(None, ["train.sets=[a.bin,b.bin]", "unpg.wisk=null", 'generate.options={"device": "cpu"}'])
    assert settings.train.sets == ["a.bin", "b.bin"]
    assert settings.unpg.wisk is None
    assert settings.generate.options == {"device": "cpu"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.epoch=2"], r"train\.epoch: unknown setting \(did you mean train\.epochs\?\)"),
        (["nonsense=1"], "nonsense: unknown setting"),
        (["train.epochs=many"], r"train\.epochs: .*integer.*'many'"),
        (["train.epochs=0"], r"train\.epochs: .*greater than or equal to 1"),
        (["ssl.queue_policy=lifo"], r"ssl\.queue_policy: .*'fifo'"),
        (["train.selection=sets"], r"train\.selection=sets needs train\.sets"),
        (["train.warmup_epochs=50"], r"train\.warmup_epochs=50\.0 must be less than train\.epochs=40"),
        (["train.schedule=plateau", "train.selection=last"], r"train\.schedule=plateau needs a metric"),
        (["--train.epochs"], "expected one argument"),
    ],
)
def test_mistakes_name_the_field(overrides, message):
    with pytest.raises(SettingsError, match=message):
        load_settings(None, overrides)


def test_mistakes_in_a_file_name_file_and_field(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("train: {epohcs: 3}\nssl: {temperature: -1}\n")
    with pytest.raises(SettingsError) as error:
        load_settings(path)
    assert "recipe.yaml" in str(error.value)
    assert "train.epohcs: unknown setting (did you mean train.epochs?)" in str(error.value)
    assert "ssl.temperature" in str(error.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1,\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"recipe\.yaml"):
        load_settings(path)
    with pytest.raises(SettingsError, match="no such file"):
        load_settings(tmp_path / "missing.yaml")


def test_a_value_may_hold_an_equals_sign():
    settings = load_settings(None, ["--evaluate.sets", '["heldout", "lfw=a.bin"]'])
    assert settings.evaluate.sets == ["heldout", "lfw=a.bin"]


def test_environment_variables_change_nothing(monkeypatch):
    monkeypatch.setenv("SEED", "7")
    monkeypatch.setenv("NAME", "other")
    assert load_settings(None).seed == 0


def test_every_field_has_a_flag_and_a_meaning():
    text = describe_settings()
    for name, field in Settings.model_fields.items():
        members = getattr(field.annotation, "model_fields", None)
        for key, member in (members or {name: field}).items():
            flag = f"--{name}.{key}" if members else f"--{name}"
            assert flag in text
            assert member.description, flag


def test_help_and_mistakes_on_a_command_line(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_command_line("generate", "Makes faces.", ["--help"])
    assert stop.value.code == 0
    assert "--generate.identities" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        parse_command_line("generate", "Makes faces.", ["--generate.identites", "3"])
    assert stop.value.code == 2
    assert "did you mean generate.identities" in capsys.readouterr().err


def test_fingerprints_follow_the_sections_they_cover():
    a, b = load_settings(None), load_settings(None, ["train.epochs=3"])
    assert a.fingerprint("generate") == b.fingerprint("generate")
    assert a.fingerprint("train") != b.fingerprint("train")


def test_paths_lie_below_output_unless_absolute():
    settings = load_settings(None, ["output=s3://bucket/run/"])
    assert settings.path("faces") == "s3://bucket/run/faces"
    assert settings.path("/data/faces") == "/data/faces"
    assert settings.path("gs://other/faces") == "gs://other/faces"


@pytest.mark.parametrize(
    "override",
    [
        "output=s3://AKIAKEY:hunter2@bucket/run",
        "tracking.uri=postgresql://me:hunter2@db/mlflow",
        'evaluate.sets=["lfw=s3://a:hunter2@b/lfw.bin"]',
    ],
)
def test_passwords_do_not_get_into_settings_nor_into_the_complaint(override):
    with pytest.raises(SettingsError, match="contains a password") as refused:
        load_settings(None, [override])
    assert override.partition("=")[0] in str(refused.value)
    assert "hunter2" not in str(refused.value)
