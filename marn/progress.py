"""How far long work is: tqdm's bar in a terminal or a notebook, plain lines in a log or a pipe."""

import os
import time
from typing import TextIO


def duration(seconds: float) -> str:
    """Write a time in words: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(count: int, noun: str) -> str:
    """Write a number of things: "1 admission", "1,200 admissions"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


class Progress:
    """Progress of work.

    A bar is shown where somebody watches, and is gone when the work ends. The environment variable
    `TQDM_DISABLE` turns it off, as for the chapters of the book, whose outputs are stored.

    Attributes `done` and `bar` are the steps so far, and tqdm's bar or None.

    Args:
        total: number of steps; None if nobody knows.
        stream: where to write; None for silence.
        done: steps completed before, if the work was resumed.
        unit: what a step is called.
    """

    def __init__(
        self, total: int | None, *, stream: TextIO | None, done: int = 0, unit: str = "step"
    ) -> None:
        self.total, self.stream, self.done = total, stream, done
        self._start, self._began = done, time.monotonic()
        self.bar = None
        in_notebook = type(stream).__module__.startswith("ipykernel")
        if stream is None or os.environ.get("TQDM_DISABLE") or not (in_notebook or stream.isatty()):
            return
        from tqdm.auto import tqdm  # imported only where it is seen

        tqdm.monitor_interval = 0  # no thread, since processes may be forked from this one
        file = None if in_notebook else stream
        self.bar = tqdm(total=total, initial=done, unit=unit, leave=False, file=file)

    def left(self) -> float:
        """Return the seconds that the rest will take at the pace so far; nan before a step."""
        steps = self.done - self._start
        if self.total is None:
            return float("nan")
        elapsed = time.monotonic() - self._began
        return elapsed / steps * (self.total - self.done) if steps else float("nan")

    def step(self, text: str, count: int = 1) -> None:
        """Count steps; `text` is shown before the bar."""
        self.done += count
        if self.bar is not None:
            self.bar.set_description_str(text, refresh=False)
            self.bar.update(count)

    def line(self, text: str) -> None:
        """Write a line that stays."""
        if self.bar is not None:
            self.bar.write(text, file=self.stream)
        elif self.stream is not None:
            self.stream.write(f"{text}\n")
            self.stream.flush()

    def close(self) -> None:
        """Take the bar away, so that lines can follow it."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
