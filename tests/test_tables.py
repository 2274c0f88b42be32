"""The reader of raw tables: what it accepts, and what it says of what it cannot accept."""

import csv
import gzip
import io
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep import tables
from marn.corpus import loose_tables
from marn.errors import MarnError

COLUMNS = ("ROW_ID", "TEXT")
_FIELDS = st.text(
    alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40
)


def _read(path, columns=COLUMNS):
    return list(tables.read(path, columns))


@pytest.fixture
def table(tmp_path):
    def write(data: bytes | str, name: str = "T.csv"):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return write


def test_columns_by_name_in_any_case_and_rows_counted(table):
    path = table('"row_id","Other","text"\n1,,"one\ntwo ""quoted"", three"\n\n2,x,\n')
    assert _read(path) == [(1, ("1", 'one\ntwo "quoted", three')), (3, ("2", ""))]
    for place, line in [(0, 1), (1, 2), (3, 5)]:
        said = str(tables.fault(path, place, "wrong"))
        assert said == f"{path}, row at line {line}: wrong"


def test_a_fault_is_found_in_a_zipped_table_whatever_lies_behind_it(table):
    data = b'\xef\xbb\xbf"ROW_ID",TEXT\n"1","a\nb"\nx,c\n2,\xff\n'
    path = table(gzip.compress(data), "T.csv.gz")
    with pytest.raises(MarnError, match=r"T\.csv\.gz, row at line 4: a text is not a valid id"):
        tables.identifier(path, 2, "x")


@pytest.mark.parametrize("zipped", [False, True])
@given(rows=st.lists(st.tuples(_FIELDS, _FIELDS, _FIELDS), max_size=6))
@example(rows=[("", '"', "\r"), ("\r\n", ",", '""')])
def test_any_text_survives_the_dialect(tmp_path_factory, rows, zipped):
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["A", "B", "TEXT"])
    writer.writerows(rows)
    data = text.getvalue().encode()
    path = tmp_path_factory.mktemp("any") / ("T.csv.gz" if zipped else "T.csv")
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert [fields for _, fields in _read(path, ("text", "A", "b"))] == [
        (text, a, b) for a, b, text in rows
    ]


def test_byte_order_mark_and_crlf(table):
    path = table(b'\xef\xbb\xbfROW_ID,TEXT\r\n1,"a\r\nb"\r\n2,c\r\n')
    assert [fields for _, fields in _read(path)] == [("1", "a\r\nb"), ("2", "c")]


def _expected(text):
    """Rows with their indices, and the line on which the csv module finds an error."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    found, line = [], 1
    try:
        for index, row in enumerate(reader):
            if row and len(row) != 2:
                return found, line
            if row and index:
                found.append((index, tuple(row)))
            line = reader.line_num + 1
    except csv.Error:
        return found, line
    return found, None


def _found(path):
    found = []
    try:
        found.extend(tables.read(path, COLUMNS))
    except MarnError as error:
        return found, int(re.search(r"row at line (\d+): ", str(error))[1])
    return found, None


ODD = [
    'a,"b"\n',
    '"a ""b"" c",""\n"","x"""\n',
    'a,"b\r\nc"\r\n\r\n"e",\r\n',
    'a,"b"c\n',
    'a,b"c"\nd,"e"\n',
    '"a"\r"b"\n',
    "a\rb\n",
    'a,"b',
    'a,"b""',
    'a,"b"\r',
    '"a" ,b\n',
    ' "a"\n',
    "\n\na,b\n\n",
    'a, "b"\n',
    '"a\n\n"\n"b",\n',
    ',\n"",\n',
    "a\n",
    "a,b,c\n",
    "a,b",
]


@pytest.mark.parametrize("piece", [16, 17, 19, 1000])
@pytest.mark.parametrize("text", ODD)
def test_the_odd_ones_are_read_as_the_csv_module_reads_them(table, monkeypatch, text, piece):
    monkeypatch.setattr(tables, "PIECE", piece)
    text = "ROW_ID,TEXT\n" + text
    assert _found(table(text)) == _expected(text)


@settings(max_examples=400, deadline=None)
@given(
    text=st.one_of(
        st.text(alphabet='"",\n\rab é', max_size=40),
        st.lists(st.sampled_from(['"', '""', ",", "\n", "\r\n", '","', '"\n"', "a", "bc"]),
                 max_size=30).map("".join),
        st.lists(st.sampled_from(["a,b\n", '"a\n","b"\n', 'a,"""b"\r\n', "a,b", "é,\n"]),
                 max_size=8).map("".join),
    ),
    piece=st.integers(12, 40),
)  # fmt: skip
def test_equal_to_the_csv_module(tmp_path_factory, text, piece):
    text = "ROW_ID,TEXT\n" + text
    path = tmp_path_factory.mktemp("any") / "T.csv"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "PIECE", piece)
        assert _found(path) == _expected(text)


def test_a_sound_table_is_left_to_polars(table, monkeypatch):
    monkeypatch.setattr(tables, "PIECE", 40)
    path = table('ROW_ID,TEXT\n1,"a\n""b"""\n' + "2,c\r\n" * 50)
    rows = [("1", 'a\n"b"'), *[("2", "c")] * 50]

    header = csv.reader(["ROW_ID,TEXT"])  # all that is read of it by the csv module
    monkeypatch.setattr(tables.csv, "reader", lambda *_, **__: header)
    assert [fields for _, fields in _read(path)] == rows


def test_long_note(table):
    note = "word " * 100_000  # 500,000 characters: over the csv module's own limit
    assert _read(table(f'ROW_ID,TEXT\n1,"{note}"\n'))[0][1][1] == note


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "T.csv is empty"),
        ("\n1,x\n", "T.csv is empty"),
        ("ROW_ID,NOTE\n", "no column TEXT (the header is: ROW_ID, NOTE"),
        ("ROW_ID;TEXT\n", "separated by commas"),
        ("ROW_ID,TEXT,text\n", "more than one column TEXT"),
        ('ROW_ID,TEXT\n1,"a\nb"\n2\n', "row at line 4: 1 fields instead of 2"),
        ("ROW_ID,TEXT\n1,a\n2,b,c\n", "row at line 3: 3 fields instead of 2"),
        ('ROW_ID,TEXT\n1,a\n2,"b\nc\n', "row at line 3: a quote is opened and never closed"),
        ('ROW_ID,TEXT\n1,"a"b\n', "row at line 2: "),
        (b"ROW_ID,TEXT\n1,a\n2,b\n3,caf\xe9\n", "row at line 4: byte 0xe9 is not UTF-8"),
        (b"\xff\xfeR\0O\0W\0", "line 1: "),
        (b"ROW_ID,TEXT\n1,a\n2,b\0c\n", "row at line 3: a NUL byte"),
    ],
)
def test_damage_is_named_with_its_line(table, data, said):
    path = table(data)
    with pytest.raises(MarnError) as caught:
        _read(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ('ROW_ID,TEXT\n1,a\n2,"b\n' + "3,c\n" * 1000 + '4,"d"\n', 3),
        ("ROW_ID,TEXT\n1,a\n\n" + "b" * 2000, 4),
        ("ROW_ID,TEXT\n1,a\n" + "," * 2000, 3),
        ("ROW_ID,TEXT\n" + '"a\n",' * 2000, 2),
        ("," * 2000, 1),
    ],
)
def test_a_row_without_end_does_not_draw_the_file_into_memory(table, monkeypatch, data, line):
    for module in (tables, loose_tables):
        monkeypatch.setattr(module, "ROW_LIMIT", 1000)
    old = csv.field_size_limit(1000)
    try:
        path = table(data)
        with pytest.raises(MarnError, match=f"line {line}: a quote is never closed, or a row"):
            _read(path)
    finally:
        csv.field_size_limit(old)


@pytest.mark.parametrize("size", [5, 40, -3])
def test_cut_download(table, size):
    whole = gzip.compress(b"ROW_ID,TEXT\n" + b"".join(b"%d,abc\n" % i for i in range(999)))
    with pytest.raises(MarnError, match=r"T\.csv\.gz cannot be unpacked .* get a fresh copy"):
        _read(table(whole[:size], "T.csv.gz"))


def test_damaged_bytes_within_gzip(table):
    data = bytearray(gzip.compress(bytes(range(1, 256)) * 40))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(MarnError):
        _read(table(bytes(data), "T.csv.gz"))


def test_finding_tables(tmp_path):
    assert tables.find(tmp_path, "NOTEEVENTS") is None
    with pytest.raises(MarnError, match=r"has no NOTEEVENTS\.csv or"):
        tables.require(tmp_path, "NOTEEVENTS")
    lower = tmp_path / "noteevents.csv.gz"
    lower.touch()
    assert tables.find(tmp_path, "NOTEEVENTS") == lower
    (tmp_path / "NOTEEVENTS.csv").touch()
    with pytest.raises(MarnError, match="remove one"):
        tables.find(tmp_path, "NOTEEVENTS")
    with pytest.raises(MarnError, match="is a file"):
        tables.folder(lower)
    with pytest.raises(MarnError, match="does not exist"):
        tables.folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("written", "read"),
    [("145834", "145834"), (" 145834.0 ", "145834"), ("007", "7"), ("0", "0"), ("", None)]
    + [(null, None) for null in (" ", "NULL", "nan", "\\N")],
)
def test_identifiers(tmp_path, written, read):
    assert tables.identifier(tmp_path, 1, written) == read


@pytest.mark.parametrize("written", ["145834.5", "-1", "1e5", "A7", "1 2", "٣"])
def test_identifiers_that_are_none(table, written):
    with pytest.raises(MarnError, match=r"line 3: .* is not a valid id"):
        tables.identifier(table("ROW_ID,TEXT\n1,a\n,b\n"), 2, written)


def test_a_field_that_may_be_of_a_note_is_not_shown():
    for field in ("患者男性六十岁因胸痛入院", "Furosemid", "fever today", "12mg", "1" * 50, ""):
        assert tables.shown(field) == "a text"
    assert tables.shown("145834.5") == "'145834.5'"
    assert tables.shown("1.5E+05") == "'1.5E+05'"
