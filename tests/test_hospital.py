"""The teaching hospital: the same bytes everywhere, annotations and tables that hold."""

import csv
import gzip
import hashlib
import io
import json
import multiprocessing
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep import hospital
from data_prep.hospital import PRESETS, tables
from data_prep.hospital.measures import measure
from data_prep.hospital.notes import NoteWriter
from data_prep.hospital.tables import COLUMNS
from marn.errors import MarnError

csv.field_size_limit(10**9)
ROLES = {"evidence", "parent", "cue", "negated", "family", "historical", "ruled_out"}


def read(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("sample", "changes"),
    [
        ("tiny", {}),
        ("tiny, seed 1", {}),
        ("teaching", {"notes": 400}),
        ("mimic50", {"notes": 80, "sizes": (55, 11, 12)}),
        ("full", {"notes": 150, "sizes": (120, 10, 20)}),
    ],
)
def test_every_table_has_its_stored_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: str, changes: dict
) -> None:
    """The same bytes on every platform and in every version: a table that changes is stored anew.

    All rows of `tiny`, and the first patients of the other sizes.
    """
    preset, _, seed = sample.partition(", seed ")
    small(monkeypatch, preset, preset, **changes)
    hospital.write(tmp_path / "raw", preset, int(seed or 0))
    found = {
        name.removesuffix(".csv"): digest[:16] for name, digest in digests(tmp_path / "raw").items()
    }
    del found["README.txt"]
    assert found == json.loads(Path(__file__).with_name("hospital_sums.json").read_text())[sample]


def test_every_table_has_the_header_of_the_dialect(tiny_raw: Path) -> None:
    assert {path.stem for path in tiny_raw.glob("*.csv")} == set(COLUMNS)
    for name, columns in COLUMNS.items():
        first = (tiny_raw / f"{name}.csv").read_text("utf-8").split("\n", 1)[0]
        assert first == ",".join(f'"{column}"' for column in columns.split())
    assert "SYNTHETIC" in (tiny_raw / "README.txt").read_text("utf-8")


def test_a_row_by_hand() -> None:
    line = tables.row("DIAGNOSES_ICD", 7, 800000, None, None, 'say "0331"\nnow')
    assert line == '7,800000,,,"say ""0331""\nnow"\n'
    (row,) = csv.DictReader(io.StringIO(tables.header("DIAGNOSES_ICD") + line))
    assert row["ICD9_CODE"] == 'say "0331"\nnow'


def test_notes_of_other_categories_and_addenda_exercise_the_filters(tiny_raw: Path) -> None:
    notes = read(tiny_raw, "NOTEEVENTS")
    summaries = [row for row in notes if row["CATEGORY"] == "Discharge summary"]
    others = [row for row in notes if row["CATEGORY"] != "Discharge summary"]
    reports = Counter(row["HADM_ID"] for row in summaries if row["DESCRIPTION"] == "Report")
    assert 200 <= len(reports) <= 204
    assert set(reports.values()) == {1}
    assert any(row["DESCRIPTION"] == "Addendum" for row in summaries)
    assert 0.04 < len(others) / len(notes) < 0.2
    assert any(not row["HADM_ID"] for row in others)
    assert all(row["HADM_ID"] and not row["CHARTTIME"] for row in summaries)


def test_keys_of_the_tables_fit_together(tiny_raw: Path) -> None:
    stays = {row["HADM_ID"]: row["SUBJECT_ID"] for row in read(tiny_raw, "ADMISSIONS")}
    people = {row["SUBJECT_ID"] for row in read(tiny_raw, "PATIENTS")}
    assert set(stays.values()) == people
    assert min(map(int, stays)) >= 900000 > max(map(int, people)) >= 800000
    for kind, name in (("DIAGNOSES", "DIAGNOSES"), ("PROCEDURES", "PROCEDURES")):
        known = {row["ICD9_CODE"] for row in read(tiny_raw, f"D_ICD_{name}")}
        rows = read(tiny_raw, f"{kind}_ICD")
        assert all(stays[row["HADM_ID"]] == row["SUBJECT_ID"] for row in rows)
        assert {row["ICD9_CODE"] for row in rows} - {""} <= known


def test_every_span_holds_a_mention(tiny_raw: Path) -> None:
    texts = {row["ROW_ID"]: row["TEXT"] for row in read(tiny_raw, "NOTEEVENTS")}
    rows = read(tiny_raw, "EVIDENCE")
    for row in rows:
        begin, end = int(row["BEGIN"]), int(row["END"])
        mention = texts[row["ROW_ID"]][begin:end]
        assert 0 <= begin < end <= len(texts[row["ROW_ID"]])
        assert mention.strip() == mention != ""
        outside = texts[row["ROW_ID"]][begin - 1 : begin] + texts[row["ROW_ID"]][end : end + 1]
        assert not (mention[0].isalnum() and outside[:1].isalnum())
    assert {row["ROLE"] for row in rows} == ROLES


def test_spans_of_a_known_code_read_like_it(tiny_raw: Path) -> None:
    texts = {row["ROW_ID"]: row["TEXT"] for row in read(tiny_raw, "NOTEEVENTS")}
    seen = [
        texts[row["ROW_ID"]][int(row["BEGIN"]) : int(row["END"])].lower()
        for row in read(tiny_raw, "EVIDENCE")
        if (row["KIND"], row["ICD9_CODE"]) == ("pr", "9604") and row["ROLE"] == "evidence"
    ]
    good = [words for words in seen if "intubat" in words or "tube" in words or "ett" in words]
    assert len(good) >= 0.9 * len(seen) > 0  # the rest is misspelt


def test_documents_and_codes_agree_but_for_the_recorded_noise(tiny_raw: Path) -> None:
    coded, evident, noise = defaultdict(set), defaultdict(set), defaultdict(set)
    for kind, name in (("dx", "DIAGNOSES_ICD"), ("pr", "PROCEDURES_ICD")):
        for row in read(tiny_raw, name):
            if row["ICD9_CODE"]:
                coded[row["HADM_ID"]].add((kind, row["ICD9_CODE"]))
    for row in read(tiny_raw, "EVIDENCE"):
        if row["ROLE"] == "evidence":
            evident[row["HADM_ID"]].add((row["KIND"], row["ICD9_CODE"]))
    for row in read(tiny_raw, "CODING_NOISE"):
        noise[row["WHAT"]].add((row["HADM_ID"], (row["KIND"], row["ICD9_CODE"])))
    assert set(noise) == {"silent", "uncoded", "miscoded"}
    noted = {row["HADM_ID"] for row in read(tiny_raw, "NOTEEVENTS")}
    stays = [row["HADM_ID"] for row in read(tiny_raw, "ADMISSIONS") if row["HADM_ID"] in noted]
    for stay in stays:
        if not coded[stay]:
            continue
        extra = {key for key in coded[stay] if (stay, key) in noise["silent"]}
        wrong = {key for key in coded[stay] if (stay, key) in noise["miscoded"]}
        lost = {key for key in evident[stay] if (stay, key) in noise["uncoded"]}
        assert not extra & evident[stay]
        assert not (lost & coded[stay]) - wrong
        if evident[stay]:
            assert coded[stay] - extra - wrong == evident[stay] - lost - wrong


def test_the_dead_do_not_go_home(tiny_raw: Path) -> None:
    dead = {row["HADM_ID"] for row in read(tiny_raw, "ADMISSIONS") if row["DEATHTIME"]}
    assert dead
    for row in read(tiny_raw, "NOTEEVENTS"):
        if row["DESCRIPTION"] == "Report" and row["CATEGORY"] == "Discharge summary":
            assert ("Expired" in row["TEXT"]) == (row["HADM_ID"] in dead)


def small(monkeypatch: pytest.MonkeyPatch, name: str, like: str, **changes: object) -> None:
    monkeypatch.setitem(PRESETS, name, replace(PRESETS[like], **changes))


def test_the_number_of_workers_changes_no_byte(tiny_raw: Path, tmp_path: Path) -> None:
    hospital.write(tmp_path / "two", "tiny", seed=0, workers=2)
    assert digests(tmp_path / "two") == digests(tiny_raw)


def test_a_killed_worker_is_one_line(tmp_path: Path) -> None:
    def kill(done: int, total: int) -> None:
        for worker in multiprocessing.active_children():
            worker.kill()

    with pytest.raises(MarnError, match=r"was killed, .*; choose --workers 1$"):
        hospital.write(tmp_path / "out", "teaching", progress=kill, workers=2)
    assert not (tmp_path / "out").exists()


def test_zipped_tables_hold_the_same_rows(tiny_raw: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        hospital.write(tmp_path / name, "tiny", seed=0, zipped=True)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    for name in COLUMNS:
        plain = (tiny_raw / f"{name}.csv").read_bytes()
        assert gzip.decompress((tmp_path / "a" / f"{name}.csv.gz").read_bytes()) == plain


def test_a_larger_hospital_begins_with_the_smaller_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, notes in (("few", 12), ("many", 30)):
        small(monkeypatch, name, "teaching", notes=notes)
        hospital.write(tmp_path / name, name)
    for name in COLUMNS:
        few = (tmp_path / "few" / f"{name}.csv").read_bytes()
        many = (tmp_path / "many" / f"{name}.csv").read_bytes()
        assert many.startswith(few)
        assert len(many) > len(few) or name.startswith("D_ICD")


def test_boilerplate_adds_words_and_denials_and_changes_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, "few", "teaching", notes=40)
    words, denied, coded = [], [], []
    for factor in (0.0, 1.0, 3.0):
        out = tmp_path / f"{factor:g}"
        hospital.write(out, "few", boilerplate=factor)
        words.append(sum(len(row["TEXT"].split()) for row in read(out, "NOTEEVENTS")))
        roles = Counter(row["ROLE"] for row in read(out, "EVIDENCE"))
        denied.append(roles["negated"] + roles["ruled_out"])
        coded.append((out / "DIAGNOSES_ICD.csv").read_bytes())
    assert words[0] < 0.8 * words[1]
    assert 1.5 * words[1] < words[2] < 3 * words[1]
    assert denied[0] < denied[1] < denied[2]
    assert coded[0] == coded[1] == coded[2]
    assert "boilerplate 3" in (tmp_path / "3" / "README.txt").read_text()


def test_lists_have_exactly_the_published_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, "lists", "mimic50", notes=60, sizes=(41, 8, 9), words=80.0)
    hospital.write(tmp_path / "raw", "lists")
    admissions = {row["HADM_ID"]: row["SUBJECT_ID"] for row in read(tmp_path / "raw", "ADMISSIONS")}
    noted = {
        row["HADM_ID"]
        for row in read(tmp_path / "raw", "NOTEEVENTS")
        if row["CATEGORY"] == "Discharge summary"
    }
    home: dict[str, str] = {}
    for name, size in (("train", 41), ("dev", 8), ("test", 9)):
        ids = (tmp_path / "raw" / f"{name}_50_hadm_ids.csv").read_text().split()
        assert len(ids) == len(set(ids)) == size
        assert set(ids) <= noted
        for id_ in ids:
            assert home.setdefault(admissions[id_], name) == name


def test_measures_of_a_hospital_by_hand(tmp_path: Path) -> None:
    def table(name: str, *rows: tuple) -> None:
        lines = [tables.header(name), *(tables.row(name, *row) for row in rows)]
        (tmp_path / f"{name}.csv").write_text("".join(lines), "utf-8", newline="")

    kind = "Discharge summary"
    note = (None, None, None)
    table(
        "NOTEEVENTS",
        (1, 800000, 900000, *note, kind, "Report", None, None, "Fever 38 fever."),
        (2, 800000, 900000, *note, kind, "Addendum", None, None, "No cough"),
        (3, 800001, 900008, *note, kind, "Report", None, None, "fever and cough"),
        (4, 800001, 900008, *note, "Nursing", "Report", None, None, "asleep"),
    )
    table(
        "DIAGNOSES_ICD",
        (1, 800000, 900000, 1, "4019"),
        (2, 800000, 900001, 1, "4019"),
        (3, 800001, 900008, None, None),
    )
    table("PROCEDURES_ICD", (1, 800000, 900000, 1, "9604"))
    table(
        "EVIDENCE",
        (1, 900000, "dx", "4019", 0, 5, "evidence", ""),
        (1, 900000, "dx", "4019", 9, 14, "evidence", ""),
        (3, 900008, "dx", "4019", 0, 5, "negated", ""),
        (3, 900008, "dx", "486", 0, 9, "evidence", ""),
    )
    found = measure(tmp_path)
    assert sorted(found.lengths) == [3, 4]
    assert found.codes == [2]
    assert found.frequency == {("dx", "4019"): 1, ("pr", "9604"): 1}
    assert found.patients == {("dx", "4019"): 1, ("pr", "9604"): 1}
    assert (found.types, found.kept) == (4, 0)
    assert found.growth == [(7, 4)]
    assert (found.median_span, found.mentioned) == (5, 2)
    assert found.roles == {"evidence": 3, "negated": 1}


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: object) -> None:
        raise RuntimeError("no more paper")

    monkeypatch.setattr(NoteWriter, "notes", stumble)
    with pytest.raises(RuntimeError):
        hospital.write(tmp_path / "new", "tiny")
    assert not list(tmp_path.iterdir())


def test_unknown_sizes_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MarnError, match="teaching"):
        hospital.write(tmp_path / "a", "huge")
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(MarnError, match="is not empty"):
        hospital.write(tmp_path, "tiny")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_progress_and_report_count_the_same(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = hospital.write(tmp_path / "x", "tiny", progress=lambda *now: calls.append(now))
    assert calls[-1] == (report["summaries"], 200)
    assert len(calls) == report["patients"]
    assert len(read(tmp_path / "x", "EVIDENCE")) == report["evidence"]
