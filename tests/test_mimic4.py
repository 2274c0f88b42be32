"""MIMIC-IV tables become a corpus: small tables in the forms that PhysioNet has given them."""

import csv
import gzip
import io

import pytest

from data_prep.__main__ import main
from marn.corpus import Corpus

HEADERS = {
    "diagnoses_icd": "subject_id hadm_id seq_num icd_code icd_version",
    "procedures_icd": "subject_id hadm_id seq_num chartdate icd_code icd_version",
    "d_icd_diagnoses": "icd_code icd_version long_title",
    "d_icd_procedures": "icd_code icd_version long_title",
    "discharge": "note_id subject_id hadm_id note_type note_seq charttime storetime text",
}
TEXT = 'Name:  ___\n\nPatient with "CHF", on lasix. Intubated.'


class Tables:
    """Writes tables as MIMIC-IV has them; `columns` adds and reorders columns."""

    def __init__(self, folder):
        self.folder = folder
        self.zipped = False
        self.columns = {}

    def write(self, module, table, rows):
        names = HEADERS[table].split()
        order = self.columns.get(table, names)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(order)
        for row in rows:
            fields = dict(zip(names, row, strict=True))
            writer.writerow([fields.get(name, "x") for name in order])
        (self.folder / module).mkdir(parents=True, exist_ok=True)
        path = self.folder / module / f"{table}.csv{'.gz' if self.zipped else ''}"
        data = text.getvalue().encode()
        path.write_bytes(gzip.compress(data) if self.zipped else data)

    def notes(self, rows):
        """Write discharge from rows (note_id, subject, admission, text[, seq, time])."""
        full = []
        for note, subject, admission, text, *more in rows:
            order, time = [*more, *[1, "2180-05-07 00:00:00"][len(more) :]]
            full.append((note, subject, admission, "DS", order, time, "", text))
        self.write("note", "discharge", full)

    def codes(self, diagnoses, procedures):
        """Write both tables of codes from rows (admission, code, version)."""
        self.write("hosp", "diagnoses_icd", [(1, a, 1, code, v) for a, code, v in diagnoses])
        self.write("hosp", "procedures_icd", [(1, a, 1, "", code, v) for a, code, v in procedures])

    def fill(self, ids=range(20_000_000, 20_000_040)):
        """Write forty admissions of ICD-10 and as many of ICD-9."""
        old = [id_ + 1_000_000 for id_ in ids]
        self.notes([(f"{id_}-DS-1", id_ - 10**7, id_, TEXT) for id_ in [*ids, *old]])
        self.codes(
            [(id_, "I5023", 10) for id_ in ids] + [(id_, "4280", 9) for id_ in old],
            [(id_, "02100Z9", 10) for id_ in ids] + [(id_, "0331", 9) for id_ in old],
        )


@pytest.fixture
def raw(tmp_path):
    return Tables(tmp_path / "raw")


@pytest.fixture
def prepare(raw, tmp_path, capsys):
    def run(*options, places=None):
        places = places or ["--raw", str(raw.folder)]
        arguments = ["mimic4", *places, "--out", str(tmp_path / "out"), "--vectors", "none"]
        if main([*arguments, "--min-count", "1", *options]):
            assert not (tmp_path / "out").exists()
            return capsys.readouterr().err.strip().splitlines()[-1]
        return Corpus.load(tmp_path / "out")

    return run


def _codes(corpus, task="icd"):
    return [(entry.code, entry.kind) for entry in corpus.codes[task]]


def test_icd10(raw, prepare):
    raw.fill()
    raw.write(
        "hosp", "d_icd_diagnoses", [("I5023 ", 10, "Acute on chronic failure"), ("4280", 9, "CHF")]
    )
    corpus = prepare()
    assert corpus.card["text"] == "credentialed"
    assert _codes(corpus) == [("02100Z9", "pr"), ("I50.23", "dx")]
    assert corpus.codes["icd"][1].title == "Acute on chronic failure"
    assert corpus.codes["icd"][0].title.startswith("Bypass Coronary Artery, One Artery")
    assert _codes(corpus, "ccs") == [("CIR019", "dx"), ("PCS:02", "pr")]
    assert corpus.codes["ccs"][1].title == "Medical and surgical: heart and great vessels"
    assert corpus.card["ccs_key"] == "ccsr+pcs"
    assert corpus.card["dropped"] == {
        "admissions with a note and without a code": 40,
        "diagnoses_icd rows of ICD-9": 40,
        "procedures_icd rows of ICD-9": 40,
    }


def test_icd9(raw, prepare):
    raw.fill()
    corpus = prepare("--version", "9")
    assert _codes(corpus) == [("03.31", "pr"), ("428.0", "dx")]
    assert _codes(corpus, "ccs") == [("dx:108", "dx"), ("pr:4", "pr")]
    assert corpus.card["settings"]["version"] == 9
    assert "--version 9 --ccs-key kind:number" in corpus.card["created"]["command"]


def test_lists_of_admissions(raw, prepare, tmp_path):
    raw.fill()
    ids = [str(id_) for id_ in range(20_000_000, 20_000_040)]
    parts = {"train": ids[:30], "dev": ids[30:34], "test": [*ids[34:38], "29999999"]}
    lists = tmp_path / "lists"
    lists.mkdir()
    for name, mine in parts.items():
        (lists / f"{name}_full_hadm_ids.csv").write_text("\n".join(mine))
    assert "train_50_hadm_ids.csv does not exist; give --splits the folder" in prepare(
        "--splits", str(lists)
    )
    corpus = prepare("--codes", "full", "--splits", str(lists))
    assert {name: corpus[name].ids.tolist() for name in corpus.splits} == parts | {
        "test": ids[34:38]
    }
    card = corpus.card
    assert card["dropped"]["admissions that the lists do not name"] == 2
    assert card["dropped"]["listed admissions without a note and a kept code"] == 1
    assert card["settings"]["split"] == "lists"
    assert set(card["settings"]["lists_sha256"]) == {"train", "dev", "test"}
    assert "--splits SPLITS" in card["created"]["command"]


def test_one_corpus_whatever_the_form_of_the_tables(raw, prepare, tmp_path):
    """Plain or zipped, in two folders or one, with the columns of 3.x in any order."""
    raw.fill()
    plain = prepare().hash
    raw.zipped = True
    raw.folder = tmp_path / "zipped"
    raw.fill()
    assert prepare(places=["--raw", str(raw.folder)]).hash == plain
    hosp, note = str(raw.folder / "hosp"), str(raw.folder / "note")
    assert prepare(places=["--hosp", hosp, "--note", note]).hash == plain
    raw.folder = tmp_path / "new"
    raw.columns = {
        table: [*reversed(names.split()), "added_in_3_1"] for table, names in HEADERS.items()
    }
    raw.fill()
    assert prepare(places=["--raw", str(raw.folder)]).hash == plain
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in raw.folder.rglob("*.csv.gz"):
        path.rename(flat / path.name)
    assert prepare(places=["--raw", str(flat)]).hash == plain


def test_what_cannot_be_used_is_counted(raw, prepare):
    raw.fill()
    ids = range(20_000_000, 20_000_040)
    raw.notes(
        [(f"{id_}-DS-1", id_ - 10**7, id_, TEXT) for id_ in ids]
        + [
            (f"{ids[0]}-DS-1", 1, ids[0], "Seen before"),
            (f"{ids[0]}-AD-2", ids[0] - 10**7, ids[0], "Addendum.", 2),
            (f"{ids[0]}-AD-3", ids[0] - 10**7, f"{ids[0]}.0", "Earlier.", 3, "2180-01-01"),
            ("9-DS-9", 9, "", "Nobody's"),
            ("9-DS-8", 9, 29_999_999, "   "),
        ]
    )
    raw.codes(
        [(id_, "I5023  ", 10) for id_ in ids]
        + [(ids[0], "i50.23", "10.0"), (ids[0], "", 10), (ids[0], "5023", 10), ("", "I10", 10)]
        + [(27_000_000, "I10", 10), (ids[0], "M1A00X0", 10), (ids[0], "Z99Z", 10)],
        [(ids[1], "02100Z9", 10), (ids[1], "02100O9", 10), (ids[1], "0210", 10)],
    )
    corpus = prepare()
    note = [*corpus["train"].ids, *corpus["dev"].ids, *corpus["test"].ids].index(str(ids[0]))
    texts = [split.text(n) for split in map(corpus.__getitem__, corpus.splits)
             for n in range(len(split))]  # fmt: skip
    assert texts[note] == f"Earlier.\n{TEXT}\nAddendum."
    assert [code for code, _ in _codes(corpus)] == ["02100Z9", "I50.23", "M1A.00X0", "Z99.Z"]
    assert corpus.card["dropped"] == {
        "codes kept without a category": 1,  # no code begins with Z99.Z
        "codings of admissions without a note": 1,
        "codes repeated within an admission": 1,
        "diagnoses_icd rows whose code has no form of ICD-10-CM and ICD-10-PCS": 1,
        "diagnoses_icd rows without a code": 1,
        "diagnoses_icd rows without hadm_id": 1,
        "notes that are empty": 1,
        "notes with a note_id seen before": 1,
        "notes without hadm_id": 1,
        "procedures_icd rows whose code has no form of ICD-10-CM and ICD-10-PCS": 2,
    }


def test_patients_stay_together_and_the_top_is_cut(raw, prepare):
    raw.fill()
    corpus = prepare("--codes", "1")
    assert _codes(corpus) == [("02100Z9", "pr")]  # as frequent as I50.23, and smaller
    assert sum(len(corpus[name]) for name in corpus.splits) == 40


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda raw: raw.codes([(1, "I10", 11)], []), "icd_version must be 9 or 10, but got '11'"),
        (lambda raw: raw.notes([("a", "", 20_000_000, "x")]), "no subject_id"),
        (lambda raw: raw.notes([("a", 1, -20_000_000, "x")]), "'-20000000' is not a valid id"),
        (lambda raw: (raw.folder / "note" / "discharge.csv").unlink(), "has no discharge.csv"),
        (lambda raw: (raw.folder / "hosp" / "procedures_icd.csv").unlink(), "no procedures_icd"),
    ],
)
def test_damage_is_one_line(raw, prepare, spoil, said):
    raw.fill()
    spoil(raw)
    error = prepare()
    assert error.startswith("python -m data_prep mimic4: ")
    assert said in error


def test_folders_are_asked_for(prepare, raw, tmp_path):
    raw.fill()
    assert "--raw or --note is missing" in prepare(places=["--hosp", str(raw.folder / "hosp")])
    hosp, nowhere = str(raw.folder / "hosp"), str(tmp_path / "nowhere")
    said = "nowhere does not exist; give the folder of the raw tables with"
    assert f"{said} --raw" in prepare(places=["--raw", nowhere])
    assert f"{said} --note" in prepare(places=["--hosp", hosp, "--note", nowhere])
    raw.folder.mkdir(exist_ok=True)
    assert "contains the raw files" in prepare("--out", str(raw.folder))
