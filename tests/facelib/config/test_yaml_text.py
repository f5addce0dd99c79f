import pytest
import yaml

from facelib.config import SettingsError, load_settings
from facelib.config.yaml_text import parse_yaml


def test_smallest_example():
    text = "train: {epochs: 3, learning_rate: 0.1}\nname: mine\ntune: {space: {train.epochs: [1, 2]}}\n"
    assert parse_yaml(text, "a.yaml") == yaml.safe_load(text)
    assert parse_yaml("", "a.yaml") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # villa 1615: the first section was forgotten.
        ("train: {epochs: 3}\n\ntrain: {batch_size: 16}\n", "train: given twice, in lines 1 and 3"),
        ("train:\n  epochs: 3\n  epochs: 4\n", r"train\.epochs: given twice, in lines 2 and 3"),
        ("stages:\n- {job: a, set: {b: 1, b: 2}}\n", r"stages\.set\.b: given twice, in lines 2 and 2"),
        ("train: {epochs: 010}\n", r"line 1: train\.epochs: 010 is the octal number 8 in YAML; write 10$"),
        ("a: [1, 0_17]\n", r"line 1: a: 0_17 is the octal number 15"),
        ("a:\n  b: 1:30\n", r"line 2: a\.b: 1:30 is the number 90 in YAML \(base 60\)"),
        ("a: 1:30.5\n", r"1:30\.5 is the number 90\.5"),
        ("name: 2024-01-31\n", 'name: 2024-01-31 is a date in YAML; put it in quotes: "2024-01-31"'),
        ("yes: 1\n", 'line 1: YAML reads the key yes as a boolean; put it in quotes: "yes"'),
        ("a:\n  off: 1\n", "line 2: YAML reads the key off as a boolean"),
        ("a: {null: 1}\n", "YAML reads the key null as null"),
        ("1: a\n", "YAML reads the key 1 as a number"),
        ("? [a, b]\n: 1\n", "line 1: a key must be a name"),
        ("a: &a [1, *a]\n", "a refers to itself"),
    ],
)
def test_what_yaml_reads_as_something_else_is_refused_with_its_line(text, message):
    with pytest.raises(SettingsError, match=f"^a.yaml: .*{message}"):
        parse_yaml(text, "a.yaml")


def test_what_says_what_it_means_is_read():
    text = (
        'name: "2024-01-31"\na: "010"\nb: 0\nc: -0\nd: 0.5\ne: 0x10\nf: [yes, off]\ng: {1: a, 2: b}\nh: "1:30"\n'
        "i: &base {x: 1, y: 2}\nj: {<<: *base, y: 3}\nk: 00.5\n"
    )
    assert parse_yaml(text, "a.yaml") == yaml.safe_load(text)


def test_references_are_followed_once():
    """Each of 60 lists holds the one before it twice: 2^60 paths lead to the first."""
    text = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    assert len(parse_yaml(text, "a.yaml")) == 60


def test_invalid_yaml_is_left_to_the_caller():
    with pytest.raises(yaml.YAMLError):
        parse_yaml("a: [1,", "a.yaml")


def test_errors_of_a_file_and_of_a_flag_name_it(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("train:\n\tepochs: 3\n")
    with pytest.raises(SettingsError, match=r"(?s)a\.yaml: not valid YAML .*indent with blanks, not tabs"):
        load_settings(path)
    for value in ("{device: cpu, device: cuda}", '{"device": "cpu", "device": "cuda"}'):
        with pytest.raises(SettingsError, match=r"--generate\.options: .*device.* given twice"):
            load_settings(None, ["--generate.options", value])
    for value in ("[{name: morphable, name: mobilestylegan}]", '[{"name": "morphable", "name": "mobilestylegan"}]'):
        with pytest.raises(SettingsError, match=r"--generate\.generator: .*name.* given twice"):
            load_settings(None, ["--generate.generator", value])
