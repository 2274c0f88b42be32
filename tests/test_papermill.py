"""Chapters as programs: papermill runs them with other parameters."""

import io
import os
from contextlib import redirect_stderr
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pandas as pd
import papermill
import pytest
from notebooks import run_here

import chapters
import marn
from chapters import BOOK
from data_prep.__main__ import main as data_prep
from marn.errors import MarnError
from marn.privacy import SWITCH

TEXTS = chapters.texts()


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_parameters_are_understood(text: Path) -> None:
    found = papermill.inspect_notebook(text.with_suffix(".ipynb"))
    assert found
    for name, parameter in found.items():
        assert parameter["inferred_type_name"] != "None", f"{name} has no type"


def test_a_chapter_finds_its_data_without_cwd(tmp_path: Path) -> None:
    book = nbformat.read(BOOK / "09_audit.ipynb", as_version=4)
    loads = next(i for i, cell in enumerate(book.cells) if "Corpus.load(" in cell.source)
    book.cells = book.cells[: loads + 1]
    nbformat.write(book, tmp_path / "begin.ipynb")
    run = papermill.execute_notebook(
        tmp_path / "begin.ipynb", tmp_path / "run.ipynb", cwd=chapters.ROOT, progress_bar=False
    )
    assert "Corpus('teaching'" in str(run.cells[-1].outputs)


# What a chapter is run with, and with another corpus; the networks are as small as they can be.
ELSEWHERE: dict[str, dict[str, Any]] = {
    "00_intro": {},
    "01_quickstart": {"hidden_size": 4, "max_length": 40, "epochs": 1},
    "02_dataset": {},
    "03_marn": {"hidden_size": 20, "seed": 1},  # takes no corpus
    "04_focal_loss": {"hidden_size": 4, "max_length": 40, "epochs": 2},
    "05_training": {
        "model": "caml",
        "model_args": {"filters": 4, "max_length": 40},
        "train_args": {"epochs": 2, "batch_size": 32},
        "seed": 1,
        "train_notes": 40,
    },
    "06_code_clusters": {"hidden_size": 4, "max_length": 40, "epochs": 1},
    "07_real_text": {},
    "08_calibration": {},
    "09_audit": {},
    "10_systems": {},
    "11_speed": {},
}
NOT_THERE = {  # what two chapters say of a corpus that is not the one they are about
    "07_real_text": "is not the corpus of",
    "08_calibration": "has no raw tables beside it, so this page shows the teaching hospital",
}


@pytest.fixture(scope="module")
def credentialed(tiny_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus as of MIMIC-III: no evidence, no raw tables beside it, text not to be shown."""
    folder = tmp_path_factory.mktemp("mimic")
    for table in ("NOTEEVENTS", "DIAGNOSES_ICD"):
        rows = pd.read_csv(tiny_raw / f"{table}.csv", dtype=str, keep_default_na=False)
        rows["HADM_ID"] = rows["HADM_ID"].replace(r"^9", "1", regex=True)  # MIMIC-III's range
        rows.to_csv(folder / f"{table}.csv", index=False)
    header = (tiny_raw / "PROCEDURES_ICD.csv").read_text().partition("\n")[0]
    (folder / "PROCEDURES_ICD.csv").write_text(f"{header}\n")  # nobody was operated on
    line = ["mimic3", "--raw", str(folder), "--out", str(folder / "corpus"), "--codes", "30"]
    assert data_prep([*line, "--vectors", "none"]) == 0
    return folder / "corpus"


@pytest.mark.parametrize(("name", "parameters"), ELSEWHERE.items())
def test_a_chapter_runs_with_other_parameters(
    name: str,
    parameters: dict[str, Any],
    credentialed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(chapters.ROOT)
    monkeypatch.setenv("JPY_PARENT_PID", "1")  # no text is shown in what a notebook started
    known = papermill.inspect_notebook(BOOK / f"{name}.ipynb")
    places = {"corpus": str(credentialed), "run_dir": str(tmp_path)}
    here = parameters | {key: place for key, place in places.items() if key in known}
    for key, value in here.items():
        assert known[key]["default"] != str(value), f"{key} is what the chapter has anyway"
    with pd.option_context("display.max_colwidth", None):
        run_here(BOOK / f"{name}.ipynb", here)


@pytest.fixture(scope="module")
def uncategorised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with codes of no known system: without titles, categories and procedures."""
    folder = tmp_path_factory.mktemp("own")
    rows = ["note_id,split,text,codes"]
    for i in range(40):
        split = ("train", "train", "dev", "test")[i % 4]
        rows.append(
            f"n{i},{split},chief complaint shortness of breath ailment {'xyz'[i % 3]},L{i % 3};L9"
        )
    (folder / "notes.csv").write_text("\n".join(rows))
    line = ["own", "--notes", str(folder / "notes.csv"), "--system", "other", "--text", "open"]
    assert data_prep([*line, "--out", str(folder / "corpus"), "--vectors", "none"]) == 0
    return folder / "corpus"


@pytest.mark.parametrize("name", ["01_quickstart", "06_code_clusters", "09_audit"])
def test_a_chapter_meets_codes_without_categories(
    name: str, uncategorised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(chapters.ROOT)
    here = ELSEWHERE[name] | {"corpus": str(uncategorised)}
    if name != "09_audit":
        here["run_dir"] = str(tmp_path)
    if name == "01_quickstart":
        run_here(BOOK / f"{name}.ipynb", here)
        return
    with pytest.raises(MarnError, match="needs the categories of codes, and 'corpus' has none"):
        run_here(BOOK / f"{name}.ipynb", here)


@pytest.mark.parametrize("is_open", [False, True])
def test_chapter_12_shows_no_codes_or_words_of_credentialed_notes(
    is_open: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    cells = nbformat.read(BOOK / "12_your_notes.ipynb", as_version=4).cells
    source = next(cell.source for cell in cells if "coded = here" in cell.source)
    before, _, last = source.rpartition("\n")
    row = "note_id,code,title,probability,words\nn7,I10,Pressure,0.9,amlodipine\n"
    (tmp_path / "codes.csv").write_text(row)
    known = {"here": tmp_path, "new_notes": "", "data": SimpleNamespace(is_open=is_open)}
    known["run_dir"] = tmp_path / "model"
    known |= {
        "command": lambda line: 0,
        "pd": pd,
        "io": io,
        "os": os,
        "redirect_stderr": redirect_stderr,
    }
    exec(before, known)
    shown = str(eval(last, known))
    assert [part in shown for part in ("n7", "I10", "amlodipine")] == [is_open] * 3


@pytest.fixture(scope="module")
def begin_of_12(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chapter 12 up to the cell that trains."""
    book = nbformat.read(BOOK / "12_your_notes.ipynb", as_version=4)
    trains = next(i for i, cell in enumerate(book.cells) if "run = marn.fit(" in cell.source)
    book.cells = book.cells[: trains + 1]
    path = tmp_path_factory.mktemp("chapter") / "12_your_notes.ipynb"
    nbformat.write(book, path)
    return path


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["notes"], "new_notes is empty; give the path of the notes to code"),
        (["new_notes"], "notes is empty; give the path of your table of notes"),
        (["notes", "assigned", "new_notes"], "assigned .* does not exist; give the path"),
    ],
)
def test_chapter_12_refuses_tables_before_it_makes_anything(
    given: list[str],
    said: str,
    begin_of_12: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(chapters.ROOT)
    (tmp_path / "there.csv").write_text("note_id,text\n")
    here = {name: str(tmp_path / "there.csv") for name in given}
    here |= {"folder": str(tmp_path / "out")}
    here |= {"assigned": str(tmp_path / "missing.csv")} if "assigned" in given else {}
    with pytest.raises(MarnError, match=said):
        run_here(begin_of_12, here)
    assert not (tmp_path / "out").exists()


def test_chapter_12_takes_codes_beside_the_notes_and_one_table_after_another(
    begin_of_12: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(marn, "fit", lambda *given, **named: SimpleNamespace(best_epoch=1))
    table, made = tmp_path / "notes.csv", set()
    for word, seed in (("cough", 0), ("fever", 0), ("fever", 1)):
        rows = ["note_id,split,text,codes", "n0,train,a note with an old number,J18.9"]
        rows += [
            f"n{i},{('train', 'dev', 'test')[i % 3]},known {word} and no pain,I10; J18.9"
            for i in range(30)
        ]
        table.write_text("\n".join(rows))
        monkeypatch.chdir(chapters.ROOT)  # the chapter goes into the folder of the book
        here = {"notes": str(table), "new_notes": str(table), "folder": str(tmp_path / "out")}
        names = run_here(begin_of_12, here | ({"seed": seed} if seed else {}))
        shown = capsys.readouterr().out
        assert shown.startswith("left out: ")
        assert "1 notes with a note_id seen before" in shown
        assert (names["data"].name, names["data"].is_open) == ("corpus", False)
        made.add(names["run_dir"])
    assert len(made) == 3


def test_every_chapter_with_a_corpus_can_have_another_one() -> None:
    taking = {text.stem for text in TEXTS if "\ncorpus: str" in text.read_text()}
    assert taking | {"03_marn"} == ELSEWHERE.keys()
    for name, said in NOT_THERE.items():
        assert said in (BOOK / f"{name}.md").read_text()
