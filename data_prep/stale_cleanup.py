"""What a killed preparation leaves beside its corpus, and how the next one removes it.

A corpus is written in a folder ``NAME.xxxxxxxx.partial`` beside its place and then renamed
(`data_prep.corpus_writer.replacing`). Errors and Ctrl-C remove that folder; a process that is
killed cannot.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_prep.note_store import Progress


@contextmanager
def swept(out: Path, progress: Progress) -> Iterator[None]:
    """Remove what killed preparations of a corpus left, unless one may be at work beside it.

    Within this context the process holds a shared lock on the parent folder of `out`, which ends
    with the process. Only a process that gets the lock exclusively removes anything.
    """
    out = out.resolve()
    try:
        folder = os.open(out.parent, os.O_RDONLY)
    except OSError:  # not there yet, and so nothing in it
        yield
        return
    try:
        with suppress(OSError):  # another process is at work, or the file system has no locks
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _sweep(out, progress)
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_SH)
        yield
    finally:
        os.close(folder)


def _sweep(out: Path, progress: Progress) -> None:
    left = re.compile(rf"{re.escape(out.name)}\.[a-z0-9_]{{8}}\.(partial|former)")
    for path in sorted(out.parent.iterdir()):
        match = left.fullmatch(path.name)
        if match is None:
            continue
        if match[1] == "former" and not out.exists():
            path.rename(out)  # killed between two renamings: the corpus as it was
            progress(f"{out}: put back after an interruption")
        else:
            shutil.rmtree(path, ignore_errors=True)
            done = "cannot be removed; remove it yourself" if path.exists() else "removed"
            progress(f"{path}, left by an interruption: {done}")
