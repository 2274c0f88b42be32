from types import SimpleNamespace

import numpy as np
import pytest
import torch

from marn import analysis, widgets
from marn.corpus.text import Vocabulary
from marn.errors import MarnError

VOCABULARY = Vocabulary(["afib", "fever", "script"])
CODES = [
    SimpleNamespace(code="427.31", title="AF"),
    SimpleNamespace(code="780.6", title="<b>F</b>"),
]
TEXTS = ["afib <script>alert(1)</script>", "fever and afib"]


class Stub(torch.nn.Module):
    """Each code looks at the word with its number + 1; a code is likely if its word is there."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def attention(self, tokens, lengths, task):
        return (tokens[:, None] == torch.arange(1, 3)[None, :, None]).float()

    def forward(self, tokens, lengths):
        return {"icd": self.attention(tokens, lengths, "icd").sum(-1) * 4 - 2}


class Notes:
    ids = ("900001", "900002")

    def __len__(self):
        return 2

    def text(self, i):
        return TEXTS[i]

    def code_indices(self, task, i):
        return np.array([0])

    def evidence(self, i):
        passages = [(0, 0, 4, "evidence")] if i == 0 else [(0, 10, 14, "negated")]
        return [SimpleNamespace(code=c, begin=b, end=e, role=r) for c, b, e, r in passages]


class StubCorpus(dict):
    vocabulary = VOCABULARY

    def __init__(self, is_open=True):
        super().__init__(test=Notes())
        self.codes = {"icd": CODES}
        self.is_open = is_open


def explorer(**options):
    return widgets.note_explorer(Stub(), StubCorpus(), **options).children


def test_note_explorer_opens_on_the_first_note_and_its_likeliest_code():
    note, own, code, view = explorer()
    assert [label for label, _ in note.options] == ["note 900001", "note 900002", "my own text"]
    assert own.layout.display == "none"
    assert [label for label, _ in code.options] == ["✓ 0.88 427.31 AF", "· 0.12 780.6 <b>F</b>"]
    assert "427.31 AF: 88.1%" in view.value


def test_note_explorer_escapes_the_note_and_the_title():
    _, _, code, view = explorer()
    assert "&lt;script&gt;" in view.value
    assert "<script" not in view.value
    code.value = 1
    assert "&lt;b&gt;F&lt;/b&gt;" in view.value
    assert "<b>" not in view.value


def test_note_explorer_follows_note_and_code():
    note, _, code, view = explorer()
    note.value = 1
    assert [label.split()[2] for label, _ in code.options] == ["427.31", "780.6"]
    assert 'title="4.0000">afib</span>' in view.value
    code.value = 1
    assert 'title="4.0000">fever</span>' in view.value


def test_note_explorer_underlines_only_what_proves_the_chosen_code():
    note, _, code, view = explorer()
    assert "2px solid" in view.value
    code.value = 1  # no passage speaks of this code
    assert "2px solid" not in view.value
    code.value = 0
    note.value = 1  # the passage denies the code
    assert "2px solid" not in view.value


def test_note_explorer_reads_own_text_and_says_what_it_cannot_read():
    note, own, code, view = explorer()
    note.value = widgets.OWN
    assert own.layout.display is None
    assert "no words" in view.value
    assert code.options == ()
    own.value = "Fever & <i>more</i>"
    assert code.options[0][0] == "· 0.88 780.6 <b>F</b>"
    assert "&lt;i&gt;" in view.value
    own.value = "zebra"
    assert "none of the note" in view.value


def test_note_explorer_refuses_credentialed_text_unless_asked_by_name():
    with pytest.raises(MarnError, match="show_credentialed_text=True"):
        widgets.note_explorer(Stub(), StubCorpus(is_open=False))
    box = widgets.note_explorer(Stub(), StubCorpus(is_open=False), show_credentialed_text=True)
    assert "afib" in box.children[3].value


def test_note_explorer_keeps_to_the_number_of_notes_and_codes_asked_for():
    note, _, code, _ = explorer(notes=1, k=1)
    assert len(note.options) == 2
    assert len(code.options) == 1


def test_focal_explorer_draws_what_the_controls_say():
    alpha, gamma, reading, sentence, output = widgets.focal_explorer().children
    assert "0.001 (Eq. 16) and 0.5 (released code)" in sentence.value
    alpha.value, gamma.value, reading.value = 0.9, 1.0, ("paper",)
    assert "0.1 (Eq. 16)" in sentence.value
    assert "released" not in sentence.value
    figure = output.outputs[0]["data"]["application/vnd.plotly.v1+json"]
    assert figure["config"]["showSendToCloud"] is False
    (curve,) = figure["data"]
    expected = analysis.focal_optimum(curve["x"], 0.9, 1.0, "paper")
    np.testing.assert_allclose(curve["y"], expected, atol=1e-3)
