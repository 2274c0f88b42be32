"""Your own notes: every form in which they may come, and the message about a wrong one."""

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
        NOTES + "a,p9,train,again\ne,p5,,fever\nf,p6,train, \ng,p7,train,12\n"
    )
    (tmp_path / "codes.csv").write_text(
        ASSIGNED + "a,dx,\na,dx,nonsense\nnowhere,dx,428.0\na,dx, 428.0 \ne,dx,428.0\n"
    )
    assert prepare().card["dropped"] == {
        "codes of admissions without a note": 1,
        "codes repeated within an admission": 1,
        "notes with a note_id seen before": 1,
        "notes without a split": 1,
        "notes without a word": 2,
        "rows whose code has no form of the system": 1,
        "rows without a code": 1,
    }


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("notes.csv", "note_id,text\n,x\n", "line 2: '' is not a valid note_id"),
        (
            "notes.csv",
            "note_id,split,text\na,training,x\n",
            "split must be one of train, dev, test, but got 'training'",
        ),
        ("notes.csv", "id,text\na,x\n", "no column note_id"),
        ("notes.csv", "note_id,text,split,split\na,x,,\n", "more than one column split"),
        ("codes.csv", "note_id,kind,code\na,he had fever,x\n", "dx or pr, but got a text"),
        (
            "codes.csv",
            "note_id,kind,code\na,diagnosis,4280\n",
            "kind must be dx or pr, but got 'diagnosis'",
        ),
        ("codes.csv", "note_id,kind,code\n", "no admission has both a note and a code"),
        ("notes.csv", NOTES.replace("p2,dev", "p1,dev"), "patient p1 is in the splits"),
    ],
)
def test_what_is_wrong_is_named(prepare, tmp_path, file, content, said):
    (tmp_path / file).write_text(content)
    assert said in prepare()


def test_folders_that_will_not_do(prepare, tmp_path):
    (tmp_path / "texts" / "train").mkdir(parents=True)
    assert "holds no NAME.txt" in prepare(notes="texts")
    (tmp_path / "texts" / "dev").mkdir()
    for name in ("train", "dev"):
        (tmp_path / "texts" / name / "a.txt").write_text("fever")
    assert "is also in another split; keep one of them" in prepare(notes="texts")
    (tmp_path / "texts" / "dev" / "a.txt").unlink()
    (tmp_path / "texts" / "train" / "b.txt").write_bytes(b"caf\xe9")
    assert "byte 0xe9 is not UTF-8" in prepare(notes="texts")
    assert "nowhere.csv does not exist; give the path" in prepare(notes="nowhere.csv")
    assert "holds the raw files" in prepare("--out", str(tmp_path))
