"""Credentialed text is not shown, and not written where it could be committed."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import indent
from types import SimpleNamespace

import ipywidgets
import nbformat
import plotly.graph_objects as go
import pytest
from checkouts import ROOT, make_checkout

import marn
from data_prep.commit_check import examine
from marn import explain, figures, privacy, widgets
from marn.corpus import Corpus
from marn.corpus.text import Vocabulary
from marn.errors import MarnError
from marn.saving import save_model


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "checkout")


def test_every_view_of_text_asks_by_the_same_name() -> None:
    views = {}
    for module in (explain, figures, widgets):
        for name, view in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("_") or not view.__module__.startswith(module.__name__):
                continue
            signature = inspect.signature(view)
            shown = {"text", "words", "corpus"} & set(signature.parameters)
            if shown and signature.return_annotation in (str, go.Figure, ipywidgets.VBox):
                views[name] = signature.parameters
    assert {"note_html", "note_explorer"} <= set(views)
    for name, parameters in views.items():
        assert parameters["show_credentialed_text"].default is False, name
        if "corpus" not in parameters:  # which says itself whether it is open
            assert parameters["open_text"].default is inspect.Parameter.empty, name


# -- in a notebook ---------------------------------------------------------------------------------

SHOWS = [
    "print(data['train'].text(0))",
    "display([data['train'].text(i) for i in range(3)])",
    "print(data.vocabulary.decode(data['train'].note_tokens(0)))",
    "print([code.top for note in marn.load('model').code([note], top=9) for code in note.codes])",
]
SHOWS_FROM_A_PROCESS = [
    "command = 'import marn; print(marn.Corpus.load(corpus)[\"train\"].text(0))'\n"
    "command = command.replace('corpus', repr(corpus))\n"
    "print(run([sys.executable, '-c', command]))",
    "print(run([sys.executable, '-c', command], env=own))",
    "print(run([sys.executable, '-m', 'marn', 'predict', 'model', 'note.txt', '--top', '9']))",
]


def test_no_program_that_runs_a_notebook_saves_a_credentialed_note(checkout: Path) -> None:
    book = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": ""}}
    )
    corpus = Corpus.load(checkout / "data" / "secret")
    save_model(checkout / "model", marn.build("caml", corpus, filters=4), corpus)
    (checkout / "note.txt").write_text("code0 word1")
    load = (
        "import functools, marn, os, subprocess, sys\n"
        "run = functools.partial(subprocess.run, capture_output=True, text=True)\n"
        f"keys = {{'PYTHONPATH', '{privacy.SWITCH}'}} & {{*os.environ}}\n"
        "own = {key: os.environ[key] for key in keys}\n"
        'corpus, note = "data/secret", ("1", open("note.txt").read())\n'
        "data = marn.Corpus.load(corpus)"
    )

    def write(name: str, shows: list[str]) -> None:
        tried = [
            f"try:\n{indent(show, '    ')}\nexcept marn.MarnError as error:\n    print(error)"
            for show in shows
        ]
        book.cells = [nbformat.v4.new_code_cell(source) for source in (load, *tried)]
        nbformat.write(book, checkout / name)

    write("in.ipynb", SHOWS)
    write("all.ipynb", [*SHOWS, *SHOWS_FROM_A_PROCESS])
    # runs/ as a link to a folder that git does not ignore
    (checkout / "tracked").mkdir()
    (checkout / "runs").symlink_to("tracked")
    quirks = "--cwd . --log-output --stdout-file tracked/out.txt"
    lines = {
        "stdout.ipynb": f"-X utf8 -m papermill in.ipynb - {quirks}",
        "execute.ipynb": "-m jupyter execute all.ipynb --output execute.ipynb",  # as nbconvert does
        "tracked/allowed.ipynb": "-m papermill in.ipynb runs/allowed.ipynb",
    }
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop(privacy.SWITCH, None)

    def start(out: str) -> subprocess.Popen[bytes]:
        with (checkout / out).open("wb") as stdout:
            extra = {privacy.SWITCH: "1"} if "allowed" in out else {}
            run = [sys.executable, *lines[out].split()]
            return subprocess.Popen(run, cwd=checkout, env=environment | extra, stdout=stdout)

    runs = {out: start(out) for out in lines}
    failed = [out for out, run in runs.items() if run.wait(timeout=300)]
    # kernels that start at the same time may choose the same port, and one of them dies
    assert not [out for out in failed if start(out).wait(timeout=300)]
    note = re.compile(r"(?:word|code)\d")
    for out in lines:
        book = nbformat.read(checkout / out, 4)
        shown = [str(cell.outputs) for cell in book.cells[1:]]
        for text in shown:
            assert bool(note.search(text)) == ("allowed" in out), (out, text)
            assert (f"set {privacy.SWITCH}=1 before you start" in text) == ("allowed" not in out)
    assert not note.search((checkout / "tracked" / "out.txt").read_text())
    # what was allowed is refused when somebody commits it
    allowed = (checkout / "tracked" / "allowed.ipynb").read_bytes()
    assert (
        "its outputs come from a credentialed corpus"
        in examine(Path("a.ipynb"), checkout, allowed)[0]
    )


@pytest.mark.parametrize("kernel", [True, False])
def test_where_text_is_shown(kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(privacy.SWITCH, raising=False)
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    shell = SimpleNamespace(kernel=None) if kernel else None
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    privacy.check_may_show(True, show_credentialed_text=False)
    with pytest.raises(MarnError, match="pass show_credentialed_text=True"):
        privacy.check_may_show(False, show_credentialed_text=False)
    for environment in ({}, {privacy.SWITCH: "0"}, {"JPY_PARENT_PID": "1"}, {privacy.SWITCH: "1"}):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        if (kernel or "JPY_PARENT_PID" in os.environ) and os.environ.get(privacy.SWITCH) != "1":
            with pytest.raises(MarnError, match="a notebook saves what it shows"):
                privacy.check_may_show(False, show_credentialed_text=True)
        else:
            privacy.check_may_show(False, show_credentialed_text=True)


def test_what_is_loaded_shows_no_note(checkout: Path) -> None:
    corpus = Corpus.load(checkout / "data" / "secret")
    save_model(checkout / "model", marn.build("caml", corpus, filters=4), corpus)
    saved = marn.load_model(checkout / "model")
    assert not saved.vocabulary.is_open
    for value in (corpus, corpus["train"], corpus.vocabulary, saved, vars(corpus)):
        assert "word1" not in repr(value)
    with pytest.raises(MarnError) as wrong:
        Vocabulary(["zebra", "aardvark"])
    assert "zebra" not in str(wrong.value)
    assert "words 1 and 2 are not" in str(wrong.value)
