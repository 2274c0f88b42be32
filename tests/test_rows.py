"""Rows of a table: those of the csv module, to the letter and the line, whatever the pieces."""

import csv
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep import rows
from data_prep.rows import Rows, line_of

LIMIT = 1 << 24


def _expected(text):
    """Rows with the lines they begin on, and the line on which the csv module finds an error."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    found, line = [], 1
    try:
        for row in reader:
            found.append((line, row))
            line = reader.line_num + 1
    except csv.Error:
        return found, line
    return found, None


def _file(text):
    return io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8", newline="")


def _found(text, limit=LIMIT):
    reader = Rows(_file(text), limit)
    found = []
    try:
        for row in reader:
            found.append((line_of(_file(text), len(found)), row))
    except csv.Error:
        assert reader.passed == len(found)
        return found, line_of(_file(text), reader.passed)
    assert reader.passed == len(found)
    return found, None


@pytest.fixture(autouse=True)
def _fields_count_as_long(monkeypatch):
    monkeypatch.setattr(rows, "_SHORT", 0)


ODD = [
    'a,"b"\n',
    '"a ""b"" c","",""""\n"x"\n',
    'a,"b\r\nc",d\r\n\r\n"e"\r\n',
    'a,"b"c\n',
    'a,b"c"\nd,"e"\n',
    '"a"\r"b"\n',
    "a\rb\n",
    'a,"b',
    'a,"b""',
    'a,"b"\r',
    '"a" ,b\n',
    ' "a"\n',
    "\n\na\n\n",
    'a, "b"\n',
    '"a\n\n"\n"b"\n',
    ',,"",\n',
]


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("text", ODD)
def test_the_odd_ones(monkeypatch, text, piece):
    monkeypatch.setattr(rows, "_PIECE", piece)
    assert _found(text) == _expected(text)


@settings(max_examples=600, deadline=None)
@given(
    text=st.one_of(
        st.text(alphabet='"",\n\rab é', max_size=40),
        st.lists(st.sampled_from(['"', '""', ",", "\n", "\r\n", '","', '"\n"', "a", "bc"]),
                 max_size=30).map("".join),
    ),
    piece=st.integers(1, 12),
)  # fmt: skip
@example(text='"a"\r\n"b"\n', piece=4)
@example(text='"\r"\na\n', piece=1)
@example(text='"\r""\n"\na\n', piece=4)
def test_equal_to_the_csv_module(text, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_PIECE", piece)
        assert _found(text) == _expected(text)


@settings(max_examples=100, deadline=None)
@given(
    table=st.lists(st.lists(st.text(max_size=30), min_size=1, max_size=5), max_size=8),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    end=st.sampled_from(["\n", "\r\n"]),
    piece=st.integers(1, 50),
)
def test_what_the_csv_module_writes(table, quoting, end, piece):
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_PIECE", piece)
        try:
            csv.writer(text, quoting=quoting, lineterminator=end).writerows(table)
        except csv.Error:  # text that it cannot write
            return
        if "\0" not in text.getvalue() and text.getvalue().isprintable():
            assert [row for _, row in _found(text.getvalue())[0]] == table


def test_long_fields_are_not_left_to_the_csv_module(monkeypatch):
    def never(*_, **__):
        raise AssertionError("left to the csv module")

    note = 'word, and ""more"" words\n'
    text = f'a,b\n1,"{note * 9}"\n2,"x"\n\n'
    monkeypatch.setattr(rows, "_PIECE", 16)
    monkeypatch.setattr(rows.csv, "reader", never)
    found = list(Rows(_file(text), LIMIT))
    assert found == [["a", "b"], ["1", note.replace('""', '"') * 9], ["2", "x"], []]


def test_short_fields_are(monkeypatch):
    monkeypatch.setattr(rows, "_SHORT", 64)
    monkeypatch.setattr(rows, "_whole_rows", None)
    assert _found('"a","b"\n"1","2"\n') == ([(1, ["a", "b"]), (2, ["1", "2"])], None)


@pytest.mark.parametrize("of_process", [40, 1 << 20])
@pytest.mark.parametrize("text", ['a\n"' + "b" * 50 + '"\n', 'a\n"' + "b" * 500])
def test_a_field_over_the_limit(monkeypatch, text, of_process):
    monkeypatch.setattr(rows, "_PIECE", 8)
    before = csv.field_size_limit(of_process)
    try:
        assert _found(text, limit=40) == ([(1, ["a"])], 2)
    finally:
        csv.field_size_limit(before)
