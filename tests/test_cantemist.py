"""CANTEMIST: its files to a corpus, on a folder of invented cases."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import marn
from data_prep.__main__ import main
from data_prep.sources import cantemist
from marn.corpus import Corpus

CASES = {  # set -> case -> text, and the words and the code of each passage
    "train-set": {
        "c1": (
            "Varón con adenocarcinoma de colon.\r\nMetástasis hepáticas.",
            [("adenocarcinoma", "8140/3"), ("Metástasis", "8000/6")],
        ),
        "c2": ("Posible adenocarcinoma; ganglio sin metástasis.", [("adenocarcinoma", "8140/3/H")]),
        "c3": ("Adenocarcinoma moderadamente diferenciado.", [("Adenocarcinoma", "8140/32")]),
        "c4": ("Tos y fiebre.", []),
    },
    "dev-set1": {"c5": ("Adenocarcinoma de pulmón.", [("Adenocarcinoma", "8140/3")])},
    "dev-set2": {"c6": ("Sin metástasis óseas.", [("metástasis", "8000/6")])},
    "test-set": {"c7": ("Metástasis y adenocarcinoma.", [("Metástasis", "8000/6")])},
}
TITLES = {"8140/3": "Adenocarcinoma, SAI", "8000/6": "Neoplasia metastásica"}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for name, cases in CASES.items():
        norm, coding = (tmp_path / "raw" / name / f"cantemist-{x}" for x in ("norm", "coding"))
        norm.mkdir(parents=True)
        coding.mkdir()
        rows = ["file\tcode"]
        for case, (text, passages) in cases.items():
            (norm / f"{case}.txt").write_bytes(text.encode())
            lines = []
            for n, (words, code) in enumerate(passages, start=1):
                begin = text.index(words)
                place = f"{begin} {begin + len(words)}"
                lines += [f"T{n}\tMORFOLOGIA_NEOPLASIA {place}\t{words}"]
                lines += [f"#{n}\tAnnotatorNotes T{n}\t{code}"]
                rows.append(f"{case}\t{code}")
            (norm / f"{case}.ann").write_text("".join(f"{line}\n" for line in lines))
        short = name.replace("-set", "")
        (coding / f"{short}-coding.tsv").write_text("\n".join(dict.fromkeys(rows)))
    return tmp_path / "raw"


def make(raw: Path, *options: str) -> Corpus | None:
    out = raw.parent / "out"
    line = ["cantemist", "--raw", str(raw), "--out", str(out), "--min-count", "1"]
    done = main([*line, "--vectors", "none", *options])
    assert not list(raw.parent.glob("*.partial"))
    return None if done else Corpus.load(out)


def evidence_of(corpus: Corpus, split: str, note: int) -> list[tuple[str, str]]:
    text = corpus[split].text(note)
    return [
        (corpus.codes["icd"][one.code].code, text[one.begin : one.end])
        for one in corpus[split].evidence(note)
    ]


def test_by_hand(raw: Path) -> None:
    corpus = make(raw)
    assert corpus is not None
    assert corpus.is_open
    assert corpus.card["language"] == "es"
    assert corpus.tasks == {"icd": 4}  # and no categories
    assert [entry.code for entry in corpus.codes["icd"]] == [
        "8000/6",
        "8140/3",
        "8140/3/H",
        "8140/32",
    ]
    assert {name: corpus[name].ids.tolist() for name in corpus.splits} == {
        "train": ["c1", "c2", "c3"],
        "dev": ["c5", "c6"],
        "test": ["c7"],
    }
    assert evidence_of(corpus, "train", 0) == [
        ("8140/3", "adenocarcinoma"),
        ("8000/6", "Metástasis"),
    ]
    assert evidence_of(corpus, "train", 1) == [("8140/3/H", "adenocarcinoma")]
    assert evidence_of(corpus, "dev", 1) == [("8000/6", "metástasis")]
    assert corpus.card["dropped"] == {"admissions with a note and without a code": 1}
    assert corpus.card["settings"]["citation"] == cantemist.CITATION
    assert corpus.card["settings"]["split"] == "official"


def test_what_annotations_may_hold(raw: Path) -> None:
    """Rejected suggestions go; a passage in pieces gives two; the rest is counted."""
    path = raw / "train-set" / "cantemist-norm" / "c1.ann"
    lines = [
        "T1\tMORFOLOGIA_NEOPLASIA 10 24;28 33\tadenocarcinoma colon",
        "#1\tAnnotatorNotes T1\t8140/3",
        "T2\t_REJ_MORFOLOGIA_NEOPLASIA 36 46\tMetástasis",
        "#2\tAnnotatorNotes T2\t8000/6",
        "T3\tMORFOLOGIA_NEOPLASIA 0 5\tMetástasis",
        "#3\tAnnotatorNotes T3\t8000/6",
        "T4\tMORFOLOGIA_NEOPLASIA 36 46\tMetástasis",
        "T5\tMORFOLOGIA_NEOPLASIA 36 46\tMetástasis",
        "#5\tAnnotatorNotes T5\t9999/9",
    ]
    path.write_text("\n".join(lines))
    corpus = make(raw)
    assert corpus is not None
    assert evidence_of(corpus, "train", 0) == [("8140/3", "adenocarcinoma"), ("8140/3", "colon")]
    assert corpus.card["dropped"] == {
        "admissions with a note and without a code": 1,
        "passages of codes left out": 2,
        "passages that do not lie where they should": 1,
    }


def test_titles_and_a_reader_of_the_marked_phrases(raw: Path, tmp_path: Path) -> None:
    with (tmp_path / "morfologia.tsv").open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["codigo", "descriptor completo", "descriptor corto", ""])
        table.writerows([code, title, "", ""] for code, title in TITLES.items())
    corpus = make(raw, "--titles", str(tmp_path / "morfologia.tsv"))
    assert corpus is not None
    titles = {entry.code: entry.title for entry in corpus.codes["icd"]}
    assert titles == {**TITLES, "8140/3/H": "", "8140/32": ""}
    for name in ("dictionary", "titles"):
        model = marn.build(name, corpus).fit(corpus)
        logits = model.logits(["Paciente con metástasis."])["icd"][0]
        assert logits.argmax() == list(titles).index("8000/6")


def test_other_splits(raw: Path) -> None:
    corpus = make(raw, "--splits", "1,0,0")
    assert corpus is not None
    assert len(corpus["train"]) == 6
    assert corpus.card["settings"]["split"] == "by patient, 1,0,0"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: (raw / "dev-set1").rename(raw / "x"), None),
        (
            lambda raw: [(raw / f"dev-set{n}").rename(raw / f"x{n}") for n in (1, 2)],
            "is not CANTEMIST: dev-set*/cantemist-norm/NAME.txt is missing; give the folder",
        ),
        (
            lambda raw: (raw / "dev-set2/cantemist-norm/c1.txt").write_text("x"),
            "case c1 is 2 times in",
        ),
        (lambda raw: (raw / "train-set/cantemist-norm/c1.ann").unlink(), "c1.ann cannot be read"),
        (
            lambda raw: (raw / "test-set/cantemist-norm/c7.ann").write_text(
                "T1\tMORFOLOGIA_NEOPLASIA 0 5 7\tTumor\n"
            ),
            "c7.ann: cannot read the offsets '0 5 7'",
        ),
        (lambda raw: (raw / "train-set/cantemist-coding/train-coding.tsv").write_text("x"), "tsv"),
    ],
)
def test_damaged_files(raw: Path, capsys: pytest.CaptureFixture[str], damage, said) -> None:  # type: ignore[no-untyped-def]
    damage(raw)
    assert (make(raw) is None) == (said is not None)
    error = capsys.readouterr().err
    assert (said or "") in error
    assert "Metástasis" not in error
