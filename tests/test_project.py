"""The project's frame: one list of dependencies, floors that imports respect, no stray output."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

# From the ground up; a module imports from floors below its own. Every module has its place here.
FLOORS = [
    {"errors"},
    {"losses", "metrics", "parallel", "privacy", "progress"},
    {"analysis", "corpus", "nn"},
    {"figures", "models"},
    {"baselines"},
    {"reconstructions", "transformers"},
    {"evaluation", "registry"},
    {"explain", "saving"},
    {"train", "widgets"},
    {"experiments"},
    {"__main__"},
]
FLOOR_OF = {module: number for number, floor in enumerate(FLOORS) for module in floor}
DATA_PREP_SEES = {"corpus", "errors", "privacy"}
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


def test_conda_and_binder_use_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["dependencies"][1:] == [
        "pip",
        {"pip": ["-r requirements.lock", f"-e .[{','.join(EXTRAS)}]"]},
    ]
    python = environment["dependencies"][0].removeprefix("python=")
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.0")


def test_every_python_is_tried_in_public() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    tried = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    supported = SpecifierSet(PROJECT["requires-python"])
    assert tried == [f"3.{minor}" for minor in range(30) if supported.contains(f"3.{minor}.0")]


def test_make_names_its_targets() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    named = {line.split()[1] for line in shown.splitlines()}
    assert named >= {"book", "site", "lab", "test", "data", "chapters", "lint", "nbval", "lock"}


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
    """What a module of marn, by its first name, imports and may not."""
    if name == "site":
        return seen - {"site"}
    allowed = {other for other in seen if FLOOR_OF.get(other, 99) < FLOOR_OF[name]} | {name}
    allowed &= DRAWN_FROM_ARRAYS.get(name, allowed) | {name}
    return seen - allowed


def test_imports_go_down() -> None:
    for path, tree in modules("marn"):
        name = path.relative_to(ROOT / "marn").parts[0].removesuffix(".py")
        if name != "__init__":
            assert name == "site" or name in FLOOR_OF, f"{name} has no floor"
            assert not violations(name, of_marn(path, tree)), path
    for path, tree in modules("data_prep"):
        assert of_marn(path, tree) <= DATA_PREP_SEES, path


@pytest.mark.parametrize(
    ("name", "source", "wrong"),
    [
        ("losses", "from marn.corpus import Corpus", {"corpus"}),
        ("models", "from marn import nn, saving", {"saving"}),
        ("models", "import marn.models.base", set()),
        ("site", "import marn.errors", {"errors"}),
        ("figures", "def f():\n    from .models import build", {"models"}),
        ("errors", "import marn.unheard", {"unheard"}),
    ],
)
def test_an_import_upwards_is_noticed(name: str, source: str, wrong: set[str]) -> None:
    assert violations(name, of_marn(ROOT / "marn" / f"{name}.py", ast.parse(source))) == wrong


def test_library_knows_neither_book_nor_data_preparation() -> None:
    for path, tree in modules("marn", "data_prep"):
        roots = {name.split(".")[0] for name in imported(path, tree)}
        assert not roots & ({"book", "tests"} | ({"data_prep"} if "marn" in path.parts else set()))


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
