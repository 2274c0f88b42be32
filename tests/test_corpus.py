"""The corpus on disk: what is written is what is read, and damage is noticed."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.corpus_writer import CorpusWriter, replacing
from marn.corpus import EVIDENCE, CodeEntry, Corpus, Evidence
from marn.corpus.text import Vocabulary
from marn.errors import MarnError

WORDS = ["acute", "fever", "lasix"]
CODES = {
    "icd": [
        CodeEntry("401.9", "dx", "Hypertension"),
        CodeEntry("428.0", "dx", "Heart failure"),
        CodeEntry("96.04", "pr", "Intubation"),
    ],
    "ccs": [CodeEntry("dx:108", "dx", "Heart failure"), CodeEntry("pr:216", "pr", "Intubation")],
}
PARENT = [-1, 0, 1]
# (id, subject, tokens, text, icd columns)
NOTES = {
    "train": [
        ("7", "70", [1, 2, 4], "acute fever, né", [0, 2]),
        ("8", "70", [3], "lasix", [2, 1]),
        ("10", "71", [2, 2], "fever\nfever", []),
    ],
    "dev": [("9", "72", [1], "Acute.", [1])],
    "test": [("11", "73", [2], "fever", [0, 1, 2])],
}


def write(path, notes=None, *, text="open", vectors=True):
    notes = NOTES if notes is None else notes
    with replacing(path) as folder:
        writer = CorpusWriter(folder, CODES, PARENT, ["evidence", "negated"])
        for name, rows in notes.items():
            evidence = np.zeros(2 if name == "train" else 0, dtype=EVIDENCE)
            if name == "train":  # given out of order
                evidence[0] = (1, 1, 0, 5, 1)
                evidence[1] = (0, 2, 6, 11, 0)
            texts = [row[3].encode() for row in rows]
            writer.split(
                name,
                ids=[row[0] for row in rows],
                subjects=[row[1] for row in rows],
                sizes=np.array([len(text) for text in texts]),
                texts=texts,
                lengths=np.array([len(row[2]) for row in rows]),
                tokens=(np.array(row[2], np.int32) for row in rows),
                columns={
                    "icd": [row[4] for row in rows],
                    "ccs": [[PARENT[c] for c in row[4] if PARENT[c] >= 0] for row in rows],
                },
                evidence=evidence,
            )
        if vectors:
            writer.vectors(np.eye(5, 2, dtype=np.float32), {"seed": 0})
        writer.finish(
            vocabulary=Vocabulary(WORDS),
            name="toy",
            source="by hand",
            text=text,
            language="en",
            command="python -m data_prep toy",
            seed=0,
            ccs_key="kind:number",
            settings={},
            dropped={"notes that are empty": 2},
        )
    return path


@pytest.fixture
def toy(tmp_path):
    return write(tmp_path / "toy")


def test_what_is_written_is_read(toy):
    corpus = Corpus.load(str(toy))
    assert (corpus.name, corpus.is_open, corpus.path) == ("toy", True, toy)
    assert corpus.tasks == {"icd": 3, "ccs": 2}
    assert corpus.codes == CODES
    assert corpus.parent.tolist() == PARENT
    assert corpus.vocabulary.words == WORDS
    assert corpus.splits == ("train", "dev", "test")
    assert corpus.card["dropped"] == {"notes that are empty": 2}
    assert corpus.card["splits"]["train"] == {"notes": 3, "subjects": 2, "tokens": 6}
    for name, rows in NOTES.items():
        split = corpus[name]
        assert len(split) == len(rows)
        assert split.ids.tolist() == [row[0] for row in rows]
        assert split.subjects.tolist() == [row[1] for row in rows]
        assert split.lengths.tolist() == [len(row[2]) for row in rows]
        for note, row in enumerate(rows):
            assert split.note_tokens(note).tolist() == row[2]
            assert split.note_tokens(note).dtype == np.int32
            assert split.text(note) == row[3]
            assert split.code_indices("icd", note).tolist() == sorted(row[4])
    corpus.verify()
    assert corpus.vectors.tolist() == np.eye(5, 2).tolist()


def test_targets_and_frequency_by_hand(toy):
    train = Corpus.load(toy)["train"]
    targets = train.targets("icd")
    assert targets.dtype == bool
    assert targets.astype(int).tolist() == [[1, 0, 1], [0, 1, 1], [0, 0, 0]]
    assert train.targets("ccs").astype(int).tolist() == [[0, 1], [1, 1], [0, 0]]
    assert Corpus.load(toy).frequency("icd").tolist() == [1, 1, 2]
    assert Corpus.load(toy).frequency("ccs", "test").tolist() == [1, 1]


def test_evidence_by_hand(toy):
    corpus = Corpus.load(toy)
    assert corpus["train"].evidence(0) == [Evidence(2, 6, 11, "evidence")]
    assert corpus["train"].evidence(1) == [Evidence(1, 0, 5, "negated")]
    assert corpus["train"].evidence(2) == corpus["dev"].evidence(0) == []
    assert corpus["train"].text(0)[6:11] == "fever"


def test_only_some_tasks(toy):
    corpus = Corpus.load(toy).only("ccs")
    assert corpus.tasks == {"ccs": 2}
    assert list(corpus.codes) == ["ccs"]
    assert corpus["train"].targets("ccs").shape == (3, 2)
    with pytest.raises(MarnError, match="no task 'icd'"):
        corpus["train"].targets("icd")
    with pytest.raises(MarnError, match="parents"):
        _ = corpus.parent
    with pytest.raises(MarnError, match="but got atc"):
        corpus.only("ccs", "atc")
    with pytest.raises(MarnError, match="but got none"):
        corpus.only()


def test_head_cuts_notes_and_nothing_else(toy):
    whole = Corpus.load(toy)
    corpus = whole.head(train=1, dev=99)
    assert [len(corpus[name]) for name in corpus.splits] == [1, 1, 1]
    assert corpus["train"].targets("icd").astype(int).tolist() == [[1, 0, 1]]
    assert corpus.frequency("icd").tolist() == [1, 0, 1]
    assert corpus["train"].lengths.tolist() == [3]
    assert corpus.tasks == whole.tasks
    assert corpus.hash == whole.hash + "+head(train=1)"
    assert whole.head(train=2).only("icd").head(dev=1)["train"].ids.tolist() == ["7", "8"]
    with pytest.raises(IndexError):
        corpus["train"].text(1)
    with pytest.raises(MarnError, match="at least one note of split dev, but got 0"):
        whole.head(dev=0)


def test_unknown_split_is_named(toy):
    with pytest.raises(MarnError, match=r"'val'.*train, dev, test"):
        Corpus.load(toy)["val"]


def test_a_split_may_be_absent(tmp_path):
    notes = {name: NOTES[name] for name in ("train", "dev")}
    assert Corpus.load(write(tmp_path / "two", notes)).splits == ("train", "dev")


def test_hash_names_the_contents(tmp_path):
    same = Corpus.load(write(tmp_path / "a")).hash
    assert Corpus.load(write(tmp_path / "b", vectors=False, text="credentialed")).hash == same
    other = NOTES | {"dev": [("9", "72", [1], "Acute!", [1])]}
    assert Corpus.load(write(tmp_path / "c", other)).hash != same
    assert Corpus.load(tmp_path / "b").vectors is None
    assert not Corpus.load(tmp_path / "b").is_open


def test_no_corpus_names_the_command(tmp_path):
    with pytest.raises(MarnError, match=r"python -m data_prep teaching --out .*nowhere"):
        Corpus.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name", ["codes.json", "vectors.npy", "dev/text.npy", "test/icd.offsets.npy"]
)
def test_damage_is_noticed(toy, name):
    whole = (toy / name).read_bytes()
    (toy / name).write_bytes(whole[:-1])
    with pytest.raises(MarnError, match=rf"{name} has .*python -m data_prep toy"):
        Corpus.load(toy)
    (toy / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(MarnError, match=f"contents of {name} changed"):
        Corpus.load(toy).verify()
    (toy / name).unlink()
    with pytest.raises(MarnError, match=f"{name} is missing"):
        Corpus.load(toy)


def test_other_versions_and_other_cards(toy):
    card = json.loads((toy / "card.json").read_text())
    (toy / "card.json").write_text(json.dumps(card | {"format": 999}))
    with pytest.raises(MarnError, match="format 999"):
        Corpus.load(toy)
    for text in ("{", "[]", '{"format": 1}'):
        (toy / "card.json").write_text(text)
        with pytest.raises(MarnError, match=r"card\.json"):
            Corpus.load(toy)


KEYS = ("created", "name", "text", "splits", "tasks", "settings", "dropped", "roles", "hash",
        "files", "vectors")  # fmt: skip


def _use(path):
    corpus = Corpus.load(path)
    return corpus.vocabulary, corpus.codes, [corpus[name].evidence(0) for name in corpus.splits]


@pytest.mark.parametrize(
    ("key", "value"), [*((key, 5) for key in KEYS), *(("tasks", x) for x in ("missing", [5], "x"))]
)
def test_a_card_of_another_form_is_one_line(toy, key, value):
    card = json.loads((toy / "card.json").read_text())
    card = card | {key: value} if value != "missing" else {k: card[k] for k in card if k != key}
    (toy / "card.json").write_text(json.dumps(card))
    with pytest.raises(MarnError, match=r"make the corpus again|pass another folder"):
        _use(toy)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("card.json", text) for text in (b"", b"[]", b"{", b"5", b"\xff", b"[" * 100_000)),
        *(
            ("codes.json", text)
            for text in (b"", b"[]", b"{}", b'{"icd":5}', b'{"icd":[],"ccs":[]}')
        ),
        *(("vocabulary.json", text) for text in (b"", b"{}", b"[5]", b"\xff")),
        *((f"train/{name}.npy", b"x") for name in ("ids", "tokens", "evidence", "icd.offsets")),
    ],
)
def test_files_of_another_form_are_one_line(toy, name, content):
    (toy / name).write_bytes(content)
    if name != "card.json":
        card = json.loads((toy / "card.json").read_text())
        card["files"][name]["bytes"] = len(content)
        (toy / "card.json").write_text(json.dumps(card))
    with pytest.raises(MarnError, match=r"make the corpus again|pass another folder") as caught:
        _use(toy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [lambda x: x[::-1], lambda x: x[None]])
@pytest.mark.parametrize("name", ["text_offsets", "token_offsets", "icd.offsets"])
def test_arrays_of_the_right_size_and_another_form_are_one_line(toy, name, change):
    path = toy / "train" / f"{name}.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(
        MarnError, match=r"offsets\.npy cannot be read \(damaged\); make the corpus"
    ):
        Corpus.load(toy)["train"].targets("icd")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("tokens", [("a", "<i4")]), ("text", "S1"), ("ids", "<i4"), ("icd.indices", "<f4")],
)
def test_arrays_of_another_type_are_one_line(toy, name, kind):
    path = toy / "train" / f"{name}.npy"
    np.save(path, np.zeros(len(np.load(path)), kind))
    card = json.loads((toy / "card.json").read_text())
    card["files"][f"train/{name}.npy"]["bytes"] = path.stat().st_size
    (toy / "card.json").write_text(json.dumps(card))
    with pytest.raises(MarnError, match=rf"{name}\.npy cannot be read \(damaged\)"):
        Corpus.load(toy)["train"].targets("icd")


def test_roles_that_the_card_does_not_name_are_refused(toy):
    card = json.loads((toy / "card.json").read_text())
    (toy / "card.json").write_text(json.dumps(card | {"roles": ["evidence"]}))
    with pytest.raises(MarnError, match="evidence of unknown roles"):
        _use(toy)


def test_replacing_takes_a_corpus_and_nothing_else(tmp_path, toy):
    first = Corpus.load(toy).card["hash"]
    (toy / "raw").mkdir()  # the teaching hospital keeps its tables there
    write(toy, NOTES | {"dev": NOTES["test"]})
    assert Corpus.load(toy).card["hash"] != first
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["toy"]

    (toy / "thesis.txt").write_text("mine")
    with pytest.raises(MarnError, match=r"thesis\.txt"):
        write(toy)
    assert (toy / "thesis.txt").exists()
    (tmp_path / "file").touch()
    with pytest.raises(MarnError, match="is a file"):
        write(tmp_path / "file")
    (tmp_path / "half" / "train").mkdir(parents=True)
    with pytest.raises(MarnError, match="is not a corpus"):
        write(tmp_path / "half")
    (tmp_path / "empty").mkdir()
    assert Corpus.load(write(tmp_path / "empty")).name == "toy"


def _write_half(path, error):
    with replacing(path) as folder:
        (folder / "vocabulary.json").write_text("[]")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, MarnError, RuntimeError])
def test_interruption_leaves_what_was_there(tmp_path, toy, error):
    before = Corpus.load(toy).hash
    for path in (toy, tmp_path / "new"):
        with pytest.raises(error):
            _write_half(path, error)
    assert Corpus.load(toy).hash == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["toy"]


def test_full_disk_is_one_line(tmp_path):
    with pytest.raises(MarnError, match=r"No space left on device.*free some space"):
        _write_half(tmp_path / "new", OSError(28, os.strerror(28)))
    assert not list(tmp_path.iterdir())


def test_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MarnError, match="cannot write"):
        write(tmp_path / "file" / "corpus")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(1, 4), min_size=1, max_size=5),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
            st.sets(st.integers(0, 2)),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_any_notes_survive_the_disk(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any")
    notes = [(str(i), "1", tokens, text, sorted(cs)) for i, (tokens, text, cs) in enumerate(rows)]
    split = Corpus.load(write(folder / "toy", {"dev": notes}))["dev"]
    for note, (_, _, tokens, text, codes) in enumerate(notes):
        assert split.note_tokens(note).tolist() == tokens
        assert split.text(note) == text
        assert split.code_indices("icd", note).tolist() == codes
    assert (split.targets("icd").sum(0) == split.frequency("icd")).all()
    shutil.rmtree(folder)


def test_sums_of_files_are_those_of_what_was_written(tmp_path):
    # Longer than what is hashed and written at once, in arrays of odd lengths, one of them empty.
    rng = np.random.default_rng(0)
    lengths = np.array([700_001, 0, 300_000, 5, 1_200_007])
    notes = [rng.integers(0, 5, length, dtype=np.int32) for length in lengths]
    texts = [bytes(length // 2) for length in lengths]
    with replacing(tmp_path / "corpus") as folder:
        writer = CorpusWriter(folder, CODES, PARENT)
        writer.split(
            "train",
            ids=list("abcde"),
            subjects=list("abcde"),
            sizes=lengths // 2,
            texts=texts,
            lengths=lengths,
            tokens=notes,
            columns={"icd": [[0]] * 5, "ccs": [[]] * 5},
        )
        card = writer.finish(
            vocabulary=Vocabulary(WORDS),
            name="long",
            source="by hand",
            text="open",
            language="en",
            command="none",
            seed=0,
            ccs_key="number",
            settings={},
            dropped={},
        )
    for name, record in card["files"].items():
        data = (tmp_path / "corpus" / name).read_bytes()
        assert record == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    corpus = Corpus.load(tmp_path / "corpus")
    assert [len(corpus["train"].note_tokens(i)) for i in range(5)] == lengths.tolist()
    assert (corpus["train"].note_tokens(4) == notes[4]).all()
