import pytest

from facelib.config import Settings, describe_settings
from facelib.config.help_text import JOB_SETTINGS, job_help


def test_every_setting_has_a_flag_and_a_description():
    text = describe_settings()
    for name, field in Settings.model_fields.items():
        members = getattr(field.annotation, "model_fields", None)
        for key, member in (members or {name: field}).items():
            flag = f"--{name}.{key}" if members else f"--{name}"
            assert flag in text
            assert member.description, flag


@pytest.mark.parametrize("job", JOB_SETTINGS)
@pytest.mark.parametrize("width", [70, 100])
def test_help_fits_the_terminal(job, width):
    text = job_help(job, "A sentence that is longer than most terminals are wide. " * 3, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.startswith(f"usage: facelib {job} ")


def test_a_job_shows_its_own_settings_first_and_only():
    text = describe_settings("train_ssl", 100)
    assert text.index("--output") < text.index("--ssl.queue_size") < text.index("--train.epochs")
    assert "--evaluate.pairs" in text
    assert "--evaluate.models" not in text
    assert "--unpg.scale" not in text


def test_choices_types_and_defaults_are_shown():
    text = " ".join(describe_settings(width=120).split())
    assert "--train.optimizer {sgd,adamw}" in text
    assert "--unpg.wisk FLOAT|null" in text
    assert "--augment.operations LIST|null" in text
    assert "--generate.max_actors INT|null" in text
    assert "--augment.operations LIST|null" in text
    assert "--generate.max_actors INT|null" in text
    assert "dropout before the last layer (0..1) [0.0]" in text


def test_every_job_of_a_pipeline_has_its_settings():
    jobs = Settings.model_fields["stages"].annotation.__args__[0].model_fields["job"].annotation.__args__
    assert set(JOB_SETTINGS) >= {*jobs, "pipeline"}
