import json
import re

import numpy as np
import polars as pl
import pytest
from toys import toy_corpus

from marn import MarnError, metrics, scoring
from marn.cli import main
from marn.corpus.columns import as_text
from marn.scoring import (
    FilePredictions,
    _measure,
    _ranking,
    _table,
    compare,
    read_predictions,
    report,
)

CODES = ["401.0", "402.0", "403.0", "404.0"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return toy_corpus(tmp_path_factory.mktemp("scoring") / "corpus")


@pytest.fixture(scope="module")
def scores(corpus):
    noise = np.random.default_rng(1).random((8, 4)).astype(np.float32)
    return np.round(0.4 * corpus["test"].targets("icd") + 0.6 * noise, 3)


def written(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def long_table(corpus, scores, mark=","):
    head = mark.join(("HADM_ID", "ICD_CODE", "probability"))
    ids = corpus["test"].ids
    rows = [f"{n}{mark}{c}{mark}{p}" for n, r in zip(ids, scores) for c, p in zip(CODES, r)]  # noqa: B905
    return "\n".join([head, *rows, ""])


def test_long_and_wide_tables_say_the_same(tmp_path, corpus, scores):
    ids, text = corpus["test"].ids.tolist(), long_table(corpus, scores)
    frame = pl.DataFrame({"id": ids} | {c: scores[:, i] for i, c in enumerate(CODES)})
    frame = frame.sample(fraction=1, shuffle=True, seed=0).select("id", *reversed(CODES))
    frame.write_csv(tmp_path / "wide.csv")
    frame.write_parquet(tmp_path / "wide.parquet")
    pl.read_csv(text.encode(), infer_schema=False).cast({"probability": pl.Float64}).write_parquet(
        tmp_path / "long.parquet"
    )
    plain = text.replace(".0,", ",")  # codes without their dots
    files = [
        written(tmp_path, "long.csv", text),
        written(tmp_path, "semicolon.csv", "sep=;\n" + long_table(corpus, scores, ";")),
        written(tmp_path, "sep.csv", "sep=,\n" + (tmp_path / "wide.csv").read_text()),
        written(
            tmp_path,
            "plain.csv",
            plain.replace("401,", "4010,")
            .replace("402,", "4020,")
            .replace("403,", "4030,")
            .replace("404,", "4040,"),
        ),
        *(tmp_path / name for name in ("wide.csv", "wide.parquet", "long.parquet")),
    ]
    # with decimal commas, as Excel writes in Germany
    cells = [[note, *map(str, row)] for note, row in zip(ids, scores, strict=True)]
    lines = [";".join([n, *(c.replace(".", ",") for c in row)]) for n, *row in cells]
    files.append(written(tmp_path, "german.csv", "\n".join([";".join(["id", *CODES]), *lines])))
    lines = [
        f"{n};{code};{cell.replace('.', ',')}"
        for n, *row in cells
        for code, cell in zip(CODES, row, strict=True)
    ]
    files.append(written(tmp_path, "german_long.csv", "\n".join(["id;code;probability", *lines])))
    for file in files:
        found = read_predictions(file, corpus)
        assert found.remarks == [], file
        np.testing.assert_allclose(found.probabilities, scores, atol=1e-6)
        np.testing.assert_array_equal(found.assigned, scores > np.float32(0.5))


def test_of_rows_that_repeat_a_note_the_largest_counts(tmp_path, corpus, scores):
    rows = [[note, *row] for note, row in zip(corpus["test"].ids, scores, strict=True)]
    lines = [",".join(map(str, row)) for row in [["note_id", *CODES], *rows]]
    once = read_predictions(written(tmp_path, "once.csv", "\n".join(lines)), corpus)
    lines.append(f"{corpus['test'].ids[0]},0.001,0.001,0.001,0.001")
    twice = read_predictions(written(tmp_path, "twice.csv", "\n".join(lines)), corpus)
    np.testing.assert_array_equal(once.probabilities, twice.probabilities)
    assert "rows that repeat a note and code: 1; the largest counts" in twice.remarks


def test_files_of_assigned_codes_have_no_ranking(tmp_path, corpus):
    rows = {"test0": ["401.0", "404.0"], "test1": [], "test2": ["403.0"]}
    psv = "".join("|".join([note, *(codes or [""])]) + "\n" for note, codes in rows.items())
    jsonl = "".join(
        json.dumps({
            "note_id": note, "remark": "",
            "codes": [{"code": c, "probability": 0.3, "assigned": True} for c in codes],
        }) + "\n" for note, codes in rows.items()
    )  # fmt: skip
    long = "note_id,code\n" + "".join(
        f"{note},{code}\n" for note, codes in rows.items() for code in codes or [""]
    )
    for name, text in (("preds_test.psv", psv), ("a.jsonl", jsonl), ("a.csv", long)):
        found = read_predictions(written(tmp_path, name, text), corpus)
        assert found.probabilities is None
        assert np.argwhere(found.assigned).tolist() == [[0, 0], [0, 3], [2, 2]]
        assert found.remarks[0] == "5 of 8 notes are missing; they count as without codes"
        assert "AUC, MAP and precision at k are left out" in found.remarks[1]
        lines = "\n".join(report(found, resamples=20))
        assert "micro_f1" in lines
        assert not any(word in lines for word in ("average_precision", "at_5", "_auc"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_ids_in_another_spelling_and_other_encodings(tmp_path, corpus, scores, encoding):
    text = long_table(corpus, scores)
    plain = read_predictions(written(tmp_path, "plain.csv", text), corpus)
    text = text.replace("probability", "probability,Prüfer").replace("test", "TEST")
    lines = [line if "HADM" in line or not line else f"{line},é" for line in text.split("\n")]
    (tmp_path / "other.csv").write_bytes("\n".join(lines).encode(encoding))
    other = read_predictions(tmp_path / "other.csv", corpus)
    assert other.remarks == []
    assert (other.probabilities == plain.probabilities).all()


def test_ids_that_differ_in_zeros_only_are_matched_unless_two_do(tmp_path):
    matcher = scoring._Matcher(tmp_path, {"0012": 0, "7": 1, "007": 2}, ["401.0"])
    assert [matcher.note(id_) for id_ in ("12", "12.0", " 012", "7", "07")] == [0, 0, 0, 1, -1]


def test_an_unknown_note_or_code_in_several_spellings_is_one(tmp_path):
    matcher = scoring._Matcher(tmp_path, {"7": 0}, ["401.0"])
    assert {matcher.note(id_) for id_ in ("5", "05", "5.0", "A", "a", "a.txt")} == {-1}
    assert {matcher.code(code) for code in ("250.0", "2500", "V1", "v1")} == {-1}
    assert matcher.remarks(0) == [
        "not in the split, and left out: 2 notes (5, A)",
        "not in the corpus, and left out: 2 codes (250.0, V1)",
    ]


def test_what_predict_marks_as_text_for_spreadsheets_is_found(tmp_path):
    matcher = scoring._Matcher(tmp_path, {"=1+1": 0, "@a": 1, "-7": 2}, ["=401", "+1x"])
    assert [matcher.note(as_text(id_)) for id_ in ("=1+1", "@a", "-7")] == [0, 1, 2]
    assert [matcher.code(as_text(code)) for code in ("=401", "+1x")] == [0, 1]


def test_a_wide_table_of_0_and_1_has_no_ranking(tmp_path, corpus):
    rows = "".join(f"test{i},1,0,0,1\n" for i in range(8))
    found = read_predictions(written(tmp_path, "a.csv", f"id,{','.join(CODES)}\n{rows}"), corpus)
    assert found.probabilities is None
    assert found.remarks == ["the file says 0 or 1, so AUC, MAP and precision at k are left out"]


def test_a_threshold_is_for_files_that_do_not_say_what_is_assigned(tmp_path, corpus):
    file = written(tmp_path, "a.csv", "note_id,code,probability\ntest0,401.0,0.4\ntest0,402.0,.7\n")
    assert read_predictions(file, corpus).assigned.sum() == 1
    assert read_predictions(file, corpus, threshold=0.3).assigned.sum() == 2
    said = written(tmp_path, "b.csv", "note_id,code,probability,assigned\ntest0,401.0,0.4,1\n"
                   "test0,402.0,.7,0\n")  # fmt: skip
    assert np.argwhere(read_predictions(said, corpus).assigned).tolist() == [[0, 0]]


def test_what_does_not_match_is_counted(tmp_path, corpus):
    text = "note_id,code\ntest0.0,401.0\ntest0,401.0\ntest1,999.9\nnowhere,401.0\n"
    text += "test2,he had a fever since\n"
    remarks = read_predictions(written(tmp_path, "a.csv", text), corpus).remarks
    assert remarks[:4] == [
        "5 of 8 notes are missing; they count as without codes",
        "not in the split, and left out: 1 note (nowhere)",
        "not in the corpus, and left out: 2 codes (999.9, …)",
        "rows that repeat a note and code: 1; the largest counts",
    ]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "note_id,code\nelsewhere,401.0\n", "has no note of split 'test'"),
        ("a.csv", "note_id,a,b\ntest0,1,0\n", "neither a column code nor a column named as a code"),
        ("a.csv", "note_id,code,probability\ntest0,401.0,3.2\n", "outside .0, 1.; apply a sigmoid"),
        ("a.csv", "note_id,code,probability\ntest0,401.0,high\n", "not a number"),
        ("a.csv", "note_id,401.0\ntest0,high\n", "has a column 401.0 without probabilities; give"),
        ("a.csv", "note_id,401.0,text\ntest0,1,a fever\n", "has a column text without prob"),
        ("a.csv", "note_id,401.0,he has a fever\ntest0,1,x\n", "a column .a text. without"),
        ("a.csv", "", "a.csv is empty; give a table"),
        ("a.jsonl", "{}\n", "line 1 must be an object"),
        ("a.doc", "x", "give .csv, .tsv, .parquet, .jsonl, .psv"),
        ("a.jsonl", "[]\n5\n", "line 1 must be an object"),
        ("a.jsonl", "\n" + "[" * 99_999, "line 2 must be an object"),
        ("a.csv", "note_id,code\n", "holds no prediction"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, corpus, capsys, name, text, says):
    file = written(tmp_path, name, text)
    with pytest.raises(MarnError, match=says):
        read_predictions(file, corpus)
    assert main(["score", str(file), str(corpus.path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def made_up(seed, size=30, width=6, name="a", targets=None):
    generator = np.random.default_rng(seed)
    targets = generator.random((size, width)) < 0.3 if targets is None else targets
    scores = np.round(0.3 * targets + 0.7 * generator.random((size, width)), 1)  # with ties
    return FilePredictions(name, targets, scores > 0.5, scores, [])


def figures(given, weights):
    """Return what the sums over notes with these weights make."""
    ranking = _ranking(given)
    sums = weights[None] @ _table(given, ranking)
    found = _measure(given.targets.shape[1], [*ranking])(sums)
    return {name: value[0] for name, value in found.items()}


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_the_metrics(seed):
    given = made_up(seed)
    found = figures(given, np.ones(30))
    wanted = metrics.score(given.probabilities, given.targets)
    assert {"micro_f1", "macro_f1_caml", "mean_average_precision", "precision_at_5"} <= set(found)
    assert {"micro_auc", "macro_auc"} <= set(found)
    assert "precision_at_8" not in found  # of 6 codes
    for name, value in found.items():
        assert value == pytest.approx(wanted[name]), name


def test_weights_count_notes_again():
    given, weights = made_up(3), np.random.default_rng(0).integers(0, 4, 30)
    drawn = np.repeat(np.arange(30), weights)
    wanted = metrics.score(given.probabilities[drawn], given.targets[drawn])
    for name, value in figures(given, weights.astype(float)).items():
        # areas are means over notes to first order only
        assert value == pytest.approx(wanted[name], abs=0.02 if "auc" in name else 1e-9), name


def test_the_interval_of_an_area_is_that_of_ranking_each_sample_anew(monkeypatch):
    monkeypatch.setattr("marn.scoring._DECISIONS", 40)
    given = made_up(4, size=200)
    rng = np.random.default_rng(5)
    anew = {"micro_auc": [], "macro_auc": []}
    for _ in range(300):
        drawn = rng.integers(200, size=200)
        found = metrics.score(given.probabilities[drawn], given.targets[drawn], ks=())
        for name, values in anew.items():
            values.append(found[name])
    lines = {line.split()[0]: line for line in report(given)}
    for name, values in anew.items():
        _, low, high, _ = interval(lines[name])
        np.testing.assert_allclose([low, high], np.quantile(values, [0.025, 0.975]), atol=0.004)


def test_no_interval_of_an_area_goes_beyond_1():
    targets = np.tile(np.eye(4, dtype=bool), (5, 1))
    scores = np.where(targets, 0.9, 0.1) + np.random.default_rng(0).random(targets.shape) / 20
    scores[0] = 0.01
    given = FilePredictions("a", targets, scores > 0.5, scores, [])
    for name, of in {line.split()[0]: interval(line) for line in [*report(given)][1:]}.items():
        assert 0 <= of[1] <= of[2] <= 1, name


def interval(line):
    value, low, high, p, corrected = (
        float(x) for x in re.fullmatch(
            r" +\w+ +(\S+) +(\S+) to (\S+)(?: +p = (\S+))?(?: +corrected (\S+))?", line
        ).groups("nan")
    )  # fmt: skip
    return value, low, high, (p, corrected)


def by_figure(lines):
    return {line.split()[0]: interval(line) for line in lines if line.startswith("  micro")}


def test_intervals_and_paired_tests():
    one = made_up(0, size=300, name="one.csv")
    value, low, high, _ = by_figure(report(one))["micro_f1"]
    assert low < value < high
    # Half the spread is about that of a mean over 300 notes
    assert 0.03 < high - low < 0.12
    *same, (p, _) = by_figure(compare([one, one]))["micro_f1"]
    assert (same, p) == ([0, 0, 0], 1)
    perfect = FilePredictions("two.csv", one.targets, one.targets, one.targets * 0.5, [])
    value, low, high, (p, _) = by_figure(compare([perfect, one]))["micro_f1"]
    assert 0 < low < value < high
    assert p == 0.001
    noise = made_up(9, size=300, name="noise.csv", targets=one.targets)
    assert by_figure(compare([one, noise]))["micro_f1"][3][0] > 0.01
    assert list(compare([one, noise], seed=1)) == list(compare([one, noise], seed=1))


def test_p_is_corrected_for_the_number_of_pairs():
    one = made_up(0, size=300, name="one.csv")
    noise = made_up(9, size=300, name="noise.csv", targets=one.targets)
    perfect = FilePredictions("two.csv", one.targets, one.targets, one.targets * 0.5, [])
    lines = [*compare([one, noise, perfect], 200)]
    assert next(x for x in lines if "minus" in x).endswith("corrected for 3 pairs (Holm)")
    found = [interval(line)[3] for line in lines if line.startswith("  micro_f1")]
    assert found == [(found[0][0],) * 2, (0.005, 0.015), (0.005, 0.015)]


def test_files_of_two_kinds_are_compared_on_what_both_carry():
    one = made_up(0)
    other = FilePredictions("b", one.targets, one.assigned, None, [])
    assert not [line for line in compare([one, other], 20) if "precision_at" in line]


def test_score_prints_files_and_their_differences(tmp_path, corpus, scores, capsys):
    file = written(tmp_path, "a.csv", long_table(corpus, scores))
    other = written(tmp_path, "b.csv", long_table(corpus, scores[::-1]))
    assert main(["score", str(file), str(other), str(corpus.path), "--resamples", "50"]) == 0
    shown = capsys.readouterr().out
    assert "a.csv: 8 notes, 4 codes" in shown
    assert "a.csv minus b.csv, p by 50 permutations of notes" in shown
    wanted = metrics.score(scores, corpus["test"].targets("icd"))["micro_auc"]
    assert ["micro_auc", f"{wanted:.3f}"] in [line.split()[:2] for line in shown.splitlines()]
    assert main(["score", str(file)]) == 2
    assert "give the corpus last" in capsys.readouterr().err


def test_an_interval_that_misses_its_figure_is_marked():
    targets = np.eye(200, dtype=bool)  # each code has one note, which a third of the samples lack
    given = FilePredictions("a", targets, targets, None, [])
    lines = {line.split()[0]: line for line in scoring.report(given, 200)}
    assert "too low: codes of few notes drop out" in lines["macro_f1_all"]
    assert "too low" not in lines["micro_f1"]
