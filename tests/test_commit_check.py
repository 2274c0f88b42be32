"""The commit check finds what was made from credentialed text."""

import json
import logging
import subprocess
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
import yaml
from checkouts import NOTE, ROOT, make_checkout, notebook, written

import marn
from data_prep import commit_check
from data_prep.commit_check import examine
from marn.corpus import Corpus
from marn.saving import save_model


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "checkout")


def test_nothing_that_is_tracked_was_made_from_credentialed_text() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert [line for path in files if path.is_file() for line in examine(path)] == []


def test_the_commit_hook_calls_the_check() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    (hook,) = [hook for hook in hooks if hook["id"] == "privacy"]
    assert hook["entry"].split() == [".venv/bin/python", "-m", "data_prep.commit_check"]
    assert set(hook) == {"id", "name", "entry", "language"}  # every file, none filtered out


def test_loading_a_credentialed_corpus_leaves_a_mark_that_the_check_finds(
    checkout: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="marn.privacy"):
        Corpus.load(checkout / "data" / "toy")
        assert caplog.text == ""
        corpus = Corpus.load(checkout / "data" / "secret")
    (record,) = caplog.records
    assert f"secret [credentialed corpus {corpus.hash[:12]}]" in record.getMessage()
    log = written(checkout / "train.log", f"epoch 1\n{record.getMessage()}\n")
    assert examine(log) == [
        "train.log: carries the mark of a credentialed corpus; keep it below data/ or runs/, which "
        "git ignores"
    ]
    shown = written(checkout / "log.txt", repr(corpus))
    assert "carries the mark" in examine(shown)[0]
    plain = written(checkout / "log3.txt", repr(Corpus.load(checkout / "data" / "toy")))
    assert examine(plain) == []


def test_the_hash_of_a_corpus_that_lies_here_is_a_mark_too(checkout: Path) -> None:
    digest = json.loads((checkout / "data" / "secret" / "card.json").read_text())["hash"]
    assert "carries the hash" in examine(written(checkout / "a.txt", f"corpus {digest}"))[0]
    assert "carries the hash" in examine(written(checkout / "a.md", f"corpus {digest}"))[0]
    assert examine(written(checkout / "b.txt", f"corpus {'0' * 64}")) == []
    # a result that forgot to say whose it is
    forgot = {"corpus": {"hash": digest}, "vocabulary": ["fever"]}
    assert "vocabulary is not on" in examine(written(checkout / "r.json", json.dumps(forgot)))[0]


def test_a_notebook_with_outputs_of_a_credentialed_corpus_is_refused(checkout: Path) -> None:
    given_ = notebook(
        checkout / "out.ipynb",
        {"text/plain": "0.61"},
        papermill={"parameters": {"corpus": "../data/secret"}},
    )
    assert examine(given_) == [
        "out.ipynb: its outputs come from a credentialed corpus (../data/secret); clear its "
        "outputs, or keep it below runs/"
    ]
    typed = notebook(checkout / "book" / "05.ipynb", {"text/plain": "1"}, corpus="../data/secret")
    assert "credentialed corpus (../data/secret)" in examine(typed)[0]
    assert examine(notebook(checkout / "book" / "06.ipynb", corpus="../data/secret")) == []
    fine = notebook(checkout / "book" / "07.ipynb", {"text/plain": NOTE}, corpus="../data/toy")
    assert examine(fine) == []
    # papermill's cell comes behind the notebook's own and wins
    both = nbformat.read(fine, as_version=4)
    injected = nbformat.v4.new_code_cell('# Parameters\ncorpus = "../data/secret"')
    injected.metadata.tags = ["injected-parameters"]
    both.cells.insert(1, injected)
    assert "credentialed corpus" in examine(written(fine, nbformat.writes(both)))[0]


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ({"stderr": f"x [credentialed corpus {'0' * 12}]: its text"}, "carries the mark"),
        ({"text/plain": f"Corpus('m': 8 train; 4 icd; text {'credentialed'})"}, "carries the mark"),
        ({"text/plain": NOTE}, "placeholder of MIMIC-III"),
        ({"text/html": f"<figure><mark>{NOTE}</mark></figure>"}, "placeholder of MIMIC-III"),
        ({"text/plain": "Name:  ___    Unit No:   ___"}, "blank of MIMIC-IV"),
        ({"text/plain": "10000032-DS-21"}, "note_id of MIMIC-IV"),
        ({"text/plain": str([str(145834 + i) for i in range(12)])}, "list of admissions"),
        ({"text/html": pd.DataFrame({"A": [1], "HADM_ID": [145834]}).to_html()}, "a HADM_ID of"),
        ({"text/html": pd.DataFrame({"hadm_id": ["20000019"]}).to_html()}, "a HADM_ID of"),
        (
            {
                "text/html": pd.DataFrame({"HADM_ID": [900001], "A": [1]}).to_html()
                + pd.DataFrame({"A": [1], "HADM_ID": [145834]}).to_html()
            },
            "a HADM_ID of",
        ),
        ({"text/plain": str(pd.DataFrame({"HADM_ID": [145834.0], "B": [1]}))}, "a HADM_ID of"),
        ({"text/plain": str(pd.DataFrame({"X": [7], "SUBJECT_ID": [10006]}))}, "a SUBJECT_ID of"),
    ],
)
def test_outputs_that_look_like_mimic_are_refused(
    checkout: Path, output: dict[str, str], reason: str
) -> None:
    found = examine(notebook(checkout / "n.ipynb", output))
    assert len(found) == 1, found
    assert reason in found[0]
    assert found[0].endswith("clear its outputs, or keep it below runs/")


def test_outputs_of_the_hospital_are_not(checkout: Path) -> None:
    table = pd.DataFrame(
        {"ROW_ID": [145834], "SUBJECT_ID": [800001], "HADM_ID": [900001], "TEXT": [NOTE]}
    )
    for data in ({"text/html": table.to_html()}, {"text/plain": str(table)}):
        path = notebook(checkout / "book" / "n.ipynb", data, corpus="../data/teaching")
        assert examine(path) == []
    growth = {"text/plain": str([100_000 + 9_000 * i for i in range(11)])}
    assert examine(notebook(checkout / "m.ipynb", growth)) == []


def test_a_run_on_credentialed_text_is_refused_file_by_file(checkout: Path) -> None:
    corpus = Corpus.load(checkout / "data" / "secret")
    model = marn.build("caml", corpus, filters=4)
    run = checkout / "results" / "run"
    save_model(run, model, corpus)
    torch.save({}, run / "checkpoint.pt")
    written(run / "history.csv", "epoch,loss\n1,0.5\n")
    reasons = {path.name: examine(path) for path in sorted(run.iterdir())}
    assert set(reasons) == {"checkpoint.pt", "history.csv", "model.json", "model.safetensors"}
    assert "results/run/model.json: was made from credentialed text: " in reasons["model.json"][0]
    assert any("vocabulary is not on the list" in line for line in reasons["model.json"])
    assert "is beside model.json of a credentialed corpus" in reasons["history.csv"][0]
    for name in ("checkpoint.pt", "model.safetensors"):
        assert "was made from credentialed text (model.json)" in reasons[name][0]


def test_a_model_of_an_open_corpus_may_be_committed(checkout: Path) -> None:
    corpus = Corpus.load(checkout / "data" / "toy")
    save_model(checkout / "model", marn.build("caml", corpus, filters=4), corpus)
    for path in (checkout / "model").iterdir():
        assert examine(path) == []
    (checkout / "model" / "model.json").unlink()
    (weights,) = (checkout / "model").iterdir()
    assert "cannot be examined (.safetensors)" in examine(weights)[0]


def test_a_corpus_is_refused_file_by_file(checkout: Path) -> None:
    for path in sorted((checkout / "data" / "secret").rglob("*")):
        assert path.is_dir() or examine(path), path
    for path in sorted((checkout / "data" / "toy").rglob("*")):
        assert path.is_dir() or examine(path) == [], path


HEADER = '"ROW_ID","SUBJECT_ID","HADM_ID","CHARTDATE","CATEGORY","TEXT"\n'


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "n.csv",
            f'{HEADER}174,22532,167853,2151-08-04,"Discharge summary","Pt\nwell"\n',
            "SUBJECT_ID",
        ),
        ("n.csv", "row_id,subject_id,gender\n9,249,F\n", "a SUBJECT_ID of MIMIC"),
        ("n.tsv", "hadm_id\ticd_code\n20000019\t4019\n", "a HADM_ID of MIMIC"),
        ("ids.csv", "".join(f"{100001 + i}\n" for i in range(10)), "list of admissions"),
        ("nohup.out", f"note 1\n{NOTE}\n", "placeholder"),
        ("page.html", f"<p>{NOTE}</p>", "placeholder"),
        ("notes.jsonl", json.dumps({"t": NOTE}) + "\n", "placeholder"),
        ("notes.json", json.dumps([NOTE]), "placeholder"),
        ("a.csv.gz", "", "cannot be examined (.gz)"),
        ("a.npy", "", "cannot be examined (.npy)"),
    ],
)
def test_tables_and_logs_that_look_like_mimic_are_refused(
    checkout: Path, name: str, content: str, reason: str
) -> None:
    found = examine(written(checkout / name, content))
    assert found
    assert reason in found[0]
    assert found[0].startswith(f"{name}: ")
    assert "\n" not in found[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("n.csv", f'{HEADER}174,800001,900853,2151-08-04,"Discharge summary","well"\n'),
        ("rates.csv", "corpus,micro_f1\nteaching,0.61\n"),
        ("counts.csv", "".join(f"{100001 + i},{i}\n" for i in range(10))),
        ("lexicon.md", f"Placeholders such as {NOTE} stay.\n"),
        ("test_reader.py", f"NOTE = {NOTE!r}\n"),
        ("data_prep/hospital/language.txt", f"{NOTE}\n"),
        ("figure.png", "\udcff"),
    ],
)
def test_what_is_open_or_written_by_hand_passes(checkout: Path, name: str, content: str) -> None:
    path = checkout / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert examine(path) == []


def test_the_command_line_names_each_file_and_fails(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    written(checkout / "fine.txt", "fine\n")
    written(checkout / "bad.txt", NOTE)
    assert commit_check.main(["fine.txt", "gone.txt"]) == 0
    assert commit_check.main(["fine.txt", "bad.txt"]) == 1
    assert capsys.readouterr().err.startswith("bad.txt: holds a placeholder")
    assert commit_check.main([]) == 0  # nothing is tracked yet
    subprocess.run(["git", "add", "bad.txt"], check=True)
    assert commit_check.main([]) == 1


def test_what_is_staged_counts_and_not_the_work_tree(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    for name in ("cleaned.txt", "removed.txt", "later.txt"):
        written(checkout / name, NOTE if name != "later.txt" else "fine\n")
    subprocess.run(["git", "add", "."], check=True)
    written(checkout / "cleaned.txt", "fine\n")
    (checkout / "removed.txt").unlink()
    written(checkout / "later.txt", NOTE)
    assert commit_check.main(["cleaned.txt", "removed.txt", "later.txt"]) == 1
    found = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in found] == ["cleaned.txt", "removed.txt"]
    monkeypatch.chdir(checkout / "book")  # names are relative to where the command runs
    assert commit_check.main(["../cleaned.txt"]) == 1
    assert commit_check.main(["../later.txt", str(checkout / "later.txt")]) == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("deep.json", "[" * 100_000 + "]" * 100_000),
        ("deep.json", '{"text": "credentialed", "a":' * 900 + "1" + "}" * 900),
        ("deep.ipynb", "[" * 100_000),
        ("cells.ipynb", '{"cells": [5]}'),
        ("cells.ipynb", '{"cells": {"a": 1}}'),
        ("cells.ipynb", '{"metadata": [], "cells": []}'),
        ("cells.ipynb", '{"worksheets": []}'),
        ("cells.ipynb", "5"),
        ("cells.ipynb", ""),
    ],
)
def test_what_cannot_be_read_is_refused(checkout: Path, name: str, content: str) -> None:
    found = examine(written(checkout / name, content))
    assert len(found) >= 1
    assert (
        "nested too deeply" in found[0] or "not a notebook" in found[0] or "data_prep" in found[0]
    )


def test_numbers_of_thousands_of_digits_are_only_text(checkout: Path) -> None:
    assert examine(written(checkout / "n.json", "9" * 5000)) == []
    assert examine(written(checkout / "n.csv", "HADM_ID\n" + "9" * 5000 + "\n")) == []


@pytest.mark.parametrize(
    "piece", ["Corpus('", "Corpus('a'; ", "'100001' ", "[**", "Name: ", "<td>", "<!--", "HADM_ID <"]
)
def test_a_long_line_takes_time_linear_in_its_length(checkout: Path, piece: str) -> None:
    def seconds(size: int) -> float:
        text = ("HADM_ID <t" + piece * (size // len(piece)))[:size]
        start = time.process_time()
        examine(notebook(checkout / "n.ipynb", {"text/html": text}))
        examine(checkout / "log.txt", content=text.encode())
        return time.process_time() - start

    seconds(1000)
    assert seconds(1_600_000) < 40 * seconds(100_000) + 1  # 16 times as long
