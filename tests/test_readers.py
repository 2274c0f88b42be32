"""Systems that read text: linear models, titles, marked phrases, stacks."""

import itertools
import json
import math
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from toys import rewrite, toy_corpus

import marn
from marn import MarnError, available, build, evaluate, fit, load_model, predict
from marn.corpus import CodeEntry, Evidence
from marn.corpus.text import tokenize
from marn.readers.average import Average
from marn.readers.base import TextSystem, as_bytes, from_bytes, log_odds
from marn.readers.phrases import PhraseDictionary, TitleMatch, plain_words
from marn.readers.stack import Stack
from marn.train.recipes import few_notes

NO_EVIDENCE = [name for name in available(text=True) if name not in ("average", "dictionary")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return toy_corpus(tmp_path_factory.mktemp("toy") / "toy", notes=(40, 12, 12))


class Notes:
    def __init__(self, texts, targets, evidence=()):
        self.texts, self.y, self.marks = texts, np.array(targets, bool), evidence

    def __len__(self):
        return len(self.texts)

    def text(self, note):
        return self.texts[note]

    def targets(self, task):
        return self.y if task == "icd" else self.y.any(axis=1, keepdims=True)

    def evidence(self, note):
        return [Evidence(*mark) for mark in self.marks[note]] if self.marks else []


class Made:
    """A corpus of a few texts in task "icd", and one category of all codes."""

    name = "made"

    def __init__(self, train, titles):
        self.train = train
        self.tasks = {"icd": len(titles), "ccs": 1}
        self.codes = {
            "icd": [CodeEntry(str(i), "dx", title) for i, title in enumerate(titles)],
            "ccs": [CodeEntry("all", "dx", "Anything")],
        }
        self.parent = np.zeros(len(titles), np.int64)

    def __getitem__(self, split):
        return self.train


MARKED = Made(
    Notes(
        ["Fiebre alta. Fiebre.", "sin fiebre, tos", "Tos seca"],
        [[1, 0], [0, 1], [0, 1]],
        [
            [(0, 0, 11, "evidence"), (0, 13, 19, "evidence")],
            [(1, 12, 15, "evidence"), (0, 4, 10, "negated")],
            [(1, 0, 3, "evidence")],
        ],
    ),
    ["Fever", "Dry cough"],
)


def test_the_dictionary_by_hand():
    reader = PhraseDictionary(tasks={"icd": 2, "ccs": 1}).fit(MARKED)
    found = reader.logits(["la fiebre", "FIEBRE ALTA", "tos y fiebre", "nada"])
    fever, high, cough = 1 / (3 + 1), 1 / (1 + 1), 2 / (2 + 1)
    unsaid = [log_odds(n, 3) - 5 for n in (1, 2)]
    odds = [math.log(p / (1 - p)) for p in (fever, high, cough)]
    by_hand = [
        [odds[0], unsaid[1]],
        [odds[1], unsaid[1]],
        [odds[0], odds[2]],
        [unsaid[0], unsaid[1]],
    ]
    assert found["icd"].tolist() == [pytest.approx(row, abs=1e-5) for row in by_hand]
    best = [odds[0], odds[1], odds[2], log_odds(3, 3) - 5]
    assert found["ccs"][:, 0].tolist() == pytest.approx(best, abs=1e-5)


def test_notes_without_marks_say_nothing_against_a_phrase():
    texts, marks = [*MARKED.train.texts, "fiebre, tos"], [*MARKED.train.marks, []]
    more = Made(Notes(texts, [*MARKED.train.y, [0, 0]], marks), ["Fever", "Dry cough"])
    found = PhraseDictionary(tasks={"icd": 2}).fit(more).logits(["tos y fiebre"])["icd"][0]
    assert found.tolist() == pytest.approx([math.log(1 / 3), math.log(2)])


def test_a_stem_forgives_endings():
    reader = PhraseDictionary(tasks={"icd": 2}, stem=4).fit(MARKED)
    assert reader.logits(["fiebres altas"])["icd"][0, 0] == pytest.approx(0)  # 1 / (1 + 1)


def test_the_dictionary_needs_marks(corpus, tmp_path):
    with pytest.raises(MarnError, match="marks no phrases in its training notes; choose another"):
        fit(build("dictionary", corpus), corpus, run_dir=tmp_path, quiet=True)
    assert not (tmp_path / "model.json").exists()


def test_plain_words_keep_their_places():
    words, spans = plain_words("Dolor: ÁCIDO 3º")
    assert words == ["dolor", "acido", "3º"] or words[:2] == ["dolor", "acido"]
    assert spans[:2].tolist() == [[0, 5], [7, 12]]
    assert plain_words("")[1].shape == (0, 2)


def test_title_match_by_hand():
    titles = ["Acute asthma", "Fever, unspecified", "The other"]
    notes = Notes(["asthma of the child", "fever"], [[1, 0, 0], [0, 1, 0]])
    reader = TitleMatch(tasks={"icd": 3}, spread=3).fit(Made(notes, titles))
    found = reader.logits(["acute was asthma", "acute a b asthma", "feverish", ""])["icd"]
    acute, asthma = math.log(3) + 0.1, math.log(3 / 2) + 0.1
    whole, half = 8 * (1 - 0.75), 8 * (acute / (acute + asthma) - 0.75)
    by_hand = [[whole, -6, -6], [half, -6, -6], [-6, whole, -6], [-6, -6, -6]]
    # "feverish" is cut to "feveri", not to "fever"
    by_hand[2][1] = -6
    assert found.tolist() == [pytest.approx(row, abs=1e-5) for row in by_hand]


@pytest.mark.parametrize(
    ("classifier", "other"),
    [
        ("svm", LinearSVC(C=1.0, random_state=0)),
        ("lr", LogisticRegression(C=10_000.0, solver="liblinear")),
    ],
)
def test_linear_models_are_those_of_scikit_learn(corpus, classifier, other):
    reader = build("words", corpus, classifier=classifier)
    fit(reader, corpus, quiet=True)
    train, dev = corpus["train"], corpus["dev"]
    vectoriser = TfidfVectorizer(analyzer=tokenize, min_df=2, sublinear_tf=True)
    x = vectoriser.fit_transform([train.text(i) for i in range(len(train))])
    new = vectoriser.transform([dev.text(i) for i in range(len(dev))])
    steep = 4 if classifier == "svm" else 1
    for code in range(4):
        other.fit(x, train.targets("icd")[:, code])
        mine = predict(reader, corpus, "dev").logits["icd"][:, code]
        assert np.allclose(mine, steep * other.decision_function(new), atol=1e-4)


def test_ridge_is_the_solution_of_its_equations(corpus):
    reader = build("words", corpus, strength=2.0)
    fit(reader, corpus, quiet=True)
    train = corpus["train"]
    x = TfidfVectorizer(analyzer=tokenize, min_df=2, sublinear_tf=True).fit_transform(
        [train.text(i) for i in range(len(train))]
    )
    y = train.targets("icd") - train.targets("icd").mean(axis=0)
    a = x.toarray()
    weight = np.linalg.solve(a.T @ a + np.eye(a.shape[1]) / 2, a.T @ y).T
    assert np.allclose(reader.arrays["icd.weight"], 8 * weight, atol=1e-4)


@pytest.mark.parametrize("name", NO_EVIDENCE)
def test_fitted_saved_read_and_scored_like_a_network(name, corpus, tmp_path, capsys):
    model = build(name, corpus, seed=3)
    with pytest.raises(MarnError, match=f"{name} has learnt nothing yet; train it with marn.fit"):
        evaluate(model, corpus)
    run = fit(model, corpus, run_dir=tmp_path / "run")
    assert f"{name} has learnt from 40 notes" in capsys.readouterr().out
    scores = evaluate(model, corpus)
    assert set(scores) == {"icd", "ccs"}
    saved = load_model(tmp_path / "run", corpus)
    assert saved.model.options == model.options
    assert evaluate(saved.model, corpus) == scores
    assert saved.thresholds == marn.evaluation.tune_thresholds(model, corpus)
    again = build(name, corpus, seed=3)
    assert fit(again, corpus, run_dir=tmp_path / "run", quiet=True).history.equals(run.history)
    assert evaluate(again, corpus) == scores
    other = fit(build(name, corpus, seed=3), corpus, quiet=True)
    assert evaluate(other.model, corpus) == scores


@pytest.mark.parametrize("name", ["words", "characters", "stack"])
def test_learns(name, corpus):
    run = fit(build(name, corpus), corpus, quiet=True)
    assert evaluate(run, corpus, "dev", threshold="dev")["icd"]["micro_f1"] > 0.8


def test_a_note_depends_on_nothing_but_its_text(corpus):
    for name in NO_EVIDENCE:
        model = fit(build(name, corpus), corpus, quiet=True).model
        texts = [corpus["dev"].text(i) for i in range(3)] + [""]
        together = model.logits(texts)["icd"]
        for row, text in enumerate(texts):
            assert np.allclose(model.logits([text])["icd"][0], together[row], atol=1e-5), name


def test_a_stack_weighs_members_by_what_they_say_of_unseen_notes():
    """A member that only remembers its notes gets no weight; one that knows gets it all."""

    class Remembers(TextSystem):
        name = "remembers"

        def fit(self, corpus, notes=None):
            self.known = {corpus["train"].text(int(i)): corpus["train"].y[i] for i in notes}
            self.arrays = {"some": np.zeros(1)}
            return self

        def logits(self, texts):
            rows = [self.known.get(text, np.zeros(2, bool)) for text in texts]
            return {"icd": np.where(rows, 4, -4).astype(np.float32)}

    class Knows(Remembers):
        name = "knows"

        def logits(self, texts):
            rows = [["a" in text, "b" in text] for text in texts]
            return {"icd": np.where(rows, 4, -4).astype(np.float32)}

    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abxyz"), 3)) + str(i) for i in range(40)]
    made = Made(Notes(texts, [["a" in text, "b" in text] for text in texts]), ["a", "b"])
    try:
        stack = Stack(tasks={"icd": 2}, members=["remembers", "knows"]).fit(made)
    finally:
        del TextSystem.registry["remembers"], TextSystem.registry["knows"]
    first, second, *_ = stack.arrays["icd.weights"]
    assert second > 0.5
    assert abs(first) < 0.1


def test_a_stack_says_how_far_it_is(corpus, monkeypatch, capsys):
    """Two members, twice out of fold and once on all notes: six fits, a minute each."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    minutes = itertools.count(step=60)
    monkeypatch.setattr("marn.progress.time.monotonic", lambda: next(minutes))
    model = build("stack", corpus, members=["words", "titles"], folds=2)
    fit(model, corpus)
    lines = [x for x in capsys.readouterr().out.splitlines() if x.endswith(" left")]
    half, notes = len(corpus["train"]) // 2, len(corpus["train"])
    assert lines[0].startswith(f"words has learnt from {half} notes: ")
    assert lines[-1] == f"titles has learnt from {notes} notes: 0 s left"
    assert len(lines) == 6
    fit(build("stack", corpus, members=["words"]), corpus, quiet=True)
    assert capsys.readouterr().out == ""


def test_an_other_place_does_not_matter_but_other_codes_do(corpus, tmp_path):
    fit(build("words", corpus), corpus, run_dir=tmp_path / "run", quiet=True)
    other = toy_corpus(tmp_path / "other", codes=5)
    with pytest.raises(MarnError, match="the model's tasks are"):
        load_model(tmp_path / "run", other)


def test_tampered_arrays_are_refused(corpus, tmp_path):
    run = tmp_path / "run"
    fit(build("stack", corpus), corpus, run_dir=run, quiet=True)
    arrays = load_file(run / "model.safetensors")
    card = json.loads((run / "model.json").read_text())
    card["weights_sha256"] = ""
    rewrite(run, card)
    for key in ("icd.weights", "0.words", "1.icd.weight", "2.icd.ends"):
        save_file({k: x for k, x in arrays.items() if k != key}, run / "model.safetensors")
        with pytest.raises(MarnError, match="is damaged"):
            load_model(run)
    save_file(arrays | {"icd.odds": torch.zeros(3)}, run / "model.safetensors")
    with pytest.raises(MarnError, match="is damaged"):
        load_model(run)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("words", {"classifier": "tree"}, "classifier must be 'ridge'"),
        ("words", {"strenght": 2.0}, "words has no option 'strenght'; did you mean"),
        ("stack", {"members": ["wrods"]}, "members cannot hold 'wrods'; did you mean 'words'"),
        ("stack", {"members": []}, "members must name at least one system"),
        ("stack", {"folds": 1}, "folds must be at least 2, but got 1"),
        ("wrods", {}, "no system is named 'wrods'; did you mean 'words'"),
        ("average", {"members": ["words", "wrods"]}, "members cannot hold 'wrods'; did you mean"),
        ("average", {"members": "words"}, "at least two members, and a weight for each, but got 1"),
        ("average", {"weights": [1, 0]}, "weights.1. must be above 0"),
        ("average", {"weights": [1, 2, 3]}, "but got 2 members and 3 weights"),
        ("average", {"pool": "odds"}, "pool must be 'probabilities' or 'logits', but got 'odds'"),
    ],
)
def test_bad_options(name, options, said, corpus):
    with pytest.raises(MarnError, match=said):
        build(name, corpus, **options)


def test_an_average_of_networks_and_readers(corpus, tmp_path):
    runs = []
    for name, options in (("marn", {"hidden_size": 8, "padding": "released"}), ("words", {})):
        runs.append(tmp_path / name)
        model = build(name, corpus, **options)
        config = marn.TrainConfig.of(model, epochs=1)
        fit(model, corpus, config, run_dir=runs[-1], quiet=True)
    whole = marn.average(runs)
    apart = [predict(load_model(run), corpus, "test") for run in runs]
    for task in corpus.tasks:
        mean = sum(each.probabilities(task) for each in apart) / 2
        assert np.allclose(predict(whole, corpus, "test").probabilities(task), mean, atol=1e-5)
    marn.saving.save_model(tmp_path / "whole", whole, corpus)
    again = load_model(tmp_path / "whole", corpus)
    assert evaluate(again, corpus) == evaluate(whole, corpus)
    assert np.isfinite(again.model.logits([""])["icd"]).all()
    nested = marn.average([tmp_path / "whole", runs[1]])
    assert evaluate(nested, corpus)["icd"]["micro_auc"] > 0.5
    unequal = marn.average(runs, [3, 1])
    mean = sum(w * each.probabilities("icd") for w, each in zip((0.75, 0.25), apart, strict=True))
    assert np.allclose(predict(unequal, corpus, "test").probabilities("icd"), mean, atol=1e-5)
    marn.saving.save_model(tmp_path / "unequal", unequal, corpus)
    assert evaluate(load_model(tmp_path / "unequal", corpus), corpus) == evaluate(unequal, corpus)
    pooled = marn.average(runs, [3, 1], pool="logits")
    odds = [np.log(p / (1 - p)) for p in (each.probabilities("icd") for each in apart)]
    geometric = 1 / (1 + np.exp(-0.75 * odds[0] - 0.25 * odds[1]))
    assert np.allclose(predict(pooled, corpus, "test").probabilities("icd"), geometric, atol=1e-5)
    marn.saving.save_model(tmp_path / "pooled", pooled, corpus)
    assert evaluate(load_model(tmp_path / "pooled", corpus), corpus) == evaluate(pooled, corpus)
    with pytest.raises(MarnError, match="pool must be 'probabilities' or 'logits', but got 'odds'"):
        marn.average(runs, pool="odds")
    for wrong, said in (
        ([1], "weights must be one for each of 2 runs, but got 1"),
        ([1, 0], "above 0"),
        ([1, float("nan")], "finite"),
    ):
        with pytest.raises(MarnError, match=said):
            marn.average(runs, wrong)


def test_an_average_of_logits_by_hand():
    whole = Average(tasks={"icd": 1}, weights=[1, 1], pool="logits")
    sure, unsure = ({"icd": np.log(np.array([[p / (1 - p)]], np.float32))} for p in (0.9, 0.5))
    whole.members = [mock.Mock(logits=lambda texts, said=x: said) for x in (sure, unsure)]
    odds = np.exp(whole.logits(["a note"])["icd"])  # sqrt(9 * 1); a mean of probabilities has 7/3
    assert odds == pytest.approx(3, rel=1e-6)


def test_an_average_is_of_runs_of_one_corpus(corpus, tmp_path):
    with pytest.raises(MarnError, match="needs at least two runs, but got 1"):
        marn.average([tmp_path])
    other = toy_corpus(tmp_path / "other", codes=5)
    for name, data in (("one", corpus), ("two", other)):
        fit(build("titles", data), data, run_dir=tmp_path / name, quiet=True)
    with pytest.raises(MarnError, match="two has other words or codes than"):
        marn.average([tmp_path / "one", tmp_path / "two"])


def test_an_average_trains_its_members(corpus, tmp_path, capsys):
    network = {"name": "bigru_la", "options": {"hidden_size": 4, "max_length": 20}}
    whole = build("average", corpus, members=["words", network], seed=1)
    small = partial(few_notes, steps=2)
    with mock.patch("marn.train.loop.few_notes", small):
        fit(whole, corpus, run_dir=tmp_path / "run", quiet=True)
    assert capsys.readouterr().out == ""
    again = load_model(tmp_path / "run", corpus)
    assert evaluate(again, corpus) == evaluate(whole, corpus)
    words = build("words", corpus, seed=1)
    fit(words, corpus, quiet=True)
    recipe = few_notes("bigru_la", len(corpus["train"]), steps=2)
    options = recipe.model | network["options"] | {"seed": 1}
    alone = build("bigru_la", corpus, **options)
    fit(alone, corpus, marn.TrainConfig.of(alone, **recipe.training, seed=1), quiet=True)
    mean = sum(predict(one, corpus, "test").probabilities("icd") for one in (words, alone)) / 2
    assert np.allclose(predict(whole, corpus, "test").probabilities("icd"), mean, atol=1e-5)
    resumed = build("average", corpus, members=["words", network], seed=1)
    fit(resumed, corpus, run_dir=tmp_path / "run", quiet=True)  # nothing is trained again
    assert evaluate(resumed, corpus) == evaluate(whole, corpus)


def test_the_members_of_a_strangers_average_read_no_file_and_have_bounded_memory(corpus, tmp_path):
    runs = [tmp_path / "words", tmp_path / "network"]
    for run, model in zip(
        runs, (build("words", corpus), build("bigru_la", corpus, hidden_size=4)), strict=True
    ):
        fit(model, corpus, marn.TrainConfig.of(model, epochs=1), run_dir=run, quiet=True)
    marn.saving.save_model(tmp_path / "whole", marn.average(runs), corpus)
    arrays = load_file(tmp_path / "whole" / "model.safetensors")
    card = json.loads((tmp_path / "whole" / "model.json").read_text())
    rewrite(tmp_path / "whole", card | {"weights_sha256": ""})
    specs = from_bytes(arrays["members"].numpy())
    for change, said in (
        ({"hidden_size": 1 << 16}, "more memory than its weights justify"),
        ({"pretrained": "stranger/model"}, "'pretrained', which reads other files"),
    ):
        changed = [specs[0], {**specs[1], "options": specs[1]["options"] | change}]
        bytes_ = torch.from_numpy(as_bytes(changed))
        save_file(arrays | {"members": bytes_}, tmp_path / "whole" / "model.safetensors")
        with pytest.raises(MarnError, match=said):
            load_model(tmp_path / "whole")


def test_an_average_is_no_member_of_a_stack_and_needs_two(corpus):
    with pytest.raises(MarnError, match="it cannot be a member"):
        fit(build("stack", corpus, members=["words", "average"]), corpus, quiet=True)
    for members in (["words"], []):
        with pytest.raises(MarnError, match=f"two members.* but got {len(members)} members"):
            build("average", corpus, members=members)


def test_the_strength_is_chosen_on_dev(corpus):
    scores = {}
    for strength in (0.01, 1.0, 100.0):
        model = build("words", corpus, classifier="svm", strength=strength)
        fit(model, corpus, quiet=True)
        scores[strength] = evaluate(model, corpus, "dev")["icd"]["mean_average_precision"]
    best = max(scores, key=scores.__getitem__)
    chosen = build("words", corpus, classifier="svm", strengths=list(scores))
    fit(chosen, corpus, quiet=True)
    assert float(chosen.arrays["strength"]) == best
    found = evaluate(chosen, corpus, "dev")["icd"]["mean_average_precision"]
    assert found == scores[best]
    with pytest.raises(MarnError, match="strengths must be above 0"):
        build("words", corpus, strengths=[1, 0])
