import csv
import io
import json
import os
import re
import subprocess

import numpy as np
import pytest
from toys import rewrite, toy_corpus

import marn
from marn import MarnError, TrainConfig
from marn.cli import main
from marn.corpus import CodeEntry
from marn.corpus.columns import plain_id
from marn.prediction import COLUMNS, _some, write_coded
from marn.privacy import SWITCH


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return toy_corpus(tmp_path_factory.mktemp("prediction") / "corpus", notes=(200, 20, 20))


@pytest.fixture(scope="module")
def run(corpus):
    """Return the folder of a model that has learnt that word "code3" means code 3."""
    folder = corpus.path.parent / "run"
    model = marn.build("bigru_la", corpus, hidden_size=8, embedding_size=16, max_length=30)
    marn.fit(model, corpus, TrainConfig(epochs=12, learning_rate=2e-2), run_dir=folder, quiet=True)
    return folder


def test_one_line_codes_notes_and_says_why(run):
    table = marn.load(run).predict({"a": "word1 code3 word2", "b": "word4 word5 code0 word6"})
    assert list(table) == list(COLUMNS)
    best = table.groupby("note_id").first()
    assert best.loc["a", "code"] == "404.0"
    assert best.loc["a", "title"] == "Disease 3"
    assert best.loc["a", ["category", "category_title"]].tolist() == ["dx:1", "Group 1"]
    assert best.loc["a", "words"].split("; ")[0] == "code3"
    assert best.loc["b", "code"] == "401.0"
    assert best.loc["b", "words"].split("; ")[0] == "code0"


def test_probabilities_are_those_of_the_corpus(run, corpus):
    saved, test = marn.load(run), corpus["test"]
    texts = [test.text(i) for i in range(len(test))]
    table = saved.predict(texts, top=4, explain="none")
    assert len(table) == 80
    wanted = marn.predict(saved.model, corpus, "test").probabilities("icd")
    codes = [entry.code for entry in corpus.codes["icd"]]
    for row in table.itertuples():
        expected = wanted[int(row.note_id) - 1, codes.index(row.code)]
        assert row.probability == pytest.approx(expected, abs=1e-4)
        assert row.assigned == (expected > saved.thresholds["icd"])
    many = saved.predict(texts * 20, top=4, explain="none")  # more than are held at once
    assert many["probability"].tolist() == table["probability"].tolist() * 20


def test_words_of_a_credentialed_model_are_not_shown_in_a_notebook(run, monkeypatch):
    saved = marn.load(run)
    saved.card["corpus"]["open"] = False
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    monkeypatch.delenv(SWITCH, raising=False)
    with pytest.raises(MarnError, match="a notebook saves what it shows"):
        saved.predict("word1 code3")
    assert saved.predict("word1 code3", explain="none")["words"].eq("").all()
    monkeypatch.setenv(SWITCH, "1")
    assert saved.predict("word1 code3")["words"].ne("").any()


def test_each_code_may_have_a_threshold(run):
    saved = marn.load(run)
    saved.thresholds["icd"] = np.array([0.0, 1.0, 1.0, 1.0])
    table = saved.predict("code3", top=2)
    assert table[["code", "assigned"]].values.tolist() == [["401.0", 1], ["404.0", 0]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the note is empty"),
        ("12 34 --", "the note is empty"),
        ("zebra quagga", "knows no word of the note"),
        ("fiebre y tos code1", "does not know 75% of the words"),
        ("<p>code1</p>", "has HTML, whose tags are read as words"),
        ("word1 " * 200_000, r"only the first 30 of 200,000 words were read"),  # over 1 MB
    ],
)
def test_a_note_that_cannot_be_read_says_so(run, text, says):
    table = marn.load(run).predict(text)
    assert re.search(says, table["remark"][0])
    assert (table["code"][0] == "") == ("word" not in says or "no word" in says)
    assert not re.search("HTML", marn.load(run).predict("code1 <5 & <NAME> >3")["remark"][0])


def test_ids_that_do_not_tell_notes_apart_are_remarked_upon(run):
    notes = [("a", "code1"), ("b", "code1"), ("a", "<p>code1</p>"), (" ", "code1"), (" ", "")]
    remarks = [note.remark for note in marn.load(run).code(notes, explain="none")]
    assert remarks[:2] == ["", ""]
    assert re.match("an earlier note has the same id; the text has HTML", remarks[2])
    assert remarks[3] == "the note has no id"
    assert remarks[4].startswith("the note has no id; the note is empty")


def test_what_is_not_a_note_is_refused(run):
    with pytest.raises(MarnError, match="note 1 must be text, but is a NoneType"):
        marn.load(run).predict([None])
    with pytest.raises(MarnError, match="the model has no task 'drg'"):
        marn.load(run).predict("code1", task="drg")


@pytest.mark.parametrize(
    ("texts", "options", "says"),
    [
        (5, {}, "texts must be a list of notes, but got 5"),
        (["a"], {"threshold": float("nan")}, "threshold must be in .0, 1., but got nan"),
        (["a"], {"threshold": 7}, "but got 7"),
        (["a"], {"threshold": "a"}, "but got 'a'"),
        (["a"], {"top": -3}, "top must be at least 0, but got -3"),
    ],
)
def test_arguments_out_of_range_are_refused(run, texts, options, says):
    with pytest.raises(MarnError, match=says):
        marn.load(run).predict(texts, explain="none", **options)


HOSTILE = '<script>alert("x")</script> & code3 <b>'


def test_a_page_is_escaped_and_shows_the_note(run):
    page = io.StringIO()
    write_coded(marn.load(run).code([("<i>", HOSTILE)]), page, ".html", "<title>")
    assert "<script" not in page.getvalue()
    assert "<b>" not in page.getvalue()
    assert "&lt;i&gt;" in page.getvalue()
    assert re.search(r"<span [^>]*>code3</span>", page.getvalue())


def test_no_cell_of_a_table_is_a_formula(run):
    saved, table = marn.load(run), io.StringIO(newline="")
    ids = ["=1+1", "@SUM(A1)", "+a", "\t=1", "-7", "-a"]
    write_coded(saved.code((id_, "") for id_ in ids), table, ".csv")
    table.seek(0)
    cells = [row["note_id"] for row in csv.DictReader(table)]
    assert cells == ["'=1+1", "'@SUM(A1)", "'+a", "'\t=1", "-7", "'-a"]
    assert [plain_id(cell) for cell in cells] == ids
    saved.codes["icd"][3] = CodeEntry("=404", "dx", "=HYPERLINK(1)")
    table = io.StringIO(newline="")
    write_coded(saved.code([("a", "code3")]), table, ".csv")
    assert "a,'=404,'=HYPERLINK(1)," in table.getvalue()


def test_spans_are_of_the_original_text(run):
    (note,) = marn.load(run).code([("a", "Wörd1:\n\n CODE3!")])
    word = note.codes[0].top[0]
    assert note.text[word.begin : word.end] == "CODE3" == word.word
    assert "CODE3" not in repr(note)


def test_a_system_that_reads_text_is_used_alike(corpus, tmp_path):
    model = marn.build("words", corpus)
    marn.fit(model, corpus, run_dir=tmp_path / "run", quiet=True)
    table = marn.load(tmp_path / "run").predict(["word1 CODE3 word2", ""], top=1)
    assert table["code"].tolist() == ["404.0", ""]
    assert table["words"][0].split("; ")[0] == "CODE3"


def test_in_a_long_note_a_reader_tries_few_words(corpus, tmp_path, monkeypatch):
    marn.fit(marn.build("words", corpus), corpus, run_dir=tmp_path / "run", quiet=True)
    saved, read = marn.load(tmp_path / "run"), []
    filler = "".join(f" {a}{b}" for a in "abcdefghijklmnopqrst" for b in "abcdefghijklmnopqrst")
    note = filler.replace(" hh", " CODE3").replace(" nn", " code1 word2")
    logits = saved.model.logits
    monkeypatch.setattr(saved.model, "logits", lambda texts: [read.extend(texts), logits(texts)][1])
    (coded,) = saved.code([("a", note)], top=2)
    found = {code.code: code.top[0].word for code in coded.codes}
    assert (found["404.0"], found["402.0"]) == ("CODE3", "code1")
    assert len(read) < 120  # of 401 words
    read.clear()
    monkeypatch.setattr("marn.prediction._TRIED", 1000)
    (each,) = saved.code([("a", note)], top=2)
    assert len(read) > 400
    for ours, theirs in zip(coded.codes, each.codes, strict=True):
        assert ours.top[0] == theirs.top[0]


def test_a_saved_model_is_shown_without_its_words_and_codes(run):
    assert "Disease" not in repr(marn.load(run))


def test_a_run_has_a_card_that_people_can_read(run, corpus):
    text = (run / "README.md").read_text()
    assert text.startswith("# bigru_la, trained on toy\n")
    assert "Notes: 200 train, 20 dev, 20 test" in text
    scores = json.loads((run / "scores.json").read_text())
    assert f"Dev micro_f1 at 0.5: {scores['dev']['icd']['micro_f1']:.3f}." in text
    ranked = scores["dev"]["icd"]["mean_average_precision"]
    assert f"Dev mean_average_precision: {ranked:.3f}." in text
    groups = scores["dev_by_frequency"]["icd"]
    assert groups == {"30-99": {"codes": 4, "micro_f1": groups["30-99"]["micro_f1"]}}
    assert f"| 30-99 | 4 | {groups['30-99']['micro_f1']:.3f} |" in text
    for part in ("Intended use", "Data", "Scores", "Limits"):
        assert f"\n## {part}\n" in text


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "notes.csv"
    path.write_text("note_id,text\na,word1 code3\nb,\nc,code0 zebra\n")
    return path


def test_every_remark_is_counted(run, tmp_path, capsys):
    path = tmp_path / "twice.csv"
    path.write_text("note_id,text\na,code3\na,\n,<br>code0\n")
    assert main(["predict", str(run), str(path)]) == 0
    said = capsys.readouterr().err
    for remark in ("an earlier note has the same id", "the note is empty", "the note has no id"):
        assert f"  1 note: {remark}" in said
    assert "  1 note: the text has HTML" in said


def test_predict_writes_tables_json_and_pages(run, notes, tmp_path, capsys):
    assert main(["predict", str(run), str(notes)]) == 0
    shown = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(shown.out)))
    assert [row["note_id"] for row in rows if row["assigned"] != "0"] == ["a", "b", "c"]
    assert "3 notes, 2 codes assigned" in shown.err
    assert "1 note: the note is empty: it has no word, and numbers" in shown.err
    for name in ("out.csv", "out.jsonl", "out.HTML"):
        assert main(["predict", str(run), str(notes), "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "out.csv").read_text() == shown.out
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["note_id"] for line in lines] == ["a", "b", "c"]
    assert lines[0]["codes"][0]["words"][0]["word"] == "code3"
    assert "<h2>b</h2>" in (tmp_path / "out.HTML").read_text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["{run}", "{tmp}/nothing.csv"], "nothing.csv does not exist"),
        (["{tmp}", "{tmp}/notes.csv"], "contains no model (model.json is missing)"),
        (["{run}", "{tmp}/notes.csv", "--out", "{tmp}/notes.csv"], "is the file of the notes"),
        (["{run}", "{tmp}/notes.csv", "--out", "{tmp}/x.xls"], "out must end in .csv, .jsonl"),
        (["{run}", "{tmp}/notes.csv", "--text-column", "body"], "has no column body"),
        (["{run}", "{tmp}/notes.csv", "--threshold", "2"], "threshold must be at most 1"),
        (["{run}", "{tmp}/notes.csv", "--task", "drg", "--out", "{tmp}/x.csv"], "no task 'drg'"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    run, notes, tmp_path, capsys, options, says
):
    line = [text.format(run=run, tmp=tmp_path) for text in options]
    assert main(["predict", *line]) == 2
    shown = capsys.readouterr()
    assert says in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.csv"]


def test_a_folder_is_not_taken_for_the_file_to_write(run, notes, tmp_path, capsys):
    (tmp_path / "out.csv").mkdir()
    assert main(["predict", str(run), str(notes), "--out", str(tmp_path / "out.csv")]) == 2
    assert capsys.readouterr().err.endswith("out.csv is a folder; give the name of a file\n")


def test_a_table_that_breaks_off_leaves_nothing(run, tmp_path, capsys):
    (tmp_path / "notes.csv").write_text("note_id,text\na,code3\nb,code1,more\n")
    line = [str(run), str(tmp_path / "notes.csv"), "--out", str(tmp_path / "out.csv")]
    assert main(["predict", *line]) == 2
    assert "row at line 3: 3 fields instead of 2" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.csv"]


def test_credentialed_text_is_not_written_where_git_would_see_it(run, notes, tmp_path, capsys):
    card = json.loads((run / "model.json").read_text())
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    card["corpus"]["open"] = False
    rewrite(secret, card)
    work = tmp_path / "work"
    subprocess.run(["git", "init", "-q", str(work)], check=True)
    (work / ".gitignore").write_text("runs/\n")
    line = ["predict", str(secret), str(notes), "--out"]
    assert main([*line, str(work / "codes.csv")]) == 2
    assert "git does not ignore codes.csv" in capsys.readouterr().err
    assert not (work / "codes.csv").exists()
    assert main([*line, str(work / "runs" / "codes.csv")]) == 0
    assert main([*line, str(work / "codes.csv"), "--show-credentialed-text"]) == 0
    (tmp_path / "theirs" / ".git").mkdir(parents=True)  # which git does not read
    assert main([*line, str(tmp_path / "theirs" / "codes.csv")]) == 2
    assert "git does not ignore codes.csv" in capsys.readouterr().err
    shown = os.dup(1)
    with (work / "shell.csv").open("w") as file:
        os.dup2(file.fileno(), 1)  # as the shell's > does
    try:
        assert main(line[:3]) == 2
    finally:
        os.dup2(shown, 1)
        os.close(shown)
    assert "git does not ignore shell.csv" in capsys.readouterr().err


def test_evaluate_reads_the_run_and_prints_its_scores(run, corpus, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    assert main(["evaluate", str(run), str(corpus.path), "--split", "dev"]) == 0
    shown = capsys.readouterr().out
    saved = marn.load(run)
    for task in ("icd", "ccs"):
        tuned = marn.evaluate(saved.model, corpus, "dev", threshold=saved.thresholds)[task]
        plain = marn.evaluate(saved.model, corpus, "dev")[task]
        wanted = rf"dev {task}.*\n +micro_f1 +{tuned['micro_f1']:.3f} +{plain['micro_f1']:.3f}\n"
        assert re.search(wanted, shown)
    assert "mean_average_precision" in shown
    assert "_at_" not in shown  # all 4 codes are among the first 5
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_evaluate_refuses_other_words(run, tmp_path, capsys):
    other = toy_corpus(tmp_path / "other", codes=5)
    assert main(["evaluate", str(run), str(other.path)]) == 2
    assert "the model's tasks are" in capsys.readouterr().err


def test_long_notes_are_held_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr("marn.prediction._CHARACTERS", 10)
    notes = iter([(str(number), "x" * 6) for number in range(5)])
    assert [len(_some(notes)) for _ in range(4)] == [2, 2, 1, 0]
