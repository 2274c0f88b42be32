"""The wheel: what is in it, and that it works where nothing else of the project is."""

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that the checkout gets no build folder."""
    copy = tmp_path_factory.mktemp("source")
    caches = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("marn", "data_prep", "tests", "book"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=caches)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    out = copy / "dist"
    run = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*run, "--no-index", "--wheel-dir", str(out), str(copy)], check=True)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel; its dependencies are shared."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    scheme = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", scheme))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(packages), str(wheel)], check=True)
    shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "shared.pth").write_text("\n".join(sorted(shared)) + "\n")
    return folder / "bin" / "python"


def test_wheel_holds_the_packages_with_their_data_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"marn", "data_prep"}
    expected = {
        str(path.relative_to(ROOT))
        for package in ("marn", "data_prep")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert expected <= names
    assert "marn/py.typed" in names


def test_wheel_registers_its_command_and_nothing_with_other_programs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        lines = archive.read(name).decode().split("\n")
    assert [line for line in lines if line] == ["[console_scripts]", "marn = marn.cli:main"]


def test_six_lines_of_the_readme_run_where_only_the_wheel_is(python: Path, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(import marn\n.*?)```", readme, re.DOTALL)
    assert len(lines.split("\n\n", 1)[1].strip().splitlines()) <= 6
    lines = re.sub(r"epochs=\d+", "epochs=1", lines)
    lines += (
        f"\nassert not marn.__file__.startswith({str(ROOT)!r}), marn.__file__"
        '\nassert 0 <= scores["icd"]["micro_f1"] <= 1'
    )
    out = ["--preset", "tiny", "--out", "data/teaching"]
    for command in (["-m", "data_prep", "teaching", *out], ["-c", lines]):
        subprocess.run(
            [str(python), *command], cwd=tmp_path, env={"OMP_NUM_THREADS": "1"}, check=True
        )
