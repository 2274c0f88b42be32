import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA

from marn import analysis, losses
from marn.errors import MarnError


def random_points(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 2))


# -- loss per code (Fig. 11) ----------------------------------------------------------------------


def test_loss_per_code_by_hand():
    # logit 0 costs log 2 whatever the target; codes 0 and 1 occur 1 and 2 times in N = 2 notes.
    logits, targets = np.zeros((2, 3)), np.array([[1, 1, 0], [0, 1, 0]])
    frame, dropped = analysis.loss_per_code(logits, targets, targets.sum(axis=0))
    assert frame["code"].tolist() == [1, 0]
    assert frame["frequency"].tolist() == [2, 1]
    # 2 log 2 / (2 * 2) and 2 log 2 / (1 * 2)
    np.testing.assert_allclose(frame["loss"], [np.log(2) / 2, np.log(2)])
    assert dropped.tolist() == [2]


def test_loss_per_code_agrees_with_torch_over_several_blocks():
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=20, size=(700, 5)).astype(np.float32)
    targets = generator.random((700, 5)) < 0.3
    frequency = np.array([5, 90, 40, 0, 7])
    frame, dropped = analysis.loss_per_code(logits, targets, frequency)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logits, dtype=torch.float64),
        torch.tensor(targets, dtype=torch.float64),
        reduction="none",
    ).sum(0)
    assert frame["code"].tolist() == [1, 2, 4, 0]
    assert dropped.tolist() == [3]
    kept = frame["code"].to_numpy()
    np.testing.assert_allclose(frame["loss"], bce.numpy()[kept] / (frequency[kept] * 700))


def test_loss_per_code_is_stable_at_huge_logits():
    frame, _ = analysis.loss_per_code(np.array([[1e4, -1e4]]), np.array([[1, 1]]), [1, 1])
    assert frame["loss"].tolist() == [0.0, 1e4]


def test_loss_per_code_refuses_what_it_cannot_use():
    with pytest.raises(MarnError, match="one shape"):
        analysis.loss_per_code(np.zeros((2, 3)), np.zeros((2, 2)), [1, 1, 1])
    with pytest.raises(MarnError, match="at least one note"):
        analysis.loss_per_code(np.zeros((0, 3)), np.zeros((0, 3)), [1, 1, 1])
    with pytest.raises(MarnError, match="frequency"):
        analysis.loss_per_code(np.zeros((2, 3)), np.zeros((2, 3)), [1, 2])
    with pytest.raises(MarnError, match="finite"):
        analysis.loss_per_code(np.full((2, 3), np.nan), np.zeros((2, 3)), [1, 1, 1])


# -- joint PCA (Fig. 9) ---------------------------------------------------------------------------


def test_joint_pca_by_hand():
    # On the line x = y the first component is (1, 1) / sqrt 2; the common mean is (1, 1).
    found = analysis.joint_pca([[0, 0], [2, 2]], [[1, 1]])
    np.testing.assert_allclose(found.icd, [[-np.sqrt(2), 0], [np.sqrt(2), 0]], atol=1e-12)
    np.testing.assert_allclose(found.ccs, [[0, 0]], atol=1e-12)
    np.testing.assert_allclose(found.explained, [1, 0], atol=1e-12)


def test_joint_pca_agrees_with_sklearn_up_to_sign():
    generator = np.random.default_rng(1)
    icd, ccs = generator.normal(size=(40, 7)), generator.normal(size=(9, 7)) + 3
    found = analysis.joint_pca(icd, ccs)
    reference = PCA(2).fit(np.concatenate([icd, ccs]))
    points = reference.transform(np.concatenate([icd, ccs]))
    ours = np.concatenate([found.icd, found.ccs])
    np.testing.assert_allclose(np.abs(ours), np.abs(points), atol=1e-9)
    np.testing.assert_allclose(found.explained, reference.explained_variance_ratio_)


def test_joint_pca_has_a_fixed_sign_and_ignores_a_shift():
    generator = np.random.default_rng(2)
    icd, ccs = generator.normal(size=(30, 5)), generator.normal(size=(6, 5))
    found = analysis.joint_pca(icd, ccs)
    shifted = analysis.joint_pca(icd + 5, ccs + 5)
    np.testing.assert_allclose(shifted.icd, found.icd, atol=1e-9)
    order = np.argsort(generator.random(30))
    np.testing.assert_allclose(analysis.joint_pca(icd[order], ccs).icd, found.icd[order], atol=1e-9)


def test_joint_pca_refuses_what_it_cannot_use():
    with pytest.raises(MarnError, match="one D"):
        analysis.joint_pca(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(MarnError, match="at least 2"):
        analysis.joint_pca(np.zeros((3, 1)), np.zeros((3, 1)))
    with pytest.raises(MarnError, match="equal"):
        analysis.joint_pca(np.ones((3, 2)), np.ones((3, 2)))


# -- significant CCS codes (Eq. 18, Fig. 10) ------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_diameter_agrees_with_all_pairs(seed):
    cloud = random_points(200, seed) * [1, 10**seed] + 1e4
    assert analysis.diameter(cloud) == pytest.approx(pdist(cloud).max())


@pytest.mark.parametrize(
    ("cloud", "expected"),
    [
        ([[2, 3]], 0),  # one point
        ([[2, 3], [2, 3], [2, 3]], 0),  # one point three times
        ([[0, 0], [3, 4]], 5),
        ([[0, 0], [1, 1], [4, 4], [2, 2]], 4 * np.sqrt(2)),  # a line
        ([[7, 0], [7, 9], [7, 1]], 9),  # an upright line
        ([[0, 0], [1, 1e-17], [2, 0]], 2),  # a line but for rounding
        ([[0, 0], [1, 0], [0, 1], [1, 1]], np.sqrt(2)),
    ],
)
def test_diameter_of_degenerate_clouds(cloud, expected):
    assert analysis.diameter(cloud) == pytest.approx(expected)


def hand_case():
    # The longest distance is 10 (the last point), so that the radius is 1. Around CCS 0 at the
    # origin lie ICD 0, 1, 2 (the third just on the circle), two of which are its own; around
    # CCS 1 at (10, 0) lies its one code.
    icd = np.array([[0, 0], [0.5, 0], [1, 0], [5, 0], [10, 0]])
    ccs = np.array([[0, 0], [10, 0]])
    return icd, ccs, np.array([0, 0, -1, -1, 1])


def test_significant_ccs_by_hand():
    found = analysis.significant_ccs(*hand_case(), tau=0.4)
    assert found["n"].tolist() == [3, 1]
    assert found["k"].tolist() == [2, 1]
    assert found["relevant"].tolist() == [2, 1]
    assert found["p"].tolist() == [0.4, 0.2]
    # P(K >= 2), K ~ Bin(3, .4): 3 * .16 * .6 + .064 = .352;  P(K >= 1), K ~ Bin(1, .2): .2
    np.testing.assert_allclose(found["p_value"], [0.352, 0.2])
    # P(K > 0) = 1 - .216 = .784 and P(K > 1) = .352 < .4, so T = 1;  P(K > 0) = .2 < .4, so T = 0
    assert found["threshold"].tolist() == [1, 0]
    assert found["significant"].tolist() == [True, True]
    assert analysis.significant_ccs(*hand_case(), tau=0.3)["significant"].tolist() == [False, True]


def test_a_tie_with_tau_is_not_significant():
    # n = 2, p = 1/2, k = 2: P(K > 1) = P(K >= 2) = 1/4, which is not below tau = 1/4
    icd, ccs = np.array([[0, 0], [0, 0], [10, 0], [10, 0]]), np.array([[0, 0], [10, 0]])
    found = analysis.significant_ccs(icd, ccs, [0, 0, 1, 1], tau=0.25)
    assert found["threshold"].tolist() == [2, 2]
    assert found["p_value"].tolist() == [0.25, 0.25]
    assert not found["significant"].any()


def test_the_levels_of_both_versions():
    counts = [
        analysis.significant_ccs(*clustered(), tau)["significant"].sum() for tau in (0.01, 0.1)
    ]
    assert 0 < counts[0] <= counts[1]


def clustered(spread=0.3, seed=0):
    generator = np.random.default_rng(seed)
    ccs = generator.normal(size=(30, 2)) * 2
    parent = generator.integers(30, size=400)
    return ccs[parent] + generator.normal(size=(400, 2)) * spread, ccs, parent


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 60),
    st.integers(1, 8),
    st.sampled_from([0.01, 0.1, 0.5]),
    st.floats(0.02, 1),
)
def test_threshold_rule_equals_exact_p_value_rule(seed, icd, ccs, tau, share):
    generator = np.random.default_rng(seed)
    parent = generator.integers(-1, ccs, size=icd)
    found = analysis.significant_ccs(
        generator.normal(size=(icd, 2)), generator.normal(size=(ccs, 2)), parent, tau, share
    )
    assert (found["significant"] == (found["p_value"] < tau)).all()
    assert not found["significant"][found["k"] == 0].any()
    assert (found["k"] <= np.minimum(found["n"], found["relevant"])).all()
    for row in found[found["n"] > 0].itertuples():
        exact = stats.binomtest(int(row.k), int(row.n), row.p, alternative="greater").pvalue
        assert row.p_value == pytest.approx(exact)
        assert stats.binom.sf(row.threshold, row.n, row.p) < tau
        assert row.threshold == 0 or stats.binom.sf(row.threshold - 1, row.n, row.p) >= tau


def test_permutation_null_finds_little_where_there_is_nothing():
    icd, ccs, parent = clustered()
    real = analysis.significant_ccs(icd, ccs, parent)["significant"].sum()
    null = analysis.permutation_null(icd, ccs, parent, permutations=100, seed=3)
    assert real > 20
    assert null.mean() <= 0.01 * 30
    assert (null == analysis.permutation_null(icd, ccs, parent, permutations=100, seed=3)).all()
    loose = analysis.permutation_null(icd, ccs, parent, tau=0.1, permutations=100, seed=3)
    assert null.mean() < loose.mean() <= 0.1 * 30


def test_permutation_null_recounts_what_significant_ccs_counts():
    icd, ccs, parent = clustered(spread=1.0)
    counts = analysis.permutation_null(icd, ccs, parent, tau=0.1, permutations=3, seed=5)
    generator = np.random.default_rng(5)
    expected = [
        analysis.significant_ccs(icd, ccs, generator.permutation(parent), 0.1)["significant"].sum()
        for _ in range(3)
    ]
    assert counts.tolist() == expected


def test_significant_ccs_refuses_what_it_cannot_use():
    icd, ccs, parent = hand_case()
    with pytest.raises(MarnError, match="parent"):
        analysis.significant_ccs(icd, ccs, parent[:3])
    with pytest.raises(MarnError, match="-1 to 1"):
        analysis.significant_ccs(icd, ccs, parent + 1)
    with pytest.raises(MarnError, match="tau"):
        analysis.significant_ccs(icd, ccs, parent, tau=0)
    with pytest.raises(MarnError, match="radius_share"):
        analysis.significant_ccs(icd, ccs, parent, radius_share=0)
    with pytest.raises(MarnError, match="icd_points"):
        analysis.significant_ccs(icd[:, :1], ccs, parent)


# -- the focal optimum (Eq. 16) -------------------------------------------------------------------


def test_focal_term_by_hand():
    # (1 - 1/2)^2 log 2 and cross-entropy at gamma 0
    np.testing.assert_allclose(analysis.focal_term(0.5, 2), np.log(2) / 4)
    np.testing.assert_allclose(analysis.focal_term([0.1, 1], 0), [np.log(10), 0])


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 0.9999), st.floats(0, 8))
def test_eq_16_crosses_one_half_where_the_true_probability_is_one_minus_alpha(alpha, gamma):
    assert analysis.focal_optimum(1 - alpha, alpha, gamma, "paper") == pytest.approx(0.5, abs=1e-6)


def test_focal_optimum_without_focus_is_closed_form():
    truth, alpha = np.array([0.0, 0.001, 0.2, 0.5, 1.0]), 0.9
    weighted = alpha * truth / (alpha * truth + (1 - alpha) * (1 - truth))
    np.testing.assert_allclose(
        analysis.focal_optimum(truth, alpha, 0, "paper"), weighted, atol=1e-12
    )
    np.testing.assert_allclose(
        analysis.focal_optimum(truth, alpha, 0, "released"), truth, atol=1e-12
    )


@pytest.mark.parametrize("reading", ["paper", "released"])
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 5])
def test_focal_optimum_agrees_with_a_bounded_minimiser(reading, gamma):
    alpha = 0.9
    below = 1 - alpha if reading == "paper" else alpha
    truth = np.array([0.01, 0.1, 0.3, 0.5, 0.95])

    def expected_loss(q, pi):
        present, absent = analysis.focal_term(q, gamma), analysis.focal_term(1 - q, gamma)
        return alpha * pi * present + below * (1 - pi) * absent

    reference = [
        optimize.minimize_scalar(
            expected_loss, bounds=(0, 1), args=(pi,), method="bounded", options={"xatol": 1e-10}
        ).x
        for pi in truth
    ]
    found = analysis.focal_optimum(truth, alpha, gamma, reading)
    np.testing.assert_allclose(found, reference, atol=1e-5)


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_the_training_loss_has_no_slope_at_the_optimum(reading):
    pi = 0.2
    best = torch.tensor(analysis.focal_optimum(pi, 0.7, 2, reading)).logit().requires_grad_()
    present, absent = (
        losses.focal_loss(best.reshape(1, 1), torch.full((1, 1), y), alpha=0.7, reading=reading)
        for y in (1.0, 0.0)
    )
    (pi * present + (1 - pi) * absent).backward()
    assert best.grad.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_focal_optimum_rises_with_the_truth(reading):
    found = analysis.focal_optimum(np.linspace(0, 1, 101), 0.999, 2, reading)
    assert (np.diff(found) > 0).all()
    np.testing.assert_allclose(found[[0, -1]], [0, 1], atol=1e-12)


def test_the_released_optimum_knows_no_alpha_and_is_pulled_to_one_half():
    truth = np.array([0.01, 0.2, 0.5])
    released = analysis.focal_optimum(truth, 0.999, 2, "released")
    np.testing.assert_allclose(released, analysis.focal_optimum(truth, 0.25, 2, "released"))
    assert (released[:2] > truth[:2]).all()
    assert released[2] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((1.5, 0.9, 2), "prevalence"),
        ((0.5, 1.0, 2), "alpha"),
        ((0.5, 0.9, -1), "gamma"),
        ((0.5, 0.9, 2, "printed"), "reading"),
    ],
)
def test_focal_optimum_names_what_is_wrong(arguments, word):
    with pytest.raises(MarnError, match=word):
        analysis.focal_optimum(*arguments)
