"""Benchmarks in their quick form: they run, both sides agree, and nothing is said about time."""

import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import benchmarks as bench
import numpy as np
import pytest
from benchmarks import preparation, scores
from benchmarks.__main__ import main

from marn import MarnError


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    """Measure the peak with products of small matrices: of large ones it takes seconds."""
    small = partial(bench.peak_pace, 128)
    for module in (bench, bench.available()["anatomy"]):
        monkeypatch.setattr(module, "peak_pace", small)


@pytest.mark.parametrize("name", sorted(bench.available()))
def test_runs_and_both_sides_agree(name):
    module = bench.available()[name]
    figures = module.measure(quick=True)
    assert {bar.figure for bar in module.BARS} <= set(figures)
    assert all(math.isfinite(value) for value in figures.values())
    rows = bench.table(name, module, figures)
    assert all(row["met"] for row in rows if row["unit"] == "apart")
    assert module.__doc__.strip()


def test_bars():
    least, most = bench.Bar("a", "a", least=2.0), bench.Bar("b", "b", most=0.3, unit="ms")
    assert (str(least), str(most)) == (">= 2 x", "<= 0.3 ms")
    assert [least.met(x) for x in (1.9, 2.0, 2.1)] == [False, True, True]
    assert [most.met(x) for x in (0.2, 0.3, 0.31)] == [True, True, False]
    assert not most.met(math.nan)


def test_sides_that_differ_are_refused():
    bench.agree("x", [1.0, 2.0], np.array([1.0, 2.1]), 0.2)
    for theirs in ([1.0, 2.1], [1.0, math.nan]):
        with pytest.raises(MarnError, match=r"differ by .* in x"):
            bench.agree("x", [1.0, 2.0], theirs, 0.05)


def test_sides_take_turns():
    turns = []
    found = bench.interleaved({side: lambda s=side: turns.append(s) for side in "ab"}, repeats=3)
    assert "".join(turns) == "ababab"
    assert set(found) == {"a", "b"}


def hold(megabytes):
    """Work that holds some memory; its own input is as large."""
    given = np.ones(int(megabytes * 1e6), np.uint8)
    return lambda: given.copy()


def test_memory_of_work_with_and_without_its_input():
    assert bench.peak(hold, whole=False, megabytes=200) == pytest.approx(200, abs=20)
    assert bench.peak(hold, whole=True, megabytes=200) == pytest.approx(400, abs=30)


def test_the_reference_of_preparation_is_that_of_the_papers(tmp_path):
    preparation.write_raw(tmp_path / "raw", 20, tmp_path / "lists")
    preparation.three_passes(tmp_path / "raw", tmp_path / "lists", tmp_path / "out")
    words = json.loads((tmp_path / "out" / "vocabulary.json").read_text())
    assert words == sorted(words)
    assert not any(word.isnumeric() or word != word.lower() for word in words)
    first = (tmp_path / "out" / "2_train.csv").read_text().splitlines()[0].split(",")
    tokens = np.load(tmp_path / "out" / "train.tokens.npy")[: len(first[1].split())]
    decoded = [words[n - 1] if n <= len(words) else None for n in tokens]
    assert all(d in (None, w) for d, w in zip(decoded, first[1].split(), strict=True))


def test_scores_by_hand():
    # Each code's positive is above its negatives; of all eight pairs one is a tie (0.6 and 0.6).
    found = scores.by_code(
        np.array([[0.9, 0.2], [0.4, 0.6], [0.6, 0.1]]), np.array([[1, 0], [0, 1], [0, 0]], bool)
    )
    assert (found["macro_auc"], found["micro_auc"]) == (1.0, 7.5 / 8)
    assert found["micro_f1"] == pytest.approx(2 * 2 / (3 + 2))


def test_an_unknown_benchmark_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "speed"])
    assert main() == 2
    assert "no benchmark is named 'speed'; there are anatomy, attention" in capsys.readouterr().err


def test_command_line(tmp_path):
    line = ["collation", "--scale", "quick", "--json", str(tmp_path / "kept.json")]
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks", *line],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    assert made.returncode == 0, made.stderr
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert kept["scale"] == "quick"
    made_on = kept["benchmarks"]["collation"]["provenance"]
    assert made_on["threads"] == 1
    assert made_on["processor"]
    assert made_on["peak_pace"] > 0
    assert "16 notes" in made.stdout


def test_a_file_keeps_what_other_benchmarks_wrote(tmp_path):
    path = tmp_path / "kept.json"
    bench.keep(path, "full", {"b": {"figures": {"x": 1}}})
    bench.keep(path, "full", {"a": {"figures": {"x": 2}}})
    assert list(json.loads(path.read_text())["benchmarks"]) == ["a", "b"]
    with pytest.raises(MarnError, match="of scale 'full'"):
        bench.keep(path, "quick", {})


def test_a_file_says_what_each_bar_means_and_what_was_not_run(tmp_path):
    path = tmp_path / "kept.json"
    bench.keep(path, "full", {"gru": {"figures": {"growth": 2.5}}})
    bars = {(row["benchmark"], row["figure"]): row for row in json.loads(path.read_text())["bars"]}
    assert len(bars) == sum(len(module.BARS) for module in bench.available().values())
    growth = bars["gru", "growth"]
    assert (growth["kind"], growth["bound"], growth["met"]) == ("at most", 2.2, False)
    assert growth["meaning"] == "ratio to the reference"
    assert {row["met"] for key, row in bars.items() if key[0] != "gru"} == {None}


def test_share_of_the_peak():
    pace = bench.peak_pace()
    assert pace > 0
    assert bench.share_of_peak(pace, 4.0) == pytest.approx(0.25)


def test_a_program_is_watched_alone():
    held = np.ones(40_000_000)  # 320 MB that are not the program's
    small = preparation.program("-c", "1")
    large = preparation.program("-c", "x = bytearray(100_000_000)")
    assert held.sum() > 0
    assert small.mb < 60
    assert large.mb - small.mb == pytest.approx(100, abs=5)
    assert small.wall > 0
    assert small.cpu > 0
    with pytest.raises(MarnError, match=r"ended with status 1: oh"):
        preparation.program("-c", "raise SystemExit('oh')")


def test_both_shapes_of_the_three_passes_make_the_same(tmp_path):
    raw, lists = tmp_path / "raw", tmp_path / "lists"
    preparation.write_raw(raw, 40, lists)
    made = []
    for hold in (False, True):
        preparation.three_passes(raw, lists, tmp_path / str(hold), hold=hold)
        files = sorted((tmp_path / str(hold)).iterdir())
        made.append({path.name: path.read_bytes() for path in files})
    assert made[0] == made[1]
