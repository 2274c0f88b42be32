"""The audit: planted faults are counted, whatever is fine is not, and nothing private is said."""

import csv
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import audit as package
from data_prep.__main__ import main
from data_prep.audit import (
    Finding,
    audit,
    audit_raw,
    caml_top50,
    codes_hash,
    jaccard,
    repeats,
    shingles,
    to_json,
)
from data_prep.audit.repeats import NEAR
from data_prep.commit_check import examine
from data_prep.corpus_writer import CorpusWriter, replacing
from data_prep.publishable import withheld
from marn.corpus import CodeEntry, Corpus
from marn.corpus.text import Vocabulary

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "experiments"))

import audit_mimic3_demo  # noqa: E402

Note = tuple[str, str, str, Sequence[int]]
"""Patient, admission, text, columns of the codes."""


def corpus_of(
    path: Path,
    codes: Sequence[tuple[str, str, int]],
    categories: Sequence[tuple[str, str]],
    splits: Mapping[str, Sequence[Note]],
    **card: Any,
) -> Corpus:
    """Write a corpus from (kind, code, column of its category), (kind, category) and notes."""
    texts = [text for notes in splits.values() for _, _, text, _ in notes]
    vocabulary = Vocabulary(sorted({word for text in texts for word in text.split()}))
    tables = {
        "icd": [CodeEntry(code, kind, "") for kind, code, _ in codes],
        "ccs": [CodeEntry(code, kind, "") for kind, code in categories],
    }
    parent = [above for _, _, above in codes]
    with replacing(path) as folder:
        writer = CorpusWriter(folder, tables, parent)
        for split, notes in splits.items():
            encoded = [vocabulary.encode(text.split()) for _, _, text, _ in notes]
            texts = [text.encode() for _, _, text, _ in notes]
            writer.split(
                split,
                ids=[id_ for _, id_, _, _ in notes],
                subjects=[subject for subject, _, _, _ in notes],
                sizes=np.array([len(text) for text in texts]),
                texts=texts,
                lengths=np.array([len(tokens) for tokens in encoded]),
                tokens=encoded,
                columns={
                    "icd": [list(columns) for *_, columns in notes],
                    "ccs": [sorted({parent[c] for c in columns} - {-1}) for *_, columns in notes],
                },
            )
        described = {"name": "planted", "source": "made up by a test", "text": "open"}
        described |= {"language": "en", "command": "corpus_of()", "seed": 0}
        described |= {"ccs_key": "kind:number", "settings": {}, "dropped": {}} | card
        writer.finish(vocabulary=vocabulary, **described)
    return Corpus.load(path)


def by_name(findings: Sequence[Finding]) -> dict[str, Finding]:
    found = {finding.name: finding for finding in findings}
    assert len(found) == len(findings)
    assert all(0 <= finding.count <= finding.of for finding in findings)
    return found


def counts(findings: Mapping[str, Finding], *names: str) -> list[tuple[int, int, tuple[str, ...]]]:
    return [(findings[n].count, findings[n].of, findings[n].examples) for n in names]


WORDS = [f"w{chr(97 + k // 26)}{chr(97 + k % 26)}" for k in range(400)]
LONG = " ".join(WORDS[:60])
CODES = [
    ("dx", "038.9", 0),
    ("pr", "12.3", -1),
    ("dx", "427.31", 1),
    ("pr", "17.", -1),
    ("pr", "96.04", 2),
    ("dx", "960.4", 3),
]
CATEGORIES = [("dx", "dx:2"), ("dx", "dx:106"), ("pr", "pr:106"), ("dx", "dx:242")]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    near = LONG.replace("wac", "wzz")  # one word of sixty, in the third place: 3 of 56 runs
    splits: dict[str, list[Note]] = {
        "train": [
            ("1", "11", LONG, [0, 2]),
            ("1", "12", "fever", [2]),
            ("2", "13", "fever", [2, 4]),
            ("3", "14", "", [0]),
            ("3", "15", "cough", []),
        ],
        "dev": [("3", "16", LONG, [2, 3]), ("4", "17", near, [1])],
        "test": [("5", "18", " ".join(WORDS[100:160]), [0, 5]), ("6", "18", "cough chill", [4])],
    }
    folder = tmp_path_factory.mktemp("audit") / "planted"
    dropped = {"admissions with a note and without a code": 7}
    return corpus_of(folder, CODES, CATEGORIES, splits, dropped=dropped)


# -- a corpus -------------------------------------------------------------------------------------


def test_planted_codes_by_hand(planted: Corpus) -> None:
    found = by_name(audit(planted))
    assert counts(
        found, "procedure codes that begin with 0", "lost leading zeros", "stub codes"
    ) == [
        (0, 3, ()),
        # 01.23 and 00.17 exist; 12.3 is a heading and 17. nothing at all
        (2, 6, ("12.3", "17.")),
        (1, 6, ("17.",)),
    ]
    # of 427.31, 96.04 and 960.4 only the last two are written alike, and both are here
    alike = found["codes that another of these is written like"]
    assert (alike.count, alike.examples) == (2, ("96.04", "960.4"))
    assert "96.04 (960.4)" in found["codes of both kinds"].examples
    assert found["codes in no table of codes"].examples == ("12.3", "17.")
    unmapped = found["unmapped codes"]
    assert (unmapped.count, unmapped.of, unmapped.examples) == (2, 6, ("12.3", "17."))
    assert "2 codings" in unmapped.meaning
    merged = found["CCS collisions under the merged key"]
    assert (merged.count, merged.of, merged.examples) == (1, 3, ("106",))
    assert "Kept apart there are 4 categories, by number alone 3" in merged.meaning


def test_planted_splits_by_hand(planted: Corpus) -> None:
    found = by_name(audit(planted))
    assert counts(found, *(f"codes absent from {split}" for split in planted.splits)) == [
        (3, 6, ("960.4", "12.3", "17.")),
        (3, 6, ("038.9", "96.04", "960.4")),
        (3, 6, ("427.31", "12.3", "17.")),
    ]
    assert counts(found, "codes of dev unseen in train", "codes of test unseen in train") == [
        (2, 3, ("12.3", "17.")),
        (1, 3, ("960.4",)),
    ]
    assert "2 of 3 codings of dev" in found["codes of dev unseen in train"].meaning
    assert counts(found, "patients in several splits", "duplicate admissions") == [
        (1, 6, ()),
        (1, 9, ()),
    ]


def test_planted_notes_by_hand(planted: Corpus) -> None:
    found = by_name(audit(planted))
    assert {name: found[name].count for name in found if "note" in name} == {
        "empty notes": 1,
        "notes that repeat an earlier one word for word": 2,  # fever, and the long one in dev
        "dev and test notes that repeat a training note word for word": 1,
        "near duplicates of an earlier note": 1,
        "dev and test notes that nearly repeat a training note": 1,
        "notes without codes": 1,
        "notes, and lines of their lists with a header": 9,
    }
    left_out = found["admissions left out because they have no code"]
    assert (left_out.count, left_out.of) == (7, 16)
    both = found["notes, and lines of their lists with a header"]
    assert (both.of, both.examples) == (12, ("train 5 or 6", "dev 2 or 3", "test 2 or 3"))
    assert counts(found, "codes, and labels with an empty one") == [(6, 7, ())]


def test_a_corpus_with_merged_categories(tmp_path: Path) -> None:
    codes = [("dx", "427.31", 0), ("pr", "96.04", 0), ("dx", "486", 1)]
    splits = {"train": [("1", "1", "a", [0, 1, 2])]}
    corpus = corpus_of(
        tmp_path / "m", codes, [("dx+pr", "106"), ("dx", "122")], splits, ccs_key="number"
    )
    assert counts(by_name(audit(corpus)), "CCS collisions under the merged key") == [
        (1, 2, ("106",))
    ]


def test_a_corpus_of_icd_10_is_not_asked_about_icd_9(tmp_path: Path) -> None:
    splits = {"train": [("1", "1", "a", [0])], "dev": [("2", "2", "b", [0])]}
    codes, above = [("dx", "E10.9", 0), ("pr", "02100Z9", 0)], [("dx", "CIR007")]
    found = by_name(audit(corpus_of(tmp_path / "c", codes, above, splits, ccs_key="ccsr")))
    assert "unmapped codes" in found
    assert "codes of dev unseen in train" in found
    assert not {"stub codes", "CCS collisions under the merged key"} & set(found)
    assert not [name for name in found if "top 50" in name or "zero" in name]


def test_lists_of_admissions(planted: Corpus, tmp_path: Path) -> None:
    for split, ids in (("train", "HADM_ID\n11\n12\n99\n"), ("dev", "16\n16\n"), ("test", "17\n")):
        (tmp_path / f"{split}_full_hadm_ids.csv").write_text(ids)
    found = by_name(audit(planted, tmp_path))
    assert {name: (found[name].count, found[name].of) for name in list(found)[-5:]} == {
        "lines of the lists that are admissions": (6, 7),
        "admissions that are listed more than once": (1, 6),
        "listed admissions that the corpus lacks": (1, 5),
        "notes that the lists do not name": (4, 8),
        "notes in another split than listed": (1, 8),
    }


def test_the_teaching_hospital_is_sound(tiny_corpus: Path) -> None:
    found = by_name(audit(Corpus.load(tiny_corpus)))
    sound = (
        "lost leading zeros",
        "stub codes",
        "codes in no table of codes",
        "codes that another of these is written like",
        "patients in several splits",
        "duplicate admissions",
        "empty notes",
        "dev and test notes that repeat a training note word for word",
        "notes without codes",
    )
    assert {name: found[name].count for name in sound} == dict.fromkeys(sound, 0)


# -- which top 50 ---------------------------------------------------------------------------------


def test_camls_top_50() -> None:
    pairs = caml_top50()
    assert len(set(pairs)) == 50
    with (ROOT / "data_prep" / "hospital" / "head.csv").open(newline="") as file:
        assert {code for _, code in pairs} == {row["code"] for row in csv.DictReader(file)}
    assert codes_hash(["b", "a"]) == codes_hash(iter(["a", "b"])) != codes_hash(["ab"])
    assert codes_hash(code for _, code in pairs).startswith("555b89809ede")


def test_another_top_50_is_told_from_camls(tmp_path: Path) -> None:
    mine = sorted([pair for pair in caml_top50() if pair[1] != "37.23"] + [("pr", "93.90")])
    mine.sort(key=lambda pair: pair[1])
    codes = [(kind, code, -1) for kind, code in mine]
    splits = {"train": [("1", "1", "a", range(50))]}
    found = by_name(audit(corpus_of(tmp_path / "laat", codes, [("dx", "dx:1")], splits)))
    other = found["top 50 that are not CAML's"]
    assert (other.count, other.of, other.examples) == (1, 50, ("93.90",))
    assert "it lacks 37.23" in other.meaning
    assert "CAML's 555b89809ede" in other.meaning


# -- repeats --------------------------------------------------------------------------------------


def runs(tokens: Sequence[int]) -> set[tuple[int, ...]]:
    """The shingles of a note, written down one by one."""
    if len(tokens) < 5:
        return {tuple(tokens)} if len(tokens) else set()
    return {tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4)}


def test_shingles_and_jaccard_by_hand() -> None:
    assert [len(shingles(np.arange(n))) for n in (0, 1, 4, 5, 9)] == [0, 1, 1, 1, 5]
    assert len(shingles(np.zeros(9, dtype=int))) == 1  # five times the same run
    one, other = shingles(np.arange(9)), shingles(np.arange(1, 10))
    assert jaccard(one, other) == pytest.approx(4 / 6)  # runs 0 to 4 and 1 to 5
    assert jaccard(one, one) == 1
    assert jaccard(shingles(np.arange(0)), shingles(np.arange(0))) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=14), st.lists(st.integers(0, 3), max_size=14))
def test_jaccard_agrees_with_sets(one: list[int], other: list[int]) -> None:
    sets = runs(one), runs(other)
    expected = len(sets[0] & sets[1]) / max(len(sets[0] | sets[1]), 1)
    found = jaccard(shingles(np.array(one, int)), shingles(np.array(other, int)))
    assert found == pytest.approx(expected)


def test_repeats_agree_with_all_pairs() -> None:
    rng = np.random.default_rng(0)
    notes: list[np.ndarray] = []
    for _ in range(40):
        note = rng.integers(0, 500, rng.integers(1, 120))
        notes.append(note)
        for changes in rng.integers(0, 4, rng.integers(0, 3)):  # some copies with changed words
            copy = note.copy()
            copy[rng.integers(0, len(note), changes)] = 999
            notes.append(copy)
    notes.append(np.zeros(0, dtype=int))
    notes = [notes[i] for i in rng.permutation(len(notes))]
    copies, near = repeats(notes)
    for place, note in enumerate(notes):
        earlier = range(place)
        same = [i for i in earlier if len(note) and np.array_equal(notes[i], note)]
        assert copies[place] == (same[0] if same else -1)
        close = [
            i
            for i in earlier
            if not same
            and len(note)
            and len(runs(notes[i]) & runs(note)) >= NEAR * len(runs(notes[i]) | runs(note))
        ]
        # what it finds is so; here it misses none
        assert (near[place] in close) if close else near[place] == -1


def test_repeats_of_nothing() -> None:
    for notes in ([], [np.zeros(0, dtype=int)] * 2):
        assert all((found == -1).all() and len(found) == len(notes) for found in repeats(notes))


# -- raw tables -----------------------------------------------------------------------------------


def test_raw_tables_by_hand(raw_tables: Any) -> None:
    raw_tables.codes(
        {900001: ["0389", "4019", "4019", "5770"], 900002: ["V4581", "", "zz"], "": ["486"]},
        {900001: ["0331", "0045", "9604", "4019"], 900003: ["331", "9390", "939"]},
    )
    raw_tables.notes(
        [
            (1, 1, 900001, "Report."),
            (2, 1, 900001, "Addendum."),
            (3, 1, "", "Lost."),
            (4, 1, 900004, "Uncoded."),
            (5, 2, 900002, " "),
            (6, 2, 900002, "Lungs clear.", "Radiology"),
        ]
    )
    found = by_name(audit_raw(raw_tables.folder, is_open=True))
    assert {name: (finding.count, finding.of) for name, finding in found.items()} == {
        "rows without HADM_ID": (1, 15),
        "rows without a code": (1, 15),
        "rows whose code has no form of ICD-9-CM": (1, 15),
        "codes repeated within an admission": (1, 15),
        "codes, and labels with an empty one": (11, 12),
        "procedure rows that change when codes are read as numbers": (2, 7),
        "procedure codes that change when codes are read as numbers": (2, 7),
        "of these, turned into another valid code": (1, 2),
        "of these, turned into stub codes": (1, 2),
        "procedure codes that share a label when read as numbers": (2, 7),
        "codes that lose a zero at the end when a dotted list is read as numbers": (2, 11),
        "of these, shortened to another code of the tables": (1, 2),
        "diagnosis rows that begin with 0": (1, 5),
        "rows whose string occurs in both tables": (3, 12),
        "codes of both kinds": (5, 11),  # 401.9, 03.31, 96.04, 40.19, 93.90
        "codes in no table of codes": (1, 11),  # 93.9
        "top 50 that are not CAML's": (7, 11),
        "unmapped codes": (0, 4),
        "notes that are discharge summaries or addenda": (5, 6),
        "discharge summaries without HADM_ID": (1, 5),
        "discharge summaries that are empty": (1, 5),
        "admissions with several summaries": (1, 2),
        "admissions whose summaries are not in the order of their dates": (0, 1),
        "admissions with a summary and without a code": (1, 2),
        "admissions with codes and without a summary": (2, 3),
    }
    raw_tables.notes([(2, 1, 900001, "Addendum."), (1, 1, 900001, "Report.")])
    turned = by_name(audit_raw(raw_tables.folder, is_open=True))
    assert turned["admissions whose summaries are not in the order of their dates"].count == 1
    shown = {name: finding.examples for name, finding in found.items()}
    assert shown["of these, turned into another valid code"] == ("03.31 -> 33.1",)
    assert shown["of these, turned into stub codes"] == ("00.45 -> 45.",)
    assert set(shown["procedure codes that share a label when read as numbers"]) == {
        "03.31 -> 33.1",
        "33.1 -> 33.1",
    }
    assert shown["of these, shortened to another code of the tables"] == ("93.90 -> 93.9",)
    assert shown["rows whose string occurs in both tables"] == ("40.19 and 401.9",)
    assert (
        "7 labels become 6"
        in found["procedure codes that change when codes are read as numbers"].meaning
    )


def test_camls_label_space_is_seen_through(raw_tables: Any, tmp_path: Path) -> None:
    stays = range(900001, 900041)
    raw_tables.codes(
        {stay: ["4019", "V4581"] for stay in stays},  # letters: no chunk of numbers
        {stay: ["0331", "0017", "0123", "9604"] for stay in stays},
    )
    raw_tables.notes([(i, i, stay, "Spinal tap.") for i, stay in enumerate(stays, start=1)])
    raw_tables.write("EVIDENCE", [])
    (raw_tables.folder / "README.txt").write_text("SYNTHETIC")  # open, as the hospital's
    found = {}
    for labels in ("icd", "caml"):
        line = ["mimic3", "--raw", str(raw_tables.folder), "--out", str(tmp_path / labels)]
        line += ["--labels", labels, "--codes", "full", "--vectors", "none", "--min-count", "1"]
        assert main(line) == 0
        found[labels] = by_name(audit(Corpus.load(tmp_path / labels)))
    names = ("procedure codes that begin with 0", "stub codes", "lost leading zeros")
    assert [found["icd"][name].count for name in names] == [3, 0, 0]
    assert [found["caml"][name].count for name in names] == [0, 1, 2]
    assert found["caml"]["lost leading zeros"].examples == ("12.3", "17.")  # 33.1 hides


def test_the_demo_of_mimic_3_gives_the_stored_result(shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    line = ["--raw", str(shared_data / "mimic3-demo"), "--out", str(out)]
    line += ["--ccs-procedures", str(shared_data / "hcup-ccs" / "prref_2015.csv")]
    assert audit_mimic3_demo.main(line) == 0
    new = json.loads(out.read_text())
    stored = json.loads(
        (ROOT / "book" / "results" / out.name.replace("out", "audit_mimic3_demo")).read_text()
    )
    for key in ("command", "source", "findings"):
        assert new[key] == stored[key], key
    count = {finding["name"]: finding["count"] for finding in new["findings"]}
    # the open data's own description: 34 rows of procedures have a leading zero
    assert count["procedure rows that change when codes are read as numbers"] == 34


# -- what is said, and to whom --------------------------------------------------------------------


def test_of_credentialed_data_nothing_private_is_said(
    planted: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "secret"
    splits = {
        "train": [(str(s), str(145800 + s), "fever", [0] if s < 11 else [1]) for s in range(21)],
        "dev": [("3", "145999", "rash", [0, 1])],
    }
    codes = [("dx", "486", -1), ("dx", "960.4", -1)]  # in 12 notes and in 11
    corpus_of(folder, codes, [("dx", "dx:1")], splits, text="credentialed")
    out = tmp_path / "audit.json"
    assert main(["audit", str(folder), "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert withheld(result) == []
    assert examine(Path("book/results/audit.json"), tmp_path, out.read_bytes()) == []
    found = {finding["name"]: finding for finding in result["corpus"]["findings"]}
    assert found["patients in several splits"]["count"] == "1 to 10"
    assert found["unmapped codes"]["examples"] == ["486", "960.4"]
    # one dev note: not said in passing either
    assert found["notes, and lines of their lists with a header"]["examples"] == ["train 21 or 22"]
    said = capsys.readouterr().out + out.read_text()
    assert "1458" not in said
    assert "fever" not in said
    few = {"train": splits["train"][:13]}
    rare = corpus_of(tmp_path / "few", codes, [("dx", "dx:1")], few, text="credentialed")
    assert by_name(audit(rare))["unmapped codes"].examples == ("486",)  # the other has 2 notes


def test_small_counts_of_people_are_blurred_and_of_codes_not() -> None:
    findings = [
        Finding("a", count, 50, unit, (), "", "")
        for unit in ("notes", "codes")
        for count in (0, 1, 10, 11)
    ]
    shown = [row["count"] for row in to_json(findings, is_open=False)]
    assert shown == [0, "1 to 10", "1 to 10", 11, 0, 1, 10, 11]
    assert [row["count"] for row in to_json(findings, is_open=True)] == [0, 1, 10, 11] * 2


def test_every_text_belongs_to_a_finding() -> None:
    folder = Path(package.__file__).parent
    code = "".join(path.read_text() for path in folder.glob("*.py"))
    with (folder / "findings.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert f'"{row["name"]}"' in code, row["name"]
            assert row["meaning"][-1] in ".}"
            assert row["remedy"].endswith(".")


# -- the command line -----------------------------------------------------------------------------


def test_the_command_line_reports(
    tiny_corpus: Path, tiny_raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(tiny_corpus), "--raw", str(tiny_raw)]) == 0
    said = capsys.readouterr().out
    assert "tiny: " in said.splitlines()[0]
    assert "text open" in said.splitlines()[0]
    assert "lost leading zeros" in said
    assert "raw tables; text open" in said
    assert "of these, turned into stub codes" in said


def test_a_corpus_that_changed_since_is_not_audited(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = shutil.copytree(tiny_corpus, tmp_path / "changed")
    words = changed / "test" / "tokens.npy"
    words.write_bytes(words.read_bytes()[:-1] + b"\1")
    assert main(["audit", str(changed)]) == 2
    assert "the contents of test/tokens.npy changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ([], "nothing to audit"),
        (["--raw", "R", "--split-ids", "L"], "--split-ids needs a corpus"),
        (["--raw", "R"], "R does not exist"),
        (["C"], "no corpus at C"),
        (["TINY", "--split-ids", "L"], "cannot find L/train_"),
        (["TINY", "--json", "gone/out.json"], "--json gone/out.json cannot be written"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    line: list[str],
    error: str,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["audit", *(str(tiny_corpus) if word == "TINY" else word for word in line)]) == 2
    shown = capsys.readouterr().err
    assert error in shown
    assert shown.count("\n") == 1
