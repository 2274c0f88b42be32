"""Your own notes: every form in which they may come, and the message about a wrong one."""

import csv
import gzip
import json
import shutil

import polars as pl
import pytest

import marn
from data_prep.__main__ import main
from marn.corpus import CodeEntry, Corpus

NOTES = 'note_id,subject_id,split,text\na,p1,train,"Fever, cough"\nb,p2,dev,Fever again\n' + (
    'c,p1,train,"She said ""fever"""\nd,p3,test,cough\n'
)
ASSIGNED = "note_id,kind,code\na,dx,4280\nb,dx,428.0\nc,pr,0331\nc,dx,42731\nd,dx,428.0\n"


@pytest.fixture
def prepare(tmp_path, capsys):
    (tmp_path / "notes.csv").write_text(NOTES)
    (tmp_path / "codes.csv").write_text(ASSIGNED)

    def run(*options, notes="notes.csv", system="icd9"):
        arguments = ["own", "--notes", str(tmp_path / notes), "--out", str(tmp_path / "out")]
        arguments += ["--assigned", str(tmp_path / "codes.csv"), "--system", system]
        arguments += ["--vectors", "none", "--min-count", "1"]
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        if main([*arguments, *options]):
            assert not (tmp_path / "out").exists()
            return capsys.readouterr().err.strip().splitlines()[-1]
        return Corpus.load(tmp_path / "out")

    return run


def _codes(corpus, task="icd"):
    return [entry.code for entry in corpus.codes[task]]


def test_icd9_with_the_splits_given(prepare):
    corpus = prepare()
    assert {name: corpus[name].ids.tolist() for name in corpus.splits} == {
        "train": ["a", "c"],
        "dev": ["b"],
        "test": ["d"],
    }
    assert corpus["train"].text(1) == 'She said "fever"'
    assert corpus["train"].subjects.tolist() == ["p1", "p1"]
    assert _codes(corpus) == ["03.31", "427.31", "428.0"]
    assert _codes(corpus, "ccs") == ["dx:106", "dx:108", "pr:4"]
    assert corpus.card["text"] == "credentialed"
    assert corpus.card["settings"]["split"] == "given with the notes"


def test_icd10(prepare, tmp_path):
    (tmp_path / "codes.csv").write_text("note_id,kind,code\na,dx,i5023\nb,pr,02100Z9\nd,dx,4280\n")
    corpus = prepare("--text", "open", "--language", "es", system="icd10")
    assert _codes(corpus) == ["02100Z9", "I50.23"]
    assert _codes(corpus, "ccs") == ["CIR019", "PCS:02"]
    assert corpus.is_open
    assert corpus.card["language"] == "es"
    assert corpus.card["dropped"]["rows whose code has no form of the system"] == 1


def test_codes_of_any_system_have_one_task_or_the_categories_given(prepare, tmp_path):
    codes = "note_id,kind,code\na,dx,Alpha/1\nb,dx,Alpha/1\nc,dx,beta\nd,dx,a b\n"
    (tmp_path / "codes.csv").write_text(codes)
    corpus = prepare(system="other")
    assert corpus.tasks == {"icd": 2}
    assert corpus.codes["icd"] == [CodeEntry("Alpha/1", "dx", ""), CodeEntry("beta", "dx", "")]
    assert corpus.card["ccs_key"] is None
    assert corpus.card["dropped"]["rows whose code has no form of the system"] == 1
    (tmp_path / "titles.csv").write_text(
        "code,title,kind,category,category_title\nAlpha/1,First,dx,A,Letters\nbeta,Second,dx,,\n"
    )
    corpus = prepare("--titles", str(tmp_path / "titles.csv"), system="other")
    assert corpus.tasks == {"icd": 2, "ccs": 1}
    assert corpus.codes["icd"][1].title == "Second"
    assert corpus.codes["ccs"] == [CodeEntry("A", "dx", "Letters")]
    assert corpus.parent.tolist() == [0, -1]


def test_a_corpus_of_one_task_is_enough_for_a_system(prepare, tmp_path):
    (tmp_path / "codes.csv").write_text("note_id,kind,code\na,dx,X\nb,dx,X\nc,dx,Y\nd,dx,X\n")
    corpus = prepare(system="other")
    logits = marn.predict(marn.build("cnn", corpus), corpus, "dev").logits
    assert {task: found.shape for task, found in logits.items()} == {"icd": (1, 2)}


@pytest.mark.parametrize("split", [True, False])
def test_a_folder_of_texts(prepare, tmp_path, split):
    ids = [f"n{number}" for number in range(60)]
    for number, note in enumerate(ids):
        name = ("train", "train", "dev", "test")[number % 4]
        folder = tmp_path / "texts" / (name if split else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{note}.txt").write_text(f"fever é {number}\r\nend", newline="")
    (tmp_path / "texts" / "README.md").write_text("not a note")
    (tmp_path / "codes.csv").write_text(
        "note_id,kind,code\n" + "".join(f"{note},dx,428.0\n" for note in ids)
    )
    corpus = prepare(notes="texts")
    assert sum(len(corpus[name]) for name in corpus.splits) == 60
    assert corpus["train"].text(0) == "fever é 0\r\nend" or not split
    if split:
        assert [len(corpus[name]) for name in corpus.splits] == [30, 15, 15]


def test_what_cannot_be_used_is_counted(prepare, tmp_path):
    (tmp_path / "notes.csv").write_text(
        NOTES + "a,p9,train,again\ne,p5,,fever\nf,p6,train, \ng,p7,train,12\n,p8,train,cough\n"
    )
    (tmp_path / "codes.csv").write_text(
        ASSIGNED + "a,dx,\na,dx,nonsense\nnowhere,dx,428.0\na,dx, 428.0 \ne,dx,428.0\n"
    )
    assert prepare().card["dropped"] == {
        "codes repeated within an admission": 1,
        "notes with a note_id seen before": 1,
        "notes with a note_id that is empty": 1,
        "notes without a split": 1,
        "notes without a word": 2,
        "rows whose code has no form of the system": 1,
        "rows whose note_id is not among the notes": 1,
        "rows without a code": 1,
    }


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("notes.csv", f"note_id,text\n{'a' * 201},x\n", "line 2: its note_id has more than 200"),
        ("notes.csv", "note_id,split,text\na,fold 1,x\n", "line 2: its split is none of train"),
        ("notes.csv", "who,text\na,x\n", "no column note_id (its columns are: who, text)"),
        ("notes.csv", "note_id,text,split,Split\na,x,,\n", "more than one column split"),
        ("notes.csv", "he had fever,12\na,x\n", "(its first line is not one of plain names)"),
        ("notes.csv", 'note_id,text\na,"x\n', "line 2: a quote is opened and never closed"),
        ("notes.csv", "note_id,text\na,x,y\n", "line 2: 3 fields instead of 2"),
        ("notes.csv", "", "is empty"),
        ("codes.csv", "note_id,kind,code\na,he had fever,x\n", "its kind is neither dx"),
        ("codes.csv", "note_id,kind,code\n", "no admission has both a note and a code"),
        ("codes.csv", "note_id,code\nx,428.0\n", "none of the 1 row of"),
        ("codes.csv", "note_id,code\na,I10\nb,E11.9\n", "give --system icd10"),
        ("codes.csv", "note_id,code\na,word\nb,more\n", "or give --system other"),
        ("codes.csv", "note_id,code\na,4280.0\n", "its code was read as a number"),
        ("codes.csv", "PK\x03\x04", "a zip archive or an Excel file; save the table as CSV"),
        ("notes.csv", NOTES.replace("p2,dev", "p1,dev"), "patient p1 is in the splits"),
        (
            "notes.csv",
            NOTES.replace("p2,", "she had fever,").replace("p1,", "she had fever,"),
            "patient (a text) is in the splits",
        ),
    ],
)
def test_what_is_wrong_is_named(prepare, tmp_path, file, content, said):
    (tmp_path / file).write_text(content)
    error = prepare()
    assert said in error
    assert "fever" not in error


def test_json_of_any_types(prepare, tmp_path):
    places = ("train", "dev", "test", "train")
    rows = [{"id": i, "text": TEXTS[note], "set": places[i]} for i, note in enumerate(TEXTS)]
    codes = [{"id": i, "code": "428.0"} for i in range(130)]
    codes.append({"id": "3", "code": ["427.31", "428.0"], "more": None})
    (tmp_path / "notes.json").write_text(json.dumps(rows))
    (tmp_path / "mixed.json").write_text(json.dumps(codes))
    mixed = ("--assigned", str(tmp_path / "mixed.json"))
    assert _codes(prepare(*mixed, notes="notes.json")) == ["427.31", "428.0"]
    (tmp_path / "mixed.json").write_text(json.dumps([*codes, "Mr Meyer"]))
    said = prepare(*mixed, notes="notes.json")
    assert "mixed.json is not a list of JSON objects" in said
    assert "Meyer" not in said


def test_json_without_end_is_one_line(prepare, tmp_path):
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    assert "deep.jsonl, row at line 1: it is not a JSON object" in prepare(notes="deep.jsonl")


def _table(tmp_path, name, header, rows, separator=",", encoding="utf-8"):
    with (tmp_path / name).open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=separator).writerows([header, *rows])


def test_a_column_of_texts_is_not_one_of_ids(prepare, tmp_path):
    """A table of note and codes has no ids; an id is printed, and a text must not be."""
    text = "note;codes\n" + "".join(f"fever {place};428.0\n" for place in range(8))
    (tmp_path / "notes.csv").write_text(text)
    assert "no column note_id" in prepare()
    notes, out = str(tmp_path / "notes.csv"), str(tmp_path / "out")
    assert not main(["own", "--notes", notes, "--system", "icd9", "--out", out])
    corpus = Corpus.load(out)
    ids = {id_ for part in corpus.splits for id_ in corpus[part].ids}
    assert ids == {f"row{line}" for line in range(2, 10)}


def test_the_line_that_excel_puts_above_a_header(prepare, tmp_path):
    plain = prepare()
    (tmp_path / "notes.csv").write_text("sep=,\n" + NOTES)
    (tmp_path / "codes.csv").write_text('"sep=,"\n' + ASSIGNED)
    assert prepare().card["hash"] == plain.card["hash"]


TEXTS = {"a": "Fever, cough", "b": "Fever again", "c": 'She said "fever"', "d": "café"}
PLACES = {"a": "train", "b": "Validation", "c": "training", "d": "TEST"}
CELLS = {"a": "4280", "b": "428.0", "c": "03.31;42731", "d": "428.0"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("separator", list(",;\t|"))
def test_a_table_in_any_dialect_is_one_corpus(prepare, tmp_path, separator, encoding):
    rows = [(note, TEXTS[note], PLACES[note], CELLS[note]) for note in TEXTS]
    header = ("Note ID", "Report", "Set", "ICD Codes")
    _table(tmp_path, "notes.csv", header, rows, separator, encoding)
    corpus = prepare("--assigned", str(tmp_path / "notes.csv"))
    assert {name: corpus[name].ids.tolist() for name in corpus.splits} == {
        "train": ["a", "c"],
        "dev": ["b"],
        "test": ["d"],
    }
    assert corpus["test"].text(0) == "café"
    assert _codes(corpus) == ["03.31", "427.31", "428.0"]
    assert [entry.kind for entry in corpus.codes["icd"]] == ["pr", "dx", "dx"]


@pytest.mark.parametrize(
    "cell",
    ["4280;42731", "428.0, 427.31", "4280|42731", "428.0 427.31", "['428.0', '427.31']",
     '["4280","42731"]', "{428.0; 427.31}", "428.0\n427.31", "428.0;;427.31;nan",
     "428,0; 427,31", "428,0,427,31", "ICD-9-CM 428.0; ICD9:427.31", "428.0/427.31", '="4280"',
     "http://hl7.org/fhir/sid/icd-9-cm|428.0", "\u200b428.0", "４２８．０", "428.0*"],
)  # fmt: skip
def test_several_codes_in_a_cell(prepare, tmp_path, cell):
    _table(tmp_path, "codes.csv", ("note_id", "codes"), [(note, cell) for note in TEXTS])
    known = {"427.31", "428.0"}
    assert known >= {*_codes(prepare())} >= {code for code in known if code[:3] in cell} | {"428.0"}


def test_codes_of_another_system_are_as_written(prepare, tmp_path):
    rows = [(note, cell) for note, cell in zip(TEXTS, ("106,98", "106", "98", "98"), strict=True)]
    _table(tmp_path, "codes.csv", ("note_id", "codes"), rows)
    assert _codes(prepare(system="Other")) == ["106", "98"]


def test_codes_that_have_lost_their_zeros(prepare, tmp_path, capsys):
    """As numbers 250.00 and 428.0 are 250 and 428, which have the form of a code."""
    notes = [(f"n{i}", f"fever {i}", ["train", "dev", "test"][i % 3]) for i in range(30)]
    _table(tmp_path, "notes.csv", ("note_id", "text", "split"), notes)
    _table(tmp_path, "codes.csv", ("note_id", "code"), [(note[0], "428") for note in notes[:9]])
    prepare()
    assert "not in the lists" not in capsys.readouterr().err
    codes = [(note[0], "428" if i % 2 else "401.9") for i, note in enumerate(notes)]
    _table(tmp_path, "codes.csv", ("note_id", "code"), codes)
    prepare()
    assert (
        "50% of the codes are not in the lists of ICD-9-CM (such as 428)" in capsys.readouterr().err
    )


@pytest.mark.parametrize("encoding", ["cp850", "cp437", "mac-roman"])
def test_encodings_that_must_be_named(prepare, tmp_path, encoding):
    header, rows = ("id", "text"), [(note, f"{TEXTS[note]} après fièvre") for note in TEXTS]
    _table(tmp_path, "notes.csv", header, rows, encoding=encoding)
    assert "is neither UTF-8 nor Windows-1252; save it as UTF-8, or give --encoding" in prepare()
    assert "notes.csv is not in ascii; correct --encoding" in prepare("--encoding", "ascii")
    for name in ("base64", "undefined"):
        assert "must be an encoding that Python knows" in prepare("--encoding", name)
    shares = ("--splits", "1,0,0")
    corpus = prepare("--encoding", encoding, *shares)
    assert corpus["train"].text(3) == "café après fièvre"


def test_codes_in_columns_of_their_own(prepare, tmp_path):
    """As code_1, code_2, … or as Code 1;Code 2, and as numbered diagnoses and procedures."""
    plain = _codes(prepare())
    for header in (
        "note_id,code_1,code_2,code_3",
        "ID,Code 1,Code 2,Code 3",
        "id,ICD9 1,icd9 2,ICD9 3",
    ):
        rows = "a,4280,,\nb,428.0,,\nc,03.31,42731,\nd,,,428.0\n"
        for mark in ",;":
            (tmp_path / "codes.csv").write_text(f"{header}\n{rows}".replace(",", mark))
            assert _codes(prepare()) == plain
    (tmp_path / "codes.csv").write_text("id,diag1,diag2,proc1\na,4280,,\nb,4280,42731,\nc,,,0331\n")
    assert [(e.kind, e.code) for e in prepare().codes["icd"]] == [
        ("pr", "03.31"),
        ("dx", "427.31"),
        ("dx", "428.0"),
    ]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_numbered_columns_of_typed_tables(prepare, tmp_path, suffix):
    frame = pl.DataFrame(
        {"id": list("abcd"), "code_1": ["4280"] * 4, "code_2": [None, "42731"] * 2}
    )
    path = tmp_path / f"wide.{suffix}"
    frame.write_parquet(path) if suffix == "parquet" else frame.write_ndjson(path)
    assert _codes(prepare("--assigned", str(path))) == ["427.31", "428.0"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "feather", "json", "jsonl.gz", "json.gz"])
def test_tables_of_typed_columns(prepare, tmp_path, suffix):
    rows = [
        {"id": number, "text": TEXTS[note], "codes": CELLS[note].split(";"), "set": PLACES[note]}
        for number, note in enumerate(TEXTS)
    ]
    path, frame = tmp_path / f"notes.{suffix}", pl.DataFrame(rows)
    if "json" in suffix:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        data = (text if "jsonl" in suffix else json.dumps(rows)).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    else:
        (frame.write_parquet if suffix == "parquet" else frame.write_ipc)(path)
    corpus = prepare("--assigned", str(path), notes=path.name)
    assert corpus["train"].ids.tolist() == ["0", "2"]
    assert _codes(corpus) == ["03.31", "427.31", "428.0"]


def test_ids_in_two_spellings_are_one_note(prepare, tmp_path, capsys):
    notes = ["001", "2.0", "caf\u00e9", "N4"]
    codes = ["1", "2", "cafe\u0301", "n4.txt"]
    rows = [(id_, "fever", name) for id_, name in zip(notes, PLACES.values(), strict=True)]
    _table(tmp_path, "notes.csv", ("id", "text", "split"), rows)
    _table(tmp_path, "codes.csv", ("id", "code"), [(id_, "428.0") for id_ in codes])
    corpus = prepare()
    assert sorted(id_ for name in corpus.splits for id_ in corpus[name].ids) == [
        "001",
        "2",
        "N4",
        "caf\u00e9",
    ]
    assert corpus.card["dropped"] == {}
    # Two notes that differ in their zeros alone are two notes, and a third spelling is neither's.
    rows = [("1", "x", "train"), ("01", "y", "train"), ("3", "z", "dev")]
    _table(tmp_path, "notes.csv", ("id", "text", "split"), rows)
    _table(tmp_path, "codes.csv", ("id", "code"), [("01", "486"), ("001", "486"), ("3", "486")])
    assert prepare().card["dropped"]["rows whose note_id is not among the notes"] == 1


def test_splits_that_name_only_test(prepare, tmp_path):
    ids = [f"n{number}" for number in range(60)]
    rows = [(note, "fever", "test" if note < "n2" else "") for note in ids]
    _table(tmp_path, "notes.csv", ("id", "text", "split"), rows)
    _table(tmp_path, "codes.csv", ("id", "code"), [(note, "428.0") for note in ids])
    corpus = prepare()
    assert sorted(corpus["test"].ids) == sorted(note for note in ids if note < "n2")
    assert min(len(corpus["train"]), len(corpus["dev"])) > 0
    assert sum(len(corpus[name]) for name in corpus.splits) == 60
    assert corpus.card["dropped"] == {}
    assert "the rest is train and dev" in corpus.card["settings"]["split"]


@pytest.mark.parametrize("shares", ["0.5,0.25,0.25", "50:25:25"])
def test_shares_of_the_patients(prepare, tmp_path, shares):
    ids = [f"n{number}" for number in range(400)]
    _table(
        tmp_path, "notes.csv", ("id", "text", "split"), [(note, "fever", "test") for note in ids]
    )
    _table(tmp_path, "codes.csv", ("id", "code"), [(note, "428.0") for note in ids])
    corpus = prepare("--splits", shares)
    assert 170 < len(corpus["train"]) < 230
    assert 70 < len(corpus["dev"]) < 130
    assert corpus.card["settings"]["split"] == f"by patient, {shares}"
    assert f"--splits {shares}" in corpus.card["created"]["command"]
    assert "three shares" in prepare("--splits", "0.5,0.5")


def test_what_is_lost_is_said_in_proportion(prepare, tmp_path, capsys):
    ids = [f"n{number}" for number in range(100)]
    _table(tmp_path, "notes.csv", ("id", "text"), [(note, "fever") for note in ids])
    _table(tmp_path, "codes.csv", ("id", "code"), [(note, "428.0") for note in ids[:90]])
    prepare()
    said = capsys.readouterr()
    assert "10% of the notes were left out (10 of 100): 10 admissions with a note" in said.err
    assert "left out: 10 admissions with a note and without a code (10.0% of 100)" in said.out
    assert "1 of 1 code occurs in every training note (428.0)" in said.err
    corpus = prepare("--keep-uncoded")
    said = capsys.readouterr()
    assert "warning" not in said.err
    assert sum(len(corpus[name]) for name in corpus.splits) == 100
    assert sum(corpus[name].frequency("icd").sum() for name in corpus.splits) == 90
    _table(tmp_path, "codes.csv", ("id", "code"), [(note, "428.0") for note in ids[:91]])
    prepare()
    assert "of the notes were left out" not in capsys.readouterr().err


def test_a_table_of_splits_with_ids_in_another_spelling(prepare, tmp_path):
    (tmp_path / "notes.csv").write_text("note_id,text\n001,fever\n002,cough\n003,pain\n")
    (tmp_path / "codes.csv").write_text("note_id,code\n1,428.0\n2,428.0\n3,428.0\n")
    splits = "note_id,split\n1.0,train\n2.0,valid\n3.0,test\n"
    (tmp_path / "splits.csv").write_text(splits)
    corpus = prepare("--splits", str(tmp_path / "splits.csv"))
    assert [corpus[name].ids.tolist() for name in corpus.splits] == [["001"], ["002"], ["003"]]
    (tmp_path / "splits.csv").write_text(splits + "01,train\n")  # 1 and 01: nobody's
    assert "falls into split train" in prepare("--splits", str(tmp_path / "splits.csv"))


def test_rare_codes_can_be_left_out(prepare, tmp_path):
    codes = [(note, "428.0") for note in "abcd"] + [("a", "486"), ("b", "486"), ("c", "401.9")]
    _table(tmp_path, "codes.csv", ("id", "code"), codes)
    assert _codes(prepare("--min-code-count", "2")) == ["428.0", "486"]
    assert _codes(prepare("--min-code-count", "2", "--codes", "1")) == ["428.0"]
    assert "lower --min-code-count" in prepare("--min-code-count", "5")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("D_ICD_DIAGNOSES.csv", "ROW_ID,ICD9_CODE,SHORT_TITLE,LONG_TITLE\n1,4280,CHF,Mine\n"),
        ("d_icd_diagnoses.csv", "icd_code,icd_version,long_title\n4280,9,Mine\nI10,10,No\n"),
        ("CMS32_DESC_LONG_DX.txt", "42731 Atrial fibrillation\n4280  Mine\n"),
        ("mine.csv", "code;description\n428.0;Mine\n"),
        ("order.txt", "00001 4280    0 " + "CHF".ljust(60) + " Mine\n"),
    ],
)
def test_lists_of_titles(prepare, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    corpus = prepare("--titles", str(tmp_path / name))
    titles = {entry.code: entry.title for entry in corpus.codes["icd"]}
    assert titles["428.0"] == "Mine"
    assert titles["03.31"] == "Spinal tap"  # CMS's own
    (tmp_path / "none.csv").write_text("code,title\nI10,x\n")
    assert "has no title of a code of ICD-9-CM" in prepare("--titles", str(tmp_path / "none.csv"))


def test_repeated_titles_are_counted(prepare, tmp_path):
    (tmp_path / "t.csv").write_text("code,title\n4280,One\n428.0,Two\n486,\n")
    corpus = prepare("--titles", str(tmp_path / "t.csv"))
    assert corpus.card["dropped"]["titles of a code that has one already"] == 1
    assert corpus.card["dropped"]["titles that are empty"] == 1
    assert {entry.code: entry.title for entry in corpus.codes["icd"]}["428.0"] == "Two"


def test_columns_of_diagnoses_and_procedures(prepare, tmp_path):
    rows = [(note, "4280 486", "0331" if note == "a" else "") for note in TEXTS]
    _table(tmp_path, "codes.csv", ("hadm_id", "diagnosis_codes", "procedure_codes"), rows)
    assert {(entry.code, entry.kind) for entry in prepare().codes["icd"]} == {
        ("03.31", "pr"),
        ("428.0", "dx"),
        ("486", "dx"),
    }


def test_folders_of_any_depth(prepare, tmp_path):
    texts = tmp_path / "texts"
    for name in ("train/x/a.TXT", "train/b.txt", "valid/c.txt", "test/deep/er/d.Txt", "e.txt",
                 "train/notes.md"):  # fmt: skip
        (texts / name).parent.mkdir(parents=True, exist_ok=True)
        (texts / name).write_bytes("caf\xe9 fever".encode("latin-1"))
    _table(tmp_path, "codes.csv", ("file", "code"), [(f"{n}.txt", "428.0") for n in "abcde"])
    corpus = prepare(notes="texts")
    assert [corpus[name].ids.tolist() for name in corpus.splits] == [["a", "b"], ["c"], ["d"]]
    assert corpus["train"].text(0) == "café fever"
    assert corpus.card["dropped"] == {"files that are not NAME.txt": 1, "notes without a split": 1}
    (texts / "train" / "x" / "b.txt").write_text("fever")  # a second b: paths become the ids
    _table(tmp_path, "codes.csv", ("file", "code"), [(n, "486") for n in ("x/b", "b", "c", "x/a")])
    assert prepare(notes="texts")["train"].ids.tolist() == ["b", "x/a", "x/b"]


def test_folders_that_will_not_do(prepare, tmp_path):
    (tmp_path / "texts" / "train").mkdir(parents=True)
    assert "holds no NAME.txt" in prepare(notes="texts")
    (tmp_path / "texts" / "dev").mkdir()
    for name in ("train", "dev"):
        (tmp_path / "texts" / name / "a.txt").write_text("fever")
    assert "may be in two splits; keep one of them" in prepare(notes="texts")
    (tmp_path / "texts" / "dev" / "a.txt").unlink()
    (tmp_path / "texts" / "train" / "b.txt").write_bytes("é".encode() + b"caf\xe9")
    assert "is neither UTF-8 nor Windows-1252" in prepare(notes="texts")
    (tmp_path / "texts" / "train" / "b.txt").write_bytes(b"caf\0e")
    assert "contains a NUL byte" in prepare(notes="texts")
    assert "nowhere.csv does not exist; pass the path" in prepare(notes="nowhere.csv")
    missing = prepare("--assigned", str(tmp_path / "none.csv"))
    assert missing.endswith("none.csv does not exist; pass the path of a table with --assigned")
    assert "is a folder; give a table" in prepare("--assigned", str(tmp_path))
    assert "contains the raw files" in prepare("--out", str(tmp_path))
