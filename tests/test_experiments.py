"""The book's experiments run from end to end, on a made-up folder in the dialect of their data."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import main as prepare
from marn.corpus import Corpus

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "experiments"))

import codiesp  # noqa: E402
import real_text  # noqa: E402

SIGNS = {
    "r50.9": "fever",
    "r05": "cough",
    "i10": "hypertension",
    "r19.7": "diarrhea",
    "e11.9": "diabetes",
    "j18.9": "pneumonia",
}
FILLER = re.findall(
    r"\w+", "the patient was seen in our clinic and went home after some days without pain"
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cases that name their codes by one word each, as data_prep reads them from CodiEsp."""
    folder = tmp_path_factory.mktemp("codiesp")
    rng = np.random.default_rng(0)
    for split, cases in (("train", 40), ("dev", 13)):
        texts = folder / "raw" / split / "text_files_en"
        texts.mkdir(parents=True)
        rows = []
        for case in range(cases):
            name = f"{split}-{case:02d}"
            mine = rng.choice(sorted(SIGNS), rng.integers(1, 4), replace=False)
            words = [*rng.choice(FILLER, 12), *(SIGNS[code] for code in mine)]
            (texts / f"{name}.txt").write_text(" ".join(rng.permutation(words)))
            rows += [f"{name}\t{code}" for code in mine]
        (folder / "raw" / split / f"{split}D.tsv").write_text("\n".join(rows) + "\n")
    out = folder / "codiesp_en5"
    line = ["codiesp", "--raw", str(folder / "raw"), "--out", str(out), "--min-train", "5"]
    assert prepare([*line, "--vectors", "none"]) == 0
    return out


def options(corpus: Path, folder: Path) -> list[str]:
    small = shlex.split("--seeds 0 1 --width 8 --length 20 --epochs 1 --caml-epochs 1")
    places = ["--corpus", str(corpus), "--out", str(folder / "made" / "codiesp_en.json")]
    return [*places, "--runs", str(folder / "runs"), *small]


@pytest.fixture(scope="module")
def result(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("result")
    script = ROOT / "book" / "experiments" / "codiesp.py"
    done = subprocess.run(
        [sys.executable, str(script), *options(corpus, folder)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"seed 0 done; about .* left", done.stdout)
    return folder


def test_the_result_says_what_was_measured_and_how(result: Path) -> None:
    found = json.loads((result / "made" / "codiesp_en.json").read_text())
    assert set(found) == {
        *("command", "seeds", "corpus", "baseline", "provenance", "fits"),
        *("seconds", "rows", "summary", "differences"),
    }
    assert found["seeds"] == [0, 1]
    assert found["corpus"]["notes"] == {"train": 40, "dev, to choose": 7, "dev, scored": 6}
    assert found["corpus"]["licence"] == "CC BY 4.0"
    assert {"commit", "cpu_capability", "threads", "torch", "numpy", "sklearn"} <= set(
        found["provenance"]
    )
    assert {fit["parameters"] > 0 for fit in found["fits"]} == {True}
    systems = {"frequency": 1, "lr": 1, "lr_balanced": 1, "caml": 2, "marn": 2}
    rows = found["rows"]
    assert len(rows) == sum(systems.values()) * 2 * 2  # two tasks, two thresholds
    for row in rows:
        assert {"micro_f1", "macro_f1_caml", "macro_f1_all", "macro_f1_present"} <= set(row)
        assert row["rule"] != "0.5" or row["threshold"] == 0.5
    for line in found["summary"]:
        assert line["seeds"] == systems[line["system"]]
        assert (line["sd"] is None) == (line["seeds"] == 1)
    assert {line["system"] for line in found["differences"]} == set(systems) - {"lr"}
    for line in found["differences"]:
        assert line["low"] <= line["difference"] <= line["high"] or line["figure"] == "micro_f1"


def test_the_result_holds_no_text_no_case_and_no_path(result: Path, corpus: Path) -> None:
    written = (result / "made" / "codiesp_en.json").read_text()
    for word in ("train-", "dev-", str(result), str(corpus.parent), "/tmp", "/home", "clinic"):
        assert word not in written, word
    assert "hypertension" not in written
    command = json.loads(written)["command"]
    assert command.startswith("python book/experiments/codiesp.py --corpus data/codiesp_en5")
    assert "--seeds 0 1" in command


def test_it_goes_on_from_its_runs_and_finds_the_same(
    result: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = options(corpus, result)
    line[line.index("--out") + 1] = str(tmp_path / "codiesp_en.json")
    assert codiesp.main(line) == 0
    assert "1 epochs were done before" in capsys.readouterr().out
    first = json.loads((result / "made" / "codiesp_en.json").read_text())
    second = json.loads((tmp_path / "codiesp_en.json").read_text())
    for key in ("rows", "summary", "differences", "command", "corpus"):
        assert first[key] == second[key]


def test_the_scored_half_chooses_nothing(corpus: Path) -> None:
    whole = Corpus.load(corpus)
    halves = codiesp.Halves(whole)
    chosen, scored = list(halves["dev"].ids), list(halves["test"].ids)
    assert sorted(chosen + scored) == sorted(whole["dev"].ids)
    assert not set(chosen) & set(scored)
    place = list(whole["dev"].ids).index(scored[0])
    assert np.array_equal(halves["test"].targets("icd")[0], whole["dev"].targets("icd")[place])
    assert np.array_equal(halves["test"].note_tokens(0), whole["dev"].note_tokens(place))
    # what the scored half holds moves no threshold
    rng = np.random.default_rng(0)
    shape = halves["dev"].targets("icd").shape
    said = [codiesp.Said("lr", None, "icd", rng.random(shape), rng.random((len(scored), shape[1])))]
    other = [codiesp.Said("lr", None, "icd", said[0].chosen, rng.random((len(scored), shape[1])))]
    thresholds = [[r["threshold"] for r in codiesp.rows_of(s, halves)] for s in (said, other)]
    assert thresholds[0] == thresholds[1]


def test_differences_by_hand() -> None:
    class Notes:
        def __len__(self) -> int:
            return 2

        def targets(self, task: str) -> np.ndarray:
            return np.array([[True, False], [False, True]])

    class Toy:
        tasks = {"icd": 2}  # noqa: RUF012

        def __getitem__(self, split: str) -> Notes:
            return Notes()

    right, wrong = np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([[0.1, 0.9], [0.9, 0.1]])
    said = [
        codiesp.Said("lr", None, "icd", wrong, wrong),
        codiesp.Said("marn", 0, "icd", right, right),
        codiesp.Said("marn", 1, "icd", wrong, wrong),
    ]
    rows = [
        {"system": s.system, "seed": s.seed, "task": "icd", "rule": "tuned", "threshold": 0.5}
        for s in said
    ]
    f1, average = codiesp.differences_of(said, rows, Toy())
    # lr: F1 0, average precision 1/2 each; marn: seeds 1 and 0, and 1 and 1/2
    assert (f1["figure"], f1["difference"], f1["low"], f1["high"]) == ("micro_f1", 0.5, 0.5, 0.5)
    assert (average["difference"], average["low"], average["high"]) == (0.25, 0.25, 0.25)


def test_a_missing_corpus_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--corpus", str(tmp_path / "none"), "--out", str(tmp_path / "out.json")]
    assert codiesp.main(line) == 2
    error = capsys.readouterr().err
    assert error.startswith("no corpus at")
    assert error.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_real_text_resumes_averages_and_names_no_place(corpus: Path, tmp_path: Path) -> None:
    line = shlex.split("--seeds 0 1 --width 8 --length 20 --epochs 1 --networks bigru_la_titles")
    line += ["--corpus", str(corpus), "--runs", str(tmp_path / "runs")]
    outs = [tmp_path / "real_text_en5.json", tmp_path / "again" / "real_text_en5.json"]
    for out in outs:
        assert real_text.main([*line, "--out", str(out)]) == 0
    first, second = (json.loads(out.read_text()) for out in outs)
    assert first["rows"] == second["rows"]
    assert [fit["seconds"] for fit in first["fits"]] == [fit["seconds"] for fit in second["fits"]]
    systems = {
        "words": 1,
        "characters": 1,
        "titles": 1,
        "stack": 2,
        "bigru_la_titles": 2,
        "average": 2,
    }
    assert len(first["rows"]) == sum(systems.values()) * 2 * 2  # two tasks, two thresholds
    assert {x["system"]: x["seeds"] for x in first["summary"]} == systems
    assert {x["system"] for x in first["differences"]} == set(systems) - {"words"}
    assert {x["minus"] for x in first["differences"]} == {"words"}
    assert "--corpus data/codiesp_en5" in first["command"]
    for word in ("train-", "dev-", str(tmp_path), "clinic", "hypertension"):
        assert word not in outs[0].read_text(), word
    stack = next(fit for fit in first["fits"] if fit["system"] == "stack")
    assert {len(weights) for weights in stack["weights"].values()} == {5}  # members, odds, bias


def test_real_text_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--corpus", str(tmp_path / "none"), "--out", str(tmp_path / "out.json")]
    assert real_text.main(line) == 2
    assert capsys.readouterr().err.startswith("no corpus at")
