import pytest

from facelib.config import SettingsError, change_settings, find_config, load_settings, shipped_configs


def test_overrides_are_merged_into_the_file(tmp_path):
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
        (["--train.epochs"], "expected one argument"),
    ],
)
def test_errors_name_the_field(overrides, message):
    with pytest.raises(SettingsError, match=message):
        load_settings(None, overrides)


def test_errors_in_a_file_name_file_and_field(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("train: {epohcs: 3}\nssl: {temperature: -1}\n")
    with pytest.raises(SettingsError) as error:
        load_settings(path)
    assert "recipe.yaml" in str(error.value)
    assert "train.epohcs: unknown setting (did you mean train.epochs?)" in str(error.value)
    assert "ssl.temperature" in str(error.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1,\n"])
def test_a_file_that_is_not_a_mapping_is_refused(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"recipe\.yaml"):
        load_settings(path)
    with pytest.raises(SettingsError, match="no such file"):
        load_settings(tmp_path / "missing.yaml")


def test_files_of_other_editors(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: caf\xc3\xa9\r\ntrain: {epochs: 3}\r\n")
    settings = load_settings(path)
    assert (settings.name, settings.train.epochs) == ("café", 3)
    path.write_bytes("name: café\n".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"recipe\.yaml: line 1 is not UTF-8 \(byte 0xe9"):
        load_settings(path)
    path.write_text("name: faces\n", encoding="utf-16")
    with pytest.raises(SettingsError, match=r"recipe\.yaml: is UTF-16"):
        load_settings(path)


def test_hints_are_true(tmp_path):
    path = tmp_path / "recipe.yaml"
    for text, message in (
        ("train.epochs: 5\n", r"train\.epochs: unknown setting \(write it as a section: train: \{epochs: …\}\)"),
        ("train: {learning_rate: .inf}\n", r"train\.learning_rate: Input should be a finite number, got inf"),
        ("train: {learning_rate: .nan}\n", r"train\.learning_rate: Input should be a finite number, got nan"),
        ("train.epohcs: 5\n", r"did you mean train\.epochs\?"),
    ):
        path.write_text(text)
        with pytest.raises(SettingsError, match=message):
            load_settings(path)
    for empty in ("", " "):
        with pytest.raises(SettingsError, match="the name of the settings file is empty"):
            load_settings(empty)
    path.write_text("extends: ''\n")
    with pytest.raises(SettingsError, match=r"recipe\.yaml: extends: the name of the settings file is empty"):
        load_settings(path)


def test_paths_below_the_home_folder(tmp_path, monkeypatch):
    """No shell expands `--output=~/x` or a value in a file: a folder called `~` was made."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "recipe.yaml").write_text(
        "output: ~/runs\ntrain: {sets: [~/lfw.bin, 'lfw=~/a.bin+~/b.bin']}\ngenerate: {options: {folder: ~/images}}\n"
    )
    settings = load_settings("~/recipe.yaml", ["--import_data.path=~/faces", "name=a~/b"])
    assert settings.output == f"{tmp_path}/runs"
    assert settings.train.sets == [f"{tmp_path}/lfw.bin", f"lfw={tmp_path}/a.bin+{tmp_path}/b.bin"]
    assert settings.generate.options == {"folder": f"{tmp_path}/images"}
    assert (settings.import_data.path, settings.name) == (f"{tmp_path}/faces", "a~/b")
    assert load_settings(None, ["output=~other/x"]).output == "~other/x"


def test_a_value_may_hold_an_equals_sign():
    settings = load_settings(None, ["--evaluate.sets", '["heldout", "lfw=a.bin"]'])
    assert settings.evaluate.sets == ["heldout", "lfw=a.bin"]


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_a_file_extends_another_by_section_and_key(tmp_path):
    write(
        tmp_path,
        base="seed: 3\ntrain: {epochs: 7, batch_size: 64}\naugment: {options: {blur: 0.1}}\n",
        middle="extends: base.yaml\ntrain: {batch_size: 32}\n",
        top="extends: middle.yaml\ntrain: {learning_rate: 1.0}\naugment: {options: {noise: 0.2}}\n",
    )
    settings = load_settings(tmp_path / "top.yaml", ["train.epochs=9"])
    assert settings.seed == 3
    assert (settings.train.epochs, settings.train.batch_size, settings.train.learning_rate) == (9, 32, 1.0)
    assert settings.augment.options == {"noise": 0.2}  # a value that is a mapping is replaced


def test_a_base_can_be_a_shipped_config(tmp_path):
    write(tmp_path, mine="extends: quickstart\nname: mine\n")
    mine, base = load_settings(tmp_path / "mine.yaml"), load_settings("quickstart")
    assert mine.name == "mine"
    assert mine.train == base.train


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: other.yaml", r"a\.yaml: extends: other\.yaml: no such file"),
        ("extends: a.yaml", r"a\.yaml: extends itself"),
        ("extends: b.yaml", r"a\.yaml: extends itself \(.*a\.yaml → .*b\.yaml → .*a\.yaml\)"),
        ("extends: [b.yaml]", r"a\.yaml: extends: must be the name of one file"),
    ],
)
def test_unusable_bases_name_the_file(tmp_path, text, message):
    write(tmp_path, a=text, b="extends: a.yaml")
    with pytest.raises(SettingsError, match=message):
        load_settings(tmp_path / "a.yaml")


def test_an_error_in_a_base_names_the_base(tmp_path):
    write(tmp_path, a="extends: b.yaml\nseed: 1\n", b="train: {epochs: 0, epohcs: 1}\n")
    with pytest.raises(SettingsError) as error:
        load_settings(tmp_path / "a.yaml")
    assert str(error.value).startswith(f"{tmp_path}/a.yaml: ")
    assert f"train.epochs: Input should be greater than or equal to 1, got 0 (in {tmp_path}/b.yaml)" in str(error.value)


def test_shipped_configs_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = find_config("quickstart")
    assert path.name == "quickstart.yaml"
    assert find_config("quickstart.yaml") == find_config("configs/quickstart.yaml") == path
    (tmp_path / "quickstart.yaml").write_text("seed: 5\n")
    assert load_settings("quickstart.yaml").seed == 5
    assert "quickstart" in shipped_configs()
    with pytest.raises(SettingsError, match=r"quickstarts: no such file, and not a shipped config \(quickstart, "):
        find_config("quickstarts")


def test_changes_by_dotted_name_are_validated():
    settings = change_settings(load_settings(), {"train.epochs": 3, "augment.options.blur": 0.5}, "test")
    assert settings.train.epochs == 3
    assert settings.augment.options == {"blur": 0.5}
    with pytest.raises(SettingsError, match=r"test: train\.epoch: unknown setting \(did you mean train\.epochs"):
        change_settings(settings, {"train.epoch": 3}, "test")
