import json

import numpy as np
import pytest
import torch
from toys import SYSTEM_SIZES, toy_corpus

from marn import MarnError, TrainConfig, build, evaluate, fit, load_model, metrics, predict
from marn.evaluation import mean_code_features, sigmoid


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return toy_corpus(tmp_path_factory.mktemp("toy") / "corpus")


@pytest.fixture
def model(corpus):
    return build("marn", corpus, embedding_size=12, **SYSTEM_SIZES["marn"])


def one_by_one(model, split):
    model.eval()
    rows = []
    with torch.no_grad():
        for i in range(len(split)):
            tokens = torch.tensor(split.note_tokens(i), dtype=torch.int64)[None]
            rows.append(model(tokens, torch.tensor([tokens.shape[1]])))
    return {task: torch.cat([row[task] for row in rows]).numpy() for task in model.tasks}


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_equal_one_note_at_a_time_in_the_splits_order(model, corpus, batch_size):
    found = predict(model, corpus, "test", batch_size=batch_size)
    for task, logits in one_by_one(model, corpus["test"]).items():
        assert found.logits[task] == pytest.approx(logits, abs=1e-6)
        assert np.array_equal(found.targets[task], corpus["test"].targets(task))
    assert found.ids.tolist() == corpus["test"].ids.tolist()


def test_a_released_model_reads_one_note_at_a_time(corpus):
    model = build("marn", corpus, embedding_size=12, padding="released", **SYSTEM_SIZES["marn"])
    found = predict(model, corpus, "test", batch_size=100)
    assert found.logits["icd"] == pytest.approx(one_by_one(model, corpus["test"])["icd"], abs=1e-7)


def test_evaluate_scores_the_predictions_and_leaves_the_mode(model, corpus):
    model.train()
    scores = evaluate(model, corpus, "test", threshold={"icd": 0.4, "ccs": 0.6}, ks=(1,))
    assert model.training
    found = predict(model, corpus, "test")
    for task, threshold in (("icd", 0.4), ("ccs", 0.6)):
        expected = metrics.score(
            found.probabilities(task), found.targets[task], ks=(1,), threshold=threshold
        )
        assert scores[task] == expected


def test_threshold_of_dev(model, corpus):
    dev = predict(model, corpus, "dev")
    best = {t: metrics.best_threshold(dev.probabilities(t), dev.targets[t]) for t in model.tasks}
    assert evaluate(model, corpus, "test", threshold="dev") == evaluate(
        model, corpus, "test", threshold=best
    )


def test_a_threshold_for_each_code(model, corpus):
    dev, test = (predict(model, corpus, split) for split in ("dev", "test"))
    best = {t: metrics.best_thresholds(dev.probabilities(t), dev.targets[t]) for t in model.tasks}
    scores = evaluate(model, corpus, "test", threshold="dev_codes")
    assert scores == evaluate(model, corpus, "test", threshold=best)
    for task, thresholds in best.items():
        assert len(set(thresholds)) > 1
        # by a loop over codes: the mean over codes of each one's F1
        found = []
        for code, threshold in enumerate(thresholds):
            said = test.probabilities(task)[:, code] > threshold
            true = test.targets[task][:, code]
            found.append(2 * (said & true).sum() / max((said.sum() + true.sum()), 1))
        assert scores[task]["macro_f1_all"] == pytest.approx(np.mean(found))
    # on the notes that they were tuned on no single threshold gives a higher macro-F1
    of_codes = evaluate(model, corpus, "dev", threshold="dev_codes")
    for threshold in ("dev", 0.5, 0.45):
        one = evaluate(model, corpus, "dev", threshold=threshold)
        for task in model.tasks:
            assert of_codes[task]["macro_f1_all"] >= one[task]["macro_f1_all"]


def test_codes_that_training_never_meets_are_reported_apart(corpus, tmp_path):
    few = corpus.head(train=1)  # whose one or two codes are the seen ones
    seen = {task: few.frequency(task) > 0 for task in few.tasks}
    assert 0 < seen["icd"].sum() < 4
    model = build("caml", few, **SYSTEM_SIZES["caml"])
    found = predict(model, few)
    thresholds = {"icd": np.array([0.4, 0.5, 0.6, 0.45]), "ccs": 0.5}
    for codes, of in (("seen", seen["icd"]), ("unseen", ~seen["icd"])):
        mine = evaluate(model, few, threshold=thresholds, codes=codes, ks=(1,))["icd"]
        assert mine == metrics.score(
            found.probabilities("icd")[:, of],
            found.targets["icd"][:, of],
            threshold=thresholds["icd"][of],
            ks=(1,),
        )
    # all codes of the whole corpus are in its training notes
    whole = evaluate(model, corpus, codes="seen", threshold=thresholds)
    assert whole == evaluate(model, corpus, threshold=thresholds)
    assert evaluate(model, corpus, codes="unseen") == {}


def test_a_trained_model_refuses_other_words_and_other_codes(corpus, tmp_path):
    model = build("cnn", corpus, **SYSTEM_SIZES["cnn"])
    config = TrainConfig(epochs=1, batch_size=8, device="cpu")
    fit(model, corpus, config, run_dir=tmp_path / "run", quiet=True)
    other = toy_corpus(tmp_path / "other")
    assert evaluate(model, corpus) == evaluate(model, other)
    vocabulary = [f"other{number:02d}" for number in range(len(corpus.vocabulary.words))]
    codes = json.loads((other.path / "codes.json").read_text())
    codes["ccs"][1]["code"] = "dx:9"
    for name, value, says in (
        ("vocabulary.json", vocabulary, "other words than corpus 'toy'"),
        ("codes.json", codes, "other codes of task 'ccs'"),
    ):
        changed = toy_corpus(tmp_path / name)
        (changed.path / name).write_text(json.dumps(value))
        for trained in (model, load_model(tmp_path / "run").model):
            with pytest.raises(MarnError, match=says):
                evaluate(trained, changed)
        with pytest.raises(MarnError, match=says):
            fit(model, changed, config, quiet=True)


def test_sigmoid_by_hand():
    assert sigmoid(np.array([0.0, np.log(3)])).tolist() == pytest.approx([0.5, 0.75])


def test_mean_code_features_are_the_mean_of_views(model, corpus):
    found = mean_code_features(model, corpus, "dev", batch_size=3)
    model.eval()
    views = []
    with torch.no_grad():
        for i in range(len(corpus["dev"])):
            tokens = torch.tensor(corpus["dev"].note_tokens(i), dtype=torch.int64)[None]
            views.append(model.code_features(tokens, torch.tensor([tokens.shape[1]])))
    for task in model.tasks:
        mean = torch.cat([view[task] for view in views]).mean(0).numpy()
        assert found[task] == pytest.approx(mean, abs=1e-6)


def test_bad_input(model, corpus):
    with pytest.raises(MarnError, match=r"no split .*; it has train"):
        predict(model, corpus, "valid")
    with pytest.raises(MarnError, match=r"but corpus 'toy' has .*; build the model for"):
        predict(model, corpus.only("icd"))
    with pytest.raises(MarnError, match="'dev' or 'dev_codes', but got 'best'"):
        evaluate(model, corpus, threshold="best")
    with pytest.raises(MarnError, match=r"codes must be one of .* got 'rare'"):
        evaluate(model, corpus, codes="rare")
    with pytest.raises(
        MarnError, match="for task 'ccs' a number, or one for each of its 2 codes, but got None"
    ):
        evaluate(model, corpus, threshold={"icd": 0.5})
    with pytest.raises(MarnError, match=r"each of its 4 codes, but got \[0\.5, 0\.1, 0\.2\]"):
        evaluate(model, corpus, threshold={"icd": [0.5, 0.1, 0.2], "ccs": 0.5})
