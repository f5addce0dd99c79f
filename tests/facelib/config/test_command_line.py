import subprocess
import sys

import pytest
import yaml

from facelib.config import SettingsError, load_settings, parse_command_line, split_logging_flags


def exit_code(*argv):
    with pytest.raises(SystemExit) as stop:
        parse_command_line("generate", "Generates faces.", argv)
    return stop.value.code


def test_a_file_and_flags(tmp_path):
    (tmp_path / "a.yaml").write_text("train: {epochs: 7, batch_size: 64}\n")
    settings = parse_command_line("train_ssl", "", [f"--config={tmp_path / 'a.yaml'}", "--train.epochs", "2"])
    assert (settings.train.epochs, settings.train.batch_size) == (2, 64)
    assert parse_command_line("pipeline", "", ["--config", "quickstart"]).name == "quickstart"


def test_help_is_of_the_job_and_help_all_of_all(capsys):
    assert exit_code("--help") == 0
    text = capsys.readouterr().out
    assert "--generate.identities" in text
    assert "--ssl.temperature" not in text
    assert exit_code("--help-all") == 0
    assert "--ssl.temperature" in capsys.readouterr().out


def test_errors_are_one_line_with_status_2(capsys):
    assert exit_code("--generate.identites", "3") == 2
    assert "generate: --generate.identites: unknown setting (did you mean generate.identities?)" in (
        capsys.readouterr().err
    )
    assert exit_code("--config") == 2
    assert "--config: expected one argument" in capsys.readouterr().err
    for argument in ("", "--seed"):
        assert exit_code("--config", argument) == 2
        assert "--config: expected one argument" in capsys.readouterr().err
    assert exit_code("--config", "a.yaml", "--seed", "1", "--config=b.yaml") == 2
    assert "--config: given twice, a.yaml and b.yaml; a file builds on another with `extends:`" in (
        capsys.readouterr().err
    )


def test_print_config_prints_what_differs_and_can_be_loaded_again(tmp_path, capsys):
    flags = ("--config", "quickstart", "--train.epochs", "3", "--unpg.wisk", "null")
    assert exit_code(*flags, "--print-config") == 0
    text = capsys.readouterr().out
    assert "batch_size: 64" in text
    assert "weight_decay: 0.05" in text
    assert "momentum: 0.999" not in text
    (tmp_path / "printed.yaml").write_text(text)
    assert load_settings(tmp_path / "printed.yaml") == parse_command_line("pipeline", "", flags)
    assert exit_code("--print-config=all") == 0
    assert yaml.safe_load(capsys.readouterr().out) == load_settings().model_dump(mode="json")


def test_logging_flags_are_taken_out():
    rest = ["--train.epochs", "3"]
    assert split_logging_flags(rest) == (rest, "info", "text")
    assert split_logging_flags(["--log-level", "DEBUG", *rest, "--log-format=json"]) == (rest, "debug", "json")
    with pytest.raises(SettingsError, match="--log-level: 'loud' is not one of debug"):
        split_logging_flags(["--log-level", "loud"])


def test_settings_import_nothing_heavy():
    code = (
        "import sys\n"
        "from facelib.config import load_settings, parse_command_line\n"
        "load_settings('quickstart', ['train.epochs=2'])\n"
        "heavy = {'torch', 'ray', 'mlflow', 'cv2', 'pyarrow', 'numpy', 'pandas', 'tensorflow'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
