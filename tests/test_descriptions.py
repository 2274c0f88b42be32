"""The word path past the encoder, and queries and classifiers that begin at titles."""

import math

import numpy as np
import pytest
import torch
from toys import SYSTEM_SIZES, padded, toy_corpus

from marn import MarnError, TrainConfig, available, build, evaluate, fit, load_model
from marn.corpus import CodeEntry
from marn.models.base import Coder
from marn.models.descriptions import title_vectors

ATTENDING = ["bigru_la", "caml", "dcan", "joint_laat", "laat", "marn", "mt_ram", "multirescnn"]


def small(name, **options):
    sizes = SYSTEM_SIZES.get(name, {})
    tasks = {"icd": 5, "ccs": 3}
    return build(name, vocabulary_size=40, tasks=tasks, embedding_size=12, **sizes, **options)


def test_every_label_attention_over_words_takes_the_word_path():
    def takes(name):
        try:
            return small(name, word_path=True).word_path
        except MarnError as error:
            assert f"{name} cannot take word_path" in str(error)  # noqa: PT017
            return False

    assert [name for name in available() if takes(name)] == ATTENDING


@pytest.mark.parametrize("name", ATTENDING)
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
    assert torch.equal(features[:, :9, -12:], model.embedding.table(tokens))
    assert not features[:, 9:, -12:].any()
    assert mask is plain_mask is None or torch.equal(mask, plain_mask)
    sum(logits.sum() for logits in model(tokens, lengths).values()).backward()
    assert all(parameter.grad.any() for parameter in model.head.parameters())


@pytest.mark.parametrize("name", ATTENDING)
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


@pytest.mark.parametrize("name", ATTENDING)
def test_queries_and_classifiers_begin_at_titles(name, tmp_path):
    corpus = toy_corpus(tmp_path / "toy")
    sizes = SYSTEM_SIZES.get(name, {}) | {"embedding_size": 4, "word_path": True}
    model = build(name, corpus, code_start="titles", **sizes)
    table = model.embedding.table.weight
    assert torch.allclose(table[1:].norm(dim=1), torch.ones(len(table) - 1))
    assert not table[0].any()
    raw = build(name, corpus, **sizes).embedding.table.weight.detach()
    centred = raw[1:] - raw[1:-1].mean(dim=0)
    assert torch.allclose(table[1:], torch.nn.functional.normalize(centred, dim=1), atol=1e-6)
    for task, titles in title_vectors(corpus, table).items():
        size = model.features(*padded([3], vocabulary_size=9))[0].shape[2]
        assert torch.equal(model.head.weight[task][:, size - 4 : size], titles)
        query = model.head.query[task]
        mine = query[:, :4] if "laat" in name else query[:, -4:]
        assert torch.equal(mine, 2 * titles)


def test_a_title_alone_finds_its_code(tmp_path, monkeypatch):
    """Without any training, a code is likeliest in notes that hold the word of its title."""
    corpus = toy_corpus(tmp_path / "toy")
    for number, code in enumerate(corpus.codes["icd"]):
        object.__setattr__(code, "title", f"code{number}")
    model = build("bigru_la", corpus, hidden_size=2, embedding_size=40, word_path=True)
    with_titles = build(
        "bigru_la", corpus, hidden_size=2, embedding_size=40, word_path=True, code_start="titles"
    )
    before, after = (evaluate(m, corpus, "dev")["icd"]["macro_auc"] for m in (model, with_titles))
    assert after > 0.9 > before


def test_trained_saved_and_read(tmp_path):
    corpus = toy_corpus(tmp_path / "toy")
    model = build("marn", corpus, hidden_size=4, word_path=True, code_start="titles")
    fit(model, corpus, TrainConfig.of(model, epochs=1), run_dir=tmp_path / "run", quiet=True)
    saved = load_model(tmp_path / "run", corpus)
    assert saved.model.options["code_start"] == "titles"
    assert evaluate(saved.model, corpus, "dev") == evaluate(model, corpus, "dev")


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


def test_titles_are_of_the_codes_of_the_model(tmp_path):
    corpus = toy_corpus(tmp_path / "toy")
    with pytest.raises(MarnError, match="needs the codes of the corpus"):
        build("caml", corpus, tasks={"icd": 3}, word_path=True, code_start="titles")


def test_the_path_costs_its_width():
    for name in ATTENDING:
        plain, wide = small(name), small(name, word_path=True)
        projections = 6 * 12 * 2 if "laat" in name else 0
        queries = 0 if "laat" in name else 8 * 12
        assert isinstance(plain, Coder)
        assert wide.count_parameters() - plain.count_parameters() == 8 * 12 + queries + projections
