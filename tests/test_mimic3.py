"""MIMIC-III tables become a corpus: small tables by hand, and the real ones of the open demo."""

import csv
import gzip
import shutil
from collections import Counter

import polars as pl
import pytest

from data_prep.__main__ import main
from data_prep.caml_labels import caml_label
from data_prep.sources import mimic3
from marn.corpus import Corpus

TEXT = 'Admission Date:  [**2151-7-16**]\n\nPt with "CHF", on lasix. Intubated.'
LISTS = {"train": range(145_000, 145_006), "dev": [145_006], "test": [145_007]}


def fill(raw_tables, *, notes=(), diagnoses=None, procedures=None, zipped=False, first=145_000):
    """Write eight admissions, each with a summary, 428.0, and 03.31 in the first three."""
    ids = range(first, first + 8)
    subjects = 22_532 if first < 900_000 else 800_000
    raw_tables.notes(
        [(174 + n, subjects + n, id_, TEXT) for n, id_ in enumerate(ids)] + list(notes),
        zipped=zipped,
    )
    raw_tables.codes(
        {id_: ["4280"] for id_ in ids} | (diagnoses or {}),
        {id_: ["0331"] for id_ in ids[:3]} | (procedures or {}),
        zipped=zipped,
    )


@pytest.fixture
def lists(tmp_path):
    folder = tmp_path / "lists"
    folder.mkdir()
    for name, ids in LISTS.items():
        for which in ("50", "full"):
            path = folder / f"{name}_{which}_hadm_ids.csv"
            path.write_text("".join(f"{id_}\n" for id_ in ids))
    return folder


@pytest.fixture
def prepare(raw_tables, tmp_path, lists):
    """Return a function that runs the command line and gives status and corpus."""

    def run(*options, by_lists=True):
        arguments = ["mimic3", "--raw", str(raw_tables.folder), "--out", str(tmp_path / "out")]
        arguments += ["--vectors", "none", "--min-count", "1", *options]
        if by_lists:
            arguments += ["--splits", str(lists)]
        if main(arguments):
            assert not list(tmp_path.glob("*.partial"))
            return None
        return Corpus.load(tmp_path / "out")

    return run


@pytest.mark.parametrize("zipped", [False, True])
def test_by_hand(raw_tables, prepare, capsys, zipped):
    notes = [
        (900, 22_532, 145_000, "Addendum: stable."),
        (901, 22_532, 145_000, "Not for us", "Nursing/other"),
        (907, 22_533, 145_001, "Second summary", "Discharge summary "),
        (907, 22_533, 145_001, "Same ROW_ID", "DISCHARGE SUMMARY"),
        (902, 22_532, "", "Nobody's"),
        (903, 22_532, "145000.0", "As a data frame writes it."),
        (904, 22_532, 145_001, " \n"),
        (905, 22_533, 145_001, "12 34"),
        (906, 5, 199_999, "No codes."),
    ]
    fill(
        raw_tables,
        notes=notes,
        diagnoses={145_001: ["4280 ", "", "4280", "bogus"], 150_000: ["4019"]},
        zipped=zipped,
    )
    corpus = prepare("--codes", "full")
    assert corpus.card["text"] == "credentialed"
    assert not corpus.is_open
    assert corpus["train"].text(0) == f"{TEXT}\nAddendum: stable.\nAs a data frame writes it."
    assert corpus["train"].text(1) == f"{TEXT}\nSecond summary"
    assert corpus["train"].evidence(0) == []
    assert [(entry.code, entry.kind) for entry in corpus.codes["icd"]] == [
        ("03.31", "pr"),
        ("428.0", "dx"),
    ]
    assert corpus.frequency("icd").tolist() == [3, 6]
    assert [len(corpus[name]) for name in corpus.splits] == [6, 1, 1]
    assert corpus.card["dropped"] == {
        "DIAGNOSES_ICD rows whose code has no form of ICD-9-CM": 1,
        "DIAGNOSES_ICD rows without a code": 1,
        "admissions with a note and without a code": 1,
        "codings of admissions without a note": 1,
        "codes repeated within an admission": 1,
        "notes of other categories": 1,
        "notes that are empty": 1,
        "notes with a ROW_ID seen before": 1,
        "notes without HADM_ID": 1,
        "notes without a word": 1,
    }
    said = capsys.readouterr().out
    assert "train       6 notes of 6 patients" in said
    assert "left out: 1 notes without HADM_ID" in said


def test_addenda_come_in_chart_order_not_in_that_of_the_file(raw_tables, prepare):
    fill(raw_tables)
    columns = ("ROW_ID", "SUBJECT_ID", "HADM_ID", "CHARTDATE", "CATEGORY", "TEXT")
    rows = [
        (row, 22_532 + id_ - 145_000, id_, date, "Discharge summary", text)
        for row, id_, date, text in [
            (12, 145_000, "2151-08-06", "Third."),
            (11, 145_000, "2151-08-05", "Second, of the smaller row."),
            (10, 145_000, "2151-08-04", "First of all."),
            (13, 145_000, "2151-08-05", "Second, of the larger row."),
            *((id_, id_, "2151-08-04", TEXT) for id_ in range(145_001, 145_008)),
        ]
    ]
    with (raw_tables.folder / "NOTEEVENTS.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    assert prepare()["train"].text(0).splitlines() == [
        "First of all.",
        "Second, of the smaller row.",
        "Second, of the larger row.",
        "Third.",
    ]


def test_categories_under_both_keys(raw_tables, prepare):
    # 427.31 is category 106, 428.0 is 108 and 274.0 is 54 of the diagnoses; 03.31 is 4 and 38.93
    # is 54 of the procedures.
    ids = LISTS["train"]
    fill(
        raw_tables,
        diagnoses={ids[0]: ["4280", "42731", "2740"]},
        procedures={ids[1]: ["3893"], ids[2]: ["0331"]},
    )
    corpus = prepare("--codes", "full")
    codes = [entry.code for entry in corpus.codes["ccs"]]
    assert codes == ["dx:106", "dx:108", "dx:54", "pr:4", "pr:54"]
    merged = prepare("--codes", "full", "--ccs-key", "number")
    assert [(entry.code, entry.kind) for entry in merged.codes["ccs"]] == [
        ("106", "dx"),
        ("108", "dx"),
        ("4", "pr"),
        ("54", "dx+pr"),
    ]
    both = next(entry.title for entry in merged.codes["ccs"] if entry.code == "54")
    assert "Gout" in both
    assert "catheter" in both
    assert merged.hash != corpus.hash


def test_titles_and_unknown_codes(raw_tables, prepare):
    # 999.99 is neither in D_ICD_DIAGNOSES nor in CCS: unknown. V45.81 is missing in the
    # table of titles alone: kept. Procedures are judged only with HCUP's complete file.
    fill(
        raw_tables,
        diagnoses={145_000: ["4280", "99999", "V4581"]},
        procedures={145_000: ["0331", "9899"]},
    )
    raw_tables.write("D_ICD_DIAGNOSES", [(1, "4280", "CHF NOS", "Congestive heart failure")])
    raw_tables.write("D_ICD_PROCEDURES", [(1, "0331", "Spinal tap", "Spinal tap, long")])
    corpus = prepare("--codes", "full")
    titles = {entry.code: entry.title for entry in corpus.codes["icd"]}
    assert list(titles) == ["03.31", "428.0", "98.99", "V45.81"]
    assert titles["03.31"] == "Spinal tap, long"
    assert titles["428.0"] == "Congestive heart failure"
    assert titles["98.99"] == ""
    assert titles["V45.81"] == "Aortocoronary bypass status"  # CMS's own
    assert corpus.card["dropped"]["DIAGNOSES_ICD rows with an unknown code"] == 1
    assert corpus.card["dropped"]["codes kept without a category"] == 1


def test_lists_want_their_own_number_of_codes(raw_tables, prepare, capsys):
    fill(raw_tables)
    assert prepare("--codes", "7") is None
    assert "--codes must be 50 or full with CAML's lists, but got 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "code", "label"),
    [
        ("pr", "03.31", "33.1"),
        ("pr", "00.93", "93."),
        ("pr", "00.01", "1."),
        ("pr", "45", "45."),
        ("pr", "45.1", "45.1"),
        ("pr", "93.90", "93.90"),
        ("pr", "09.39", "93.9"),
        ("pr", "96.04", "96.04"),
        ("dx", "038.9", "038.9"),
        ("dx", "486", "486"),
        ("dx", "V45.81", "V45.81"),
    ],
)
def test_labels_as_camls_scripts_write_them(kind, code, label):
    assert caml_label(kind, code) == label


def test_the_label_space_of_caml(raw_tables, prepare):
    # 03.31 and 33.1 become one label, which three admissions have and one: 4 is the category of
    # the first, 37 that of the second. 93.9 and 93.90 stay two.
    ids = LISTS["train"]
    fill(
        raw_tables,
        diagnoses={ids[5]: ["4280", "V4581"]},  # a letter, so that no chunk is of numbers
        procedures={ids[0]: ["0331", "0939"], ids[3]: ["331", "9390"]},
    )
    codes = [entry.code for entry in prepare("--codes", "full").codes["icd"]]
    assert codes == ["03.31", "09.39", "33.1", "428.0", "93.90", "V45.81"]
    corpus = prepare("--codes", "full", "--labels", "caml")
    labels = ["33.1", "428.0", "93.9", "93.90", "V45.81"]
    assert [entry.code for entry in corpus.codes["icd"]] == labels
    assert corpus.card["settings"]["labels"] == "caml"
    assert "--labels caml" in corpus.card["created"]["command"]
    assert corpus.frequency("icd").tolist() == [4, 6, 1, 1, 1]
    merged = corpus.codes["icd"][0]
    assert merged.kind == "pr"
    assert merged.title.count(" / ") == 1
    assert corpus.codes["ccs"][corpus.parent[0]].code == "pr:4"


def test_procedures_that_the_released_converter_does_not_find(raw_tables, prepare):
    # Stubs and zeros at the end of CAML's labels; 64.0, which is itself a number, and diagnoses
    # keep theirs.
    ids = LISTS["train"]
    fill(
        raw_tables,
        diagnoses={ids[0]: ["25000", "V4581"]},
        procedures={ids[0]: ["3893", "9390", "3950"], ids[1]: ["0066", "3893", "640"]},
    )
    options = ("--codes", "full", "--labels", "caml")
    found = {}
    for lookup in ("all", "released"):
        corpus = prepare(*options, "--ccs-lookup", lookup)
        found[lookup] = {
            entry.code
            for entry, above in zip(corpus.codes["icd"], corpus.parent, strict=True)
            if above >= 0
        }
    assert found["all"] - found["released"] == {"66.", "93.90", "39.50"}
    assert {"38.93", "250.00", "64.0"} <= found["released"]
    assert "--ccs-lookup released" in corpus.card["created"]["command"]


def test_marked_passages_follow_their_labels(tiny_raw, tmp_path):
    found = {}
    for style in ("icd", "caml"):
        arguments = ["--raw", str(tiny_raw), "--out", str(tmp_path / style), "--labels", style]
        assert main(["mimic3", *arguments, "--vectors", "none", "--codes", "full"]) == 0
        corpus = Corpus.load(tmp_path / style)
        found[style] = {
            (caml_label(entry.kind, entry.code) if style == "icd" else entry.code, one)
            for split in map(corpus.__getitem__, corpus.splits)
            for note in range(len(split))
            for one, entry in (
                ((str(split.ids[note]), mark.begin, mark.end), corpus.codes["icd"][mark.code])
                for mark in split.evidence(note)
            )
        }
    assert found["caml"] == found["icd"]
    assert found["icd"]


def test_lists_are_fetched_once_and_their_sums_recorded(
    raw_tables, prepare, lists, tmp_path, monkeypatch, capsys
):
    asked = []

    def retrieve(url, *, known_hash, fname, path):
        asked.append(url)
        path.mkdir(exist_ok=True)
        (path / fname).write_bytes((lists / fname).read_bytes())

    monkeypatch.setattr("pooch.retrieve", retrieve)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    fill(raw_tables)
    given = prepare()
    fetched = prepare("--splits", "fetch", by_lists=False)
    assert fetched.hash == given.hash
    assert fetched.card["settings"] == given.card["settings"]
    assert [url.rpartition("/")[2] for url in asked] == [
        f"{name}_50_hadm_ids.csv" for name in LISTS
    ]
    sums = fetched.card["settings"]["lists_sha256"]
    assert set(sums) == set(LISTS)
    given = [f"--sha256={one}" for one in sums.values()]
    assert prepare("--splits", "fetch", *given, by_lists=False)
    assert len(asked) == 3
    shutil.rmtree(tmp_path / "out")
    assert prepare("--splits", "fetch", "--sha256", "0" * 64, by_lists=False) is None
    assert "which --sha256 does not name" in capsys.readouterr().err
    assert prepare("--splits", "fetch", "--codes", "7", by_lists=False) is None
    assert "--codes must be 50 or full with CAML's lists, but got 7" in capsys.readouterr().err


def test_ids_that_lists_repeat_or_tables_lack_are_counted(raw_tables, prepare, lists):
    path = lists / "train_50_hadm_ids.csv"
    path.write_text("HADM_ID\n" + path.read_text() + '"145000"\n145000.0\n\n777777\n')
    fill(raw_tables)
    dropped = prepare().card["dropped"]
    assert dropped["ids that a list names twice"] == 2
    assert dropped["listed admissions without a note and a kept code"] == 1


def _mark(raw_tables, text="SYNTHETIC. Nobody ever lived."):
    (raw_tables.folder / "README.txt").write_text(text)
    raw_tables.write(
        "EVIDENCE",
        [(174, 900_000, "dx", "4280", TEXT.index("CHF"), TEXT.index("CHF") + 3, "evidence", "PMH")],
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet", "feather"])
def test_a_table_of_splits(raw_tables, prepare, lists, tmp_path, capsys, suffix):
    """As the critical review publishes them: _id, split with "val"; the same corpus as by lists."""
    fill(raw_tables)
    by_lists = prepare()
    rows = [(id_, name) for name, ids in LISTS.items() for id_ in ids]
    frame = pl.DataFrame(rows, schema=["_id", "split"], orient="row")
    frame = frame.with_columns(pl.col("split").replace("dev", "val"))
    path = tmp_path / f"splits.{suffix}"
    writers = {"csv": frame.write_csv, "parquet": frame.write_parquet, "feather": frame.write_ipc}
    writers[suffix](path)
    corpus = prepare("--splits", str(path), "--codes", "7", by_lists=False)
    assert {name: corpus[name].ids.tolist() for name in corpus.splits} == {
        name: list(map(str, ids)) for name, ids in LISTS.items()
    }
    assert corpus.hash == by_lists.hash
    assert corpus.card["settings"]["split"] == "table"
    path.write_text("_id,split\n145000,train\n145000,test\n")
    assert prepare("--splits", str(path), by_lists=False) is None
    assert "splits." + suffix in capsys.readouterr().err


def test_words_of_the_full_training_list(raw_tables, prepare, lists, capsys):
    fill(raw_tables, notes=[(900, 9, 145_100, "Another word"), (901, 8, 145_101, "Last word")])
    with (lists / "train_full_hadm_ids.csv").open("a") as file:
        file.write("145100\n")
    (lists / "test_full_hadm_ids.csv").write_text("145007\n145101\n")
    own = prepare("--vectors", "train", "--min-count", "1")
    assert "another" not in own.vocabulary.words
    whole = prepare("--vectors", "all", "--vocabulary", "full")
    assert {"another", "word"} <= set(whole.vocabulary.words)
    assert "last" not in whole.vocabulary.words  # a test note: vectors may see it, words do not
    assert whole["train"].ids.tolist() == own["train"].ids.tolist()
    assert whole.card["settings"]["vocabulary"] == "all training notes (7)"
    assert "--vocabulary full" in whole.card["created"]["command"]
    assert whole.vectors.shape[0] == len(whole.vocabulary)
    (lists / "train_full_hadm_ids.csv").unlink()
    assert prepare("--vocabulary", "full") is None
    assert "train_full_hadm_ids.csv does not exist" in capsys.readouterr().err


def test_sums_without_a_download_are_refused(raw_tables, prepare, capsys):
    fill(raw_tables)
    assert prepare("--sha256", "0" * 64) is None
    assert "--sha256 checks downloaded lists; add --splits fetch" in capsys.readouterr().err


def test_the_hospitals_tables_are_open(raw_tables, lists, tmp_path):
    fill(raw_tables, first=900_000)
    _mark(raw_tables)
    assert mimic3.is_synthetic(raw_tables.folder)
    for name, ids in LISTS.items():
        moved = "".join(f"{id_ - 145_000 + 900_000}\n" for id_ in ids)
        (lists / f"{name}_50_hadm_ids.csv").write_text(moved)
    arguments = ["mimic3", "--raw", str(raw_tables.folder), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--splits", str(lists), "--vectors", "none"]) == 0
    corpus = Corpus.load(tmp_path / "out")
    assert corpus.is_open
    (row,) = corpus["train"].evidence(0)
    assert corpus.codes["icd"][row.code].code == "428.0"
    assert corpus["train"].text(0)[row.begin : row.end] == 'CHF", on '[: row.end - row.begin]


@pytest.mark.parametrize("missing", ["README.txt", "EVIDENCE.csv"])
def test_in_doubt_tables_are_real(raw_tables, missing):
    fill(raw_tables, first=900_000)
    _mark(raw_tables)
    (raw_tables.folder / missing).unlink()
    assert not mimic3.is_synthetic(raw_tables.folder)


def test_a_readme_of_another_hand_opens_nothing(raw_tables):
    fill(raw_tables)
    _mark(raw_tables, "My notes on MIMIC-III")
    assert not mimic3.is_synthetic(raw_tables.folder)


def test_the_mark_does_not_open_real_tables(raw_tables, prepare, capsys):
    fill(raw_tables)
    _mark(raw_tables)
    assert prepare() is None
    assert "admission 145000 is not the teaching hospital's" in capsys.readouterr().err


def test_demo_codes_are_all_accounted_for(shared_data):
    """The open MIMIC-III demo: 1,761 diagnosis rows, 506 procedure rows, 34 with a first zero."""
    raw = shared_data / "mimic3-demo"
    dropped = Counter()
    found = list(mimic3.read_codings(raw, dropped))
    kinds = Counter(coding.kind for coding in found)
    assert kinds["dx"] + sum(n for why, n in dropped.items() if why.startswith("DIAG")) == 1761
    assert kinds["pr"] + sum(n for why, n in dropped.items() if why.startswith("PROC")) == 506
    assert not dropped
    assert sum(coding.code.startswith("0") for coding in found if coding.kind == "pr") == 34
    # Undotted again they are the fields of the file, in its order.
    for kind, name in mimic3.CODE_TABLES.items():
        with gzip.open(raw / f"{name}.csv.gz", "rt") as file:
            fields = [row["icd9_code"] for row in csv.DictReader(file)]
        assert [c.code.replace(".", "") for c in found if c.kind == kind] == fields
    assert len({coding.admission for coding in found}) == 129


def test_titles_come_from_the_tables(raw_tables, prepare, capsys):
    fill(raw_tables)
    raw_tables.write("D_ICD_PROCEDURES", [(1, "0331", "tap", " My tap "), (2, "x", "y", "z")])
    raw_tables.write("D_ICD_DIAGNOSES", [(n, "4280", "short", f"Title {n}") for n in (1, 2, 3)])
    corpus = prepare()
    titles = [(entry.code, entry.title) for entry in corpus.codes["icd"]]
    assert titles == [("03.31", "My tap"), ("428.0", "Title 3")]
    assert corpus.card["dropped"]["titles of a code that has one already"] == 2
    assert corpus.card["dropped"]["titles of codes that have no form of the system"] == 1
    (raw_tables.folder / "D_ICD_DIAGNOSES.csv").unlink()
    assert prepare().codes["icd"][1].title == "Congestive heart failure, unspecified"
    raw_tables.write("D_ICD_DIAGNOSES", [])
    assert prepare() is None
    assert "D_ICD_DIAGNOSES.csv has no title of a code of ICD-9-CM (0 rows)" in (
        capsys.readouterr().err
    )
