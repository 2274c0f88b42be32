"""The contract of every source: found by its file, explains itself, refuses what is not its own."""

import inspect
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep import __main__ as command_line
from data_prep.__main__ import main, sources
from data_prep.config import PrepareConfig

SOURCES = {name: module for name, module in sources().items() if name != "audit"}
# What it takes to run each on a folder: options in which RAW is the folder.
OPTIONS = {
    "mimic3": ["--raw", "RAW"],
    "mimic4": ["--raw", "RAW"],
    "codiesp": ["--raw", "RAW"],
    "cantemist": ["--raw", "RAW"],
    "own": ["--notes", "RAW", "--assigned", "RAW", "--system", "icd9"],
}
READERS = [name for name in SOURCES if name != "teaching"]


def _options(name, raw):
    return [str(raw) if option == "RAW" else option for option in OPTIONS[name]]


def test_every_file_is_a_source():
    folder = Path(command_line.__file__).parent / "sources"
    written = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert written == set(SOURCES)
    assert set(OPTIONS) == set(READERS)


def test_only_the_wanted_source_is_imported():
    assert list(sources("mimic3")) == ["mimic3"]
    assert sources("tables").keys() == sources("mimic").keys() == sources().keys()
    code = "import sys; from data_prep.__main__ import sources; sources('mimic3'); "
    code += "sys.exit(bool({'data_prep.hospital', 'torch', 'rich'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", sources())
def test_help(name, capsys):
    assert main([name, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    module = sources()[name]
    summary = module.__doc__.partition("\n")[0]
    assert summary.endswith(".")
    assert len(summary) <= 100
    assert summary in shown
    for key, field in module.Config.__pydantic_fields__.items():
        assert field.description, f"{name}: {key} says nothing of itself"
        assert key in shown.replace("-", "_") or key.upper() in shown


@pytest.mark.parametrize("name", ["codiesp", "cantemist", "own"])
def test_help_of_a_source_without_admissions_names_none(name, capsys):
    assert main([name, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "admission" not in shown
    assert "By default patients" not in shown
    assert ("Instead of the official splits" in shown) == (name != "own")


def test_help_of_the_audit_is_about_its_options(capsys):
    assert main(["audit", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "audit_raw" not in shown
    assert "with --raw the raw code tables" in shown


@pytest.mark.parametrize("name", SOURCES)
def test_what_all_sources_share(name):
    module = SOURCES[name]
    assert issubclass(module.Config, PrepareConfig)
    assert list(inspect.signature(module.run).parameters) == ["config", "progress"]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["nothing", "an empty folder", "a file"])
def test_what_is_no_data_of_the_source_is_refused(name, kind, tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "out"
    if kind == "an empty folder":
        raw.mkdir()
    elif kind == "a file":
        raw.write_text("x")
    assert main([name, *_options(name, raw), "--out", str(out)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith(f"python -m data_prep {name}: ")
    assert str(raw) in error[-1]
    assert not out.exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"raw"}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "option",
    [
        ("--min-count", "0"),
        ("--codes", "some"),
        ("--seed", "-1"),
        ("--seed", "99999999999999999999"),
        ("--vectors", "some"),
        ("--vocabulary", "some"),
        ("--min-code-count", "0"),
    ],
)
def test_choices_are_checked_before_anything_is_read(name, option, tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    command = [name, *_options(name, raw), "--out", str(tmp_path / "out"), *option]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"{option[0][2:].replace('-', '_')} must be " in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("what", ["the folder itself", "a file", "something else"])
def test_nothing_of_yours_is_overwritten(name, what, tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    out = {"the folder itself": raw}.get(what, tmp_path / "out")
    if what == "a file":
        out.write_text("mine")
    elif what == "something else":
        out.mkdir()
        (out / "thesis.tex").write_text("mine")
    assert main([name, *_options(name, raw), "--out", str(out)]) == 2
    assert raw.is_dir()
    assert what != "a file" or out.read_text() == "mine"
    assert what != "something else" or (out / "thesis.tex").read_text() == "mine"


def test_errors_that_no_source_foresees_are_one_line(monkeypatch, tmp_path, capsys):
    def fail(config, progress):
        raise PermissionError(13, "Permission denied", "thing")

    monkeypatch.setattr(SOURCES["mimic3"], "run", fail)
    assert main(["mimic3", "--raw", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "python -m data_prep mimic3: thing: Permission denied; nothing was kept\n"
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
@pytest.mark.parametrize(
    ("redirected", "status"),
    [(">/dev/full", 2), ("2>/dev/full", 0), (">&-", 0), ("2>&-", 0), (">/dev/full 2>&1", 2)],
)
def test_output_that_cannot_be_printed_does_not_deny_the_corpus(
    tiny_raw, tmp_path, redirected, status
):
    line = ["mimic3", "--raw", str(tiny_raw), "--out", str(tmp_path / "out"), "--vectors", "none"]
    shell = shlex.join([sys.executable, "-m", "data_prep", *line])
    done = subprocess.run(f"{shell} {redirected}", shell=True, capture_output=True, text=True)
    assert done.returncode == status
    assert (tmp_path / "out" / "card.json").exists()
    assert "Traceback" not in done.stderr
    if redirected == ">/dev/full":
        last = done.stderr.splitlines()[-1]
        assert last.endswith("is complete, but its summary was not printed (No space left on "
                             "device); look into its card.json")  # fmt: skip
