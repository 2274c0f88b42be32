import io
import sys

import pytest

from marn import progress as module
from marn.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_time_left_by_hand(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    progress = Progress(10, stream=None, done=4)  # four were done before: six are to do
    assert progress.left() != progress.left()
    now[0] += 6
    progress.step("working")  # one step in 6 s: five left
    assert progress.left() == 30


def test_a_terminal_shows_a_bar_and_keeps_the_lines(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    stream = Terminal()
    progress = Progress(10, stream=stream, done=4, unit="note")
    assert progress.bar is not None
    progress.step("working", 6)
    progress.line("kept")
    assert "working: 100%" in stream.getvalue()
    assert "10/10" in stream.getvalue()
    assert "kept\n" in stream.getvalue()
    del progress  # with the work, the bar is gone
    assert stream.getvalue().rpartition("\r")[0].endswith(" " * 20)


def test_a_bar_can_be_turned_off(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    stream = Terminal()
    progress = Progress(2, stream=stream)
    progress.step("working")
    progress.line("kept")
    assert stream.getvalue() == "kept\n"


def test_a_log_gets_a_line_a_minute(monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    known, unknown = Progress(10, stream=sys.stdout), Progress(None, stream=sys.stdout, unit="note")
    for _ in range(5):
        now[0] += 40
        known.step("step")
        unknown.step("coding")
    wanted = "step: 5 min 20 s left", "coding: 2 notes", "step: 4 min 00 s left", "coding: 4 notes"
    assert capsys.readouterr().out.splitlines() == [*wanted]


def test_only_whole_lines_outside_a_terminal(capsys):
    progress = Progress(2, stream=sys.stdout)
    progress.step("working")
    progress.line("kept")
    assert capsys.readouterr().out == "kept\n"
    assert progress.bar is None
    Progress(2, stream=None).line("nowhere")
