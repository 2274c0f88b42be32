"""Provide widgets for a live kernel: explore a model's predictions, and vary the focal loss.

They need `ipywidgets` and a running kernel; the rendered book shows figures instead.
"""

import html

import ipywidgets
import plotly.io

from marn import figures
from marn.corpus import Corpus
from marn.errors import MarnError
from marn.explain import explain_note, note_html
from marn.models import Coder
from marn.privacy import check_may_show

OWN = -1
"""Value of the choice "my own text" in the list of notes."""


def note_explorer(
    model: Coder,
    corpus: Corpus,
    *,
    split: str = "test",
    task: str = "icd",
    k: int = 10,
    notes: int = 100,
    show_credentialed_text: bool = False,
) -> ipywidgets.VBox:
    """Show the codes that a model predicts for a note, and the words that carried each.

    Pick a note of the corpus or type one, then pick a code. Codes that the note really has are
    ticked; passages known to be evidence for the code are underlined.

    Args:
        model: a system trained on `corpus`.
        corpus: source of notes, vocabulary and codes.
        split: the split whose notes are offered.
        task: "icd" or "ccs".
        k: number of codes listed.
        notes: number of notes offered, from the first.
        show_credentialed_text: show notes that are not open. A notebook saves what it shows, so
            clear its outputs before you share it.

    Returns:
        A box with, from top to bottom: choice of note, text area, choice of code, view.

    Raises:
        MarnError: the notes may not be shown.
    """
    check_may_show(corpus.is_open, show_credentialed_text)
    return _NoteExplorer(model, corpus, split, task, k, notes, show_credentialed_text).box


class _NoteExplorer:
    """The controls of `note_explorer`, and how they respond to changes."""

    def __init__(
        self, model: Coder, corpus: Corpus, split: str, task: str, k: int, notes: int, show: bool
    ) -> None:
        self.model, self.corpus, self.task, self.k, self.show_text = model, corpus, task, k, show
        source = self.source = corpus[split]
        offered = [(f"note {source.ids[i]}", i) for i in range(min(notes, len(source)))]
        choices = [*offered, ("my own text", OWN)]
        self.note = ipywidgets.Dropdown(options=choices, description="Note")
        self.own = ipywidgets.Textarea(
            placeholder="Type or paste a note, then leave the field.",
            description="Text",
            continuous_update=False,
            layout={"width": "100%", "height": "8em"},
        )
        self.code = ipywidgets.Dropdown(description="Code", layout={"width": "100%"})
        self.view = ipywidgets.HTML()
        self.box = ipywidgets.VBox([self.note, self.own, self.code, self.view])
        self.note.observe(self.read, "value")
        self.own.observe(self.read, "value")
        self.code.observe(self.show, "value")
        self.read()

    def read(self, _: object = None) -> None:
        """Predict the codes of the chosen note, and list them."""
        mine = self.note.value == OWN
        self.own.layout.display = None if mine else "none"
        true = [] if mine else self.source.code_indices(self.task, self.note.value).tolist()
        try:
            text = self.own.value if mine else self.source.text(self.note.value)
            words, codes = self.corpus.vocabulary, self.corpus.codes[self.task]
            self.seen = explain_note(self.model, words, codes, text, self.k, self.task)
        except MarnError as error:
            self.code.options = []
            self.view.value = f"<p>{html.escape(str(error))}</p>"
            return
        self.code.options = [
            (f"{'✓' if c.column in true else '·'} {c.probability:.2f} {c.code} {c.title}", i)
            for i, c in enumerate(self.seen.codes)
        ]
        self.code.index = 0
        self.show()  # the index may have been 0 before

    def show(self, _: object = None) -> None:
        """Draw the note for the chosen code."""
        if self.code.value is None:  # the list is empty
            return
        chosen = self.seen.codes[self.code.value]
        mine = self.note.value == OWN or self.task != "icd"
        known = [] if mine else self.source.evidence(self.note.value)
        proof = [e for e in known if e.code == chosen.column and e.role == "evidence"]
        self.view.value = note_html(
            self.seen.text,
            self.seen.spans,
            chosen.weights,
            title=f"{chosen.code} {chosen.title}: {chosen.probability:.1%}",
            evidence=[(e.begin, e.end) for e in proof],
            open_text=self.corpus.is_open,
            show_credentialed_text=self.show_text,
        )


def focal_explorer() -> ipywidgets.VBox:
    """Show the best output under the focal loss for any alpha, gamma and reading.

    Returns:
        A box with, from top to bottom: alpha, gamma, reading, a sentence, the figure.
    """
    alphas = [0.25, 0.5, 0.75, 0.9, 0.99, 0.999]
    alpha = ipywidgets.SelectionSlider(options=alphas, value=0.999, description="α")
    gamma = ipywidgets.FloatSlider(value=2, min=0, max=5, step=0.5, description="γ")
    both = ("both", ("paper", "released"))
    choices = [both, ("Eq. 16 of the paper", ("paper",)), ("released code", ("released",))]
    reading = ipywidgets.Dropdown(options=choices, description="Reading")
    sentence = ipywidgets.HTML()
    output = ipywidgets.Output()

    def draw(_: object = None) -> None:
        found = {"paper": f"{1 - alpha.value:.3g} (Eq. 16)", "released": "0.5 (released code)"}
        where = " and ".join(found[name] for name in reading.value)
        sentence.value = f"<p>A code is predicted if its true probability exceeds {where}.</p>"
        figure = figures.focal_optimum(alpha.value, (gamma.value,), reading.value)
        # assigned, not displayed: any front end that knows plotly shows it, and nothing is printed
        data = plotly.io.renderers["plotly_mimetype"].to_mimebundle(figure.to_dict())
        output.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)

    for control in (alpha, gamma, reading):
        control.observe(draw, "value")
    draw()
    return ipywidgets.VBox([alpha, gamma, reading, sentence, output])
