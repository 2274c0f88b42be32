"""The contract of every source: found by its file, explains itself, refuses what is not its own."""

import argparse
import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep import __main__ as command_line
from data_prep.__main__ import main, sources

SOURCES = {name: module for name, module in sources().items() if name != "audit"}
# What it takes to run each on a folder: options in which RAW is the folder.
OPTIONS = {
    "mimic3": ["--raw", "RAW"],
    "mimic4": ["--raw", "RAW"],
    "codiesp": ["--raw", "RAW"],
    "own": ["--notes", "RAW", "--assigned", "RAW", "--system", "icd9"],
}
READERS = [name for name in SOURCES if name != "teaching"]


def _options(name, raw):
    return [str(raw) if option == "RAW" else option for option in OPTIONS[name]]


def test_every_file_with_a_command_is_a_source():
    folder = Path(command_line.__file__).parent
    written = [
        ast.literal_eval(node.value)
        for path in folder.rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and node.value is not None
        and "COMMAND" in ast.dump(getattr(node, "target", None) or node.targets[0])
    ]
    assert sorted(written) == sorted(sources())
    assert set(OPTIONS) == set(READERS)


def test_only_the_wanted_source_is_imported():
    assert list(sources("mimic3")) == ["mimic3"]
    assert sources("tables").keys() == sources("mimic").keys() == sources().keys()
    code = "import sys; from data_prep.__main__ import sources; sources('mimic3'); "
    code += "sys.exit('data_prep.hospital' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", sources())
def test_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    module = sources()[name]
    summary = module.__doc__.partition("\n")[0]
    assert summary.endswith(".")
    assert len(summary) <= 100
    assert summary in said
    for action in _parser(module)._actions:
        assert action.help, f"{name}: {action.option_strings} says nothing of itself"


def _parser(module):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser


@pytest.mark.parametrize("name", SOURCES)
def test_the_options_that_all_sources_share(name):
    options = {option for action in _parser(SOURCES[name])._actions
               for option in action.option_strings}  # fmt: skip
    assert {"--out", "--codes", "--min-count", "--vectors", "--seed", "--workers"} <= options
    assert list(inspect.signature(SOURCES[name].run).parameters) == ["args", "progress"]


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
@pytest.mark.parametrize("option", [("--workers", "0"), ("--min-count", "0"), ("--codes", "some")])
def test_choices_are_checked_before_anything_is_read(name, option, tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    command = [name, *_options(name, raw), "--out", str(tmp_path / "out"), *option]
    assert main(command) == 2
    assert f"Expected {option[0][2:].replace('-', '_')}" in capsys.readouterr().err


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
    def fail(args, progress):
        raise PermissionError(13, "Permission denied", "thing")

    monkeypatch.setattr(SOURCES["mimic3"], "run", fail)
    assert main(["mimic3", "--raw", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "python -m data_prep mimic3: thing: Permission denied. Nothing was kept.\n"
    )
