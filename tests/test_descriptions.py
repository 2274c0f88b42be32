"""The word path past the encoder, and queries and classifiers that begin at titles."""

import math

import numpy as np
import pytest
import torch
from toys import SYSTEM_SIZES, padded, sizes_alone, toy_corpus

from marn import MarnError, available, build, evaluate, load_model
from marn.corpus import CodeEntry
from marn.models.descriptions import title_vectors
from marn.saving import save_model

REFUSING = ["attentive_lstm", "bigru", "c_memnn", "clinicalbert", "cnn"]
ATTENDING = [name for name in available() if name not in REFUSING]
systems = pytest.mark.parametrize("name", ATTENDING)


def small(name, **options):
    sizes = SYSTEM_SIZES.get(name, {})
    tasks = {"icd": 5, "ccs": 3}
    return build(name, vocabulary_size=40, tasks=tasks, embedding_size=12, **sizes, **options)


@pytest.mark.parametrize("name", REFUSING)
def test_without_label_attention_over_words_there_is_no_word_path(name):
    with pytest.raises(MarnError, match=f"{name} cannot take word_path, which needs label"):
        small(name, word_path=True)


@systems
@pytest.mark.parametrize("padding", ["masked", "released"])
@pytest.mark.parametrize("recalibrate", [None, "multiply"])
def test_the_words_are_behind_the_features(name, padding, recalibrate):
    options = {"padding": padding, "recalibrate": recalibrate, "embedding_dropout": 0.0}
    model = small(name, word_path=True, **options).eval()
    plain = small(name, **options).eval()
    plain.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("head")}, strict=False
    )
    tokens, lengths = padded([9, 4])
    features, mask = model.features(tokens, lengths)
    before, plain_mask = plain.features(tokens, lengths)
    assert torch.equal(features[:, :, :-12], before)
    segments = model.embedding.table(tokens).split(getattr(model, "segment_size", 1), dim=1)
    words = torch.stack([words.sum(dim=1) for words in segments], dim=1)
    end = words.shape[1]
    assert torch.allclose(features[:, :end, -12:], words, atol=1e-6)
    assert not features[:, end:, -12:].any()
    assert mask is plain_mask is None or torch.equal(mask, plain_mask)
    weights = model.attention(tokens, lengths, "icd")
    assert torch.allclose(weights.sum(2), torch.ones(2, 5), atol=1e-5)
    sum(logits.sum() for logits in model(tokens, lengths).values()).backward()
    assert all(parameter.grad.any() for parameter in model.head.parameters())


@systems
def test_padding_is_no_word(name):
    model = small(name, word_path=True).eval()
    model.embedding.table.weight.data[0] = 3.0
    tokens, lengths = padded([9, 4])
    together = model(tokens, lengths)["icd"][1]
    alone = model(tokens[1:, :4], lengths[1:])["icd"][0]
    assert torch.allclose(alone, together, atol=1e-5)


class Titled:
    """Three notes of the words 1 to 4, and codes with titles."""

    class vocabulary:  # noqa: N801
        unknown = 5

        @staticmethod
        def encode(words):
            known = {"asthma": 1, "of": 2, "lung": 3, "fever": 4}
            return np.array([known.get(word, 5) for word in words], np.int32)

    def __init__(self):
        titles = ["Asthma of lung", "Fever", "Zebra fever", "Other of"]
        self.codes = {"icd": [CodeEntry(str(i), "dx", title) for i, title in enumerate(titles)]}

    def __getitem__(self, split):
        assert split == "train"

        class Notes:
            notes = ([1, 2, 3, 3], [2, 3, 5], [2, 4])

            def __len__(self):
                return 3

            def note_tokens(self, note):
                return np.array(self.notes[note])

        return Notes()


def test_title_vectors_by_hand():
    table = torch.eye(6)
    found = title_vectors(Titled(), table)["icd"]
    asthma, lung = math.log(3 / 1), math.log(3 / 2)
    by_hand = torch.zeros(4, 6)
    by_hand[0, 1], by_hand[0, 3] = asthma, lung
    by_hand[0] /= math.hypot(asthma, lung)
    by_hand[1, 4] = by_hand[2, 4] = 1  # the zebra is unknown; "other of" are stop words
    assert torch.allclose(found, by_hand)


def test_title_vectors_of_pieces_by_hand():
    pieces = {1: [1, 4]}  # asthma ends as fever does
    found = title_vectors(
        Titled(),
        torch.eye(6),
        lambda words: np.array([p for w in words for p in pieces.get(w, [w])], int),
    )["icd"]
    by_hand = torch.tensor([0, math.log(3 / 1), 0, math.log(3 / 2), math.log(3 / 2), 0])
    assert torch.allclose(found[0], by_hand / by_hand.norm())
    assert found[1].tolist() == found[2].tolist() == [0, 0, 0, 0, 1, 0]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Notes whose words stand for codes, which have these words as titles."""
    corpus = toy_corpus(tmp_path_factory.mktemp("toy") / "corpus")
    for codes in corpus.codes.values():
        for number, code in enumerate(codes):
            object.__setattr__(code, "title", f"code{number} zebra")
    return corpus


@systems
def test_queries_and_classifiers_begin_at_titles(name, corpus):
    sizes = sizes_alone(name) | {"embedding_size": 4, "word_path": True}
    model = build(name, corpus, code_start="titles", **sizes)
    table = model.embedding.table.weight
    assert not table[0].any()
    plain = build(name, corpus, **sizes)
    raw = plain.embedding.table.weight.detach()
    centred = raw[1:] - raw[1:-1].mean(dim=0)
    assert torch.allclose(table[1:], torch.nn.functional.normalize(centred, dim=1), atol=1e-6)
    size = model.features(*padded([3], vocabulary_size=9))[0].shape[2]
    for task, titles in title_vectors(corpus, table).items():
        assert torch.allclose(titles.norm(dim=1), torch.ones(len(titles)))
        before, weight = plain.head.weight[task], model.head.weight[task]
        assert torch.equal(weight[:, size - 4 : size], titles)
        others = [*range(size - 4), *range(size, weight.shape[1])]
        assert torch.equal(weight[:, others], before[:, others])
        if name == "dlac":
            mine = model.head.queries(task)[:, -4:]
        else:
            tanh = "laat" in name or name == "plm_icd"
            mine = model.head.query[task][:, slice(4) if tanh else slice(-4, None)]
        assert torch.allclose(mine, 2 * titles, atol=1e-6)


@systems
def test_a_title_alone_finds_its_code_and_is_saved(name, corpus, tmp_path):
    """Without any training, a code is likeliest in notes that hold the word of its title."""
    sizes = sizes_alone(name) | {"embedding_size": 40, "word_path": True}
    plain, model = (build(name, corpus, **sizes, code_start=at) for at in ("released", "titles"))
    before, after = (evaluate(m, corpus, "dev")["icd"]["macro_auc"] for m in (plain, model))
    assert after > 0.9 > before
    save_model(tmp_path / "model", model.eval(), corpus)
    saved = load_model(tmp_path / "model", corpus).model
    assert saved.options["code_start"] == "titles"
    assert evaluate(saved, corpus, "dev") == evaluate(model, corpus, "dev")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"code_start": "titles"}, "needs the words; set word_path=True"),
        ({"code_start": "title", "word_path": True}, "code_start must be 'released'"),
        ({"code_start": "titles", "word_path": True}, "needs a corpus, whose codes have titles"),
        ({"word_path": "past"}, "word_path must be"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(MarnError, match=said):
        small("bigru_la", **options)


def test_titles_are_of_the_codes_of_the_model(corpus):
    with pytest.raises(MarnError, match="needs the codes of the corpus"):
        build("caml", corpus, tasks={"icd": 3}, word_path=True, code_start="titles")


@systems
def test_the_path_costs_its_width(name):
    classifiers = 8 * 12
    costs = {
        "dlac": 12 * 12 + 12,  # of the layer that makes queries
        "hypercore": 2 * 8 * 12 + 2 * 12 * 4 + 2 * (12 * 12 + 20**2 - 8**2),  # ball and graphs
        "joint_laat": 2 * 12 * 6,
        "laat": 2 * 12 * 6,
        "plm_icd": 2 * (28**2 - 16**2) + 8 * 12,
    }
    plain, wide = small(name), small(name, word_path=True)
    cost = wide.count_parameters() - plain.count_parameters()
    assert cost == classifiers + costs.get(name, 8 * 12)
