"""Notes and codes become a corpus: by hand, and held against a plain statement of the rules."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import splits
from data_prep.config import PrepareConfig
from data_prep.corpus_writer import replacing
from data_prep.prepare import Annotation, Coding, Note, Origin, Records, prepare
from marn.corpus import CodeEntry, Corpus
from marn.corpus.text import tokenize
from marn.errors import MarnError

HOME = {"1": "train", "2": "train", "3": "dev", "4": "test", "5": "train"}
PLAIN = {"codes": "full", "min_count": 1, "vectors": "none"}
ORIGIN = Origin("by hand", "open", "python -m data_prep toy", ccs_key="kind:number")
CATEGORIES = {"428.0": ("dx:108", "Failure"), "401.9": ("dx:98", "Pressure")}
NOTES = [
    Note("1", "70", "Addendum: fever gone.", ("2151-02-01", 9), "9"),
    Note("2", "70", "Acute fever, lasix 40 mg"),
    Note("3", "71", "Fever é"),
    Note("1", "70", "Acute FEVER\nagain", ("2151-01-01", 12), "12"),
    Note("4", "72", "12 -- 13"),
    Note("4", "72", "acute?", ("", 1), "4"),
    Note("5", "73", "lasix"),
]
CODINGS = [
    Coding(*row)
    for row in [
        ("1", "dx", "428.0"),
        ("1", "dx", "428.0"),
        ("1", "pr", "96.04"),
        ("2", "dx", "428.0"),
        ("3", "dx", "401.9"),
        ("4", "dx", "401.9"),
        ("4", "dx", "V45.81"),
        ("6", "dx", "428.0"),
    ]
]


def _category(kind, code):
    if code not in CATEGORIES:
        return None
    number, title = CATEGORIES[code]
    return CodeEntry(number, kind, title)


def make(path, notes=NOTES, codings=CODINGS, passages=None, category=_category, **options):
    choices = PrepareConfig(out=path, **{**PLAIN, **options})
    dropped = Counter()
    with replacing(path) as folder:
        prepare(
            folder,
            Records(
                notes=iter(notes),
                codings=iter(codings),
                annotations=passages,
                title=lambda kind, code: f"{kind} {code}",
                category=category,
                split=lambda ids: {id_: HOME[id_] for id_ in ids},
            ),
            origin=ORIGIN,
            choices=choices,
            dropped=dropped,
        )
    return Corpus.load(path), dropped


def test_by_hand(tmp_path):
    corpus, dropped = make(tmp_path / "toy")
    train = corpus["train"]
    # Admission 5 has no code. Codes sorted as text; 96.04 and V45.81 have no category.
    assert train.ids.tolist() == ["1", "2"]
    assert [entry.code for entry in corpus.codes["icd"]] == ["401.9", "428.0", "96.04", "V45.81"]
    assert [entry.code for entry in corpus.codes["ccs"]] == ["dx:108", "dx:98"]
    assert corpus.codes["icd"][2] == CodeEntry("96.04", "pr", "pr 96.04")
    assert corpus.parent.tolist() == [1, 0, -1, -1]
    assert train.code_indices("icd", 0).tolist() == [1, 2]
    assert train.code_indices("ccs", 0).tolist() == [0]
    # The addendum comes first in the table and second in the note.
    assert train.text(0) == "Acute FEVER\nagain\nAddendum: fever gone."
    assert corpus["dev"].text(0) == "Fever é"
    assert corpus["test"].text(0) == "acute?"
    # Only training notes make the vocabulary: é, a word of dev, is unknown.
    words = ["acute", "addendum", "again", "fever", "gone", "lasix", "mg"]
    assert corpus.vocabulary.words == words
    decode = corpus.vocabulary.decode
    assert decode(train.note_tokens(0)) == ["acute", "fever", "again", "addendum", "fever", "gone"]
    assert decode(corpus["dev"].note_tokens(0)) == ["fever", "<unknown>"]
    assert +dropped == {
        "notes without a word": 1,
        "admissions with a note and without a code": 1,
        "codings of admissions without a note": 1,
        "codes repeated within an admission": 1,
        "codes kept without a category": 2,
    }
    assert corpus.card["dropped"] == dict(+dropped)
    assert not (tmp_path / "toy" / "scratch").exists()


def test_min_count_counts_notes_not_words(tmp_path):
    # fever: notes 1 and 2, acute: notes 1 and 2; "fever" twice in note 1 counts once there.
    assert make(tmp_path / "toy", min_count=2)[0].vocabulary.words == ["acute", "fever"]
    with pytest.raises(MarnError, match=r"no word occurs in 3 training notes.*--min-count"):
        make(tmp_path / "none", min_count=3)


def test_most_frequent_codes_and_ties(tmp_path):
    # 401.9: admissions 3, 4; 428.0: 1, 2 (6 has no note); then 96.04 and V45.81, once each.
    assert make(tmp_path / "one", codes="2")[0].tasks == {"icd": 2, "ccs": 2}
    corpus, dropped = make(tmp_path / "two", codes="3")
    assert [entry.code for entry in corpus.codes["icd"]] == ["401.9", "428.0", "96.04"]
    assert dropped["codings of codes less frequent than the kept ones"] == 1
    codings = [coding for coding in CODINGS if coding.code != "401.9"]
    with pytest.raises(MarnError, match="split train"):
        make(tmp_path / "x", codings=[Coding("3", "dx", "401.9")])
    corpus, dropped = make(tmp_path / "three", codings=codings, codes="1")
    assert corpus.splits == ("train",)
    assert dropped["admissions without a kept code"] == 1


def test_equal_numbers_of_two_kinds_become_one_category(tmp_path):
    corpus, _ = make(
        tmp_path / "toy", category=lambda kind, code: CodeEntry("106", kind, f"title {kind}")
    )
    assert corpus.codes["ccs"] == [CodeEntry("106", "dx+pr", "title dx / title pr")]
    assert corpus.parent.tolist() == [0, 0, 0, 0]
    assert corpus["train"].code_indices("ccs", 0).tolist() == [0]


def test_passages_move_with_their_note(tmp_path):
    passages = [
        Annotation("9", "dx", "428.0", 10, 15, "negated"),  # in the addendum, after 18 characters
        Annotation("12", "pr", "96.04", 0, 5, "evidence"),
        Annotation("12", "dx", "999.9", 0, 5, "evidence"),
        Annotation("404", "dx", "428.0", 0, 5, "evidence"),
        Annotation("12", "dx", "428.0", 0, 99, "evidence"),
    ]
    corpus, dropped = make(tmp_path / "toy", passages=passages)
    train = corpus["train"]
    found = [(row.code, train.text(0)[row.begin : row.end], row.role) for row in train.evidence(0)]
    assert found == [(2, "Acute", "evidence"), (1, "fever", "negated")]
    assert train.evidence(1) == []
    for reason in ("of codes left out", "of notes left out", "outside their note"):
        assert dropped[f"passages {reason}"] == 1


def test_more_roles_than_a_corpus_can_tell_apart(tmp_path):
    passages = [Annotation("9", "dx", "428.0", 0, 5, f"role {number}") for number in range(300)]
    with pytest.raises(MarnError, match="the passages have 300 roles, and a corpus at most 256"):
        make(tmp_path / "toy", passages=passages)


def test_nothing_in_common(tmp_path):
    with pytest.raises(MarnError, match="both a note and a code"):
        make(tmp_path / "toy", codings=[Coding("99", "dx", "428.0")])
    assert not list(tmp_path.iterdir())


def test_patients_stay_together(tmp_path, monkeypatch):
    monkeypatch.setitem(HOME, "2", "dev")  # patient 70 has admission 1 in train
    with pytest.raises(MarnError, match="patient 70 is in the splits train and dev"):
        make(tmp_path / "toy")
    notes = [*NOTES, Note("1", "99", "other")]
    with pytest.raises(MarnError, match="notes of two patients, 70 and 99"):
        make(tmp_path / "toy", notes)


def test_vectors_from_the_chosen_notes(tmp_path):
    train = make(tmp_path / "a", vectors="train")[0]
    everything = make(tmp_path / "b", vectors="all")[0]
    assert train.vectors.shape == (9, 100)
    assert train.hash == everything.hash
    assert not np.array_equal(train.vectors, everything.vectors)
    assert train.card["vectors"]["notes"] == "train"


_WORD = st.sampled_from(["acute", "Fever", "12", "né", "q8h", "-", "\n"])


@settings(max_examples=30, deadline=None)
@given(
    notes=st.lists(
        st.tuples(st.integers(1, 5), st.lists(_WORD, max_size=6).map(" ".join)), max_size=10
    ),
    codings=st.lists(
        st.tuples(st.integers(1, 6), st.sampled_from(["428.0", "401.9", "250.00"])), max_size=12
    ),
    codes=st.sampled_from(["1", "2", "full"]),
    min_count=st.integers(1, 2),
)
def test_against_the_rules_stated_plainly(tmp_path_factory, notes, codings, codes, min_count):
    texts, given_codes = {}, {}
    for admission, text in notes:
        there = texts.setdefault(str(admission), [])
        if tokenize(text) and text.split() not in [other.split() for other in there]:
            there.append(text)  # a repeat, but for white space, is dropped
    texts = {admission: kept for admission, kept in texts.items() if kept}
    for admission, code in codings:
        if str(admission) in texts:
            given_codes.setdefault(str(admission), set()).add(code)
    counts = Counter(code for kept in given_codes.values() for code in kept)
    ranked = sorted(counts, key=lambda code: (-counts[code], code))
    kept = set(ranked if codes == "full" else ranked[: int(codes)])
    kept_codes = {a: sorted(c & kept) for a, c in sorted(given_codes.items()) if c & kept}
    training = [tokenize("\n".join(texts[a])) for a in kept_codes if HOME[a] == "train"]
    frequency = Counter(word for words in training for word in set(words))
    vocabulary = sorted(word for word, count in frequency.items() if count >= min_count)

    arguments = (
        [Note(str(a), f"p{a}", text, ("", row)) for row, (a, text) in enumerate(notes)],
        [Coding(str(a), "dx", code) for a, code in codings],
    )
    path = tmp_path_factory.mktemp("any") / "toy"
    if not vocabulary:
        with pytest.raises(MarnError):
            make(path, *arguments, codes=codes, min_count=min_count)
        return
    corpus, _ = make(path, *arguments, codes=codes, min_count=min_count)
    assert corpus.vocabulary.words == vocabulary
    for name in corpus.splits:
        split = corpus[name]
        assert split.ids.tolist() == [a for a in kept_codes if HOME[a] == name]
        for note, admission in enumerate(split.ids):
            text = "\n".join(texts[admission])
            assert split.text(note) == text
            assert (split.note_tokens(note) == corpus.vocabulary.encode(tokenize(text))).all()
            columns = split.code_indices("icd", note)
            assert [corpus.codes["icd"][c].code for c in columns] == kept_codes[admission]


def test_split_by_patient():
    admissions = {str(number): str(number // 2) for number in range(20_000)}
    places = splits.by_patient(0)(admissions)
    assert all(places[str(n)] == places[str(n + 1)] for n in range(0, 20_000, 2))
    share = Counter(places.values())
    # 8,066 : 1,573 : 1,729 is 0.7095 : 0.1384 : 0.1521; over 10,000 patients the standard
    # deviation of a share is at most 0.0046.
    for name, expected in {"train": 0.7095, "dev": 0.1384, "test": 0.1521}.items():
        assert share[name] / 20_000 == pytest.approx(expected, abs=0.02)
    some = dict(list(admissions.items())[:500])
    assert splits.by_patient(0)(some) == {id_: places[id_] for id_ in some}
    assert splits.by_patient(1)(admissions) != places
    with pytest.raises(MarnError, match="falls into split"):
        splits.by_patient(0)({"1": "1"})


def _write_lists(folder, lists):
    folder.mkdir()
    for name, lines in lists.items():
        (folder / f"{name}_50_hadm_ids.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_listed_splits(tmp_path):
    folder = _write_lists(tmp_path / "a", {"train": ["1", "2"], "dev": ["3"], "test": ["404"]})
    dropped = Counter()
    split = splits.listed(folder, "50", dropped)
    assert split({"1": "x", "3": "x", "9": "x"}) == {"1": "train", "3": "dev"}
    assert dropped["listed admissions without a note and a kept code"] == 2
    assert dropped["admissions that the lists do not name"] == 1
    with pytest.raises(MarnError, match=r"none of the 4 admissions listed"):
        split({"9": "x"})
    with pytest.raises(MarnError, match=r"train_full_hadm_ids\.csv"):
        splits.listed(folder, "full", dropped)


@pytest.mark.parametrize(
    ("dev", "said"),
    [
        (["2"], "line 1: admission 2 is also in the list of train"),
        (["3", "x"], "a text is not a valid id"),
        (["3\u2028x"], "is not a valid id"),
        (["3\x0cx"], "is not a valid id"),
        (['"3', "…x"], "a quote is opened and never closed"),
    ],
)
def test_listed_splits_that_are_damaged(tmp_path, dev, said):
    folder = _write_lists(tmp_path / "a", {"train": ["1", "2"], "dev": dev, "test": ["4"]})
    with pytest.raises(MarnError, match=said):
        splits.listed(folder, "50", Counter())
