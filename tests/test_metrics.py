import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from marn import metrics
from marn.errors import MarnError

# Three notes, four codes; the fourth code is never present.
PROBABILITIES = np.array([[0.9, 0.8, 0.1, 0.6], [0.4, 0.7, 0.2, 0.1], [0.3, 0.9, 0.6, 0.2]])
TARGETS = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 0, 0]])


def test_by_hand():
    # Predicted at 0.5: note 0 {0, 1, 3}, note 1 {1}, note 2 {1, 2}.
    # Hits by code 1, 2, 0, 0; claims 1, 3, 1, 1; present 2, 2, 1, 0.
    found = metrics.score(PROBABILITIES, TARGETS, ks=(1, 2))
    precision, recall = 3 / 6, 3 / 5
    assert found["micro_precision"] == pytest.approx(precision)
    assert found["micro_recall"] == pytest.approx(recall)
    assert found["micro_f1"] == pytest.approx(6 / 11)
    macro_p, macro_r = (1 + 2 / 3 + 0 + 0) / 4, (1 / 2 + 1 + 0 + 0) / 4
    assert found["macro_f1_caml"] == pytest.approx(2 * macro_p * macro_r / (macro_p + macro_r))
    f1 = [2 / 3, 4 / 5, 0, 0]
    assert found["macro_f1_all"] == pytest.approx(sum(f1) / 4)
    assert found["macro_f1_present"] == pytest.approx(sum(f1) / 3)
    # Tops: note 0 {0}, {0, 1}; note 1 {1}, {1, 0}; note 2 {1}, {1, 2}.
    assert found["precision_at_1"] == pytest.approx(3 / 3)
    assert found["precision_at_2"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 2) / 3)
    assert found["recall_at_1"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    # Ranks of the positives: note 0: 1 and 4; note 1: 1; note 2: 1 and 3.
    expected = ((1 + 2 / 4) / 2 + 1 + (1 + 2 / 3) / 2) / 3
    assert found["mean_average_precision"] == pytest.approx(expected)


def test_half_is_not_predicted():
    found = metrics.score(np.array([[0.5, 0.51]]), np.array([[1, 1]]))
    assert found["micro_recall"] == 0.5


def test_ties_go_to_the_lower_code():
    probabilities = np.array([[0.5, 0.5, 0.5, 0.5]])
    for code, rank in enumerate((1, 2, 3, 4)):
        targets = np.eye(4, dtype=int)[[code]]
        assert metrics.score(probabilities, targets)["mean_average_precision"] == 1 / rank
        assert metrics.score(probabilities, targets, ks=(2,))["precision_at_2"] == (code < 2) / 2


def camls_at_k(probabilities, targets, k):
    """Precision and recall at k as CAML's script has them, written anew."""
    top = np.argsort(probabilities, axis=1, kind="stable")[:, ::-1][:, :k]
    hits = np.take_along_axis(targets, top, axis=1).sum(axis=1)
    codes = targets.sum(axis=1)
    return (hits / top.shape[1]).mean(), np.where(codes, hits / np.maximum(codes, 1), 0).mean()


@pytest.mark.parametrize("seed", range(3))
def test_camls_rule_is_its_scripts(seed):
    probabilities, targets = random_case(seed, codes=11)
    found = metrics.score(probabilities, targets, ks=(2, 5, 11, 15), rule="caml")
    for k in (2, 5, 11, 15):
        at_k = found[f"precision_at_{k}"], found[f"recall_at_{k}"]
        assert at_k == pytest.approx(camls_at_k(probabilities, targets, k), abs=1e-12)
    sound = metrics.score(probabilities, targets, ks=(2,))
    assert sound["precision_at_2"] != found["precision_at_2"]  # there are ties
    kept = ("micro_f1", "macro_f1_caml", "micro_auc", "macro_auc")
    assert [sound[name] for name in kept] == [found[name] for name in kept]


def test_a_tie_at_rank_k_by_hand():
    row, last = np.array([[0.9, 0.5, 0.5, 0.1]]), np.array([[0, 0, 1, 0]])
    assert metrics.score(row, last, ks=(2,))["precision_at_2"] == 0
    assert metrics.score(row, last, ks=(2,), rule="caml")["precision_at_2"] == 0.5


def test_a_k_above_the_number_of_codes_counts_all_codes():
    # The six positives of three notes with four codes.
    for rule in ("sound", "caml"):
        found = metrics.score(PROBABILITIES, TARGETS, ks=(4, 5), rule=rule)
        assert found["precision_at_5"] == found["precision_at_4"] == pytest.approx(5 / 12)
        assert found["recall_at_5"] == 1


def test_no_prediction_is_a_share_of_nothing():
    found = metrics.score(np.full((2, 2), 0.3), np.eye(2))
    micro = [found[f"micro_{name}"] for name in ("precision", "recall", "f1")]
    assert micro == [0, 0, 0]
    caml = metrics.score(np.full((2, 2), 0.3), np.eye(2), rule="caml")
    assert np.isnan([caml["micro_precision"], caml["micro_f1"]]).all()
    assert (caml["micro_recall"], caml["macro_f1_caml"]) == (0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"rule": "best"}, "rule must be"), ({"ks": (0,)}, "at least 1"), ({"ks": (1.5,)}, "whole")],
)
def test_an_argument_out_of_range(change, message):
    with pytest.raises(MarnError, match=message):
        metrics.score(PROBABILITIES, TARGETS, **change)


def test_undefined_is_nan():
    found = metrics.score(np.full((2, 2), 0.3), np.zeros((2, 2)))
    assert all(np.isnan(found[x]) for x in ("micro_auc", "macro_auc", "mean_average_precision"))
    assert found["micro_f1"] == 0


def random_case(seed, notes=60, codes=23, decimals=1, rate=0.2):
    rng = np.random.default_rng(seed)
    return rng.random((notes, codes)).round(decimals), rng.random((notes, codes)) < rate


@pytest.mark.parametrize(("notes", "codes"), [(60, 23), (300, 150)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_agrees_with_scikit_learn_with_ties(notes, codes, dtype):
    probabilities, targets = random_case(0, notes, codes)
    probabilities = probabilities.astype(dtype)
    found = metrics.score(probabilities, targets)
    chosen = probabilities > 0.5
    assert found["micro_f1"] == pytest.approx(f1_score(targets, chosen, average="micro"), abs=1e-12)
    macro = f1_score(targets, chosen, average="macro", zero_division=0)
    assert found["macro_f1_all"] == pytest.approx(macro, abs=1e-12)
    area = roc_auc_score(targets.ravel(), probabilities.ravel())
    assert found["micro_auc"] == pytest.approx(area, abs=1e-12)
    areas = roc_auc_score(targets, probabilities, average=None)
    assert metrics.auc_per_code(probabilities, targets) == pytest.approx(areas, abs=1e-12)
    assert found["macro_auc"] == pytest.approx(areas.mean(), abs=1e-12)


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_scores_given_are_left_alone(order):
    probabilities, targets = random_case(2)
    given = np.array(probabilities, order=order)
    assert metrics.score(given, targets) == metrics.score(probabilities.copy(), targets)
    assert np.array_equal(given, probabilities)


def test_average_precision_agrees_with_scikit_learn_without_ties():
    probabilities, targets = random_case(3, notes=300, decimals=9)
    targets[4] = False  # a note without codes is left out
    rows = [i for i in range(len(targets)) if targets[i].any()]
    expected = np.mean([average_precision_score(targets[i], probabilities[i]) for i in rows])
    found = metrics.score(probabilities, targets)["mean_average_precision"]
    assert found == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_properties(data):
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    probabilities = data.draw(arrays(float, shape, elements=st.sampled_from([0.0, 0.2, 0.5, 0.9])))
    targets = data.draw(arrays(bool, shape))
    found = metrics.score(probabilities, targets, ks=(1, 2))
    assert all(0 <= x <= 1 or np.isnan(x) for x in found.values())
    # The slow definition of the ranks agrees, ties by the lower code.
    order = [sorted(range(shape[1]), key=lambda c: (-row[c], c)) for row in probabilities]
    for k in (1, 2):
        hits = [targets[note][order[note][:k]].sum() for note in range(shape[0])]
        assert found[f"precision_at_{k}"] == pytest.approx(np.mean(hits) / min(k, shape[1]))
        recalls = [hit / max(row.sum(), 1) for hit, row in zip(hits, targets, strict=True)]
        assert found[f"recall_at_{k}"] == pytest.approx(np.mean(recalls))
    # Complementing the scores turns the area around.
    area = found["micro_auc"]
    if np.isfinite(area):
        turned = metrics.score(-probabilities, targets)["micro_auc"]
        assert turned == pytest.approx(1 - area)


def test_best_threshold_beats_every_other():
    probabilities, targets = random_case(7, decimals=2)
    probabilities = np.clip(probabilities * 0.4 + 0.3 * targets, 0, 1)
    best = metrics.best_threshold(probabilities, targets)
    top = metrics.score(probabilities, targets, threshold=best)["micro_f1"]
    others = [
        metrics.score(probabilities, targets, threshold=x)["micro_f1"]
        for x in np.linspace(0, 1, 101)
    ]
    assert top >= max(others)
    assert top > metrics.score(probabilities, targets, threshold=0.95)["micro_f1"]


def test_best_threshold_by_hand():
    # Taking 0.8 and 0.6 gives two hits of two claims and two present: F1 = 1, between 0.6 and 0.2.
    assert metrics.best_threshold([[0.8, 0.2, 0.6]], [[1, 0, 1]]) == pytest.approx(0.4)
    assert metrics.best_threshold([[0.8, 0.2]], [[0, 0]]) == 0.5


def test_a_threshold_tuned_for_each_code():
    # Code 0 is best taken above 0.3, between 0.2 and 0.4; code 1 above 0.7; code 2 is never there.
    probabilities = [[0.4, 0.8, 0.9], [0.2, 0.6, 0.9], [0.9, 0.1, 0.9]]
    targets = [[1, 1, 0], [0, 0, 0], [1, 0, 0]]
    found = metrics.best_thresholds(probabilities, targets)
    assert found.tolist() == pytest.approx([0.3, 0.7, 0.5])
    probabilities, targets = random_case(7, decimals=2)
    one = metrics.best_threshold(probabilities, targets)
    own = metrics.best_thresholds(probabilities, targets)
    scores = [metrics.score(probabilities, targets, threshold=t) for t in (one, own)]
    assert scores[1]["macro_f1_all"] >= scores[0]["macro_f1_all"]


def test_a_threshold_for_each_code():
    found = metrics.score([[0.3, 0.3]], [[1, 0]], threshold=[0.2, 0.4])
    assert found["micro_f1"] == 1


@pytest.mark.parametrize(
    ("probabilities", "targets", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), r"\(2, 3\) and \(3, 2\)"),
        (np.zeros(3), np.zeros(3), "notes, codes"),
        (np.full((1, 2), np.nan), np.zeros((1, 2)), "diverge"),
        (np.zeros((1, 2)), np.array([[0, 2]]), "0 or 1"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "at least one note and one code"),
    ],
)
def test_bad_input(probabilities, targets, message):
    with pytest.raises(MarnError, match=message):
        metrics.score(probabilities, targets)


def test_rare_and_frequent_codes_are_scored_apart():
    truth = np.array([[1, 1, 0], [0, 1, 0]], dtype=bool)
    scores = np.array([[0.9, 0.9, 0.2], [0.9, 0.1, 0.2]])
    made = metrics.by_frequency(scores, truth, np.array([9, 400, 10]))
    assert made == {
        "0-9": {"codes": 1, "micro_f1": pytest.approx(2 / 3)},
        "10-29": {"codes": 1, "micro_f1": 0},
        "300+": {"codes": 1, "micro_f1": pytest.approx(2 / 3)},
    }
    assert metrics.by_frequency(scores, truth, [9, 400, 10], 0.95)["0-9"]["micro_f1"] == 0


def test_reliability_agrees_with_scikit_learn():
    random = np.random.default_rng(3)
    probabilities = random.random((40, 7)) ** 2
    targets = random.random((40, 7)) < probabilities
    said, true, share = metrics.reliability(probabilities, targets, bins=8)
    theirs = calibration_curve(targets.ravel(), probabilities.ravel(), n_bins=8)
    np.testing.assert_allclose((true, said), theirs)
    assert share.sum() == pytest.approx(1)
    assert share @ true == pytest.approx(targets.mean())  # the law of total probability


def test_reliability_by_hand():
    # Bins [0, 0.5): 0.2, 0.4, 0.2, one of them present; [0.5, 1]: 0.5, 0.9, 1.0, two present.
    said, true, share = metrics.reliability(
        [[0.2, 0.5, 1.0], [0.4, 0.9, 0.2]], [[1, 0, 1], [0, 1, 0]], 2
    )
    np.testing.assert_allclose(said, [0.8 / 3, 0.8])
    np.testing.assert_allclose(true, [1 / 3, 2 / 3])
    np.testing.assert_allclose(share, [0.5, 0.5])
    assert np.isnan(metrics.reliability([[0.9]], [[1]], bins=2)[0][0])
    with pytest.raises(MarnError, match=r"in \[0, 1\]"):
        metrics.reliability([[1.5]], [[1]])
