"""Credentialed text is not shown, and not written where it could be committed."""

import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from checkouts import ROOT, make_checkout, notebook, written

from data_prep.commit_check import examine
from marn import explain, figures, privacy, widgets
from marn.errors import MarnError


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "checkout")


def test_every_view_of_text_asks_by_the_same_name() -> None:
    views = {}
    for module in (explain, figures, widgets):
        for name in filter(lambda name: callable(getattr(module, name)), module.__all__):
            signature = inspect.signature(getattr(module, name))
            shown = {"text", "words", "corpus"} & set(signature.parameters)
            if shown and str(signature.return_annotation) in (
                "str",
                "go.Figure",
                "ipywidgets.VBox",
            ):
                views[name] = signature.parameters
    assert {"note_html", "note_explorer"} <= set(views)
    for name, parameters in views.items():
        assert parameters["show_credentialed_text"].default is False, name
        if "corpus" not in parameters:  # which says itself whether it is open
            assert parameters["open_text"].default is inspect.Parameter.empty, name


# -- papermill -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("out", "ignored"), [("out.ipynb", False), ("runs/out.ipynb", True)])
def test_where_papermill_writes(
    checkout: Path, out: str, ignored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Process(SimpleNamespace):
        def cmdline(self) -> list[str]:
            return self.words

        def cwd(self) -> str:
            return str(checkout)

    words = ["python", "/usr/bin/papermill", "--cwd", "book", "in.ipynb", out, "-p", "seed", "1"]
    parents = [Process(words=["sh"]), Process(words=words)]
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    monkeypatch.setattr("psutil.Process.parents", lambda self: parents)
    assert privacy._papermill_output() == checkout / out
    if ignored:
        privacy.announce("secret", "0" * 64)
    else:
        with pytest.raises(MarnError, match="let papermill write to runs/"):
            privacy.announce("secret", "0" * 64)
    parents[1].words = ["python", "-m", "papermill", "in.ipynb", "/elsewhere/out.ipynb"]
    assert privacy._papermill_output() == Path("/elsewhere/out.ipynb")
    privacy.announce("secret", "0" * 64)  # no work tree there
    parents[1].words = ["jupyter-lab"]
    assert privacy._papermill_output() is None


def test_papermill_is_stopped_before_it_saves_a_credentialed_output(checkout: Path) -> None:
    source = "import marn; data = marn.Corpus.load(corpus); print(data['train'].text(0))"
    book = nbformat.read(notebook(checkout / "in.ipynb", corpus="data/secret"), as_version=4)
    book.cells[1].source = source
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, checkout / "in.ipynb")
    (checkout / "runs").mkdir()
    line = [sys.executable, "-m", "papermill", "in.ipynb"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    runs = [
        subprocess.Popen([*line, out], cwd=checkout, env=environment, stderr=subprocess.PIPE)
        for out in ("out.ipynb", "runs/out.ipynb")
    ]
    errors = [run.communicate(timeout=120)[1].decode() for run in runs]
    assert runs[0].returncode
    assert "let papermill write to runs/" in errors[0]
    stopped = nbformat.read(checkout / "out.ipynb", 4)
    assert "MarnError" in str(stopped)
    assert "word" not in str([cell.get("outputs", []) for cell in stopped.cells])
    assert runs[1].returncode == 0, errors[1]
    stored = nbformat.read(checkout / "runs" / "out.ipynb", 4)
    assert "word" in str(stored.cells[-1].outputs)
    # and if somebody moves it
    found = examine(written(checkout.parent / "moved.ipynb", nbformat.writes(stored)))
    assert any("carries the mark of a credentialed corpus" in reason for reason in found)
