"""README and docs are true: commands parse and validate, links and named files exist, code imports resolve.

Nothing starts Ray here. The README's example is run by test_readme.py, the tutorial's by test_tutorial.py.
"""

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.discofacegan import converted_folder

from facelib.config import Settings, load_settings
from facelib.data import StorageError
from facelib.models import backbone_names
from facelib.sources import available_sources
from facelib.synthesis import available_generators
from ray_jobs.__main__ import job_summaries
from ray_jobs.datasets.generator_choice import choose_generator

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "api" not in p.parts)]

# First words of commands that are not run here -> where they are checked, or why they cannot be.
ELSEWHERE = {
    "ray up": "tests/cluster/test_onprem.py (`make faults`)",
    "ray down": "tests/cluster/test_onprem.py (`make faults`)",
    "ray dashboard": "needs a running cluster",
    "ray attach": "needs a running cluster",
    "ray job logs": "needs a running cluster; Ray's own command",
    "ray job stop": "needs a running cluster; tests/cluster/test_job_submission.py (`make faults`)",
    "ray get-auth-token": "Ray's own command; tests/cluster/test_job_submission.py (`make faults`)",
    "aws": "needs an AWS account; policies: tests/cluster/test_cluster_files.py",
    "vpc=": "needs an AWS account",
    "group=": "needs an AWS account",
    "tensorboard": "not installed here; its event files: tests/ray_jobs/test_tune.py",
    "echo": "prints a value",
    "for": "shell",
    "do": "shell",
    "done": "shell",
    "gcloud": "needs a Google Cloud account",
    "docker": "needs Docker and a registry; Dockerfile: tests/cluster/test_cluster_files.py",
    "kubectl": "needs a Kubernetes cluster; manifests: tests/cluster/test_cluster_files.py",
    "export": "sets a variable",
    "pip install": "needs the network",
    "apt-get install": "needs the network",
    "(umask": "writes to the home folder",
}
# Generators that only a page defines -> the tests that run them.
OWN_GENERATORS = {"my_diffusion": "tests/facelib/synthesis/test_documented_generator.py, test_plugins.py"}
KFACE_PAIR = "19062421/S001/L1/E01/C1.jpg 19062421/S001/L1/E01/C2.jpg 1\n"
# Paths that stand for a reader's own data -> what the test puts there: a file, a folder, or a few lines.
OWN_DATA = {
    "data/lfw.bin": "",
    "data/IJBC": None,
    "data/kface": None,
    "data/rfw": None,
    "data/ms1mv2/train.rec": "",
    "data/casia": None,
    "data/photos": None,
    "data/vgg2": None,
    "data/lfw/Ada_Lovelace/Ada_Lovelace_0001.jpg": "",
    "data/lfw/pairs.txt": "1\t1\nAda_Lovelace\t1\t1\nAda_Lovelace\t1\tAlan_Turing\t1\n",
    "data/KFACE/High": None,
    "weights": None,
    "weights/mine.pt": "",
    "pictures": None,
    "lfw_dev_train.bin": "",
    "lfw_dev_test.bin": "",
    "kface-test-identity30.txt": "19062421\n",
    "kface.Q1.txt": KFACE_PAIR,
    "kface.Q4.txt": KFACE_PAIR,
    "runs/quickstart/ssl/model.pt": "",
    "runs/ssl_cpu/ssl/model.pt": "",
    "runs/facelib/ssl/model.pt": "",
}
# What follows a section's name and a point in file and host names: `train.rec`, `ray.io/node-type`.
NOT_FIELDS = {"air", "io", "json", "md", "pt", "py", "rec", "sh", "tune", "yaml"}


class Command(NamedTuple):
    """A shell command of a page."""

    page: str
    line: int
    words: list[str]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {' '.join(self.words)}"


def blocks(page: Path, *languages: str) -> Iterator[tuple[int, str]]:
    """First line number and text of every fenced block in one of the languages."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", page.read_text(), re.S | re.M):
        if match[1] in languages:
            yield page.read_text()[: match.start()].count("\n") + 2, match[2]


def code_spans(page: Path) -> Iterator[str]:
    """Text between single backticks, outside fenced blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))


def commands() -> Iterator[Command]:
    """Every command of fenced shell blocks, and those of code spans that are complete."""
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        if name == "docs/published.md":
            continue  # test_published.py runs its commands
        for first, block in blocks(page, "sh", "bash", "console"):
            pending, began = "", first
            for number, line in enumerate(block.splitlines(), first):
                pending, began = (f"{pending}\n{line}", began) if pending else (line, number)
                if pending.endswith("\\"):
                    continue
                try:
                    lexer = shlex.shlex(pending.replace("\\\n", " "), posix=True, punctuation_chars=";&")
                    lexer.whitespace_split = True
                    words = list(lexer)
                except ValueError:  # a quotation goes on
                    continue
                pending = ""
                for command in split(words):
                    yield Command(name, began, command)
        for span in code_spans(page):
            if re.match(r"(python |make |facelib )", span) and not re.search(r"[…<]", span):
                yield Command(name, 0, shlex.split(span))


def split(words: list[str]) -> Iterator[list[str]]:
    """Commands that `;`, `&` and `&&` separate."""
    command: list[str] = []
    for word in [*words, ";"]:
        if word in (";", "&", "&&"):
            if command:
                yield command
            command = []
        else:
            command.append(word)


ALL_COMMANDS = list(commands())


@pytest.fixture(scope="session")
def converted_weights(tmp_path_factory):
    """DiscoFaceGAN's folder after its conversion, with small networks."""
    return converted_folder(tmp_path_factory.mktemp("weights") / "discofacegan")


@pytest.fixture
def own_data(tmp_path, monkeypatch, converted_weights):
    """A working folder with the recipes and what the pages call the reader's own data; returns the folder."""
    for name, content in OWN_DATA.items():
        path = tmp_path / name
        (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_text(content)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for file in converted_weights.iterdir():
        (tmp_path / "weights" / file.name).symlink_to(file)
    [classes] = [text for _, text in blocks(ROOT / "docs" / "tuning.md", "python") if "class Mutate(" in text]
    (tmp_path / "my_tuning.py").write_text(classes)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def validate_job(job: str, arguments: list[str], folder: Path) -> None:
    """Settings of a job's command line and everything that is checked before Ray starts."""
    local = [re.sub(r"(?<![\w/])/(data|weights|pictures)\b", rf"{folder}/\1", word) for word in arguments]
    config = None
    if "--config" in local:
        at = local.index("--config")
        config = local[at + 1]
        del local[at : at + 2]
    if job == "quickstart":
        job, config, local = "pipeline", config or str(ROOT / "configs" / "quickstart.yaml"), []
    assert job in job_summaries(), f"no job {job}"
    settings = choose_generator(load_settings(config, local))
    if settings.generate.generator_name in OWN_GENERATORS:
        return
    module = importlib.import_module(f"ray_jobs.{job}")
    try:
        module.validate(settings, {settings.path("").rstrip("/")})  # what earlier jobs write is taken for granted
    except StorageError:
        assert "://" in settings.output  # an example's bucket; outputs are the last that is checked


@pytest.mark.parametrize("command", ALL_COMMANDS, ids=str)
def test_a_command_is_valid(command, own_data):
    words = [word for word in command.words if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    if words[:3] == ["ray", "job", "submit"]:
        if "--" not in words:
            return  # an address only, with an ellipsis
        words = words[words.index("--") + 1 :]
    if words and Path(words[0]).name == "python":
        words = words[1:]
        if words[0] == "-m":
            run_module(words[1], words[2:], own_data)
        else:
            run_module(words[0].removesuffix(".py").replace("/", "."), words[1:], own_data)
    elif words[:1] == ["facelib"]:
        if words[1:2] not in (["--help"], ["--version"]):
            validate_job(words[1].replace("-", "_"), words[2:], own_data)
    elif words[:1] == ["make"]:
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert words[1] in targets, f"Makefile has no target {words[1]}"
    else:
        text = " ".join(words)
        known = [start for start in ELSEWHERE if text == start or text.startswith((start, f"{start} "))]
        assert known, f"{command}: a new kind of command; check it, or name it in ELSEWHERE with a reason"


def run_module(module: str, arguments: list[str], folder: Path) -> None:
    """Check `python -m module arguments` for a job, a benchmark or a module of the library."""
    if module.startswith("ray_jobs."):
        validate_job(module.removeprefix("ray_jobs."), arguments, folder)
        return
    source = ROOT / f"{module.replace('.', '/')}.py"
    source = source if source.exists() else source.with_suffix("") / "__main__.py"
    assert source.exists(), f"no module {module}"
    own, rest = arguments, []
    if "--" in arguments:
        own, rest = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    for flag in (word for word in own if word.startswith("--")):
        assert f'"{flag}"' in source.read_text(), f"{module} has no flag {flag}"
    if module == "benchmarks.memory":
        run_module(rest[0], rest[1:], folder)
    elif rest:  # benchmarks.heads: settings of every training
        load_settings("configs/unpg_cpu.yaml", rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
class TestPage:
    """What a page names exists."""

    def test_links(self, page):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            assert file.exists(), f"{target} does not exist"
            if anchor:
                assert anchor in anchors(file), f"{target}: {file.name} has no such heading"

    def test_files(self, page):
        for span in code_spans(page):
            if re.fullmatch(r"(facelib|ray_jobs|tests|configs|benchmarks|docs|\.ci)/[\w./*-]*", span):
                assert list(ROOT.glob(span.rstrip("/"))), f"{span} does not exist"

    def test_modules_and_names(self, page):
        for span in code_spans(page):
            match = re.match(r"(facelib|ray_jobs|benchmarks)(\.\w+)+", span)
            groups = {"facelib.generators", "facelib.sources", "facelib.detectors", "facelib.protocols"}
            tags = {"facelib.reason", "facelib.error", "facelib.backbones"}
            if match and match[0] not in groups | tags:
                assert resolves(match[0]), f"{span}: {match[0]} does not resolve"

    def test_settings(self, page):
        sections = {n: f.annotation for n, f in Settings.model_fields.items() if hasattr(f.annotation, "model_fields")}
        text = "\n".join([*code_spans(page), *(b for _, b in blocks(page, "sh", "bash", "console"))])
        for section, field, more in re.findall(r"(?<![\w./-])(?:--)?([a-z_]+)\.([a-z_][a-z0-9_]*)(\.\w+)?", text):
            if section in sections and field not in NOT_FIELDS:
                assert field in sections[section].model_fields, f"no setting {section}.{field}{more}"

    def test_python_blocks(self, page):
        for line, block in blocks(page, "python"):
            tree = ast.parse(block, f"{page.name}:{line}")
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    for alias in node.names:
                        importlib.import_module(alias.name)
                elif isinstance(node, ast.ImportFrom):
                    for alias in node.names:
                        assert resolves(f"{node.module}.{alias.name}"), f"line {line}: {node.module}.{alias.name}"


def anchors(page: Path) -> set[str]:
    """Fragments of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or a name in one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            if not hasattr(value, name):
                return False
            value = getattr(value, name)
        return True
    return False


def rows(page: Path, first_cell: str) -> list[list[str]]:
    """Cells of the table whose header begins with `first_cell`."""
    lines = page.read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {first_cell} | "))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return table


def test_the_readme_lists_every_job_and_component():
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= 150
    assert {row[0].strip("` ") for row in rows(readme, "job")} == set(job_summaries())
    support = {row[0]: row[1] for row in rows(readme, "kind")}
    assert set(re.findall(r"`(\w+)`", support["generators"])) <= set(available_generators())
    for name in backbone_names():
        family = re.sub(r"\d+$", "", name)
        assert name in support["backbones"] or family in support["backbones"].lower(), name


def test_the_data_page_lists_every_source():
    table = rows(ROOT / "docs" / "data.md", "`source` | reads")
    named = {row[0].strip("` ") for row in table}
    # Other tests of the same process register sources of their own.
    assert {name for name in available_sources() if not name.startswith("test_")} <= named


def test_the_documented_stages_are_jobs():
    import yaml

    for config in (ROOT / "configs").glob("*.yaml"):
        for stage in yaml.safe_load(config.read_text()).get("stages", []):
            assert stage["job"] in job_summaries(), json.dumps(stage)
