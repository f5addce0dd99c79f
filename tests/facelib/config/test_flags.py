import pytest

from facelib.config import SettingsError
from facelib.config.flags import parse_flags


@pytest.mark.parametrize(
    ("arguments", "tree"),
    [
        (["--train.epochs", "3", "--seed=4"], {"train": {"epochs": "3"}, "seed": "4"}),
        (["train.epochs=3", "train.epochs=4"], {"train": {"epochs": "4"}}),
        (["--train.max_failures", "-1"], {"train": {"max_failures": "-1"}}),
        (["--unpg.wisk", "null"], {"unpg": {"wisk": None}}),
        (["--model.init_from", ""], {"model": {"init_from": ""}}),
        (["--evaluate.sets", '["a", "b,c"]'], {"evaluate": {"sets": ["a", "b,c"]}}),
        (["--evaluate.sets", "[a.bin, b.bin]"], {"evaluate": {"sets": ["a.bin", "b.bin"]}}),
        (["--evaluate.sets", "a", "--evaluate.sets", "b"], {"evaluate": {"sets": ["a", "b"]}}),
        (["--evaluate.sets", "x=pairs(a=1,b=2):p,y=q"], {"evaluate": {"sets": ["x=pairs(a=1,b=2):p", "y=q"]}}),
        (["--evaluate.sets", "lfw=a.bin"], {"evaluate": {"sets": ["lfw=a.bin"]}}),
        (["--train.sets", "[]"], {"train": {"sets": []}}),
        (["--generate.options", '{"a": [1, null]}'], {"generate": {"options": {"a": [1, None]}}}),
        (["--generate.options", "{device: cpu}"], {"generate": {"options": {"device": "cpu"}}}),
        (["--generate.options", "a=1", "--generate.options", "b=2"], {"generate": {"options": {"a": 1, "b": 2}}}),
        (
            ["--ssl.options", "a=false,b=null,c=1e-4,d=cpu,e=01"],
            {"ssl": {"options": {"a": False, "b": None, "c": 1e-4, "d": "cpu", "e": "01"}}},
        ),
        (["--stages", '[{"job": "generate"}]'], {"stages": [{"job": "generate"}]}),
        (
            ["--generate.generator", '[{"name": "a", "share": 1}]'],
            {"generate": {"generator": [{"name": "a", "share": 1}]}},
        ),
        (["--stages", "[{job: whiten, set: {seed: 1}}]"], {"stages": [{"job": "whiten", "set": {"seed": 1}}]}),
        (["--generate.generator", "morphable"], {"generate": {"generator": "morphable"}}),
    ],
)
def test_flags_to_a_tree(arguments, tree):
    assert parse_flags(arguments) == tree


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "generate: unexpected argument"),
        (["--train.epochs"], r"--train\.epochs: expected one argument"),
        (["--train.epochs", "--seed", "3"], r"--train\.epochs: expected one argument"),
        (["--train", "{}"], "--train: unknown setting"),
        (["--generate.options", "cpu"], r"--generate\.options: not a JSON object"),
        (["--generate.options", "{a: [}"], r"--generate\.options: not a JSON object"),
        (["--stages", "[{job: generate}"], "--stages: not a JSON list"),
    ],
)
def test_malformed_flags_are_named(arguments, message):
    with pytest.raises(SettingsError, match=message):
        parse_flags(arguments)
