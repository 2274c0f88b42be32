"""Keep note text under a data use agreement from being shown or shared.

The card of a corpus says whether its text is open or credentialed. If it is credentialed:

* what returns or shows note text (`Split.text`, `Vocabulary.decode`, `marn.explain.note_html`,
  `marn.widgets.note_explorer`) asks `check_may_show`, which refuses credentialed text in a notebook
  unless the person who started the notebook's program allowed it;
* loading a credentialed corpus logs a line that names it, which marks every notebook and log made
  from it (`announce`);
* `marn predict` does not write the text to files that git does not ignore (`check_may_write`);
* `python -m data_prep.commit_check` refuses to commit files with this line, files that it cannot
  examine, and files that share words with a credentialed corpus on this machine.
"""

import logging
import os
import re
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from marn.errors import MarnError

log = logging.getLogger(__name__)

MINIMUM_CELL: Final = 11
"""Smallest number of notes, patients, admissions or rows, other than 0, that may be published.

MIMIC's agreement does not name a number. This one is from the Cell Size Suppression Policy of CMS,
which maintains the codes: no cell of 1 to 10 "admissions, discharges, patients, services" (ResDAC,
version of 26 January 2024). The policy also bars figures from which such a cell can be computed;
no program can check that, so authors must."""

SWITCH: Final = "MARN_SHOW_CREDENTIALED"
"""Environment variable that, set to 1, allows a notebook to show credentialed text.

A notebook saves what it shows, and a kernel cannot know where: papermill, nbconvert, JupyterLab and
the rest do not tell it. So the person who starts one of these decides, for that session."""

_KERNEL: Final = re.compile(r"ipykernel|(^|/)kernel-[^/]*\.json$")  # a kernel's command line


def check_may_show(open_text: bool, show_credentialed_text: bool) -> None:
    """Refuse to show credentialed text unless the caller asked for it by name.

    In a notebook, and in programs that a notebook starts, `SWITCH` must be set as well.

    Args:
        open_text: whether the text is open, as `corpus.is_open` says.
        show_credentialed_text: show it anyway.

    Raises:
        MarnError: the text is credentialed and may not be shown here.
    """
    if open_text:
        return
    if not show_credentialed_text:
        raise MarnError(
            "this text is under a data use agreement and is not shown, since outputs get saved and "
            "shared; if only credentialed readers will see it, pass show_credentialed_text=True"
        )
    if _in_notebook() and os.environ.get(SWITCH) != "1":
        raise MarnError(
            "this text is under a data use agreement, and a notebook saves what it shows; if only "
            f"credentialed readers will see the saved file, set {SWITCH}=1 before you start "
            "JupyterLab, papermill or nbconvert"
        )


def check_may_write(path: Path | None, open_text: bool, show_credentialed_text: bool) -> None:
    """Refuse to write text that is not open to a file that git does not ignore, or to a notebook.

    Args:
        path: file to write, which need not exist; None for standard output, which may be a file.
        open_text: whether the text is open.
        show_credentialed_text: write it anyway.

    Raises:
        MarnError: the file would be in a git work tree that does not ignore it, or a notebook reads
            the output.
    """
    if path is None:
        check_may_show(open_text, show_credentialed_text=True)
    if open_text or show_credentialed_text:
        return
    if path is None:
        out = Path("/dev/stdout").resolve()
        path = out if out.is_file() else None
    if path is not None and _could_be_committed(path.resolve()):
        raise MarnError(
            f"this text is under a data use agreement, and git does not ignore {path.name} in "
            f"{path.resolve().parent.name}/; write it to runs/, or pass --show-credentialed-text"
        )


def mark(name: str, digest: str) -> str:
    """Return the line that marks output as made from a credentialed corpus.

    The commit check refuses files that contain it.

    Args:
        name: name of the corpus.
        digest: its hash.
    """
    name = "".join(sign for sign in name if sign.isprintable())  # the card may be of a stranger
    return (
        f"{name} [credentialed corpus {digest[:12]}]: its text is confidential; what is shown or "
        "written from here on stays on this machine, only aggregates may leave it"
    )


def announce(name: str, digest: str) -> None:
    """Log the `mark` of a corpus, so that logs and notebooks contain it."""
    log.warning("%s", mark(name, digest))


def _in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook, or was started by one."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel") or "JPY_PARENT_PID" in os.environ or _below_kernel()


@cache
def _below_kernel() -> bool:
    """Return whether a kernel is an ancestor of this process, whatever its environment."""
    with suppress(ImportError):  # where there is a kernel of Python, there is psutil
        import psutil

        with suppress(psutil.Error):
            above = [text for one in psutil.Process().parents() for text in one.cmdline()]
            return any(_KERNEL.search(text) for text in above)
    return False


def _could_be_committed(path: Path) -> bool:
    """Return whether git could commit a file, which need not exist: it is not ignored."""
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
    if asked.returncode == 128:  # not a work tree, or one of another user, which git does not enter
        return any((parent / ".git").exists() for parent in path.parents)
    return asked.returncode == 1
