"""benchmarks/gpu.py at its toy size on a CPU: every part runs, and the table has the figures of every step."""

import re
import subprocess
import sys

import pytest
from support.commands import CEILING_S, ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def text():
    """What all parts print."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--toy"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=CEILING_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_steps_of_both_methods_eager_and_compiled(text):
    number = r"[\d,.]+"
    rows = re.findall(
        rf"^\| (\w+) \| iresnet \| 4 \| (\w+) \| {number} \| {number} \| {number}% \| .* \|$", text, re.MULTILINE
    )
    assert rows == [("ssl", "eager"), ("unpg", "eager"), ("ssl", "compiled"), ("unpg", "compiled")]
    assert re.match(r".+; torch [\d.]+", text)


def test_faces_on_the_device(text):
    rows = re.findall(r"^\| (\w+), (\d+) px.* \| [\d,]+ \|$", text, re.MULTILINE)
    assert rows == [("DiscoFaceGAN", "32"), ("DiscoFaceGAN", "32"), ("RetinaFace", "128")]


def test_stages_and_the_tests_of_devices(text):
    assert re.search(r"\d+ (passed|skipped)", text)
    assert re.findall(r"^\| (\w+) \| [\d,]+ \|$", text, re.MULTILINE) == ["generation", "alignment", "reading"]
