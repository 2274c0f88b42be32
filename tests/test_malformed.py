"""Damaged, odd and hostile input: each kind is one line that says what to do, or a counted skip."""

import contextlib
import csv
import errno
import gzip
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_prep import tables
from data_prep.__main__ import main
from marn.corpus import Corpus

IDS = range(145_000, 145_008)
HEADER = "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CATEGORY,TEXT\n"
ROW = '{row},{subject},{id},2151-08-04,Discharge summary,"Fever and cough.\nNo pain."\n'
LISTS = {"train": IDS[:6], "dev": IDS[6:7], "test": IDS[7:]}


class Raw:
    """A folder of sound tables of eight admissions, for a test to damage."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.options = folder, []
        self.notes, self.codes = folder / "NOTEEVENTS.csv", folder / "DIAGNOSES_ICD.csv"
        folder.mkdir()
        rows = [ROW.format(row=n, subject=n, id=id_) for n, id_ in enumerate(IDS, start=1)]
        self.notes.write_text(HEADER + "".join(rows))
        codes = [f"{n},{n},{id_},1,4280\n" for n, id_ in enumerate(IDS, start=1)]
        self.codes.write_text("ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE\n" + "".join(codes))
        (folder / "PROCEDURES_ICD.csv").write_text("ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE\n")
        lists = folder.with_name("lists")
        lists.mkdir()
        for name, ids in LISTS.items():
            path = lists / f"{name}_full_hadm_ids.csv"
            path.write_text("".join(f"{id_}\n" for id_ in ids))
        self.lists = lists

    def add(self, text: str | bytes, table: str = "notes") -> None:
        """Write more after a table."""
        path = getattr(self, table)
        path.write_bytes(path.read_bytes() + (text if isinstance(text, bytes) else text.encode()))

    def change(self, old: str, new: str, table: str = "notes", times: int = 1) -> None:
        """Put one text for another."""
        path = getattr(self, table)
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, times))

    def note(self, **fields: object) -> str:
        """Return a row of a ninth note of the first admission."""
        return ROW.format(**{"row": 9, "subject": 1, "id": IDS[0]} | fields)

    def zip(self, keep: int | None = None) -> None:
        """Gzip the notes, and keep so many bytes of it."""
        data = gzip.compress(self.notes.read_bytes())
        self.notes.unlink()
        self.notes.with_suffix(".csv.gz").write_bytes(data[:keep])

    def run(self, out: Path) -> int:
        """Prepare the tables and return the exit status."""
        return main(self.arguments(out))

    def arguments(self, out: Path) -> list[str]:
        """Return the command line that prepares the tables."""
        arguments = ["--raw", self.folder, "--out", out, "--splits", self.lists, "--codes", "full"]
        arguments += ["--vectors", "none", "--min-count", "1", *self.options]
        return ["mimic3", *map(str, arguments)]


def reordered(raw: Raw) -> None:
    rows = list(csv.DictReader(io.StringIO(raw.notes.read_text(), newline="")))
    with raw.notes.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted(rows[0], reverse=True))
        writer.writeheader()
        writer.writerows(rows)


def refusing(name: str, number: int) -> Callable[[Raw], None]:
    """Return what lets a function fail as the system would."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return lambda raw: setattr(raw, "patch", (name, refuse))


def other_patient(raw: Raw) -> None:
    raw.add(raw.note(subject=77))


def listed_twice(raw: Raw) -> None:
    path = raw.lists / "dev_full_hadm_ids.csv"
    path.write_text(f"{IDS[0]}\n")


def _lines(raw: Raw, old: bytes, new: bytes) -> None:
    raw.notes.write_bytes(raw.notes.read_bytes().replace(old, new))


MORE = "DIAGNOSES_ICD rows"
# name: what is done to sound tables, and what is said of it: an error (the line ends with exit
# status 2), a count of what is left out, or nothing where all is taken as it is meant.
REFUSED = {
    "a row cut off": (lambda r: r.add("9,1,14"), "row at line 18: 3 fields instead of 6"),
    "a quote never closed": (lambda r: r.add('9,1,145000,x,y,"Fev'), "a quote is opened and never"),
    "text after a closed quote": (lambda r: r.add('9,1,145000,x,y,"a"b\n'), "',' expected after"),
    "a row too wide": (lambda r: r.add("9,1,145000,x,y,z,z\n"), "7 fields instead of 6"),
    "an embedded NUL": (lambda r: r.add(b"9,1,145000,x,y,a\0b\n"), "a NUL byte"),
    "bytes of Latin-1": (lambda r: r.add(b"9,1,1,x,y,caf\xe9\n"), "byte 0xe9 is not UTF-8"),
    "UTF-16": (lambda r: r.notes.write_bytes(HEADER.encode("utf-16")), "a NUL byte"),
    "a lone carriage return": (lambda r: r.add("9,1\r,1,x,y,z\n"), "row at line 18: "),
    "a wrong header": (lambda r: r.change("TEXT", "NOTE"), "no column TEXT (the header is"),
    "a column twice": (lambda r: r.change(",TEXT", ",TEXT,TEXT"), "more than one column TEXT"),
    "semicolons for commas": (lambda r: r.change(",", ";", times=99), "separated by commas"),
    "a negative id": (lambda r: r.add(r.note(id=-5)), "'-5' is not a valid id"),
    "an id of 30 digits": (lambda r: r.add(r.note(id="9" * 30)), "of at most 18 digits"),
    "an id of 5,000 digits": (lambda r: r.add(r.note(row="9" * 5000)), "of at most 18 digits"),
    "an id that is a fraction": (
        lambda r: r.add(r.note(id="145000.5")),
        "'145000.5' is not a valid id",
    ),
    "a note without patient": (lambda r: r.add(r.note(subject="")), "no SUBJECT_ID, by which"),
    "an admission of two patients": (other_patient, "has notes of two patients, 1 and 77"),
    "an empty file": (lambda r: r.notes.write_text(""), "NOTEEVENTS.csv is empty"),
    "a header and no rows": (lambda r: r.notes.write_text(HEADER), "no note of category"),
    "a table missing": (lambda r: r.codes.unlink(), "has no DIAGNOSES_ICD.csv"),
    "a table twice": (lambda r: (r.folder / "noteevents.CSV.gz").touch(), "holds both"),
    "a gzip cut off": (lambda r: r.zip(keep=-9), "cannot be unpacked"),
    "a .gz that is none": (lambda r: r.notes.rename(f"{r.notes}.gz"), "cannot be unpacked"),
    "a folder for a file": (
        lambda r: (r.notes.unlink(), r.notes.mkdir()),
        "cannot be read: Is a directory",
    ),
    "a file for a folder": (lambda r: setattr(r, "folder", r.notes), "is a file; give the folder"),
    "a folder that is not there": (
        lambda r: setattr(r, "folder", r.folder / "no"),
        "does not exist; give the folder",
    ),
    "a field of 17 million characters": (
        lambda r: r.add(f'9,1,145000,x,y,"{"a " * (1 << 23)}b"\n'),
        "a row of more than 16,777,216 characters",
    ),
    "a list of a split missing": (
        lambda r: (r.lists / "dev_full_hadm_ids.csv").unlink(),
        "dev_full_hadm_ids.csv does not exist; give --splits the folder",
    ),
    "an id in the lists of two splits": (listed_twice, "admission 145000 is also in the list of"),
    "a list that is none": (
        lambda r: (r.lists / "dev_full_hadm_ids.csv").write_text("145006\nx\n"),
        "dev_full_hadm_ids.csv, row at line 2: a text is not a valid id",
    ),
    "lists of other data": (
        lambda r: [p.write_text(f"{n}\n") for n, p in enumerate(sorted(r.lists.iterdir()))],
        "none of the 3 admissions listed",
    ),
    "no code that has a note": (
        lambda r: r.change(",1450", ",1990", "codes", times=99),
        "no admission has both a note and a code",
    ),
    "a file that may not be read": (
        refusing("data_prep.tables.open_bytes", errno.EACCES),
        "cannot be read: Permission denied",
    ),
    "a folder that may not be read": (
        refusing("pathlib.Path.iterdir", errno.EACCES),
        "cannot be read: Permission denied",
    ),
    "no room on the disk": (
        refusing("numpy.save", errno.ENOSPC),
        "No space left on device",
    ),
}
COUNTED = {
    "a ROW_ID seen before": (lambda r: r.add(r.note(row=1)), "notes with a ROW_ID seen before"),
    "a null HADM_ID": (lambda r: r.add(r.note(id="")), "notes without HADM_ID"),
    "a note of another category": (
        lambda r: r.add(r.note().replace("Discharge summary", "Nursing")),
        "notes of other categories",
    ),
    "an empty note": (lambda r: r.add('9,1,145000,x,Discharge summary," "\n'), "that are empty"),
    "a note of numbers alone": (
        lambda r: r.add("9,1,145000,x,Discharge summary,1.5 20\n"),
        "notes without a word",
    ),
    "a note of an admission without codes": (
        lambda r: r.add(r.note(id=150_000)),
        "admissions with a note and without a code",
    ),
    "a code row of an id in no table": (
        lambda r: r.add("9,1,199999,1,4280\n", "codes"),
        "codings of admissions without a note",
    ),
    "a code row twice": (
        lambda r: r.add("9,1,145000,1,4280\n", "codes"),
        "codes repeated within an admission",
    ),
    "a code row with a ROW_ID seen before": (
        lambda r: r.add("1,1,145000,1,4280\n", "codes"),
        f"{MORE} with a ROW_ID seen before",
    ),
    "a code row without HADM_ID": (
        lambda r: r.add("9,1,,1,4280\n", "codes"),
        f"{MORE} without HADM_ID",
    ),
    "a code row without a code": (
        lambda r: r.add("9,1,145000,1,\n", "codes"),
        f"{MORE} without a code",
    ),
    "a code that is none": (
        lambda r: r.add("9,1,145000,1,A 1\n", "codes"),
        f"{MORE} whose code has no form of ICD-9-CM",
    ),
    "an id that a list names twice": (
        lambda r: (r.lists / "dev_full_hadm_ids.csv").write_text("145006\n145006\n"),
        "ids that a list names twice",
    ),
    "a listed id that is in no table": (
        lambda r: (r.lists / "dev_full_hadm_ids.csv").write_text("145006\n777777\n"),
        "listed admissions without a note and a kept code",
    ),
    "an admission in no list": (
        lambda r: (r.lists / "test_full_hadm_ids.csv").write_text("777777\n"),
        "admissions that the lists do not name",
    ),
}
TAKEN = {
    "a byte order mark": lambda r: r.notes.write_bytes(b"\xef\xbb\xbf" + r.notes.read_bytes()),
    "columns in another order": reordered,
    "a column more": lambda r: r.notes.write_text(
        r.notes.read_text().replace("HADM_ID,", "HADM_ID,NEW,").replace(",2151", ",7,2151")
    ),
    "a header in lower case": lambda r: r.notes.write_text(
        r.notes.read_text().replace(HEADER, HEADER.lower())
    ),
    "blank lines": lambda r: r.add("\n\n"),
    "ids as a data frame writes them": lambda r: r.change(",145000,", ',"145000.0",'),
    "ids padded with blanks and zeros": lambda r: r.change(",145000,", ", 00145000 ,"),
    "codes padded with blanks": lambda r: r.change(",4280\n", ',"4280  "\n', "codes", times=9),
    "gzip": lambda r: r.zip(),
}
# These change the text of notes, and with it the corpus.
TAKEN_AS_TEXT = {
    "CRLF": (lambda r: _lines(r, b"\n", b"\r\n"), "Fever and cough.\r\nNo pain."),
    "a note of 10 MB": (
        lambda r: r.change("Fever and cough.\nNo", "fever " * 1_700_000 + "\nNo"),
        "fever " * 1_700_000 + "\nNo pain.",
    ),
    "letters beyond ASCII": (lambda r: r.change("Fever", "Féver 中 😀"), "Féver 中 😀 and"),
}


@pytest.fixture
def raw(tmp_path):
    return Raw(tmp_path / "raw")


def _run(raw, out):
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(raw, "patch"):
            patch.setattr(*raw.patch)
        return raw.run(out)


def _nothing_is_left(out):
    assert not out.exists()
    assert not [path for path in out.parent.iterdir() if path.name.startswith(f"{out.name}.")]


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_line(raw, tmp_path, capsys, name):
    spoil, said = REFUSED[name]
    spoil(raw)
    assert _run(raw, tmp_path / "out") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("python -m data_prep mimic3: ")
    assert said in error
    assert len(error) < 600
    _nothing_is_left(tmp_path / "out")


@pytest.mark.parametrize("name", COUNTED)
def test_left_out_and_counted(raw, tmp_path, capsys, name):
    spoil, said = COUNTED[name]
    spoil(raw)
    assert raw.run(tmp_path / "out") == 0
    counted = [line for line in capsys.readouterr().out.splitlines() if "left out: 1 " in line]
    assert [line for line in counted if said in line]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    assert Raw(folder / "raw").run(folder / "out") == 0
    return Corpus.load(folder / "out")


@pytest.mark.parametrize("name", TAKEN)
def test_taken_as_it_is_meant(raw, tmp_path, sound, name):
    TAKEN[name](raw)
    assert raw.run(tmp_path / "out") == 0
    assert Corpus.load(tmp_path / "out").hash == sound.hash


@pytest.mark.parametrize("name", TAKEN_AS_TEXT)
def test_taken_to_the_letter(raw, tmp_path, name):
    spoil, text = TAKEN_AS_TEXT[name]
    spoil(raw)
    assert raw.run(tmp_path / "out") == 0
    corpus = Corpus.load(tmp_path / "out")
    assert corpus["train"].text(0).startswith(text)
    assert corpus.card["dropped"] == {}


def test_no_error_shows_the_text_of_a_note(raw, tmp_path, capsys):
    raw.change(HEADER, "")  # the first row is where the header should be
    assert raw.run(tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "(the header is: 1, 1, 145000, 2151-08-04, (a text), (a text));" in error
    assert "cough" not in error
    raw.notes.write_text(HEADER + 'Fever and cough,1,145000,x,Discharge summary,"x"\n')
    assert raw.run(tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "row at line 2: a text is not a valid id" in error
    assert "cough" not in error


def test_a_disk_that_fills_up(raw, tmp_path):
    """A real limit on the size of a file, in the midst of writing."""
    raw.change("Fever and cough.", "fever " * 100_000, times=3)
    lines = [
        "import resource, sys",
        "from data_prep.__main__ import main",
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))",
        f"sys.exit(main({raw.arguments(tmp_path / 'out')!r}))",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    _nothing_is_left(tmp_path / "out")


_PIECE = st.sampled_from(
    [b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"\xe9", b"\xef\xbb\xbf", b'""', b"-1", b"\x1f\x8b"]
)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    table=st.sampled_from(["notes", "codes"]),
    cuts=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 30), _PIECE), max_size=4),
    zipped=st.booleans(),
    cut_zip=st.integers(0, 3),
)
@example(table="notes", cuts=[(70, 0, b'"')], zipped=False, cut_zip=0)
def test_any_damage_is_one_line_or_counted(sound, table, cuts, zipped, cut_zip):
    """Bytes put in, taken out or exchanged anywhere: never a traceback, never half a corpus."""
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Raw(Path(folder) / "raw"), Path(folder) / "out"
        data = getattr(raw, table).read_bytes()
        for place, length, piece in cuts:
            data = data[:place] + piece + data[place + length :]
        getattr(raw, table).write_bytes(data)
        if zipped:
            path = getattr(raw, table)
            whole = gzip.compress(data)
            path.unlink()
            path.with_suffix(".csv.gz").write_bytes(whole[: len(whole) - cut_zip])
        said, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
            status = raw.run(out)
        assert status in (0, 2)
        assert list(Path(folder).glob("out.*")) == []
        if status == 2:
            assert not out.exists()
            assert errors.getvalue().splitlines()[-1].startswith("python -m data_prep mimic3: ")
        else:
            corpus = Corpus.load(out)
            corpus.verify()
            _rows_are_accounted_for(raw, table, corpus)


def _rows_are_accounted_for(raw, table, corpus):
    """Every row of a damaged table is in the corpus or among what was left out."""
    path = tables.find(raw.folder, "NOTEEVENTS" if table == "notes" else "DIAGNOSES_ICD")
    rows = sum(1 for _ in tables.read(path, ("ROW_ID", "HADM_ID")))
    dropped = corpus.card["dropped"]
    if table == "codes":
        kept = sum(int(corpus[name].frequency("icd").sum()) for name in corpus.splits)
        lost = sum(
            count for why, count in dropped.items() if why.startswith(("DIAG", "codes "))
        ) - dropped.get("codes kept without a category", 0)
        unlisted = dropped.get("admissions that the lists do not name", 0)
        assert kept + lost <= rows <= kept + lost + 8 * unlisted
    else:
        lost = sum(count for why, count in dropped.items() if why.startswith("notes "))
        assert sum(len(corpus[name]) for name in corpus.splits) + lost <= rows
