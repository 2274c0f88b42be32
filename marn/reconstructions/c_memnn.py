"""C-MemNN after Prakash et al. 2017: a memory of texts that a note queries several times."""

from collections.abc import Mapping
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor, nn

from marn.corpus import Corpus
from marn.models.base import Coder
from marn.models.descriptions import Descriptions, check_descriptions, descriptions, mean_vectors
from marn.nn.heads import PooledHead
from marn.reconstructions import ASSUMED


def condensed_sizes(size: int, hops: int) -> list[int]:
    """Return the K + 1 widths of the condensed state: a hop halves it, rounded down, and adds D."""
    return [*accumulate(range(hops), lambda width, _: size + width // 2, initial=size)]


class CondensedMemory(PooledHead):
    r"""Query a memory K times, and keep a state that condenses all answers.

    Slot i of the memory is a text, represented by the mean :math:`\bar x_i` of its word vectors.
    The first query is the mean of a note's positions, :math:`u_0 = s_0`. Hop k, with matrices K and
    V for keys and values, and a separate matrix :math:`D_k`:

    .. math::
        p_k &= \mathrm{softmax}_i(u_{k-1} \cdot K \bar x_i) \\
        o_k &= \sum_i p_{ki} V \bar x_i, \quad u_k = u_{k-1} + o_k \\
        s_k &= [o_k; D_k s_{k-1}]

    :math:`D_k` halves the width, so that s stays narrower than two u, and the answers of earlier
    hops fade but are not lost. Logits are an affine layer on the last s.

    Args:
        size: D, number of features per position.
        tasks: number of codes of each task.
        memory: (N, E), the means of the texts, which are not trained.
        hops: K, number of queries.
    """

    def __init__(self, size: int, tasks: Mapping[str, int], *, memory: Tensor, hops: int) -> None:
        *widths, last = condensed_sizes(size, hops)
        super().__init__(last, tasks)
        self.register_buffer("memory", memory)
        self.keys = nn.Linear(memory.shape[1], size, bias=False)
        self.values = nn.Linear(memory.shape[1], size, bias=False)
        self.condense = nn.ModuleList(nn.Linear(width, width // 2, bias=False) for width in widths)

    def recall(self, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Query the memory.

        Args:
            asked: (B, D), u_0.

        Returns:
            The condensed state (B, S), and the weights of each hop (B, K, N), rows summing to 1.
        """
        keys, values = self.keys(self.memory), self.values(self.memory)  # (N, D) each
        state, looks = asked, []
        for condense in self.condense:
            look = (asked @ keys.T).softmax(dim=1)  # (B, N)
            answer = look @ values
            asked = asked + answer
            state = torch.cat([answer, condense(state)], dim=1)
            looks.append(look)
        return state, torch.stack(looks, dim=1)

    def pool(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the condensed state of each note: (B, T, D), (B, T) -> (B, S)."""
        if mask is None:
            return self.recall(features.mean(dim=1))[0]
        total = (features * mask[..., None]).sum(dim=1)
        return self.recall(total / mask.sum(dim=1, keepdim=True))[0]


class CMemNN(Coder):
    """Condensed memory network, after Prakash et al. 2017.

    This is a reconstruction: no code was found, and only the paper's abstract was read; the
    equations are general knowledge of the paper. Known differences: the paper's memory consists of
    Wikipedia pages with their titles as keys, whereas here it consists of the codes' descriptions,
    each of which is both key and value; the paper's split and 50 codes are not CAML's. Assumptions:
    bags of words are means; the condensed state starts as the note's own bag; all widths.

    The order of words has no effect without RAM. There is no attention over tokens: the hops attend
    to the memory (`CondensedMemory.recall`).

    Without the embedding it has 107,344 parameters for 50 codes; the paper gives no size.

    Args:
        descriptions: the memory: for at least one task the codes' descriptions as word ids, in the
            order of the logits. `build` takes the titles of a corpus's codes. A code without words
            is described by the unknown word.
        hidden_size: D, width of a bag; 100, an assumption.
        hops: K, number of queries to the memory; 5.
        **shared: see `Coder`; `max_length` is 2,500 here.

    Raises:
        MarnError: descriptions are missing or do not fit the tasks.

    References:
        Prakash et al. 2017 (AAAI), abstract; end-to-end memory networks, Sukhbaatar et al. 2015.
    """

    name = "c_memnn"
    has_attention = takes_words = False
    training_defaults = ASSUMED

    def __init__(
        self,
        *,
        descriptions: Descriptions | None = None,
        hidden_size: int = 100,
        hops: int = 5,
        **shared: Any,
    ) -> None:
        shared.setdefault("max_length", 2500)
        texts = check_descriptions(
            self.name, descriptions, shared["tasks"], shared["vocabulary_size"], every=False
        )

        def head(size: int, tasks: Mapping[str, int]) -> CondensedMemory:
            table = self.embedding.table.weight  # `Coder` creates it before the head
            memory = mean_vectors([*chain.from_iterable(texts.values())], table)
            return CondensedMemory(size, tasks, memory=memory, hops=hops)

        super().__init__(feature_size=hidden_size, head=head, **shared)
        self.projection = nn.Linear(self.embedding_size, hidden_size)

    @classmethod
    def options_from_corpus(cls, corpus: Corpus) -> dict[str, Any]:
        """Take the titles of the codes as the memory."""
        return {"descriptions": descriptions(corpus)}

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Encode each word by itself: (B, T, E) -> (B, T, D)."""
        h = self.projection(x)
        return h if mask is None else h * mask[..., None]
