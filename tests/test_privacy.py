"""Credentialed text: not shown, not written where it could be committed, found if it was."""

import inspect
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import toy_corpus

import marn
from marn import explain, figures, privacy, widgets
from marn.corpus import Corpus
from marn.errors import MarnError
from marn.metrics import score
from marn.saving import save_model

ROOT = Path(__file__).resolve().parents[1]
NOTE = "Admission Date:  [**2151-7-16**]  Service: MEDICINE"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a git work tree with a book, and a corpus called credentialed in its data."""
    root = tmp_path / "checkout"
    (root / "book").mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    (root / ".gitignore").write_text("data/\nruns/\n")
    toy_corpus(root / "data" / "toy")
    toy_corpus(root / "data" / "secret", seed=1)
    _close(root / "data" / "secret")
    return root


def _close(corpus: Path) -> None:
    card = json.loads((corpus / "card.json").read_text())
    (corpus / "card.json").write_text(json.dumps(card | {"text": "credentialed", "name": "secret"}))


def written(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def notebook(path: Path, *outputs: dict[str, str], corpus: str = "", **metadata: Any) -> Path:
    """Write a notebook with a cell of parameters and one cell with these outputs, by type."""
    parameters = nbformat.v4.new_code_cell(f'corpus: str = "{corpus}"' if corpus else "x = 1")
    parameters.metadata.tags = ["parameters"]
    cell = nbformat.v4.new_code_cell("show()")
    for data in outputs:
        if "stderr" in data:
            cell.outputs.append(
                nbformat.v4.new_output("stream", name="stderr", text=data["stderr"])
            )
        else:
            cell.outputs.append(nbformat.v4.new_output("display_data", data=data))
    book = nbformat.v4.new_notebook(cells=[parameters, cell], metadata=metadata)
    return written(path, nbformat.writes(book))


# -- views ----------------------------------------------------------------------------------------


def test_every_view_of_text_asks_by_the_same_name() -> None:
    views = {}
    for module in (explain, figures, widgets):
        for name in module.__all__:
            signature = inspect.signature(getattr(module, name))
            shown = {"text", "words", "corpus"} & set(signature.parameters)
            if shown and str(signature.return_annotation) in (
                "str",
                "go.Figure",
                "ipywidgets.VBox",
            ):
                views[name] = signature.parameters
    assert {"attention_html", "attention_heatmap", "note_explorer"} <= set(views)
    for name, parameters in views.items():
        assert parameters["show_credentialed_text"].default is False, name
        if "corpus" not in parameters:  # which says itself whether it is open
            assert parameters["open_text"].default is inspect.Parameter.empty, name


# -- the whole repository -------------------------------------------------------------------------


def test_nothing_that_is_tracked_was_made_from_credentialed_text() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert [line for path in files if path.is_file() for line in privacy.examine(path)] == []


def test_the_commit_hook_calls_the_check() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    (hook,) = [hook for hook in hooks if hook["id"] == "privacy"]
    assert hook["entry"].split() == [".venv/bin/python", "-m", "marn.privacy"]
    assert set(hook) == {"id", "name", "entry", "language"}  # every file, none filtered out


# -- the mark -------------------------------------------------------------------------------------


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
    assert privacy.examine(log) == [
        "train.log: bears the mark of a credentialed corpus. Keep it below data/ or runs/, which "
        "git ignores."
    ]
    shown = written(checkout / "log.txt", repr(corpus))
    assert "bears the mark" in privacy.examine(shown)[0]
    plain = written(checkout / "log3.txt", repr(Corpus.load(checkout / "data" / "toy")))
    assert privacy.examine(plain) == []


def test_the_hash_of_a_corpus_that_lies_here_is_a_mark_too(checkout: Path) -> None:
    digest = json.loads((checkout / "data" / "secret" / "card.json").read_text())["hash"]
    assert "bears the hash" in privacy.examine(written(checkout / "a.txt", f"corpus {digest}"))[0]
    assert "bears the hash" in privacy.examine(written(checkout / "a.md", f"corpus {digest}"))[0]
    assert privacy.examine(written(checkout / "b.txt", f"corpus {'0' * 64}")) == []
    # a result that forgot to say whose it is
    forgot = {"corpus": {"hash": digest}, "vocabulary": ["fever"]}
    assert (
        "vocabulary is not on"
        in privacy.examine(written(checkout / "r.json", json.dumps(forgot)))[0]
    )


# -- notebooks ------------------------------------------------------------------------------------


def test_a_notebook_with_outputs_of_a_credentialed_corpus_is_refused(checkout: Path) -> None:
    given_ = notebook(
        checkout / "out.ipynb",
        {"text/plain": "0.61"},
        papermill={"parameters": {"corpus": "../data/secret"}},
    )
    assert privacy.examine(given_) == [
        "out.ipynb: its outputs come from a credentialed corpus (../data/secret). Clear its "
        "outputs, or keep it below runs/."
    ]
    typed = notebook(checkout / "book" / "05.ipynb", {"text/plain": "1"}, corpus="../data/secret")
    assert "credentialed corpus (../data/secret)" in privacy.examine(typed)[0]
    assert privacy.examine(notebook(checkout / "book" / "06.ipynb", corpus="../data/secret")) == []
    fine = notebook(checkout / "book" / "07.ipynb", {"text/plain": NOTE}, corpus="../data/toy")
    assert privacy.examine(fine) == []
    # papermill's cell comes behind the notebook's own and wins
    both = nbformat.read(fine, as_version=4)
    injected = nbformat.v4.new_code_cell('# Parameters\ncorpus = "../data/secret"')
    injected.metadata.tags = ["injected-parameters"]
    both.cells.insert(1, injected)
    assert "credentialed corpus" in privacy.examine(written(fine, nbformat.writes(both)))[0]


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ({"stderr": f"x [credentialed corpus {'0' * 12}]: its text"}, "bears the mark"),
        ({"text/plain": f"Corpus('m': 8 train; 4 icd; text {'credentialed'})"}, "bears the mark"),
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
    found = privacy.examine(notebook(checkout / "n.ipynb", output))
    assert len(found) == 1, found
    assert reason in found[0]
    assert found[0].endswith("Clear its outputs, or keep it below runs/.")


def test_outputs_of_the_hospital_are_not(checkout: Path) -> None:
    table = pd.DataFrame(
        {"ROW_ID": [145834], "SUBJECT_ID": [800001], "HADM_ID": [900001], "TEXT": [NOTE]}
    )
    for data in ({"text/html": table.to_html()}, {"text/plain": str(table)}):
        path = notebook(checkout / "book" / "n.ipynb", data, corpus="../data/teaching")
        assert privacy.examine(path) == []
    growth = {"text/plain": str([100_000 + 9_000 * i for i in range(11)])}
    assert privacy.examine(notebook(checkout / "m.ipynb", growth)) == []


# -- runs, models, tables, logs -------------------------------------------------------------------


def test_a_run_on_credentialed_text_is_refused_file_by_file(checkout: Path) -> None:
    corpus = Corpus.load(checkout / "data" / "secret")
    model = marn.build("caml", corpus, filters=4)
    run = checkout / "results" / "run"
    save_model(run, model, corpus)
    torch.save({}, run / "checkpoint.pt")
    written(run / "history.csv", "epoch,loss\n1,0.5\n")
    reasons = {path.name: privacy.examine(path) for path in sorted(run.iterdir())}
    assert set(reasons) == {"checkpoint.pt", "history.csv", "model.json", "model.safetensors"}
    assert "results/run/model.json: made from credentialed text: " in reasons["model.json"][0]
    assert any("vocabulary is not on the list" in line for line in reasons["model.json"])
    assert "lies beside model.json of a credentialed corpus" in reasons["history.csv"][0]
    for name in ("checkpoint.pt", "model.safetensors"):
        assert "made from credentialed text (model.json)" in reasons[name][0]


def test_a_model_of_an_open_corpus_may_be_committed(checkout: Path) -> None:
    corpus = Corpus.load(checkout / "data" / "toy")
    save_model(checkout / "model", marn.build("caml", corpus, filters=4), corpus)
    for path in (checkout / "model").iterdir():
        assert privacy.examine(path) == []
    (checkout / "model" / "model.json").unlink()
    (weights,) = (checkout / "model").iterdir()
    assert "cannot be looked into (.safetensors)" in privacy.examine(weights)[0]


def test_a_corpus_is_refused_file_by_file(checkout: Path) -> None:
    for path in sorted((checkout / "data" / "secret").rglob("*")):
        assert path.is_dir() or privacy.examine(path), path
    for path in sorted((checkout / "data" / "toy").rglob("*")):
        assert path.is_dir() or privacy.examine(path) == [], path


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
        ("a.csv.gz", "", "cannot be looked into (.gz)"),
        ("a.npy", "", "cannot be looked into (.npy)"),
    ],
)
def test_tables_and_logs_that_look_like_mimic_are_refused(
    checkout: Path, name: str, content: str, reason: str
) -> None:
    found = privacy.examine(written(checkout / name, content))
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
    assert privacy.examine(path) == []


# -- results --------------------------------------------------------------------------------------

RESULT = {
    "command": "python book/experiments/x.py",
    "seeds": [0, 1, 2],
    "corpus": {"name": "mimic3_50", "hash": "0" * 64, "text": "credentialed"}
    | {"notes": {"train": 8066, "dev": 1573, "test": 1729}, "dropped": {"notes without a word": 0}},
    "provenance": {"marn": "0.1.0", "commit": "abc", "threads": 1, "gpu": None},
    "rows": [{"system": "marn", "seed": 0, "task": "icd", "threshold": 0.4, "support": 11}],
}


def test_aggregates_may_be_published(checkout: Path) -> None:
    scores = score([[0.9, 0.2], [0.1, 0.8]], [[1, 0], [0, 1]], ks=(1,))
    result = RESULT | {"scores": scores}
    assert privacy.withheld(result) == []
    assert privacy.examine(written(checkout / "book" / "r.json", json.dumps(result))) == []


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"vocabulary": ["fever"]}, "vocabulary is not on the list"),
        ({"rows": [{"HADM_ID": 145834}]}, "rows[0].HADM_ID is not on the list"),
        ({"rows": [{"code": "486", "support": 10}]}, "rows[0].support is 10, a cell below 11"),
        ({"notes": {"train": 3}}, "notes.train is 3, a cell below 11"),
        ({"notes": [12, 3]}, "notes[1] is 3, a cell below 11"),
        ({"findings": [{"unit": "notes", "count": 1}]}, "findings[0].count is 1, a cell"),
        ({"name": NOTE}, "name holds a placeholder"),
        ({"meaning": "word " * 90}, "meaning is a text of 450 characters"),
        ({"meaning": "line\nline"}, "meaning is a text of 9 characters"),
    ],
)
def test_anything_else_may_not(checkout: Path, extra: dict[str, Any], reason: str) -> None:
    (found,) = privacy.withheld(RESULT | extra)
    assert reason in found
    path = written(checkout / "book" / "r.json", json.dumps(RESULT | extra))
    assert reason in privacy.examine(path)[0]
    assert "marn.privacy.PUBLISHABLE" in privacy.examine(path)[0]
    # the same result of an open corpus is nobody's business, but for the text of a note
    opened = RESULT | extra | {"corpus": {"name": "teaching", "text": "open"}}
    assert bool(privacy.examine(written(path, json.dumps(opened)))) == (extra.get("name") == NOTE)


def test_counts_of_codes_may_be_small_and_no_people_is_no_cell() -> None:
    assert privacy.withheld({"findings": [{"unit": "codes", "count": 1, "of": 50}]}) == []
    assert privacy.withheld({"notes": 0, "tasks": {"icd": 2}}) == []


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.sampled_from(sorted(privacy._PEOPLE)))
def test_the_smallest_cell_is_that_of_the_policy(count: int, key: str) -> None:
    assert bool(privacy.withheld({key: {"train": [count]}})) == (1 <= count <= 10)


# -- the command line -----------------------------------------------------------------------------


def test_the_command_line_names_each_file_and_fails(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    written(checkout / "fine.txt", "fine\n")
    written(checkout / "bad.txt", NOTE)
    assert privacy.main(["fine.txt", "gone.txt"]) == 0
    assert privacy.main(["fine.txt", "bad.txt"]) == 1
    assert capsys.readouterr().err.startswith("bad.txt: holds a placeholder")
    assert privacy.main([]) == 0  # nothing is tracked yet
    subprocess.run(["git", "add", "bad.txt"], check=True)
    assert privacy.main([]) == 1


# -- papermill ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("out", "ignored"), [("out.ipynb", False), ("runs/out.ipynb", True)])
def test_where_papermill_writes(
    checkout: Path, out: str, ignored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Process(SimpleNamespace):
        def cmdline(self) -> list[str]:
            return self.words

        def cwd(self) -> str:
            return str(checkout)

    words = ["python", "/usr/bin/papermill", "--cwd", "book", "in.ipynb", out, "-p", "seed", "1"]
    parents = [Process(words=["sh"]), Process(words=words)]
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    monkeypatch.setattr("psutil.Process.parents", lambda self: parents)
    assert privacy._papermill_output() == checkout / out
    if ignored:
        privacy.announce("secret", "0" * 64)
    else:
        with pytest.raises(MarnError, match="Let papermill write to runs/"):
            privacy.announce("secret", "0" * 64)
    parents[1].words = ["python", "-m", "papermill", "in.ipynb", "/elsewhere/out.ipynb"]
    assert privacy._papermill_output() == Path("/elsewhere/out.ipynb")
    privacy.announce("secret", "0" * 64)  # no work tree there
    parents[1].words = ["jupyter-lab"]
    assert privacy._papermill_output() is None


def test_papermill_is_stopped_before_it_saves_a_credentialed_output(checkout: Path) -> None:
    source = "import marn; data = marn.Corpus.load(corpus); print(data['train'].text(0))"
    book = nbformat.read(notebook(checkout / "in.ipynb", corpus="data/secret"), as_version=4)
    book.cells[1].source = source
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, checkout / "in.ipynb")
    (checkout / "runs").mkdir()
    line = [sys.executable, "-m", "papermill", "in.ipynb"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    runs = [
        subprocess.Popen([*line, out], cwd=checkout, env=environment, stderr=subprocess.PIPE)
        for out in ("out.ipynb", "runs/out.ipynb")
    ]
    errors = [run.communicate(timeout=120)[1].decode() for run in runs]
    assert runs[0].returncode
    assert "Let papermill write to runs/" in errors[0]
    stopped = nbformat.read(checkout / "out.ipynb", 4)
    assert "MarnError" in str(stopped)
    assert "word" not in str([cell.get("outputs", []) for cell in stopped.cells])
    assert runs[1].returncode == 0, errors[1]
    stored = nbformat.read(checkout / "runs" / "out.ipynb", 4)
    assert "word" in str(stored.cells[-1].outputs)
    # and if somebody moves it
    found = privacy.examine(written(checkout.parent / "moved.ipynb", nbformat.writes(stored)))
    assert any("bears the mark of a credentialed corpus" in reason for reason in found)
