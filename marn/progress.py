"""Lines that tell a waiting person how far long work is and how long it will still take."""

from __future__ import annotations

import sys
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


class Progress:
    """Reports work of a known number of steps: transient in a terminal, line by line elsewhere.

    Args:
        total: number of steps.
        stream: where to write; standard output by default, None for silence.
        done: steps that were done before this start (work that was resumed).
    """

    def __init__(self, total: int, *, stream: TextIO | None, done: int = 0) -> None:
        self.total = total
        self.stream = stream
        self.start = self.done = done
        self.began = self._shown = time.monotonic()

    def left(self) -> float:
        """Seconds that the remaining steps will take at the pace so far; nan before the first."""
        steps = self.done - self.start
        elapsed = time.monotonic() - self.began
        return elapsed / steps * (self.total - self.done) if steps else float("nan")

    def step(self, text: str) -> None:
        """Count a step; a terminal shows `text` and the time left, twice a second at most."""
        self.done += 1
        now = time.monotonic()
        if self.stream is not None and self.stream.isatty() and now - self._shown > 0.5:
            self._shown = now
            self.stream.write(f"\r\x1b[K{text}, {duration(self.left())} left")
            self.stream.flush()

    def line(self, text: str) -> None:
        """Write a line that stays, in place of a transient one."""
        if self.stream is not None:
            self.stream.write(f"\r\x1b[K{text}\n" if self.stream.isatty() else f"{text}\n")
            self.stream.flush()


def standard(quiet: bool) -> TextIO | None:
    """Choose the stream: standard output as it is now (a notebook replaces it), or none."""
    return None if quiet else sys.stdout
