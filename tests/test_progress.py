import io

import pytest

from marn import progress as module
from marn.progress import Progress, duration, standard


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
    stream = Terminal()
    progress = Progress(10, stream=stream, done=4)  # four were done before: six are to do
    assert progress.left() != progress.left()
    now[0] += 6
    progress.step("working")  # one step in 6 s: five left
    assert progress.left() == 30
    assert "working, 30 s left" in stream.getvalue()
    progress.line("kept")
    assert stream.getvalue().endswith("kept\n")


def test_only_whole_lines_outside_a_terminal(capsys):
    progress = Progress(2, stream=standard(quiet=False))
    progress.step("transient")
    progress.line("kept")
    assert capsys.readouterr().out == "kept\n"
    assert standard(quiet=True) is None
    Progress(2, stream=None).line("nowhere")
