"""MDACE's annotations become the evidence of a corpus of MIMIC-III; every file here is invented."""

import csv
import json
from collections import defaultdict

import pytest

from data_prep.__main__ import main
from data_prep.mdace import CITATION
from marn.corpus import Corpus

SYSTEMS = {"dx": "ICD-9-CM", "pr": "ICD-9-PCS"}
TEXT = "Admitted with CHF,\nthen a spinal tap. Secretword."
ADDENDUM = "Heart failure is better."


def passage(code, words, text=TEXT, system="ICD-9-CM", **more):
    begin = text.index(words)
    return {"begin": begin, "end": begin + len(words), "code": code, "code_system": system, **more}


def chart(folder, admission, notes):
    """Write the file of an admission from {ROW_ID: passages}."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = [
        {"note_id": row, "category": "Discharge summary", "annotations": passages}
        for row, passages in notes.items()
    ]
    path = folder / f"{admission}-ICD-9.json"
    path.write_text(json.dumps({"hadm_id": admission, "comment": "", "notes": notes}))
    return path


@pytest.fixture
def prepare(raw_tables, tmp_path):
    """Write nine admissions, of which the first has an addendum and the last no code."""
    ids = range(145_000, 145_009)
    notes = [(174 + n, 22_532 + n, id_, TEXT) for n, id_ in enumerate(ids)]
    raw_tables.notes([*notes, (900, 22_532, 145_000, ADDENDUM)])
    raw_tables.codes({id_: ["4280"] for id_ in ids[:8]}, {ids[0]: ["0331"]})

    def run(*options, mdace=tmp_path / "MDACE"):
        arguments = ["mimic3", "--raw", str(raw_tables.folder), "--out", str(tmp_path / "out")]
        arguments += ["--vectors", "none", "--min-count", "1", "--splits", "1,0,0", *options]
        done = main([*arguments, "--mdace", str(mdace)])
        assert not list(tmp_path.glob("*.partial"))
        return None if done else Corpus.load(tmp_path / "out")

    return run


def evidence_of(corpus):
    return {
        (str(admission), corpus.codes["icd"][one.code].code, text[one.begin : one.end])
        for split in (corpus[name] for name in corpus.splits)
        for note, admission in enumerate(split.ids)
        for text in [split.text(note)]
        for one in split.evidence(note)
        if one.role == "evidence"
    }


def test_by_hand(prepare, tmp_path, capsys):
    good = passage("428.0", "CHF")
    data = tmp_path / "MDACE" / "data" / "Inpatient" / "ICD-9" / "1.0"
    chart(
        data,
        145_000,
        {
            174: [
                good,
                passage("03.31", "spinal tap", system="ICD-9-PCS", covered_text="spinal  tap."),
                passage("I50.9", "CHF", system="ICD-10-CM"),
                passage("99232", "CHF", system="CPT"),
                passage("nothing", "CHF"),
                passage("401.9", "CHF"),
                passage("428.0", "CHF", covered_text="hidden"),
                {**good, "begin": -4},
                {**good, "end": len(TEXT) + 1},
                {**good, "end": good["begin"]},
                good,
            ],
            900: [passage("4280", "Heart failure", ADDENDUM, covered_text="Heart\nfailure")],
            175: [good, good],
            777: [good],
        },
    )
    path = chart(data, 145_008, {182: [good]})
    other = json.loads(path.read_text())
    other["notes"] += [{"note_id": 12, "category": "Radiology", "annotations": [good]}]
    path.write_text(json.dumps(other))
    chart(tmp_path / "MDACE" / "predictions" / "x", 145_001, {175: [good]})
    corpus = prepare()
    assert evidence_of(corpus) == {
        ("145000", "428.0", "CHF"),
        ("145000", "03.31", "spinal tap"),
        ("145000", "428.0", "Heart failure"),
    }
    assert [len(corpus["train"].evidence(note)) for note in range(2)] == [3, 0]
    dropped = {key: n for key, n in corpus.card["dropped"].items() if key.startswith("passages")}
    assert dropped == {
        "passages given twice": 1,
        "passages of codes left out": 1,
        "passages of codes of other systems than ICD-9-CM": 2,
        "passages of notes left out": 1,
        "passages of notes of other categories": 1,
        "passages of notes that are another admission's": 2,
        "passages of notes that the tables lack": 1,
        "passages outside their note": 3,
        "passages that do not lie where they should": 1,
        "passages whose code has no form of ICD-9-CM": 1,
    }
    assert sum(dropped.values()) + 3 == 17
    assert corpus.card["settings"]["mdace"] == CITATION
    assert "--mdace MDACE" in corpus.card["created"]["command"]
    assert not corpus.is_open
    said = "".join(capsys.readouterr())
    assert "MDACE: 8 of 17 passages are in these summaries" in said
    assert "left out: 3 passages outside their note" in said
    assert "hidden" not in said + json.dumps(corpus.card)


def test_the_hospitals_evidence_comes_back_to_the_character(tiny_raw, tmp_path):
    """Written as MDACE writes it, it makes the corpus that the hospital's own table makes."""
    with (tiny_raw / "NOTEEVENTS.csv").open(newline="") as file:
        notes = {row["ROW_ID"]: (row["HADM_ID"], row["TEXT"]) for row in csv.DictReader(file)}
    charts = defaultdict(lambda: defaultdict(list))
    with (tiny_raw / "EVIDENCE.csv").open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            if row["ROLE"] == "evidence":
                admission, text = notes[row["ROW_ID"]]
                begin, end = int(row["BEGIN"]), int(row["END"])
                one = {"begin": begin, "end": end, "code": row["ICD9_CODE"], "type": "Human"}
                one["code_system"] = SYSTEMS[row["KIND"]]
                if number % 2:
                    one["covered_text"] = text[begin:end]
                charts[int(admission)][int(row["ROW_ID"])].append(one)
    for admission, passages in charts.items():
        chart(tmp_path / "data", admission, passages)
    made = []
    for name, more in (("own", []), ("mdace", ["--mdace", str(tmp_path / "data")])):
        line = ["mimic3", "--raw", str(tiny_raw), "--out", str(tmp_path / name)]
        assert main([*line, "--vectors", "none", *more]) == 0
        made.append(Corpus.load(tmp_path / name))
    own, mdace = made
    assert evidence_of(own) == evidence_of(mdace)
    assert len(evidence_of(own)) > 1000
    assert mdace.card["roles"] == ["evidence"]
    assert mdace.codes == own.codes
    assert mdace.card["files"]["train/text.npy"] == own.card["files"]["train/text.npy"]


def test_codes_under_caml_labels(prepare, tmp_path):
    tap = passage("03.31", "spinal tap", system="ICD-9-PCS")
    chart(tmp_path / "MDACE", 145_000, {174: [tap]})
    assert evidence_of(prepare("--labels", "caml")) == {("145000", "33.1", "spinal tap")}


def test_nothing_found_is_a_warning(prepare, tmp_path, capsys):
    chart(tmp_path / "MDACE", 100_001, {5: [passage("428.0", "CHF")]})
    assert evidence_of(prepare()) == set()
    assert "warning: MDACE: 0 of 1 passages" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda chart: chart["notes"][0].pop("note_id"), "notes.0.note_id is missing or wrong"),
        (
            lambda chart: chart["notes"][0]["annotations"][0].update(begin="Secretword"),
            "notes.0.annotations.0.begin is missing or wrong",
        ),
        (
            lambda chart: chart["notes"][0]["annotations"][0].update(code=428.0),
            "notes.0.annotations.0.code is missing or wrong",
        ),
        (lambda chart: chart.clear(), "hadm_id is missing or wrong"),
    ],
)
def test_a_damaged_file_is_one_line_without_text(prepare, tmp_path, capsys, damage, said):
    path = chart(tmp_path / "MDACE", 145_000, {174: [passage("428.0", "CHF")]})
    whole = json.loads(path.read_text())
    damage(whole)
    path.write_text(json.dumps(whole))
    assert prepare() is None
    error = capsys.readouterr().err
    assert f"145000-ICD-9.json is not an MDACE file: {said}; " in error
    assert "Secretword" not in error
    assert error.count("\n") == 1


def test_no_files_and_no_json(prepare, tmp_path, capsys):
    (tmp_path / "MDACE").mkdir()
    for mdace in ("nowhere", "MDACE"):
        assert prepare(mdace=tmp_path / mdace) is None
        assert (
            f"{mdace} contains no annotations (NAME.json); pass the folder of MDACE"
            in capsys.readouterr().err
        )
    for data in (b"Secretword", b'{"hadm_id": 1', b"\xff\xfe{"):
        (tmp_path / "MDACE" / "x.json").write_bytes(data)
        assert prepare() is None
        error = capsys.readouterr().err
        assert "x.json" in error
        assert "Secretword" not in error
    assert prepare("--out", str(tmp_path / "MDACE")) is None
    assert "contains the raw files; choose another folder for --out" in capsys.readouterr().err
