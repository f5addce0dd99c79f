"""Rules that no single module can check: who imports whom, tests beside every module, and no file that can run code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import CEILING_S

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "facelib").rglob("*.py"))
SOURCES = LIBRARY + sorted((ROOT / "ray_jobs").rglob("*.py"))
MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in SOURCES}
# The one module that takes apart the pickles of others.
GUARDED = ("utils/safe_pickle.py",)
HEAVY = ("ray", "tensorflow", "mlflow", "onnxruntime", "mtcnn", "matplotlib")

# What each package of facelib may import of facelib, itself aside.
ARROWS = {
    "utils": set(),
    "config": {"utils"},
    "data": {"utils"},
    "losses": {"utils"},
    "contrastive": {"losses", "utils"},
    "augmentation": {"utils"},
    "models": {"data", "utils"},
    "synthesis": {"data", "utils"},
    "alignment": {"data", "utils"},
    "sources": {"alignment", "config", "data", "utils"},
    "evaluation": {"utils"},
}
PROTOCOLS = "facelib.evaluation.protocols"
PROTOCOL_ARROWS = {"alignment", "data", "sources"}
# Scripts that make data of a package, and what else they may import.
SCRIPT_ARROWS = {"facelib.synthesis.mobilestylegan.fit_directions": {"alignment", "inspection"}}
# Modules that need no test file of their own, and why.
WITHOUT_TESTS = {
    "facelib/data/errors.py": "two exception classes",
    "facelib/plots/style.py": "colors and sizes",
}
# Test files for what several modules do together.
CROSS_MODULE_TESTS = {
    "tests/facelib/synthesis/test_documented_generator.py",
    "tests/facelib/synthesis/test_plugins.py",
}


@pytest.mark.slow
def test_importing_the_whole_library_loads_nothing_heavy():
    """Every module of facelib in a fresh interpreter: imported, and nothing of Ray or MLflow with it."""
    code = (
        "import importlib, pkgutil, sys, facelib, random\n"
        "import numpy as np, torch\n"
        "before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()\n"
        "names = [m.name for m in pkgutil.walk_packages(facelib.__path__, 'facelib.')]\n"
        "for name in names: importlib.import_module(name)\n"
        "after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()\n"
        "assert before == after, 'an import drew random numbers'\n"
        "print(len(names), *sorted({m.split('.')[0] for m in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=CEILING_S)
    assert done.returncode == 0, done.stderr
    count, *loaded = done.stdout.split()
    assert int(count) == len([p for p in LIBRARY if p != ROOT / "facelib" / "__init__.py"])
    assert "torch" in loaded  # the list is what it says
    assert not set(HEAVY) & set(loaded)


def test_the_library_does_not_name_ray():
    offenders = [f"{p.relative_to(ROOT)}: {m}" for p in LIBRARY for m in imported(p) if m in ("ray", "ray_jobs")]
    assert not offenders
    assert "ray" in imported(ROOT / "ray_jobs" / "training" / "driver.py")  # the search finds what there is


def test_no_import_cycles():
    """Imports inside functions count; those for type checkers only do not."""
    assert import_cycles({name: internal_imports(path) for name, path in MODULES.items()}) == []


def test_an_import_cycle_is_found():
    assert import_cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


@pytest.mark.parametrize("package", sorted(ARROWS))
def test_packages_import_only_what_is_below_them(package):
    allowed = {package, *ARROWS[package]}
    wrong = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        if name == f"facelib.{package}" or name.startswith(f"facelib.{package}.")
        for other in sorted(internal_imports(path) - {"facelib"})
        if other.split(".")[1]
        not in allowed | (PROTOCOL_ARROWS if name.startswith(PROTOCOLS) else SCRIPT_ARROWS.get(name, set()))
    ]
    assert not wrong


@pytest.mark.parametrize("package", ["contrastive", "losses"])
def test_losses_know_tensors_only(package):
    known = {*sys.stdlib_module_names, "facelib", "torch", "numpy", "pytorch_metric_learning"}
    assert {m for path in (ROOT / "facelib" / package).glob("*.py") for m in imported(path)} <= known


def test_every_module_has_its_test_file():
    modules = {path.relative_to(ROOT).as_posix() for path in SOURCES if path.name != "__init__.py"}
    missing = {name for name in modules if not mirror(name).exists()} - WITHOUT_TESTS.keys()
    assert sorted(missing) == []
    assert sorted(WITHOUT_TESTS.keys() - modules) == [], "exceptions for modules that do not exist"


def test_every_test_file_belongs_to_a_module():
    tests = [path for top in ("facelib", "ray_jobs") for path in (ROOT / "tests" / top).rglob("test_*.py")]
    strays = {path.relative_to(ROOT).as_posix() for path in tests if not module_of(path).exists()}
    assert sorted(strays - CROSS_MODULE_TESTS) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_read_can_run_code(path):
    assert not code_runners(path.read_text(encoding="utf-8"))


def test_only_the_guarded_readers_take_pickles_apart():
    readers = [p for p in SOURCES if any(word in p.read_text() for word in ("Unpickler(", "import pickletools"))]
    assert readers == [ROOT / "facelib" / name for name in GUARDED]


@pytest.mark.parametrize(
    "line",
    [
        "import pickle; pickle.load(f)",
        "import pickle as p; p.loads(data)",
        "from pickle import load; load(f)",
        "import pickle; pickle.Unpickler(f).load()",
        "import torch; torch.load(path)",
        "import torch; torch.load(path, weights_only=False)",
        "import torch; torch.load(path, weights_only=flag)",
        "import yaml; yaml.load(f, Loader=yaml.Loader)",
        "import yaml; yaml.unsafe_load(f)",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "import dill; dill.load(f)",
        "import joblib; joblib.load(f)",
        "import pandas as pd; pd.read_pickle(f)",
        "import os; os.system(text)",
        "eval(text)",
        "exec(text)",
    ],
)
def test_what_could_run_code_is_found(line):
    assert code_runners(line)


@pytest.mark.parametrize(
    "line",
    [
        "import torch; torch.load(path, weights_only=True)",
        "import yaml; yaml.safe_load(f)",
        "import numpy as np; np.load(path)",
        "import json; json.load(f)",
        "import pickle; pickle.dumps(value)",
        "network.eval()",
    ],
)
def test_what_is_safe_is_left_alone(line):
    assert not code_runners(line)


def mirror(name):
    """The test file of a module such as "facelib/data/lock.py"."""
    path = ROOT / "tests" / name
    return path.with_name(f"test_{path.stem.strip('_')}.py")


def module_of(test):
    path = ROOT / test.relative_to(ROOT / "tests")
    name = path.name.removeprefix("test_")
    return path.with_name("__main__.py" if name == "main.py" else name)


def internal_imports(path):
    """Modules of facelib and ray_jobs that a file imports, in functions too, but not under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    names = set()
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in full}
    return {name for name in names & MODULES.keys() if MODULES[name] != path}


def import_cycles(graph):
    """Strongly connected components of more than one module (Tarjan 1972)."""
    index, low, stack, cycles = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            start = stack.index(node)
            component = stack[start:]
            del stack[start:]
            if len(component) > 1:
                cycles.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return cycles


def imported(path):
    """Top-level names of everything a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names


def code_runners(source):
    """Calls in `source` that may execute what they read, as `line: name`.

    Subclasses of `pickle.Unpickler` pass: the guarded readers resolve names themselves (and are tested where they are).
    """
    tree = ast.parse(source)
    full: dict[str, str] = {}  # what a name in this file stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full |= {a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            full |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            head, *rest = ast.unparse(node.func).split(".")
            name = ".".join([full.get(head, head), *rest])
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if _runs_code(name, keywords):
                found.append(f"{node.lineno}: {name}")
    return found


def _runs_code(name, keywords):
    if name == "torch.load":
        return keywords.get("weights_only") != "True"
    if name == "numpy.load":
        return keywords.get("allow_pickle", "False") != "False"
    if name.split(".")[0] in ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"):
        return name.split(".")[1] not in ("dump", "dumps", "Pickler", "UnpicklingError")
    unsafe = ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle", "os.system")
    return name in (*unsafe, "eval", "exec", "builtins.eval", "builtins.exec")
