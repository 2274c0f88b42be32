"""Protect note text under a data use agreement: when it is shown, and where it is written.

The card of a corpus says whether its text is open or credentialed. From there:

* a view of note text (`marn.explain.note_html`, `marn.widgets.note_explorer`) refuses
  credentialed text unless you pass `show_credentialed_text=True` (`check_may_show`);
* loading a credentialed corpus logs a line that names it, which marks every notebook and log made
  from it; under papermill, loading is refused if the executed notebook would be written to a git
  work tree that does not ignore it (`announce`);
* `python -m data_prep.commit_check` refuses files that carry the mark or look like MIMIC's, and
  results that hold more than aggregates.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Final

from marn.errors import MarnError

__all__ = ["MINIMUM_CELL", "announce", "check_may_show"]

log = logging.getLogger(__name__)

MINIMUM_CELL: Final = 11
"""Smallest number of notes, patients, admissions or rows, other than 0, that is published.

MIMIC's agreement names no number. This is that of the Cell Size Suppression Policy of CMS, the
agency behind the codes: no cell of 1 to 10 "admissions, discharges, patients, services" (ResDAC,
version of 26 January 2024). The policy also bars figures from which such a cell can be computed,
which no program can see: that remains with the author."""


def check_may_show(open_text: bool, show_credentialed_text: bool) -> None:
    """Refuse to show credentialed text unless the caller asked for it by name.

    Args:
        open_text: whether the text is open, `corpus.is_open`.
        show_credentialed_text: whether the caller asked for it anyway.

    Raises:
        MarnError: the text is credentialed and the caller did not ask for it.
    """
    if not (open_text or show_credentialed_text):
        raise MarnError(
            "this text is under a data use agreement and is not shown, since outputs get saved and "
            "shared; if only credentialed readers will see it, pass show_credentialed_text=True"
        )


def announce(name: str, digest: str) -> None:
    """Log that a corpus is credentialed, which marks whatever is made from it.

    The line goes to the log (standard error unless logging is configured), and so into the outputs
    of a notebook.

    Args:
        name: name of the corpus.
        digest: its hash.

    Raises:
        MarnError: papermill, started from a command line, executes the notebook and would write it
            to a git work tree that does not ignore the file.
    """
    target = _papermill_output()
    if target is not None and _could_be_committed(target):
        raise MarnError(
            f"the text of {name} is under a data use agreement, and {target.name} would be written "
            f"to {target.parent.name or target.parent}/, which git does not ignore; let papermill "
            "write to runs/"
        )
    log.warning(
        "%s [credentialed corpus %s]: its text is under a data use agreement; what is shown or "
        "written from here on stays on this machine, only aggregates may leave it",
        name,
        digest[:12],
    )


def _papermill_output() -> Path | None:
    """Return the path to which papermill will write this kernel's notebook, None without papermill.

    Papermill does not tell the kernel, so its own command line is read. A script that calls
    `papermill.execute_notebook` is not recognised; its notebook is still marked.
    """
    if "ipykernel" not in sys.modules:
        return None
    psutil = import_module("psutil")  # installed with ipykernel
    for parent in psutil.Process().parents():
        try:
            words, folder = parent.cmdline(), parent.cwd()
        except psutil.Error:
            return None
        # python …/bin/papermill IN OUT, or python -m papermill IN OUT
        place = next((i for i, word in enumerate(words[:3]) if Path(word).stem == "papermill"), -1)
        if place >= 0:
            command = import_module("papermill.cli").papermill
            context = command.make_context("papermill", words[place + 1 :], resilient_parsing=True)
            out = context.params["output_path"]
            return Path(folder, out) if out and out != "-" else None
    return None


def _could_be_committed(path: Path) -> bool:
    """Tell whether a file, which need not exist, is in a git work tree that does not ignore it."""
    folder = next(parent for parent in path.parents if parent.is_dir())
    try:
        asked = subprocess.run(
            ["git", "check-ignore", "--quiet", "--", str(path)],
            cwd=folder,
            capture_output=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return False  # without git, nothing is committed
    return asked.returncode == 1  # 0: ignored; 128: not a work tree
