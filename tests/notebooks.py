"""Notebooks run without a kernel, which takes seconds to start."""

import ast
from pathlib import Path
from typing import Any

import torch
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook


def run_here(path: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """Run a notebook's cells in this process, with the parameters as papermill puts them in.

    Returns:
        The names that the cells define.
    """
    cells = parameterize_notebook(load_notebook_node(str(path)), parameters).cells
    (injected,) = [cell for cell in cells if "injected-parameters" in cell.metadata.tags]
    lines = injected.source.splitlines()[1:]  # below papermill's comment
    assigned = dict(line.split(" = ", 1) for line in lines)
    assert {key: ast.literal_eval(value) for key, value in assigned.items()} == parameters
    names: dict[str, Any] = {"__name__": path.stem, "display": repr}
    number_type = torch.get_default_dtype()
    try:
        for number, cell in enumerate(cells):
            if cell.cell_type == "code" and "skip-execution" not in cell.metadata.get("tags", []):
                exec(compile(cell.source, f"{path.stem}, cell {number}", "exec"), names)
    finally:
        torch.set_default_dtype(number_type)  # which a chapter may change
    return names
