import gzip
import io
import json
import tracemalloc

import polars as pl
import pytest
from toys import toy_corpus

from marn.corpus import loose_tables
from marn.errors import MarnError
from marn.notes import is_open, read_notes

ROWS = [("a", "Fever, and\ncough"), ("b", ""), ("c", 'He said "no"')]
WANTED = [(note, text) for note, text in ROWS]


def table(mark=",", header=("note_id", "text"), rows=ROWS):
    quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in rows]
    return "".join(mark.join(row) + "\r\n" for row in [header, *quoted])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", table().encode()),
        ("bom.csv", table().encode("utf-8-sig")),
        ("semicolon.CSV", table(";", ("ID", "Note")).encode()),
        ("tab.tsv", table("\t", ("hadm_id", "TEXT")).encode()),
        ("a.csv.gz", gzip.compress(table().encode(), mtime=0)),
        (
            "a.jsonl",
            "".join(json.dumps({"id": a, "text": b}) + "\n\n" for a, b in ROWS).encode(),
        ),
    ],
)
def test_tables_of_all_kinds_hold_the_same_notes(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert list(read_notes(tmp_path / name)) == WANTED


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "folder/a.txt"])
def test_a_text_or_line_without_end_is_not_read_whole(tmp_path, monkeypatch, name):
    monkeypatch.setattr(loose_tables, "ROW_LIMIT", 100)
    (tmp_path / "folder").mkdir()
    (tmp_path / name).write_text("text " * 21)
    path = tmp_path / name
    with pytest.raises(MarnError, match="more than 100 characters"):
        list(read_notes(path.parent if name.startswith("folder") else path))
    path.write_text("text\n" * 20)
    if name.endswith((".txt", ".csv")):
        assert list(read_notes(path))


def test_json_without_end_and_frames_that_unfold_are_not_held_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(loose_tables, "_JSON_LIMIT", 1000)
    (tmp_path / "a.json").write_text("[" + '{"text": "fever"},\n' * 60 + "{}]")
    with pytest.raises(MarnError, match=r"more than 1,000 characters; write it as JSONL"):
        list(read_notes(tmp_path / "a.json"))
    pl.DataFrame({"text": ["a" * 1_000_000] * 64}).write_parquet(tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    tracemalloc.start()
    assert sum(len(text) for _, text in read_notes(tmp_path / "a.parquet")) == 64_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16_000_000
    monkeypatch.setattr(loose_tables, "ROW_LIMIT", 999_999)
    with pytest.raises(MarnError, match="row at line 1: more than 999,999 characters; split it"):
        list(read_notes(tmp_path / "a.parquet"))


@pytest.mark.parametrize("write", ["write_parquet", "write_ipc"])
def test_frames_are_refused_before_they_unfold(tmp_path, monkeypatch, write):
    monkeypatch.setattr(loose_tables, "_FRAME_LIMIT", 300_000_000)
    path = tmp_path / ("a.parquet" if write == "write_parquet" else "a.feather")
    for size in (3, 300):
        frame = pl.DataFrame({"text": ["a" * 1_000_000 + str(i) for i in range(size)]})
        getattr(frame, write)(path, compression="zstd")
        assert path.stat().st_size < 200_000
        if size == 3:
            assert len(list(read_notes(path))) == 3
    for read in (read_notes, loose_tables.check_unfolds):
        with pytest.raises(MarnError, match="or expands to more than 300,000,000 bytes"):
            read(path)


def test_half_a_character_is_marked(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "\\ud83d", "text": "fever \\ud83d\\ude00 \\ude00"}')
    assert list(read_notes(tmp_path / "a.jsonl")) == [("\ufffd", "fever \U0001f600 \ufffd")]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-be", "utf-32"])
def test_notes_in_the_encodings_of_other_programs(tmp_path, encoding):
    rows = [("a", "café, fièvre"), ("b", "naïve")]
    (tmp_path / "a.csv").write_bytes(table(rows=rows).encode(encoding))
    assert list(read_notes(tmp_path / "a.csv")) == rows
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(table(rows=rows).encode(encoding)))
    assert list(read_notes(tmp_path / "a.csv.gz")) == rows
    (tmp_path / "c.txt").write_bytes("café".encode(encoding))
    assert list(read_notes(tmp_path / "c.txt")) == [("c", "café")]


@pytest.mark.parametrize("encoding", ["cp850", "mac-roman"])
def test_encodings_that_must_be_named(tmp_path, encoding):
    rows = [("a", "café, fièvre après")]
    (tmp_path / "a.csv").write_bytes(table(rows=rows).encode(encoding))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_bytes(rows[0][1].encode(encoding))
    for place in ("a.csv", "folder"):
        with pytest.raises(MarnError, match="neither UTF-8 nor Windows-1252"):
            list(read_notes(tmp_path / place))
        assert list(read_notes(tmp_path / place, encoding=encoding)) == rows


def test_parquet_streams_rows_and_takes_numbers_as_ids(tmp_path):
    size = 1100  # more than are read at once
    frame = pl.DataFrame({"hadm_id": range(size), "note": [f"note {i}" for i in range(size)]})
    frame.write_parquet(tmp_path / "a.parquet")
    assert list(read_notes(tmp_path / "a.parquet")) == [(str(i), f"note {i}") for i in range(size)]
    frame.write_ipc(tmp_path / "a.feather")
    frame.write_json(tmp_path / "a.json")
    for name in ("a.feather", "a.json"):
        assert list(read_notes(tmp_path / name)) == list(read_notes(tmp_path / "a.parquet"))
    frame.with_columns(note=None).write_parquet(tmp_path / "none.parquet")
    assert next(read_notes(tmp_path / "none.parquet")) == ("0", "")


def test_columns_can_be_named_and_rows_are_numbered(tmp_path):
    (tmp_path / "a.csv").write_text("when,what\n1,fever\n2,cough\n")
    assert list(read_notes(tmp_path / "a.csv", text_column="What")) == [
        ("1", "fever"),
        ("2", "cough"),
    ]
    assert list(read_notes(tmp_path / "a.csv", text_column="what", id_column="when"))[1][0] == "2"
    (tmp_path / "one.csv").write_text("finding\nfever\n")
    assert list(read_notes(tmp_path / "one.csv")) == [("1", "fever")]


def test_columns_are_those_that_the_corpus_was_made_of(tmp_path):
    """`data_prep own` and `marn predict` find the same columns in the same table."""
    excel = 'sep=;\r\nCase ID;Note Text\r\n007;"fever;\r\ncough"\r\n;\r\n'
    (tmp_path / "a.csv").write_text(excel)
    assert list(read_notes(tmp_path / "a.csv")) == [("007", "fever;\r\ncough")]
    (tmp_path / "both.csv").write_text("note,when\nfever,1\n")  # a text, not an id as well
    assert list(read_notes(tmp_path / "both.csv")) == [("1", "fever")]


def test_ids_are_written_as_own_writes_them(tmp_path):
    (tmp_path / "a.csv").write_text('id,text,"a\nb"\n7.0,fever,\n="007",cough,\n,pain,\n')
    assert [note for note, _ in read_notes(tmp_path / "a.csv")] == ["7", "007", ""]
    rows = '{"id": 7.0, "text": "fever"}\n{"note": "cough", "id": null}\n{"id": 9}\n'
    (tmp_path / "a.jsonl").write_text(rows)
    assert list(read_notes(tmp_path / "a.jsonl")) == [("7", "fever"), ("", "cough"), ("9", "")]


def test_only_a_corpus_has_splits(tmp_path):
    (tmp_path / "a.csv").write_text("text\nfever\n")
    with pytest.raises(MarnError, match="is not a corpus, so it has no split 'test'; leave out"):
        list(read_notes(tmp_path / "a.csv", split="test"))


def test_a_text_of_a_folder_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("fever")
    (tmp_path / "b.txt").write_bytes(b"caf\x81")
    with pytest.raises(MarnError, match=r"b\.txt is neither UTF-8"):
        list(read_notes(tmp_path))


def test_folders_of_any_depth_and_single_texts(tmp_path):
    for name in ("b.txt", "ward/2/a.TXT", "ward/1.txt", "ward/skip.pdf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}", encoding="utf-8-sig")
    assert [note for note, _ in read_notes(tmp_path)] == ["b", "ward/1", "ward/2/a"]
    assert list(read_notes(tmp_path / "b.txt")) == [("b", "text of b.txt")]


def test_a_corpus_is_notes_too(tmp_path):
    corpus = toy_corpus(tmp_path / "corpus")
    notes = list(read_notes(tmp_path / "corpus", split="dev"))
    assert notes == [(f"dev{i}", corpus["dev"].text(i)) for i in range(8)]
    assert len(list(read_notes(tmp_path / "corpus"))) == 40
    assert is_open(tmp_path / "corpus")
    card = json.loads((tmp_path / "corpus" / "card.json").read_text())
    (tmp_path / "corpus" / "card.json").write_text(json.dumps(card | {"text": "credentialed"}))
    assert not is_open(tmp_path / "corpus")
    assert not is_open(tmp_path / "corpus" / "raw" / "NOTEEVENTS.csv")
    assert is_open(tmp_path / "other.csv")


TWO = [("7", "fever"), ("8", "cough")]


@pytest.mark.parametrize(
    ("data", "notes"),
    [
        (table(), WANTED),
        ('{"note_id": 7, "text": "fever"}\n', [("7", "fever")]),
        ('[{"note_id": 7, "text": "fever"}, {"text": "cough", "note_id": 8}]', TWO),
        ('[\n {"note_id": 7, "text": "fever"},\n {"note_id": 8, "text": "cough"}\n]', TWO),
        ("[Name] has fever", [("stdin", "[Name] has fever")]),
        ("fever, cough\nand text\n", [("stdin", "fever, cough\nand text\n")]),
    ],
)
def test_standard_input_is_a_table_json_or_one_text(monkeypatch, data, notes):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data.encode())))
    assert list(read_notes("-")) == notes


SECRET = "Mr Smith has a fever"


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.csv", f"id,{SECRET}\n1,x\n", "has no column text .its first line is not"),
        ("a.csv", f"text,id,Text\n{SECRET},1,x\n", "has more than one column text; rename one"),
        (
            "a.csv",
            f"note_id,text\n1,{SECRET},x\n",
            "row at line 2: 3 fields instead of 2; put quotes",
        ),
        (
            "a.csv",
            f'note_id,text\n1,"{SECRET}\n',
            "row at line 2: a quote is opened and never closed",
        ),
        ("a.csv", "note_id,text\n", "contains no notes"),
        ("a.csv", f"note_id,text\n1,{SECRET} é\udcff\n", "is neither UTF-8 nor Windows-1252"),
        ("a.jsonl", f'{{"text": "{SECRET}\n', "row at line 1: it is not a JSON object"),
        ("a.jsonl", f'{{"text": "", "text": "{SECRET}"}}', "row at line 1: .*same key twice; keep"),
        ("a.jsonl", f'["{SECRET}"]\n', "row at line 1: it is not a JSON object"),
        ("a.jsonl", f'{{"text": ["{SECRET}"]}}\n', "column text is not text"),
        ("a.parquet", SECRET, "cannot be read"),
        ("a.feather", SECRET, "cannot be read"),
        ("a.json", SECRET, "is not a list of JSON objects"),
        ("a.csv.gz", SECRET, "cannot be unpacked .Not a gzipped file"),
        (
            "a.docx",
            SECRET,
            "cannot be read as notes; give a text file, CSV, JSONL, JSON, Parquet or",
        ),
        ("empty/skip.pdf", SECRET, None),
    ],
)
def test_what_is_wrong_is_one_line_without_a_cell(tmp_path, name, data, says):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(data.encode(errors="surrogateescape"))
    source = tmp_path / name.partition("/")[0]
    with pytest.raises(MarnError, match=says or "contains no notes") as caught:
        list(read_notes(source))
    assert "\n" not in str(caught.value)
    assert "Smith" not in str(caught.value)


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(MarnError, match=r"nothing\.csv does not exist; give a file or a folder"):
        read_notes(tmp_path / "nothing.csv")
