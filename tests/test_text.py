"""Tokens: the rule by hand, against its plain statement, and as a property."""

import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marn.corpus.text import PAD, Vocabulary, split_words, token_spans, tokenize
from marn.errors import MarnError

# Beside arbitrary text: text full of what the rule turns on.
_TEXTS = st.one_of(
    st.text(max_size=80),
    st.text(alphabet="aZ_09 .,[*\n\t\r\x0b\x1c\x85é²½Ⅷİſß", max_size=80),
    st.text(alphabet=st.characters(max_codepoint=127), max_size=80),
)


def _by_the_book(text):
    words = re.findall(r"\w+", re.sub(r"(?<=\w)[\u0300-\u036f]+", "", text))
    return [word.lower() for word in words if not word.isnumeric()]


def _bare(words):
    return [re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFD", word)) for word in words]


def test_tokenize_by_hand():
    text = "Pt 75yo M, BP 120/80; K+ 4.5 [**2151-7-16**] [**Hospital1 18**] q8h 1_2 _ don't"
    assert " ".join(tokenize(text)) == "pt 75yo m bp k hospital1 q8h 1_2 _ don t"


def test_tokenize_beyond_ascii():
    # ² and ½ are numeric characters of \w, so they fall; 5² is numeric throughout; é stays.
    assert tokenize("CAFÉ 5² ½ naïve2²") == ["café", "naïve2²"]


def test_tokenize_of_nothing():
    assert tokenize("") == tokenize("12 -- 7.5\n") == []


@given(_TEXTS)
def test_tokenize_is_the_rule_as_stated(text):
    assert _bare(tokenize(text)) == _bare(_by_the_book(text))


def test_an_accent_of_its_own_belongs_to_its_letter():
    written = "La neumoni\u0301a, 5 dolores"
    assert token_spans(written)[0] == ["la", "neumonía", "dolores"]
    assert token_spans(written)[1].tolist() == [[0, 2], [3, 12], [16, 23]]
    assert split_words("\u0301 a\u0308") == ["ä"]


@given(st.text(alphabet="aZ é ñÜçÅ,1", max_size=80))
def test_both_ways_to_write_an_accent_give_the_same_words(text):
    apart = unicodedata.normalize("NFD", text)
    assert tokenize(apart) == tokenize(text) == token_spans(apart)[0]


@given(_TEXTS)
def test_fast_path_equals_the_pattern(text):
    # A letter beyond ASCII, set apart by blanks, sends the same text through the pattern.
    assert split_words(text + " é") == [*split_words(text), "é"]


@given(_TEXTS, _TEXTS)
def test_notes_joined_by_a_line_break_keep_their_words(one, other):
    assert tokenize(one + "\n" + other) == tokenize(one) + tokenize(other)


@given(_TEXTS)
def test_spans_point_at_the_words(text):
    words, spans = token_spans(text)
    assert words == tokenize(text)
    assert spans.shape == (len(words), 2)
    assert spans.dtype == np.int64
    found = [text[begin:end].lower() for begin, end in spans]
    assert [unicodedata.normalize("NFC", word) for word in found] == words
    flat = spans.ravel()
    assert (np.diff(flat) > 0).all()


def test_vocabulary_by_hand():
    vocabulary = Vocabulary(["acute", "fever", "lasix"])
    assert len(vocabulary) == 5
    assert vocabulary.unknown == 4
    encoded = vocabulary.encode(["lasix", "zebra", "acute"])
    assert encoded.dtype == np.int32
    assert encoded.tolist() == [3, 4, 1]
    assert vocabulary.decode([PAD, *encoded]) == ["<pad>", "lasix", "<unknown>", "acute"]


@given(st.sets(st.text(min_size=1, max_size=5), max_size=20))
def test_vocabulary_gives_back_its_words(words):
    vocabulary = Vocabulary(sorted(words))
    encoded = vocabulary.encode(vocabulary.words)
    assert encoded.tolist() == list(range(1, len(words) + 1))
    assert vocabulary.decode(encoded) == vocabulary.words


@pytest.mark.parametrize("words", [["b", "a"], ["a", "a"]])
def test_vocabulary_refuses_disorder(words):
    with pytest.raises(MarnError, match="sorted"):
        Vocabulary(words)


@pytest.mark.parametrize("token", [-1, 3])
def test_decode_refuses_foreign_numbers(token):
    with pytest.raises(MarnError, match=f"token {token} "):
        Vocabulary(["a"]).decode([token])
