"""Chapters as programs: papermill runs them with other parameters."""

from pathlib import Path

import papermill
import pytest

from marn.site import chapters
from marn.site.chapters import BOOK

TEXTS = chapters.texts()
RUNS = {"03_marn": {"hidden_size": 20, "seed": 1}}  # quick ones, other than what is stored


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_parameters_are_understood(text: Path) -> None:
    found = papermill.inspect_notebook(text.with_suffix(".ipynb"))
    assert found
    for name, parameter in found.items():
        assert parameter["inferred_type_name"] != "None", f"{name} has no type"


@pytest.mark.parametrize(("name", "parameters"), RUNS.items())
def test_a_chapter_runs_with_other_parameters(
    name: str, parameters: dict[str, int], tmp_path: Path
) -> None:
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
    assert assigned == [f"{key} = {value}" for key, value in parameters.items()]
    stored = papermill.inspect_notebook(BOOK / f"{name}.ipynb")
    for key, value in parameters.items():
        assert stored[key]["default"] != str(value), f"{key} is what the chapter has anyway"
