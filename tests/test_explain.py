import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

import marn
from marn import explain
from marn.corpus.text import Vocabulary, token_spans
from marn.errors import MarnError

VOCABULARY = Vocabulary(["afib", "and", "fever", "warfarin"])  # 1, 2, 3, 4; unknown 5
CODES = [SimpleNamespace(code=c, title=f"title of {c}") for c in ("427.31", "780.6", "V58.61")]


look = partial(explain.explain_note, method="attention")


class Stub(torch.nn.Module):
    """Code c is present with logit 2 - c, and looks only at the word with number c + 1."""

    def __init__(self, reads=1000):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.reads = reads

    def forward(self, tokens, lengths):
        assert tokens.dtype == torch.int64
        assert tokens.shape[1] == int(lengths[0])
        assert not self.training
        return {"icd": torch.tensor([[2.0, 1.0, 0.0]])}

    def attention(self, tokens, lengths, task):
        looks = tokens[:, None, : self.reads] == torch.arange(1, 4)[None, :, None]
        return looks / looks.sum(-1, keepdim=True).clamp(min=1)


# -- explain_note ---------------------------------------------------------------------------------


def test_explain_note_by_hand():
    text = "Fever 38, AFib and zebra; afib."
    seen = look(Stub(), VOCABULARY, CODES, text, k=2)
    assert seen.words == ["fever", "afib", "and", "zebra", "afib"]
    first, second = seen.codes
    assert [first.code, second.code] == ["427.31", "780.6"]
    assert first.title == "title of 427.31"
    assert first.column == 0
    assert first.probability == pytest.approx(1 / (1 + np.exp(-2)))
    np.testing.assert_allclose(first.weights, [0, 0.5, 0, 0, 0.5])  # number 1 is afib, twice
    assert [(w.word, w.weight, text[w.begin : w.end]) for w in first.top] == [
        ("afib", 0.5, "AFib"),
        ("afib", 0.5, "afib"),
    ]
    assert second.top[0].word == "and"


def test_explain_note_keeps_to_the_words_that_were_read():
    seen = look(Stub(reads=2), VOCABULARY, CODES, "afib and fever", k=9)
    assert seen.words == ["afib", "and"]
    assert len(seen.codes) == 3
    assert seen.spans.shape == (2, 2)
    assert all(code.weights.shape == (2,) for code in seen.codes)


def test_an_explanation_shows_nothing_of_the_note_by_itself():
    seen = look(Stub(), VOCABULARY, CODES, "Fever 38, AFib and zebra")
    assert "427.31" in repr(seen)
    assert not re.search("fever|afib|zebra", repr(seen), re.IGNORECASE)


def test_explain_note_leaves_the_model_in_its_mode():
    model = Stub()
    look(model, VOCABULARY, CODES, "fever")
    assert model.training


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no words"),
        ("12 34 -- 5.6", "no words"),
        ("zebra quagga", "none of the note's 2 words"),
    ],
)
def test_explain_note_refuses_a_note_it_cannot_read(text, message):
    with pytest.raises(MarnError, match=message):
        look(Stub(), VOCABULARY, CODES, text)


def test_explain_note_refuses_wrong_codes_and_tasks():
    with pytest.raises(MarnError, match="3 codes"):
        look(Stub(), VOCABULARY, CODES[:2], "fever")
    with pytest.raises(MarnError, match="no task 'ccs'"):
        look(Stub(), VOCABULARY, CODES, "fever", task="ccs")


def test_explain_note_of_a_real_system_agrees_with_its_own_outputs():
    model = marn.build("caml", vocabulary_size=len(VOCABULARY), tasks={"icd": 3})
    text = "fever and afib and warfarin and more fever"
    seen = look(model, VOCABULARY, CODES, text)
    model.eval()
    tokens = torch.as_tensor(VOCABULARY.encode(token_spans(text)[0])).long()[None]
    lengths = torch.tensor([tokens.shape[1]])
    expected = model(tokens, lengths)["icd"].sigmoid()[0].detach().numpy()
    assert [c.probability for c in seen.codes] == pytest.approx(sorted(expected)[::-1])
    weights = model.attention(tokens, lengths, "icd")[0].detach().numpy()
    for code in seen.codes:
        np.testing.assert_allclose(code.weights, weights[code.column])
        assert code.weights.sum() == pytest.approx(1, abs=1e-5)


# -- words and evidence ---------------------------------------------------------------------------


def test_evidence_overlap_by_hand():
    # "no fever but afib": words at 0-2, 3-8, 9-12, 13-17. The passage 13-17 is the last word.
    spans = [(0, 2), (3, 8), (9, 12), (13, 17)]
    found = explain.evidence_overlap([0.1, 0.6, 0.1, 0.2], spans, [(13, 17)], k=2)
    # 0.2 of 1.0; one word of four; "fever" and "afib" are the top two; 1 - C(3,2)/C(4,2) = 1/2
    # of two words one is evidence, and the only one; the ranking has it second
    assert found == pytest.approx(
        {"mass": 0.2, "mass_chance": 0.25, "hit": 1, "hit_chance": 0.5}
        | {"token_f1": 2 / 3, "average_precision": 0.5}
    )
    assert explain.evidence_overlap([0.1, 0.6, 0.1, 0.2], spans, [(13, 17)], k=1)["hit"] == 0


def test_evidence_counts_words_that_share_a_character_and_none_that_touch():
    spans = [(0, 2), (3, 8), (9, 12)]
    assert explain.evidence_overlap([1, 1, 1], spans, [(7, 9)])["mass"] == pytest.approx(1 / 3)
    assert explain.evidence_overlap([1, 1, 1], spans, [(2, 3)])["mass"] == 0
    assert explain.evidence_overlap([1, 1, 1], spans, [(0, 12), (0, 12)])["mass"] == 1
    beyond = explain.evidence_overlap([1, 1, 1], spans, [(50, 60)])  # past what was read
    assert set(beyond.values()) == {0}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 6))
def test_evidence_overlap_agrees_with_drawing_at_random(seed, words, k):
    generator = np.random.default_rng(seed)
    spans = [(2 * i, 2 * i + 1) for i in range(words)]
    chosen = sorted(generator.choice(words, size=generator.integers(1, words + 1), replace=False))
    passages = [spans[i] for i in chosen]
    even = explain.evidence_overlap(np.ones(words), spans, passages, k)
    assert even["mass"] == pytest.approx(even["mass_chance"])
    draws = [
        np.isin(generator.choice(words, min(k, words), replace=False), chosen).any()
        for _ in range(300)
    ]
    assert np.mean(draws) == pytest.approx(even["hit_chance"], abs=0.15)
    found = explain.evidence_overlap(generator.random(words) + 0.01, spans, passages, words)
    assert found["hit"] == 1
    assert 0 < found["mass"] <= 1 + 1e-12
    weights = generator.permutation(words)
    truth = np.isin(np.arange(words), chosen)
    ranking = explain.evidence_overlap(weights + 1, spans, passages)
    assert ranking["average_precision"] == pytest.approx(average_precision_score(truth, weights))


@pytest.mark.parametrize(
    ("weights", "evidence", "message"),
    [
        ([1, 2], [], "evidence"),
        ([0, 0], [(0, 1)], "above 0"),
        ([1, -1], [(0, 1)], ">= 0"),
        ([1], [(0, 1)], "2 words"),
    ],
)
def test_evidence_overlap_names_what_is_wrong(weights, evidence, message):
    with pytest.raises(MarnError, match=message):
        explain.evidence_overlap(weights, [(0, 1), (2, 3)], evidence)


class Cue(torch.nn.Module):
    """The probability of the code is .9 if the note has word 2, .5 if it has no word 2."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, tokens, lengths):
        has = (tokens == 2).any(1, keepdim=True)
        return {"icd": torch.where(has, np.log(9), 0.0)}


def test_faithfulness_by_hand():
    # ten words: shares of 1 to 50 % are 1, 1, 1, 2 and 5 of them
    tokens = torch.tensor([2, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    weights = [[5, 1, 1, 1, 1, 1, 1, 1, 1, 1], [2, 2, 3, 3, 0, 0, 0, 0, 0, 0]]
    found = explain.faithfulness(Cue(), tokens, [0, 0], "icd", 9, weights)
    # the first names the word at once; in the second only the largest share, five words, has it
    assert found["comprehensiveness"] == pytest.approx([0.4, 0.4 / 5])
    assert found["sufficiency"] == pytest.approx([0, 0.4 * 4 / 5])


# -- HTML -----------------------------------------------------------------------------------------


def shown(markup):
    """The text a browser would show of the note."""
    body = re.search(r"<div[^>]*>(.*)</div>", markup, re.S).group(1)
    return explain.html.unescape(re.sub(r"<[^>]+>", "", body))


def test_note_html_by_hand():
    markup = explain.note_html(
        "no fever", [(0, 2), (3, 8)], [0.25, 0.5], title="780.6", open_text=True
    )
    marks = re.findall(r'<span style="([^"]*)" title="([^"]*)">(\w+)</span>', markup)
    # the heaviest word is half opaque, one of half its weight half as much
    assert [(weight, word) for _, weight, word in marks] == [("0.2500", "no"), ("0.5000", "fever")]
    assert "rgba(245,133,24,0.25)" in marks[0][0]
    assert "rgba(245,133,24,0.50)" in marks[1][0]
    assert not re.search("(^|;)color:", marks[0][0])  # the letters are the page's own
    assert "<strong>780.6</strong>" in markup


def test_note_html_underlines_evidence_across_words():
    text = "no fever today"
    markup = explain.note_html(
        text, [(0, 2), (3, 8), (9, 14)], [0, 1, 0], title="", open_text=True, evidence=[(5, 11)]
    )
    lined = re.findall(r'<span style="[^"]*2px solid[^"]*"[^>]*>([^<]*)</span>', markup)
    assert lined == ["ver", " to"]
    assert shown(markup) == text
    assert "Underlined" in markup


def test_note_html_leaves_light_words_plain():
    markup = explain.note_html("aa bb", [(0, 2), (3, 5)], [1, 0.04], title="", open_text=True)
    assert markup.count("<span") == 1
    nothing = explain.note_html("aa bb", [(0, 2)], [0], title="", open_text=True)
    assert "<span" not in nothing
    assert explain.note_html("", [], [], title="", open_text=True).count("<figure") == 1


HOSTILE = "<script>alert(1)</script> & \"x\" 'y' <b>"


def test_note_html_escapes_note_and_title():
    _, spans = token_spans(HOSTILE)
    markup = explain.note_html(
        HOSTILE, spans, np.ones(len(spans)), title=HOSTILE, open_text=True, evidence=[(0, 9)]
    )
    assert "<script" not in markup
    assert "<b>" not in markup
    assert shown(markup) == HOSTILE


@settings(max_examples=100, deadline=None)
@given(
    st.text(max_size=60), st.integers(0, 1000), st.tuples(st.integers(0, 60), st.integers(0, 60))
)
def test_note_html_shows_the_whole_text_and_nothing_else(text, seed, passage):
    _, spans = token_spans(text)
    weights = np.random.default_rng(seed).random(len(spans))
    markup = explain.note_html(text, spans, weights, title="t", open_text=True, evidence=[passage])
    assert shown(markup) == text
    tags = {tag.split()[0] for tag in re.findall(r"<([^>]+)>", markup)}
    assert tags <= {
        *("figure", "/figure", "figcaption", "/figcaption", "strong", "/strong"),
        *("small", "/small", "div", "/div", "span", "/span"),
    }


def test_note_html_refuses_credentialed_text_unless_asked_by_name():
    arguments = ("fever", [(0, 5)], [1.0])
    with pytest.raises(MarnError, match="show_credentialed_text=True"):
        explain.note_html(*arguments, title="t", open_text=False)
    with pytest.raises(TypeError, match="open_text"):
        explain.note_html(*arguments, title="t")
    with pytest.raises(TypeError):
        explain.note_html(*arguments, "t", False, (), True)
    markup = explain.note_html(*arguments, title="t", open_text=False, show_credentialed_text=True)
    assert "fever" in markup


@pytest.mark.parametrize(
    ("spans", "weights", "message"),
    [
        ([(0, 9)], [1], "inside"),
        ([(3, 5), (0, 2)], [1, 1], "ascending"),
        ([(0, 2)], [1, 1], "1 words"),
        ([(0, 2)], [np.nan], "finite"),
    ],
)
def test_note_html_refuses_what_does_not_fit_the_text(spans, weights, message):
    with pytest.raises(MarnError, match=message):
        explain.note_html("fever", spans, weights, title="", open_text=True)
