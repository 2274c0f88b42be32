"""CAML's label space: by hand, and against pandas itself on a table of its size."""

import io
import random
import warnings

import pandas as pd
import pytest

from data_prep import caml_labels
from data_prep.__main__ import main
from data_prep.caml_labels import CamlLabels, CodeRow, caml_label
from data_prep.code_systems.systems import dotted_icd9
from marn.corpus import Corpus

DIAGNOSES = ["4280", "42731", "25000", "V4581", "E8490", "0389", "486"]
PROCEDURES = ["9910", "9904", "9390", "0939", "0045", "3893", "45", "0331", "3950", "640", "0001"]


def _labels(rows, noted):
    named = CamlLabels(lambda *_: "", lambda *_: None, lambda *_: False, noted)
    return [coding.code for coding in named.codings(rows)]


def _rows(kind, codes, admission="1"):
    return [CodeRow(admission, kind, code, dotted_icd9(kind, code)) for code in codes]


@pytest.mark.filterwarnings("ignore:.*mixed types")
def test_as_pandas_reads_a_table_of_this_size():
    """400,000 rows of five columns, written and read as CAML's notebook does."""
    generator = random.Random(0)
    rows = [
        row
        for kind, codes, count in (("dx", DIAGNOSES, 140_000), ("pr", PROCEDURES, 260_000))
        for row in _rows(kind, generator.choices(codes, k=count))
    ]
    homeless = _rows("dx", DIAGNOSES * 1000, admission="2")  # without a summary: not in the table
    lines = ["SUBJECT_ID,HADM_ID,ICD9_CODE,ADMITTIME,DISCHTIME"]
    lines += [f"7,1,{caml_label(row.kind, row.code)},," for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = pd.read_csv(io.StringIO("\r\n".join(lines)))
    expected = [str(code) for code in table["ICD9_CODE"]]
    found = _labels(rows[:100] + homeless + rows[100:], {"9": "1"})
    assert found[:100] + found[100 + len(homeless) :] == expected
    # Rows 262,144 to 393,215 are a chunk of procedures alone; those before and after are not all.
    assert {"99.10", "45.", "93.90", "99.1", "45.0", "93.9", "1.", "1.0"} <= set(expected)
    assert {"428.0", "250.00", "V45.81"} <= set(expected)


def test_a_chunk_by_hand(monkeypatch):
    monkeypatch.setattr(caml_labels, "CHUNK", 3)
    rows = _rows("dx", ["4280", "V4581"]) + _rows("pr", ["9910", "9910", "0045", "3893", "9910"])
    assert _labels(rows, {"9": "1"}) == ["428.0", "V45.81", "99.10", "99.1", "45.0", "38.93",
                                         "99.1"]  # fmt: skip
    without = [*rows[:3], CodeRow("1", "pr", "", None), *rows[3:]]  # a row without a code counts
    assert _labels(without, {"9": "1"})[3:] == ["99.1", "45.0", "38.93", "99.1"]
    odd = [*rows[:3], CodeRow("1", "pr", "x", None), *rows[3:]]  # and one that is no number
    assert _labels(odd, {"9": "1"})[3:] == ["99.10", "45.", "38.93", "99.1"]


def test_a_corpus_says_which_label_space_it_has(tiny_raw, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(caml_labels, "CHUNK", 64)
    line = ["mimic3", "--raw", str(tiny_raw), "--codes", "full", "--vectors", "none"]
    found = {}
    for style in ("icd", "caml"):
        out = tmp_path / style
        assert main([*line, "--out", str(out), "--labels", style]) == 0
        corpus = Corpus.load(out)
        found[style] = {entry.code for entry in corpus.codes["icd"]}
        marks = sum(
            len(corpus[name].evidence(note))
            for name in corpus.splits
            for note in range(len(corpus[name]))
        )
        found[style, "marks"] = marks
        capsys.readouterr()
        assert main(["audit", str(out)]) == 0
        found[style, "audit"] = capsys.readouterr().out
    changed = found["caml"] - found["icd"]
    assert any(code.endswith(".0") or f"{code}0" in found["icd"] for code in changed)
    assert found["icd", "marks"] == found["caml", "marks"]
    assert "labels as in the tables" in found["icd", "audit"]
    assert "labels as in CAML's published predictions" in found["caml", "audit"]
