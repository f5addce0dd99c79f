import math
from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import pytest
import yaml
from pydantic import TypeAdapter

from facelib.config import Settings, SettingsError, load_settings
from facelib.config.flags import section_type


def test_fingerprints_follow_the_sections_they_cover():
    a, b = load_settings(None), load_settings(None, ["train.epochs=3"])
    assert a.fingerprint("generate") == b.fingerprint("generate")
    assert a.fingerprint("train") != b.fingerprint("train")


def test_paths_are_below_output_unless_absolute():
    settings = load_settings(None, ["output=s3://bucket/run/"])
    assert settings.path("faces") == "s3://bucket/run/faces"
    assert settings.path("/data/faces") == "/data/faces"
    assert settings.path("gs://other/faces") == "gs://other/faces"
    assert settings.path("../other/faces") == "s3://bucket/other/faces"
    assert settings.path("../../other") == "s3://bucket/../other"  # a bucket has nothing beside it
    assert load_settings(None, ["output=/runs/a"]).path("../b/faces") == "/runs/b/faces"


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
        (["data.stream=true", "data.identities=5"], r"data\.identities, .*with data\.stream set generate\.identities"),
        (["generate.heldout_identities=1"], "gives no impostor pairs"),
    ],
)
def test_impossible_combinations_are_refused(overrides, message):
    with pytest.raises(SettingsError, match=message):
        load_settings(None, overrides)


class Number(NamedTuple):
    """A numeric setting, or the items of a list of numbers, and its bounds by pydantic's names (gt, ge, lt, le)."""

    name: str
    kind: type
    is_list: bool
    bounds: dict[str, float]
    adapter: TypeAdapter[Any]  # of the value itself, without the constraints between settings

    def edges(self, low: bool) -> tuple[float, float]:
        """The last value allowed at an end and the first refused."""
        bound = next(self.bounds[b] for b in (("gt", "ge") if low else ("lt", "le")) if b in self.bounds)
        inside = bool({"gt", "lt"} & self.bounds.keys() & ({"gt", "ge"} if low else {"lt", "le"}))
        outward = -1 if low else 1

        def next_value(value: float, direction: int) -> float:
            return value + direction if self.kind is int else math.nextafter(value, direction * math.inf)

        return (next_value(bound, -outward), bound) if inside else (bound, next_value(bound, outward))

    def tree(self, value: float) -> dict[str, Any]:
        """The settings tree of a file that sets this to a value."""
        section, _, key = self.name.rpartition(".")
        values = {key: [value] if self.is_list else value}
        return {section: values} if section else values


def _numbers() -> Iterator[Number]:
    """Every numeric setting of the tree."""
    for section_name, member in Settings.model_fields.items():
        section = section_type(member.annotation)
        fields = section.model_fields if section else {section_name: member}
        for key, field in fields.items():
            whole = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            found = _number_of(field.annotation, list(field.metadata))
            if found is not None:
                name = f"{section_name}.{key}" if section else key
                yield Number(name, *found, TypeAdapter(whole))


def _number_of(annotation: Any, metadata: list[Any]) -> tuple[type, bool, dict[str, float]] | None:
    """Type, whether it is a list, and bounds of a number's annotation; None: not a number."""
    is_list = False
    while annotation not in (int, float):
        arguments = [a for a in get_args(annotation) if a is not NoneType]
        if get_origin(annotation) is Annotated:
            metadata += list(annotation.__metadata__)
            arguments = arguments[:1]
        is_list = is_list or get_origin(annotation) is list
        if len(arguments) != 1:
            return None
        annotation = arguments[0]
    bounds: dict[str, float] = {}
    for constraint in metadata:
        for part in getattr(constraint, "metadata", [constraint]):
            bounds |= {b: getattr(part, b) for b in ("gt", "ge", "lt", "le") if getattr(part, b, None) is not None}
    if "gt" in bounds:
        bounds.pop("ge", None)
    return annotation, is_list, bounds


NUMBERS = list(_numbers())
ENDS = [
    pytest.param(number, low, id=f"{number.name}-{'low' if low else 'high'}") for number in NUMBERS for low in (1, 0)
]


def test_all_numeric_settings_are_found():
    names = {number.name for number in NUMBERS}
    assert {"seed", "train.learning_rate", "train.step_epochs", "unpg.wisk", "evaluate.fars", "tune.quantile"} <= names
    assert len(NUMBERS) > 90
    integer = next(n for n in NUMBERS if n.name == "train.step_epochs")
    assert (integer.kind, integer.is_list, integer.bounds["ge"]) == (int, True, 1)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: n.name)
def test_every_number_has_a_lower_and_an_upper_bound(number):
    assert number.bounds.keys() & {"gt", "ge"}
    assert number.bounds.keys() & {"lt", "le"}
    assert all(math.isfinite(bound) for bound in number.bounds.values())


@pytest.mark.parametrize(("number", "low"), ENDS)
def test_bounds_are_taken_and_what_is_beyond_is_refused_by_name(number, low, tmp_path):
    """From a file and from a flag; the error names the field that was typed."""
    allowed, refused = number.edges(low)
    value = [allowed] if number.is_list else allowed
    assert number.adapter.validate_python(value) == value
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(number.tree(refused)))
    text = repr(refused)
    for path, overrides in ((file, []), (None, [f"--{number.name}", text]), (None, [f"{number.name}={text}"])):
        with pytest.raises(SettingsError) as error:
            load_settings(path, overrides)
        assert number.name in str(error.value)
        assert text in str(error.value)
        assert path is None or str(file) in str(error.value)


@pytest.mark.parametrize("number", [n for n in NUMBERS if n.kind is float], ids=lambda n: n.name)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_are_refused_by_name(number, value, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(number.tree(value)))
    for path, overrides in ((file, []), (None, [f"{number.name}={value}"])):
        with pytest.raises(SettingsError, match=number.name.replace(".", r"\.")):
            load_settings(path, overrides)


@pytest.mark.parametrize("number", [n for n in NUMBERS if n.kind is int], ids=lambda n: n.name)
def test_fractions_of_whole_numbers_are_refused_by_name(number):
    with pytest.raises(SettingsError, match=number.name.replace(".", r"\.")):
        load_settings(None, [f"{number.name}=1.5"])


def test_numbers_with_an_exponent_are_numbers_wherever_they_are(tmp_path):
    """YAML takes 1e-4 for text."""
    file = tmp_path / "settings.yaml"
    file.write_text(
        "train: {learning_rate: 1e-3}\n"
        "augment: {options: {blur: 1e-1, noise: 5E-1}}\n"
        "tune:\n"
        "  space:\n"
        "    train.learning_rate: {loguniform: [1e-4, 1.e-2]}\n"
        "    train.weight_decay: [{grid: [0, 5e-4], when: {train.optimizer: [sgd]}}]\n"
        "  final: {augment.options.blur: 2e-1}\n"
    )
    settings = load_settings(file)
    assert settings.train.learning_rate == 1e-3
    assert settings.augment.options == {"blur": 0.1, "noise": 0.5}
    assert settings.tune.space["train.learning_rate"] == {"loguniform": [1e-4, 1e-2]}
    assert settings.tune.space["train.weight_decay"][0] == {"grid": [0, 5e-4], "when": {"train.optimizer": ["sgd"]}}
    assert settings.tune.final == {"augment.options.blur": 0.2}
