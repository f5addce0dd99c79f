"""The generator `auto`: what it becomes, and that an output folder stays with what it was begun with."""

import json

import pytest

from facelib.config import Settings, SettingsError, load_settings
from facelib.synthesis.mobilestylegan.weights import INSTALL, weights_folder
from ray_jobs.cli import main
from ray_jobs.datasets.generator_choice import choose_generator
from ray_jobs.errors import JobError
from ray_jobs.generate import dataset_spec, generate, validate


@pytest.fixture
def auto(tmp_path):
    """Function: settings with `generate.generator` auto, and overrides."""

    def build(*overrides: str) -> Settings:
        return load_settings(None, ["generate.generator=auto", f"output={tmp_path}/out", *overrides])

    return build


@pytest.fixture
def wheel():
    """The installed weights; without them its tests are skipped."""
    try:
        weights_folder()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def no_wheel(tmp_path, monkeypatch):
    """Another package of the wheel's name before it, without weights."""
    (tmp_path / "empty" / "random_face").mkdir(parents=True)
    (tmp_path / "empty" / "random_face" / "__init__.py").write_text("raise SystemError('imported')")
    monkeypatch.syspath_prepend(tmp_path / "empty")


def begin(tmp_path, name: str, **spec: str) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out" / name / "spec.json").write_text(json.dumps(spec))


def test_photographs_where_their_weights_are(auto, wheel, capsys):
    chosen = choose_generator(auto())
    assert chosen.generate.generator == "mobilestylegan"
    assert dataset_spec(chosen, 0, 4)["generator"] == "mobilestylegan"
    assert capsys.readouterr().out == ""
    validate(chosen)
    assert "faces: generator mobilestylegan, license: non-commercial: MobileStyleGAN" in capsys.readouterr().out


def test_drawings_elsewhere_with_the_reason(auto, no_wheel, capsys):
    chosen = choose_generator(auto())
    assert chosen.generate.generator == "morphable"
    said = capsys.readouterr().out
    assert said.startswith(
        "generate.generator: auto draws with morphable, because MobileStyleGAN's weights are missing"
    )
    assert INSTALL in said
    validate(chosen)
    assert "faces: generator morphable, license: Drawn from random numbers" in capsys.readouterr().out


def test_a_folder_of_weights_counts(auto, no_wheel, tmp_path, capsys):
    assert choose_generator(auto(f'generate.options={{"folder": "{tmp_path}"}}')).generate.generator == "morphable"
    assert "MappingNetwork.xml" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "key"), [("faces", "generator"), ("heldout", "generator"), ("ssl", "data.stream generator")]
)
def test_an_output_stays_with_what_it_was_begun_with(auto, wheel, tmp_path, name, key, capsys):
    begin(tmp_path, name, **{key: "morphable"})
    assert choose_generator(auto()).generate.generator == "morphable"
    assert capsys.readouterr().out == ""


def test_photographs_are_not_continued_with_drawings(auto, no_wheel, tmp_path):
    begin(tmp_path, "faces", generator="mobilestylegan")
    with pytest.raises(SettingsError, match="weights are missing"):
        generate(auto())


def test_what_the_user_names_is_never_replaced(auto, no_wheel):
    named = auto("generate.generator=mobilestylegan")
    assert choose_generator(named) is named
    with pytest.raises(SettingsError, match=INSTALL):
        validate(named)


def test_jobs_choose_before_they_check(auto, wheel, tmp_path, capsys):
    """The only difference from what the folder was begun with is one that the user made."""
    settings = auto("seed=5")
    begin(tmp_path, "faces", **dataset_spec(choose_generator(auto("generate.generator=morphable")), 0, 1000))
    with pytest.raises(JobError, match=r"was made with other settings: seed: 0, now 5\. Use"):
        generate(settings)
    with pytest.raises(SystemExit):
        main(generate, ["--generate.generator", "auto", "--output", f"{tmp_path}/out", "--seed", "5"])
    assert "was made with other settings: seed: 0, now 5. Use" in capsys.readouterr().err
