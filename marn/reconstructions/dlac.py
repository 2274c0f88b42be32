"""DLAC after Feucht et al. 2021: label attention whose queries are the codes' descriptions."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from marn.corpus import Corpus
from marn.models.base import Coder
from marn.models.descriptions import Descriptions, check_descriptions, descriptions, mean_vectors
from marn.nn.layers import BiGRU, Head, attend, attention_weights


class DescriptionAttention(Head):
    r"""Label attention in which a code's query is computed from the words of its description.

    For code l with the mean :math:`\bar x_l` of its description's word vectors, classifier
    :math:`w_l` and bias :math:`b_l`, and one affine layer (P, p) for all codes:

    .. math::
        d_l = P \bar x_l + p, \quad a_l = \mathrm{softmax}_t(d_l \cdot h_t / \sqrt D), \quad
        v_l = \sum_t a_{lt} h_t, \quad \mathrm{logit}_l = w_l \cdot v_l + b_l

    It is a head for any encoder. `start_words` replaces the means with title vectors, and sets P so
    that queries compare them with words.

    Args:
        size: D, number of features per position.
        tasks: number of codes of each task.
        described: {task: (C, E)}, the means, which are not trained.
    """

    def __init__(
        self, size: int, tasks: Mapping[str, int], *, described: Mapping[str, Tensor]
    ) -> None:
        super().__init__(tasks)
        bound = size**-0.5
        for task, codes in self.tasks.items():
            self.weight[task] = nn.Parameter(nn.init.xavier_uniform_(torch.empty(codes, size)))
            self.bias[task] = nn.Parameter(torch.empty(codes).uniform_(-bound, bound))
            self.register_buffer(f"description_{task}", described[task])
        self.projection = nn.Linear(next(iter(described.values())).shape[1], size)

    def start_words(self, task: str, vectors: Tensor) -> None:
        """Initialise from word vectors, see `Head.start_words`; they replace the descriptions."""
        size, width = self.weight[task].shape[1], vectors.shape[1]
        self.get_buffer(f"description_{task}").copy_(vectors)
        self.projection.weight.data[size - width :] = 2 * size**0.5 * torch.eye(width)
        self.projection.bias.data[size - width :] = 0
        self.weight[task].data[:, size - width :] = vectors

    def queries(self, task: str) -> Tensor:
        r"""Compute the queries of a task, :math:`d_l / \sqrt D`: (C, D)."""
        size = self.projection.out_features
        return self.projection(self.get_buffer(f"description_{task}")) * size**-0.5

    def label_representations(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Give each code its view of the note: (B, T, D) -> {task: (B, C, D)}."""
        queries = torch.cat([self.queries(task) for task in self.tasks])  # (sum of C, D)
        return self.by_task(attend(queries, features, features, mask, at_once=self.at_once))

    def attention(self, features: Tensor, mask: Tensor | None, task: str) -> Tensor:
        """Compute each code's weights over the positions: (B, T, D) -> (B, C, T), sums of 1."""
        return attention_weights(self.queries(task), features, mask)


class DLAC(Coder):
    """Description-based label attention classifier, after Feucht et al. 2021.

    This is a reconstruction: only the paper's abstract was read, which says that queries come from
    the codes' descriptions and that the encoder is one of several transformers. Here the encoder is
    a BiGRU, which needs no pretrained weights; `DescriptionAttention` can be the `head` of any
    `Coder`. Assumptions: a description is the mean of its words' vectors as they are when
    training starts (a GRU over them is another reading); scores are divided by the root of the
    width; each code has its own classifier.

    Without the embedding it has 814,250 parameters for 50 codes; the paper gives no size.

    Args:
        descriptions: for each task its codes' descriptions as word ids, in the order of the
            logits. `build` takes the titles of a corpus's codes. A code without words is described
            by the unknown word.
        hidden_size: width of one direction of the GRU; 300, as in MARN.
        **shared: see `Coder`.

    Raises:
        MarnError: descriptions are missing or do not fit the tasks.

    References:
        Feucht, Wu, Althammer and Tresp 2021 (W-NUT), abstract.
    """

    name = "dlac"
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "loss": "bce",
        # An assumption, for the BiGRU; a pretrained transformer needs about 2e-5.
        "learning_rate": 1e-3,
    }

    def __init__(
        self, *, descriptions: Descriptions | None = None, hidden_size: int = 300, **shared: Any
    ) -> None:
        texts = check_descriptions(
            self.name, descriptions, shared["tasks"], shared["vocabulary_size"], every=True
        )

        def head(size: int, tasks: Mapping[str, int]) -> DescriptionAttention:
            table = self.embedding.table.weight  # `Coder` creates it before the head
            means = {task: mean_vectors(texts[task], table) for task in tasks}
            return DescriptionAttention(size, tasks, described=means)

        super().__init__(feature_size=2 * hidden_size, head=head, **shared)
        self.encoder = BiGRU(self.embedding_size, hidden_size)

    @classmethod
    def options_from_corpus(cls, corpus: Corpus) -> dict[str, Any]:
        """Take the titles of the codes as their descriptions."""
        return {"descriptions": descriptions(corpus)}

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Encode with the BiGRU: (B, T, E) -> (B, T, D)."""
        return self.encoder(x, mask)
