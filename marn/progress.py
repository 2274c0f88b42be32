"""Show the progress of long work: tqdm's bar in a terminal or notebook, plain lines in a log."""

import os
import time
from typing import TextIO

_SILENCE = 60.0  # seconds after which a log gets a line


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
    """Show the progress of work; `done` are the steps so far, `bar` is tqdm's bar or None.

    A terminal or a notebook gets a bar, which disappears when the work ends; a log gets a line when
    nothing was written for a minute. The environment variable `TQDM_DISABLE` turns both off, as for
    the chapters of the book, whose outputs are stored.

    Args:
        total: number of steps; None if unknown.
        stream: where to write; None writes nothing.
        done: steps completed before, if the work was resumed.
        unit: what a step is called.
    """

    def __init__(
        self, total: int | None, *, stream: TextIO | None, done: int = 0, unit: str = "step"
    ) -> None:
        self.total, self.stream, self.done = total, stream, done
        self.unit, self._start = unit, done
        self._began = self._written = time.monotonic()
        self.bar = None
        in_notebook = type(stream).__module__.startswith("ipykernel")
        self._disabled = stream is None or bool(os.environ.get("TQDM_DISABLE"))
        if stream is None or self._disabled or not (in_notebook or stream.isatty()):
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
        """Count steps; `text` names the last one. With an empty text a log gets no line."""
        self.done += count
        if self.bar is not None:
            self.bar.set_description_str(text, refresh=False)
            self.bar.update(count)
        elif text and not self._disabled and time.monotonic() - self._written >= _SILENCE:
            known = self.total is not None
            how_far = f"{duration(self.left())} left" if known else counted(self.done, self.unit)
            self.line(f"{text}: {how_far}")

    def line(self, text: str) -> None:
        """Write a line that stays."""
        self._written = time.monotonic()
        if self.bar is not None:
            self.bar.write(text, file=self.stream)
        elif self.stream is not None:
            self.stream.write(f"{text}\n")
            self.stream.flush()

    def close(self) -> None:
        """Remove the bar, so that lines can follow it."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
