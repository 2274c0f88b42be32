"""The project's rules: one version, one list of dependencies, what may import what, no prints."""

import ast
import graphlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from make_book import DATA_PREP_IMPORTS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

# From the ground up; a module imports only from floors below its own. Every module has a floor.
FLOORS = [
    {"errors", "lifeline", "pages"},
    {"settings"},
    {"command_line", "losses", "metrics", "parallel", "privacy", "progress", "resampling"},
    {"analysis", "corpus", "nn"},
    {"figures", "models", "plain"},
    {"baselines"},
    {"readers", "reconstructions", "transformers"},
    {"evaluation", "registry"},
    {"attribution", "notes"},
    {"explain", "scoring"},
    {"prediction", "widgets"},
    {"saving"},
    {"averages", "train"},
    {"experiments"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {module: number for number, floor in enumerate(FLOORS) for module in floor}
DRAWN_FROM_ARRAYS = {
    "analysis": {"errors", "metrics"},
    "figures": {"analysis", "errors", "privacy"},
}


def lock() -> dict[str, Version]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pins
    }


def test_lock_is_versions_that_anybody_can_get() -> None:
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if not line.startswith("#"):
            assert re.fullmatch(r"[\w.-]+==[\w.]+", line), line  # no +cpu, no index, no path


def test_lock_has_what_pyproject_asks_for() -> None:
    pinned = lock()
    for line in [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]:
        wanted = Requirement(line)
        version = pinned.get(canonicalize_name(wanted.name))
        assert version is not None, f"{wanted.name} is not locked: make lock"
        assert wanted.specifier.contains(version), f"{line} against {version}: make lock"


def test_lock_has_what_its_packages_ask_for() -> None:
    pinned = lock()
    left_out = re.compile(r"nvidia|cuda|triton|pip$")  # torch's, where there is a GPU
    for name in pinned:
        for line in metadata.requires(name) or []:
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                needed = canonicalize_name(wanted.name)
                assert needed in pinned or left_out.match(needed), f"{name} needs {line}: make lock"


def test_environment_is_the_locked_one() -> None:
    for name, version in lock().items():
        assert Version(metadata.version(name)).public == version.public, f"{name}: make environment"


def test_version_citation_and_changelog_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## \[(\d[^\]]*)\] - (\S+)$", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == citation["version"] == PROJECT["version"]
    assert newest[2] == citation["date-released"]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell, though the tests may run within another make."""
    outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON"}
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_readme_names_every_module_of_the_library_and_no_other() -> None:
    tree = (ROOT / "README.md").read_text().partition("marn/        the library")[2]
    named: set[str] = set()
    for line in tree.partition("\ndata_prep/")[0].splitlines():
        named |= {name.removesuffix(".py").rstrip("/") for name in line[:37].split()}
    there = {path.stem for path in (ROOT / "marn").glob("*.py")} - {"__init__", "__main__"}
    there |= {path.parent.name for path in (ROOT / "marn").glob("*/__init__.py")}
    assert named == there


def test_make_names_its_targets() -> None:
    named = {line.split()[1] for line in make().stdout.splitlines()}
    assert named >= {"book", "site", "lab", "test", "data", "chapters", "lint", "nbval", "lock"}


def test_environment_has_the_python_that_was_asked_for(tmp_path: Path) -> None:
    environment, calls = tmp_path / "environment", tmp_path / "calls"
    python = tmp_path / "python-asked-for"
    pipless = 'case "$*" in "-m venv "*) set -- "$@" --without-pip;; esac'  # pip takes seconds
    python.write_text(f'#!/bin/sh\necho "$*" >> {calls}\n{pipless}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    without_packages = ("environment", f"VENV={environment}", "PIP=true")
    made = make(*without_packages, f"PYTHON={python}")
    assert made.returncode == 0, made.stderr
    assert f"-m venv --clear {environment}" in calls.read_text()
    for wish in ([f"PYTHON={python}"], []):  # already there
        again = make(*without_packages, *wish)
        assert (again.returncode, again.stdout) == (0, "")
    (environment / "bin" / "python").unlink()
    (environment / "bin" / "python").write_text("#!/bin/sh\necho another version\n")
    (environment / "bin" / "python").chmod(0o755)
    assert make(*without_packages, f"PYTHON={python}").returncode == 0
    assert calls.read_text().count("-m venv --clear") == 2  # another version is replaced


def test_a_python_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    refused = make("environment", f"VENV={tmp_path / 'environment'}", "PYTHON=python2.99")
    assert refused.returncode
    assert "among: python2.99; install one" in refused.stderr


def modules(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path, tree: ast.Module) -> Iterator[str]:
    """Dotted names that a module imports, relative ones resolved; of `from a import b`, `a.b`."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def of_marn(path: Path, tree: ast.Module) -> set[str]:
    """Modules of marn that a module imports, by their first name below the package."""
    return {name.split(".")[1] for name in imported(path, tree) if name.startswith("marn.")}


def violations(name: str, seen: set[str]) -> set[str]:
    """What a module of marn, given by its first name, imports though it may not."""
    allowed = {other for other in seen if FLOOR_OF.get(other, 99) < FLOOR_OF[name]} | {name}
    allowed &= DRAWN_FROM_ARRAYS.get(name, allowed) | {name}
    return seen - allowed


def test_imports_go_down() -> None:
    for path, tree in modules("marn"):
        name = path.relative_to(ROOT / "marn").parts[0].removesuffix(".py")
        if name != "__init__":
            assert name in FLOOR_OF, f"{name} has no floor"
            assert not violations(name, of_marn(path, tree)), path
    for path, tree in modules("data_prep"):
        assert of_marn(path, tree) <= set(DATA_PREP_IMPORTS), path


@pytest.mark.parametrize(
    ("name", "source", "wrong"),
    [
        ("losses", "from marn.corpus import Corpus", {"corpus"}),
        ("models", "from marn import nn, saving", {"saving"}),
        ("models", "import marn.models.base", set()),
        ("figures", "def f():\n    from .models import build", {"models"}),
        ("errors", "import marn.unheard", {"unheard"}),
    ],
)
def test_an_import_upwards_is_noticed(name: str, source: str, wrong: set[str]) -> None:
    assert violations(name, of_marn(ROOT / "marn" / f"{name}.py", ast.parse(source))) == wrong


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def check_no_circle(sources: list[tuple[Path, ast.Module]]) -> None:
    """Raise CycleError if modules import each other, be it within functions."""
    known = {dotted(path) for path, _ in sources}
    graph = {}
    for path, tree in sources:
        names = set(imported(path, tree))
        names |= {name.rpartition(".")[0] for name in names - known}
        graph[dotted(path)] = names & known - {dotted(path)}
    graphlib.TopologicalSorter(graph).prepare()


def test_no_modules_import_each_other() -> None:
    public_names = ROOT / "marn" / "__init__.py"  # which load on first use
    check_no_circle([m for m in modules("marn", "data_prep") if m[0] != public_names])


def test_a_circle_is_noticed() -> None:
    circle = {
        "a.py": "from marn import b",
        "b.py": "def f():\n    from marn.c.d import name",
        "c/d.py": "from .. import a",
    }
    with pytest.raises(graphlib.CycleError):
        check_no_circle(
            [(ROOT / "marn" / name, ast.parse(source)) for name, source in circle.items()]
        )


def test_library_knows_neither_book_nor_data_preparation() -> None:
    for path, tree in modules("marn", "data_prep"):
        roots = {name.split(".")[0] for name in imported(path, tree)}
        forbidden = {"book", "book_pages", "chapters", "make_book", "tests"}
        above = {"data_prep"} if path.is_relative_to(ROOT / "marn") else set()
        assert not roots & (forbidden | above), path


def test_library_prints_nothing() -> None:
    for path, tree in modules("marn", "data_prep"):
        if path != ROOT / "data_prep" / "__main__.py":
            calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
            assert not [1 for call in calls if isinstance(call, ast.Name) and call.id == "print"]


def test_nothing_credentialed_or_made_is_tracked() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        assert not re.match(r"(data|runs|_build|\.venv)/", name), name
        assert (ROOT / name).stat().st_size < 1_000_000 if (ROOT / name).exists() else True, name
