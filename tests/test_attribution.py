import numpy as np
import pytest
import torch
from toys import SYSTEM_SIZES

import marn
from marn import MarnError, attribution
from marn.attribution import default_method, word_weights
from marn.nn.layers import WordEmbedding

UNKNOWN = 4


class Bag(torch.nn.Module):
    """The logit of a code is a sum over words, so that all ways to weigh them agree."""

    has_attention, max_length = False, 100

    def __init__(self):
        super().__init__()
        vectors = torch.tensor([[0.0, 0], [3, 1], [0, 2], [-5, 4], [1, 1]])
        self.embedding = WordEmbedding(5, 2, vectors=vectors)
        self.to_codes = torch.nn.Linear(2, 2, bias=False)
        self.to_codes.weight.data = torch.tensor([[1.0, 0], [0, 10]])

    def forward(self, tokens, lengths):
        return {"icd": self.to_codes(self.embedding(tokens)).sum(1)}

    def to_subwords(self, tokens, lengths):
        return tokens, lengths

    def subwords_to_words(self, weights, tokens, lengths):
        return weights


@pytest.mark.parametrize("method", ["gradients", "occlusion", None])
def test_weights_by_hand(method):
    # code 0 reads the first feature, 1 in the unknown word: 3 - 1, 0 - 1 and -5 - 1 (against it);
    # code 1 reads ten times the second: 10 (1 - 1), 10 (2 - 1), 10 (4 - 1)
    weights = word_weights(Bag(), torch.tensor([1, 2, 3]), [0, 1], "icd", UNKNOWN, method)
    np.testing.assert_allclose(weights, [[2, 0, 0], [0, 10, 30]], atol=1e-5)


def test_no_code_has_no_weights():
    assert word_weights(Bag(), torch.tensor([1, 2, 3]), [], "icd", UNKNOWN).shape == (0, 3)


def built(name="bigru_la", **options):
    sizes = {**SYSTEM_SIZES[name], **options}
    tasks = {"icd": 5, "ccs": 3, "chapter": 2}  # those that the sizes are made for
    return marn.build(name, vocabulary_size=40, tasks=tasks, **sizes)


TOKENS = torch.tensor([3, 9, 3, 20, 31, 38])


def test_integrated_gradients_add_up_to_the_change_of_the_logit(monkeypatch):
    monkeypatch.setattr(attribution, "STEPS", 64)
    model = built().eval()
    weights = attribution._gradients(model, TOKENS, [0, 2], "icd", 39)
    lengths = torch.tensor([6])
    with torch.no_grad():
        whole, nothing = (
            model(tokens[None], lengths)["icd"][0, [0, 2]]
            for tokens in (TOKENS, torch.full_like(TOKENS, 39))
        )
    assert (whole - nothing).abs().min() > 1e-3
    torch.testing.assert_close(weights.sum(1), whole - nothing, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("candidates", [16, 1])
def test_occlusion_agrees_with_one_word_at_a_time(monkeypatch, candidates):
    monkeypatch.setattr(attribution, "CANDIDATES", candidates)
    model = built().eval()
    found = word_weights(model, TOKENS, [1], "icd", 39, "occlusion")[0]
    lengths = torch.tensor([6])
    with torch.no_grad():
        whole = model(TOKENS[None], lengths)["icd"][0, 1]
        for place, weight in enumerate(found):
            without = TOKENS.clone()
            without[place] = 39
            drop = float(whole - model(without[None], lengths)["icd"][0, 1])
            if candidates == 16 or weight > 0:
                assert weight == pytest.approx(max(drop, 0), abs=1e-6)
    assert 0 < (found > 0).sum() <= candidates


@pytest.mark.parametrize("name", sorted(SYSTEM_SIZES))
def test_every_system_can_be_asked(name):
    model = built(name, max_length=4)
    if not model.has_attention:
        with pytest.raises(MarnError, match="has no attention"):
            word_weights(model, TOKENS, [0], "icd", 39, "attention")
    for method in ("occlusion", default_method(model)):
        weights = word_weights(model, TOKENS, list(range(5)), "icd", 39, method)
        assert weights.shape == (5, 4)  # the words that it reads
        assert (weights >= 0).all()
        assert weights.max() > 0
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_product_is_of_attention_and_gradients():
    one, two, both = (
        word_weights(built(), TOKENS, [1, 3], "icd", 39, method)
        for method in ("attention", "gradients", "attention_gradients")
    )
    np.testing.assert_allclose(both, one * two, rtol=1e-5)


def test_an_unknown_method_is_refused():
    with pytest.raises(MarnError, match=r"method must be one of .* but got 'magic'"):
        word_weights(built(), TOKENS, [0], "icd", 39, "magic")
