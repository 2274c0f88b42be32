"""DR-CAML: CAML whose classifiers are held near the descriptions of their codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Unpack, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from marn.errors import MarnError
from marn.layers import Convolution, length_mask
from marn.models.base import SharedOptions, descriptions
from marn.models.caml import CAML

Reading = Literal["released", "paper"]


class DRCAML(CAML):
    r"""Description Regularised CAML.

    A code's description goes through a table of word vectors of its own, a convolution, tanh, the
    maximum over its words and an affine layer to :math:`z_l`. Training adds, for each note and each
    of its codes, how far that is from the code's classifier :math:`w_l` (D values):

    .. math:: \frac{\lambda}{D} \sum_{l: y_l = 1} \lVert w_l - z_l \rVert^2

    in the released reading; the paper prints the mean over the note's codes and no 1/D. Both are
    averaged over the notes of a batch. Where several tasks have descriptions, their terms add up.

    Parameters with 51,919 rows in both tables and the unused query bias: 10,491,550 with 50 codes,
    11,396,392 with 8,921.

    Args:
        descriptions: for each task its codes' descriptions as word ids, in the order of the
            logits, as lists (they are written into the model's card). `build` takes the titles of a
            corpus's codes. A task without is not regularised. Without words, a code is described
            by the unknown word.
        penalty_weight: lambda; 10 for the 50 codes, 0.01 for all of them.
        penalty_as: `"released"` or `"paper"`.
        filters: D, channels of both convolutions; 50.
        kernel_size: tokens that they span; 10.
        **shared: see `Coder`; `max_length` is 2,500 here.

    Raises:
        MarnError: descriptions are missing, not lists of word ids, or not one for each code;
            `penalty_as` is unknown.

    References:
        Mullenbach et al. 2018; the released code of caml-mimic. There a description is padded to
        the longest of its note, and padding can win the maximum; here descriptions are read
        without padding.
    """

    name = "dr_caml"
    recipe: ClassVar[Mapping[str, Any]] = CAML.recipe

    def __init__(
        self,
        *,
        descriptions: Mapping[str, Sequence[Sequence[int]]] | None = None,
        penalty_weight: float = 10.0,
        penalty_as: Reading = "released",
        filters: int = 50,
        kernel_size: int = 10,
        **shared: Unpack[SharedOptions],
    ) -> None:
        super().__init__(filters=filters, kernel_size=kernel_size, **shared)
        if penalty_as not in get_args(Reading):
            raise MarnError(f"penalty_as must be one of {get_args(Reading)}, not {penalty_as!r}")
        self.penalty_weight = penalty_weight
        self.penalty_as = penalty_as
        given = {task: texts for task, texts in (descriptions or {}).items() if task in self.tasks}
        if not given:
            raise MarnError(
                f"dr_caml needs descriptions of the codes of one of its tasks, {list(self.tasks)}: "
                "{task: a list of word ids for each code}"
            )
        rows = shared["vocabulary_size"]
        self.described = list(given)
        for task, texts in given.items():
            if len(texts) != self.tasks[task]:
                raise MarnError(
                    f"task {task!r} has {self.tasks[task]} codes, but {len(texts)} descriptions"
                )
            words = [word for text in texts for word in text]
            if not all(isinstance(word, int) and 0 < word < rows for word in words):
                raise MarnError(
                    f"descriptions of task {task!r} must be lists of word ids from 1 to {rows - 1};"
                    " take .tolist() of an array"
                )
            ids = [torch.tensor(list(text) or [rows - 1]) for text in texts]
            for key, value in {
                "words": pad_sequence(ids, batch_first=True),  # (C, words)
                "sizes": torch.tensor([len(text) for text in ids]),  # (C,)
            }.items():
                self.register_buffer(f"description_{key}_{task}", value, persistent=False)
        self.description_embedding = nn.Embedding.from_pretrained(
            self.embedding.table.weight.detach().clone(), freeze=False, padding_idx=0
        )
        self.description_convolution = Convolution(
            self.embedding_size, filters, kernel_size, padding=kernel_size // 2
        )
        self.description_projection = nn.Linear(filters, filters)
        nn.init.xavier_uniform_(self.description_convolution.weight)
        nn.init.xavier_uniform_(self.description_projection.weight)

    @classmethod
    def knowledge(cls, corpus: Any) -> dict[str, Any]:
        """Take the titles of the codes as their descriptions."""
        return {"descriptions": descriptions(corpus)}

    def describe(self, task: str, codes: Tensor) -> Tensor:
        """Encode the descriptions of some codes.

        Args:
            task: one that has descriptions.
            codes: (n,) int64, columns of the task.

        Returns:
            (n, D), z.
        """
        sizes = self.get_buffer(f"description_sizes_{task}")[codes]
        words = self.get_buffer(f"description_words_{task}")[codes, : int(sizes.max())]
        h = torch.tanh(self.description_convolution(self.description_embedding(words)))
        mask = length_mask(self.positions(sizes), h.shape[1])
        return self.description_projection(h.masked_fill(~mask[..., None], -1).amax(dim=1))

    def penalty(self, targets: Mapping[str, Tensor]) -> Tensor:
        """Distance of the present codes' classifiers from their descriptions.

        Args:
            targets: {task: (B, C)} float, 0 or 1.

        Returns:
            A scalar.
        """
        total = super().penalty(targets)
        for task in self.described:
            present = targets[task].bool()  # (B, C)
            codes = present.any(dim=0).nonzero()[:, 0]
            if not len(codes):
                continue
            classifiers = self.head.weight[task][codes]
            distance = (classifiers - self.describe(task, codes)).square().sum(dim=1)  # (n,)
            share = present[:, codes].to(distance.dtype)
            if self.penalty_as == "released":
                share = share / classifiers.shape[1]
            else:
                share = share / present.sum(dim=1, keepdim=True).clamp(min=1)
            total = total + self.penalty_weight * (share @ distance).mean()
        return total

    @torch.no_grad()
    def describe_unseen(self, task: str, frequency: Any) -> None:
        """Classify codes that training never met by their descriptions, as the release tests.

        Their classifiers become z, their biases 0, in place.

        Args:
            task: one that has descriptions.
            frequency: (C,) training notes of each code: `corpus.frequency(task)`.

        Raises:
            MarnError: the task has no descriptions, or `frequency` is not one number a code.
        """
        if task not in self.described:
            raise MarnError(f"task must be one of {self.described}, but got {task!r}")
        counts = torch.as_tensor(frequency, device=self.head.bias[task].device)
        if counts.shape != self.head.bias[task].shape:
            raise MarnError(
                f"frequency must have one number for each of {self.tasks[task]} codes, but has "
                f"shape {tuple(counts.shape)}"
            )
        codes = (counts == 0).nonzero()[:, 0]
        if len(codes):
            self.head.weight[task][codes] = self.describe(task, codes)
            self.head.bias[task][codes] = 0
