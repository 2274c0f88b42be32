"""Average trained models, networks among them, in one system that reads text."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from marn.corpus import Corpus
from marn.corpus.text import Vocabulary, tokenize
from marn.errors import DamagedError, MarnError
from marn.models.base import Coder
from marn.models.reading import batches
from marn.readers.base import Ensemble, Logits, TextSystem, as_bytes, from_bytes, of_member
from marn.settings import check

Pool = Literal["probabilities", "logits"]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NOTES_AT_ONCE = 32


class Average(Ensemble):
    """Average the probabilities of models, or their logits.

    `marn.fit` trains the members, each by `marn.train.recipes.few_notes`; `marn.average` takes
    trained ones from run directories. Networks read the words of their corpus's vocabulary.

    Args:
        members: systems by name, or `{"name": …, "options": {…}}`. The default is the best average
            of chapter 7.
        weights: one weight per member, of which only the ratios matter; None for equal weights.
        pool: what is averaged. With `"logits"` a confident member outweighs unsure ones, which is
            better for rare codes (`book/results/rare.json`).
        **shared: see `TextSystem`.

    Raises:
        MarnError: there are fewer than two members, one is unknown, or a weight is missing.

    References:
        Probabilities: the sum rule of Kittler et al. 1998. Logits: the logarithmic opinion pool of
        Genest and Zidek 1986.
    """

    name = "average"

    def __init__(
        self,
        *,
        members: Sequence[str | Mapping[str, Any]] = ("stack", "bigru_la"),
        weights: Sequence[float] | None = None,
        pool: Pool = "probabilities",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.pool = pool
        given = [members] if isinstance(members, str) else members
        named = self.named(given, {*Coder.registry, *self.registry})
        self.specs: list[dict[str, Any]] = [{"options": {}} | one for one in named]
        equal = [1.0] * len(self.specs)
        self.weights = [*check("weights", Sequence[Weight], weights or equal)]
        if len(self.specs) < 2 or len(self.weights) != len(self.specs):
            raise MarnError(
                f"an average needs at least two members, and a weight for each, but got "
                f"{len(self.specs)} members and {len(self.weights)} weights"
            )
        self.members: list[Coder | TextSystem] = []
        self.vocabulary = Vocabulary([])

    def fit(self, corpus: Corpus, notes: NDArray[np.int64] | None = None) -> Self:
        """Refuse, because `marn.fit` trains the members.

        Raises:
            MarnError: always.
        """
        raise MarnError("marn.fit trains an average by its members, so it cannot be a member")

    def hold(self, members: Sequence[Coder | TextSystem], vocabulary: Vocabulary) -> Self:
        """Store trained members and the vocabulary of their networks; return the average."""
        self.members = [member.eval() for member in members]
        self.vocabulary = vocabulary
        self.specs = [_spec(member) for member in members]
        self.arrays = {"vocabulary": as_bytes(vocabulary.words), "members": as_bytes(self.specs)}
        return self

    def logits(self, texts: Sequence[str]) -> Logits:
        """Score texts, see `TextSystem.logits`."""
        said = [
            self._read(member, texts) if isinstance(member, Coder) else member.logits(texts)
            for member in self.members
        ]
        logits, weights = {}, torch.tensor(self.weights, dtype=torch.float64)
        for task in self.tasks:
            scores = torch.from_numpy(np.stack([each[task] for each in said])).double()
            parts = scores.sigmoid() if self.pool == "probabilities" else scores
            mean = torch.tensordot(weights / weights.sum(), parts, 1)  # (N, C)
            mean = torch.logit(mean, eps=1e-9) if self.pool == "probabilities" else mean
            logits[task] = mean.float().numpy()
        return logits

    def _read(self, network: Coder, texts: Sequence[str]) -> Logits:
        """Score texts with a network; a text without words becomes one unknown word."""
        notes = [self.vocabulary.encode(tokenize(text))[: network.max_length] for text in texts]
        notes = [note if len(note) else np.array([self.vocabulary.unknown]) for note in notes]
        found = {task: np.zeros((len(notes), c), np.float32) for task, c in self.tasks.items()}
        with torch.inference_mode():
            for places, tokens, lengths in batches(network, notes, _NOTES_AT_ONCE):
                for task, logits in network(tokens, lengths).items():
                    found[task][places] = logits.numpy()
        return found

    def take(self, state: Mapping[str, Tensor]) -> None:
        """Load a `state_dict`, and build the members that it belongs to.

        Raises:
            DamagedError: a member has an option that reads files.
        """
        vocabulary = Vocabulary(from_bytes(state["vocabulary"].numpy()))
        if "members" in state:  # version 0.2.0 wrote none
            self.specs = from_bytes(state["members"].numpy())
        members: list[Coder | TextSystem] = []
        for number, spec in enumerate(self.specs):
            mine = of_member(state, number)
            options = {k: v for k, v in spec["options"].items() if k != "seed"}
            if refused := {"pretrained", "vectors"} & {*options}:  # as for a card, see marn.saving
                what = f"a member has the option {min(refused)!r}, which reads other files"
                raise DamagedError(what)
            member: Coder | TextSystem
            if spec["name"] in self.registry:
                member = self.registry[spec["name"]](tasks=self.tasks, **options)
                member.take(mine)
            else:
                for start_of in ("bias_start", "code_start"):  # used before training
                    options.pop(start_of, None)
                network = Coder.registry[spec["name"]]
                sizes: dict[str, Any] = {"vocabulary_size": len(vocabulary), "tasks": self.tasks}
                member = network(**sizes | options)
                member.load_state_dict(mine)
            members.append(member)
        self.hold(members, vocabulary)


def _spec(member: Coder | TextSystem) -> dict[str, Any]:
    """Describe a trained member by its name and the options that build it."""
    options = {key: value for key, value in member.options.items() if key != "seed"}
    if isinstance(member, Coder):
        options["embedding_size"] = member.embedding_size
    return {"name": member.name, "options": options}
