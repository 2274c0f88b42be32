"""Chapters as programs: papermill runs them with other parameters."""

import ast
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

import chapters
from chapters import BOOK

TEXTS = chapters.texts()
RUNS: dict[str, dict[str, Any]] = {  # quick ones, other than what is stored
    "03_marn": {"hidden_size": 20, "seed": 1},
    "05_training": {
        "model": "caml",
        "model_args": {"filters": 20, "max_length": 100},
        "train_args": {"epochs": 2, "batch_size": 32},
        "seed": 1,
        "train_notes": 100,
    },
}


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_parameters_are_understood(text: Path) -> None:
    found = papermill.inspect_notebook(text.with_suffix(".ipynb"))
    assert found
    for name, parameter in found.items():
        assert parameter["inferred_type_name"] != "None", f"{name} has no type"


@pytest.mark.parametrize(("name", "parameters"), RUNS.items())
def test_a_chapter_runs_with_other_parameters(
    name: str, parameters: dict[str, Any], tmp_path: Path
) -> None:
    if name == "05_training":
        parameters = parameters | {"run_dir": str(tmp_path / "run")}
    run = papermill.execute_notebook(
        BOOK / f"{name}.ipynb",
        tmp_path / "run.ipynb",
        parameters=parameters,
        cwd=BOOK,
        progress_bar=False,
        execution_timeout=300,
    )
    injected = [cell for cell in run.cells if "injected-parameters" in cell.metadata.tags]
    assert len(injected) == 1
    assigned = injected[0].source.splitlines()[1:]  # below papermill's comment
    values = dict(line.split(" = ", 1) for line in assigned)
    assert {key: ast.literal_eval(value) for key, value in values.items()} == parameters
    stored = papermill.inspect_notebook(BOOK / f"{name}.ipynb")
    for key, value in parameters.items():
        assert stored[key]["default"] != str(value), f"{key} is what the chapter has anyway"


def test_a_chapter_finds_its_data_without_cwd(tmp_path: Path) -> None:
    book = nbformat.read(BOOK / "09_audit.ipynb", as_version=4)
    loads = next(i for i, cell in enumerate(book.cells) if "Corpus.load(" in cell.source)
    book.cells = book.cells[: loads + 1]
    nbformat.write(book, tmp_path / "begin.ipynb")
    run = papermill.execute_notebook(
        tmp_path / "begin.ipynb", tmp_path / "run.ipynb", cwd=chapters.ROOT, progress_bar=False
    )
    assert "Corpus('teaching'" in str(run.cells[-1].outputs)
