"""DR-CAML: CAML with classifiers that are kept close to the descriptions of their codes."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from marn.baselines.caml import CAML
from marn.errors import MarnError
from marn.models.descriptions import Descriptions, check_descriptions, descriptions
from marn.nn.convolution import Convolution
from marn.nn.layers import length_mask

Reading = Literal["released", "paper"]


class DRCAML(CAML):
    r"""Description Regularised CAML.

    A second table of word vectors, a convolution, tanh, the maximum over the words and an affine
    layer turn a code's description into :math:`z_l`. For each note and each of its codes, training
    adds the squared distance of :math:`z_l` from the code's classifier :math:`w_l` (D values):

    .. math:: \frac{\lambda}{D} \sum_{l: y_l = 1} \lVert w_l - z_l \rVert^2

    in the released reading; the paper prints the mean over the note's codes and no 1/D. Both are
    averaged over the notes of a batch, and summed over the tasks that have descriptions. With
    `word_path`, :math:`w_l` is here only the part of the classifier on the encoder's D features,
    which come from a convolution as z does. The words of a title enter by `code_start`.

    With 51,919 rows in both tables and the unused query bias it has 10,491,550 parameters for 50
    codes and 11,396,392 for 8,921.

    Args:
        descriptions: for each task its codes' descriptions as word ids, in the order of the
            logits. `build` takes the titles of a corpus's codes. A task without descriptions is not
            regularised; a code without words is described by the unknown word.
        unseen: for each task the columns of codes that no training note has, which `build` finds in
            a corpus. Their classifiers only learn to predict nothing, so in evaluation z replaces w
            and the bias is 0. With `word_path`, the part of w on the words is kept.
        penalty_weight: lambda; 10 for the 50 codes, 0.01 for all of them.
        penalty_as: how the penalty is read, `"released"` or `"paper"`; see above.
        filters: D, number of channels of both convolutions; 50.
        kernel_size: number of tokens that they span; 10.
        **shared: see `Coder`; `max_length` is 2,500 here.

    Raises:
        MarnError: descriptions or columns do not fit the tasks.

    References:
        Mullenbach et al. 2018; the released code of caml-mimic, which pads a description to the
        longest one of its note, so that padding can win the maximum. `padding="released"` does the
        same; otherwise padding cannot win.
    """

    name = "dr_caml"

    def __init__(
        self,
        *,
        descriptions: Descriptions | None = None,
        unseen: Mapping[str, Sequence[int]] | None = None,
        penalty_weight: float = 10.0,
        penalty_as: Reading = "released",
        filters: int = 50,
        kernel_size: int = 10,
        **shared: Any,
    ) -> None:
        super().__init__(filters=filters, kernel_size=kernel_size, **shared)
        self.penalty_weight = penalty_weight
        self.penalty_as = penalty_as
        texts = check_descriptions(
            self.name, descriptions, self.tasks, shared["vocabulary_size"], every=False
        )
        self.described = list(texts)
        for task, text in texts.items():
            words = pad_sequence([torch.tensor(words) for words in text], batch_first=True)
            self.register_buffer(f"description_{task}", words, persistent=False)  # (C, words)
        self.unseen = {
            task: list(codes) for task, codes in (unseen or {}).items() if task in texts and codes
        }
        for task, codes in self.unseen.items():
            columns = range(self.tasks[task])
            if not all(isinstance(code, int) and code in columns for code in codes):
                raise MarnError(
                    f"unseen must give columns of task {task!r} as whole numbers from 0 to "
                    f"{columns[-1]}, but gives {list(codes)[:5]}"
                )
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
    def options_from_corpus(cls, corpus: Any) -> dict[str, Any]:
        """Take the titles of the codes, and the codes that no training note has."""
        return {
            "descriptions": descriptions(corpus),
            "unseen": {
                task: (corpus.frequency(task) == 0).nonzero()[0].tolist() for task in corpus.tasks
            },
        }

    def forward(self, tokens: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Score notes, see `Coder.forward`; in evaluation unseen codes use their descriptions."""
        features, mask = self.features(tokens, lengths)
        logits = self.head(features, mask)
        if self.training or not self.unseen:
            return logits
        views = self.head.label_representations(features, mask)
        for task, columns in self.unseen.items():
            codes = torch.tensor(columns, device=features.device)
            z = self.describe(task, codes)
            weight = torch.cat([z, self.head.weight[task][codes, z.shape[1] :]], dim=1)
            described = (views[task][:, codes] * weight).sum(dim=2)
            logits[task] = logits[task].index_copy(1, codes, described.to(logits[task].dtype))
        return logits

    def describe(self, task: str, codes: Tensor) -> Tensor:
        """Encode the descriptions of some codes of a task: columns (n,) int64 -> z (n, D)."""
        h, sizes = self._convolved(task, codes)
        mask = length_mask(self.positions(sizes), h.shape[1])
        return self.description_projection(h.masked_fill(~mask[..., None], -1).amax(dim=1))

    def _convolved(self, task: str, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve descriptions: columns (n,) -> (n, positions, D) before the maximum, words (n,).

        Padding has vectors of zeros, which is also what a convolution sees beyond its input.
        """
        words = self.get_buffer(f"description_{task}")[codes]
        sizes = (words > 0).sum(dim=1)
        words = words[:, : int(sizes.max())]
        return torch.tanh(self.description_convolution(self.description_embedding(words))), sizes

    def penalty(self, targets: Mapping[str, Tensor]) -> Tensor:
        """Compute how far classifiers are from descriptions: {task: (B, C)} targets -> scalar."""
        total = super().penalty(targets)
        for task in self.described:
            present = targets[task].bool()  # (B, C)
            codes = present.any(dim=0).nonzero()[:, 0]
            if not len(codes):  # one, with weight 0: on several devices all weights need gradients
                codes = codes.new_zeros(1)
            note, code = present[:, codes].nonzero(as_tuple=True)  # (P,), the pairs
            z = self._described_for(task, codes, note, code)
            weight = self.head.weight[task][codes][code, : z.shape[1]]  # (P, D), without words
            distance = (weight - z).square().sum(dim=1)  # (P,)
            if self.penalty_as == "released":
                distance = distance / z.shape[1]
            else:
                distance = distance / present.sum(dim=1)[note]
            total = total + self.penalty_weight * distance.sum() / len(present)
        return total

    def _described_for(self, task: str, codes: Tensor, note: Tensor, code: Tensor) -> Tensor:
        """Encode descriptions for pairs of notes and codes, (P,): columns (n,) -> z (P, D)."""
        if self.padding == "masked":
            return self.describe(task, codes)[code]
        h, sizes = self._convolved(task, codes)
        longest = sizes.new_zeros(int(note.max()) + 1 if len(note) else 0)
        longest = longest.scatter_reduce(0, note, sizes[code], "amax")  # of each note's codes
        last = self.positions(longest[note]) - 1  # of what is padded to them
        return self.description_projection(h.cummax(dim=1).values[code, last])
