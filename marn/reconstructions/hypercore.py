"""HyperCore after Cao et al. 2020: CAML, a hyperbolic tree of codes, a co-occurrence graph."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from marn.baselines.caml import CAML
from marn.corpus import Corpus
from marn.errors import MarnError
from marn.models.descriptions import Descriptions, check_descriptions, descriptions, mean_vectors
from marn.nn.layers import LabelAttention, attend, attention_weights
from marn.reconstructions import ASSUMED

EDGE = 1e-5
"""Minimum distance of a point from the boundary of the ball, as in Nickel and Kiela 2017."""

COMPANIONS = 10
"""Number of most similar codes that each code chooses; it has edges to those that chose it, too."""

Tree = Mapping[str, Sequence[Sequence[str]] | None]
Edges = Mapping[str, Sequence[Sequence[float]]]


def distance(u: Tensor, v: Tensor) -> Tensor:
    r"""Compute the distance between points in the Poincaré ball.

    .. math::
        d(u, v) = \operatorname{arcosh}\left(
        1 + 2 \frac{\lVert u - v \rVert^2}{(1 - \lVert u \rVert^2)(1 - \lVert v \rVert^2)}\right)

    Args:
        u: (…, p) float, inside the ball of radius 1.
        v: (…, p) float, the same.

    Returns:
        (…), >= 0; at least about 1e-6, because the gradient is infinite at 0.

    References:
        Nickel and Kiela 2017, Eq. 1.
    """
    inside = (1 - u.square().sum(dim=-1)) * (1 - v.square().sum(dim=-1))
    x = (2 * (u - v).square().sum(dim=-1) / inside).clamp(min=1e-12)
    return torch.log1p(x + (x * (x + 2)).sqrt())  # arcosh(1 + x), exact near 0


def _pairs(chains: Sequence[Sequence[str]]) -> tuple[dict[str, int], Tensor, Tensor]:
    """Number the nodes of a tree, root included; pair each node (P,) with each ancestor (P,)."""
    paths = [[*chain, ""] for chain in chains]
    number = {name: row for row, name in enumerate(dict.fromkeys(n for p in paths for n in p))}
    pairs = {(number[low], number[high]) for path in paths for low, high in combinations(path, 2)}
    low, high = torch.tensor(sorted(pairs)).T
    return number, low, high


def embed_tree(
    chains: Sequence[Sequence[str]],
    size: int,
    *,
    steps: int = 200,
    learning_rate: float = 0.1,
    negatives: int = 10,
    at_once: int = 4096,
) -> Tensor:
    r"""Embed a tree of codes in the Poincaré ball.

    Each node u attracts each of its ancestors v and repels some nodes N that are neither ancestors
    nor descendants of it, drawn anew in each step:

    .. math::
        L = -\sum_{(u, v)} \log \frac{e^{-d(u, v)}}{e^{-d(u, v)} + \sum_{n \in N} e^{-d(u, n)}},
        \quad \theta \leftarrow \mathrm{proj}\left(
        \theta - \eta \frac{(1 - \lVert\theta\rVert^2)^2}{4} \nabla_\theta L\right)

    A node's gradient is averaged over its terms. gensim's `PoincareModel` does the same pair by
    pair, which takes 30 times as long for 8,921 codes and 5 epochs.

    Args:
        chains: for each code its own name, its parent's, and so on upwards.
        size: p, dimensions of the ball.
        steps: number of updates.
        learning_rate: eta.
        negatives: number of nodes drawn per pair.
        at_once: maximum number of pairs per step; they are drawn at random if there are more.

    Returns:
        (C, p) float32, the points of the codes, with norms below 1.

    References:
        Nickel and Kiela 2017, Eqs. 4 to 6.
    """
    number, all_low, all_high = _pairs(chains)
    pairs, nodes = len(all_low), len(number)
    itself = torch.arange(nodes) * (nodes + 1)
    kin = torch.cat([all_low * nodes + all_high, all_high * nodes + all_low, itself]).sort().values
    theta = torch.empty(nodes, size, dtype=torch.float64).uniform_(-1e-3, 1e-3)
    count = min(pairs, at_once)
    for _ in range(steps):
        chosen = torch.randperm(pairs)[:count] if pairs > count else slice(None)
        low, high = all_low[chosen], all_high[chosen]
        drawn = torch.randint(nodes, (count, negatives))
        keys = low[:, None] * nodes + drawn
        is_kin = kin[torch.searchsorted(kin, keys).clamp(max=len(kin) - 1)] == keys
        others = torch.cat([high[:, None], drawn], dim=1)
        with torch.enable_grad():
            point = theta.clone().requires_grad_()
            scores = -distance(point[low][:, None], point[others])
            scores = scores.masked_fill(F.pad(is_kin, (1, 0)), float("-inf"))
            loss = F.cross_entropy(scores, torch.zeros_like(low), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, point)
        terms = torch.bincount(torch.cat([low, others.flatten()]), minlength=nodes)
        scale = (1 - theta.square().sum(dim=1, keepdim=True)).square() / 4
        theta = theta - learning_rate * scale * gradient / terms.clamp(min=1)[:, None]
        theta = theta / (theta.norm(dim=1, keepdim=True) / (1 - EDGE)).clamp(min=1)
    return theta[[number[chain[0]] for chain in chains]].float()


class CodeGraph(nn.Module):
    r"""Two graph convolutions over the codes of a task.

    With edges A, the codes' degrees in :math:`A + I` on the diagonal of :math:`\Delta`, and
    :math:`\hat A = \Delta^{-1/2} (A + I) \Delta^{-1/2}`:

    .. math:: Y = \hat A \, \mathrm{ReLU}(\hat A X W_1) \, W_2

    Args:
        features: (C, E), X, which are not trained.
        edges: `[i, j, weight]` of each pair of codes that has an edge, once.
        size: D, number of features per code in both layers.

    References:
        Kipf and Welling 2017, Eq. 9.
    """

    def __init__(self, features: Tensor, edges: Sequence[Sequence[float]], size: int) -> None:
        super().__init__()
        one, two, weight = torch.tensor(edges, dtype=features.dtype).reshape(-1, 3).T
        codes = torch.arange(len(features))
        target = torch.cat([one.long(), two.long(), codes])
        origin = torch.cat([two.long(), one.long(), codes])
        weight = torch.cat([weight, weight, torch.ones_like(features[:, 0])])
        degree = torch.zeros_like(features[:, 0]).index_add(0, target, weight)  # (C,)
        weight = weight / (degree[target] * degree[origin]).sqrt()
        self.register_buffer("features", features)
        self.register_buffer("target", target, persistent=False)
        self.register_buffer("origin", origin, persistent=False)
        self.register_buffer("weight", weight, persistent=False)
        self.first = nn.Linear(features.shape[1], size, bias=False)
        self.second = nn.Linear(size, size, bias=False)

    def _spread(self, x: Tensor) -> Tensor:
        origin, target, weight = map(self.get_buffer, ("origin", "target", "weight"))
        return torch.zeros_like(x).index_add(0, target, x[origin] * weight[:, None].to(x.dtype))

    def forward(self) -> Tensor:
        """Compute the features of the codes, Y: (C, D)."""
        return self._spread(self.second(torch.relu(self._spread(self.first(self.features)))))


class HyperCoreAttention(LabelAttention):
    r"""Label attention with two queries per code, and the note's distance from each code.

    Code l has CAML's view :math:`m_l`; a second view :math:`c_l`, whose query is row :math:`y_l` of
    `CodeGraph`; and the distance of its point :math:`\theta_l` in the ball from the point that an
    affine layer assigns to :math:`m_l`:

    .. math::
        [r; \rho] = P m_l + p, \quad z_l = \sigma(\rho) \frac{r}{\lVert r \rVert}, \quad
        t_l = -d(z_l, \theta_l), \quad \mathrm{logit}_l = w_l \cdot [m_l; c_l; t_l] + b_l

    The weight of t_l starts at 1. Each task has its own points, graph and affine layer.

    Args:
        size: D, number of features per position.
        tasks: number of codes of each task.
        places: {task: (C, p)}, the points theta; an empty mapping leaves t out.
        graphs: {task: graph of its codes}; an empty mapping leaves c out.
    """

    def __init__(
        self,
        size: int,
        tasks: Mapping[str, int],
        *,
        places: Mapping[str, Tensor],
        graphs: Mapping[str, CodeGraph],
    ) -> None:
        super().__init__(size, tasks)
        self.graphs = nn.ModuleDict(graphs)
        self.to_ball = nn.ModuleDict()
        for task, codes in self.tasks.items():
            parts = [self.weight[task].data]
            if graphs:
                parts.append(nn.init.xavier_uniform_(torch.empty(codes, size)))
            if places:
                parts.append(torch.ones(codes, 1))
                self.register_buffer(f"places_{task}", places[task])
                self.to_ball[task] = nn.Linear(size, places[task].shape[1] + 1)
            self.weight[task] = nn.Parameter(torch.cat(parts, dim=1))

    @property
    def declared_unused(self) -> int:
        """Zero, because no code was released."""
        return 0

    def place(self, views: Tensor, task: str) -> Tensor:
        """Map views of notes to points in the ball: (B, C, D) -> (B, C, p), norms below 1."""
        moved = self.to_ball[task](views).to(self.get_buffer(f"places_{task}").dtype)
        radius = torch.sigmoid(moved[..., -1:]) * (1 - EDGE)
        return radius * F.normalize(moved[..., :-1], dim=-1)

    def label_representations(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Concatenate the parts m, c and t in use: (B, T, D) -> {task: (B, C, width)}."""
        views = super().label_representations(features, mask)
        for task, view in views.items():
            parts = [view]
            if self.graphs:
                codes = self.graphs[task]()
                parts.append(attend(codes, features, features, mask, at_once=self.at_once))
            if self.to_ball:
                places = self.get_buffer(f"places_{task}")
                parts.append(-distance(self.place(view, task), places)[..., None])
            views[task] = torch.cat(parts, dim=2)
        return views

    def attention(self, features: Tensor, mask: Tensor | None, task: str) -> Tensor:
        """Average the weights of a code's two queries: (B, T, D) -> (B, C, T)."""
        own = super().attention(features, mask, task)
        if not self.graphs:
            return own
        return (own + attention_weights(self.graphs[task](), features, mask)) / 2


class HyperCore(CAML):
    """Hyperbolic and co-graph representation, after Cao et al. 2020.

    This is a reconstruction: no code was released, and only the paper's abstract and short accounts
    of it were read. They say that codes form a tree in a Poincaré ball, that notes are mapped into
    it too, and that a graph convolution runs over codes that occur together. Assumptions: CAML's
    convolution as the encoder; how the parts are combined (`HyperCoreAttention`); points of codes
    that training does not change; the similarity of two codes' columns as an edge's weight;
    descriptions as means of the word vectors that training starts with.

    Either part can be left out; without both it is CAML. With `word_path` both parts use the words;
    `code_start="titles"` initialises the queries and classifiers of :math:`m_l`.

    Without the embedding it has 65,711 parameters for 50 codes; the paper gives no size.

    Args:
        hyperbolic: whether to use the tree.
        graph: whether to use the graph.
        tree: for each task and code its name, its parent's, and so on up to below the root.
            `build` takes the prefixes of a corpus's codes: 427.31, 427.3, 427, then the kind, "dx"
            or "pr". None for a task whose points come with saved weights.
        edges: for each task `[i, j, weight]` of each pair of codes that has an edge, once; i and j
            are columns. `build` takes the cosine of two codes' columns in the training notes and
            keeps each code's ten largest.
        descriptions: for each task its codes' descriptions as word ids, in the order of the logits,
            for the graph. `build` takes the titles of a corpus's codes. A code without words is
            described by the unknown word.
        ball_size: p, number of dimensions of the ball; 10, an assumption.
        tree_steps: number of updates of the embedding of the tree; 200, an assumption.
        filters: D, number of channels of the convolution; 50 as in CAML, an assumption.
        kernel_size: number of tokens that it spans; 10.
        **shared: see `Coder`; `max_length` is 2,500 here.

    Raises:
        MarnError: the tree, edges or descriptions are missing or do not fit the tasks.

    References:
        Cao et al. 2020 (ACL), abstract; Nickel and Kiela 2017 for the ball, Kipf and Welling 2017
        for the graph; MT-RAM (Sun et al. 2021), which notes that there is no source code.
    """

    name = "hypercore"
    training_defaults = ASSUMED

    def __init__(
        self,
        *,
        hyperbolic: bool = True,
        graph: bool = True,
        tree: Tree | None = None,
        edges: Edges | None = None,
        descriptions: Descriptions | None = None,
        ball_size: int = 10,
        tree_steps: int = 200,
        filters: int = 50,
        kernel_size: int = 10,
        **shared: Any,
    ) -> None:
        super().__init__(filters=filters, kernel_size=kernel_size, **shared)
        size = filters + self.word_path * self.embedding_size
        places, graphs = {}, {}
        if hyperbolic:
            for task, chains in self._of_all_tasks(tree, "tree", "hyperbolic").items():
                if chains is None:
                    places[task] = torch.zeros(self.tasks[task], ball_size)
                else:
                    self._check_tree(task, chains)
                    places[task] = embed_tree(chains, ball_size, steps=tree_steps)
        if graph:
            of_tasks = self._of_all_tasks(edges, "edges", "graph")
            texts = check_descriptions(
                self.name, descriptions, self.tasks, shared["vocabulary_size"], every=True
            )
            for task, given in of_tasks.items():
                self._check_edges(task, given)
                features = mean_vectors(texts[task], self.embedding.table.weight)
                graphs[task] = CodeGraph(features, given, size)
        self.head = HyperCoreAttention(size, self.tasks, places=places, graphs=graphs)

    def _of_all_tasks(
        self, given: Mapping[str, Any] | None, name: str, part: str
    ) -> dict[str, Any]:
        missing = [task for task in self.tasks if task not in (given or {})]
        if given is None or missing:
            raise MarnError(
                f"hypercore needs {name} of the codes of {missing}; give a corpus, or {name}, or "
                f"{part}=False"
            )
        return {task: given[task] for task in self.tasks}

    def _check_tree(self, task: str, chains: Sequence[Sequence[str]]) -> None:
        codes = self.tasks[task]
        if len(chains) != codes or not all(chains) or len({c[0] for c in chains}) != codes:
            raise MarnError(
                f"tree must give each of the {codes} codes of task {task!r} its own name first"
            )

    def _check_edges(self, task: str, given: Sequence[Sequence[float]]) -> None:
        codes = self.tasks[task]
        for edge in given:
            if len(edge) != 3 or not (
                0 <= edge[0] < codes and 0 <= edge[1] < codes and edge[2] > 0
            ):
                raise MarnError(
                    f"edges of task {task!r} must be [i, j, weight] with two columns below {codes} "
                    f"and a weight above 0, but one is {list(edge)}"
                )

    @classmethod
    def options_from_corpus(cls, corpus: Corpus) -> dict[str, Any]:
        """Take the prefixes of the codes, their co-occurrence in training, and their titles."""
        return {
            "tree": {
                task: [ancestry(code.kind, code.code) for code in codes]
                for task, codes in corpus.codes.items()
            },
            "edges": {task: company(corpus, task) for task in corpus.tasks},
            "descriptions": descriptions(corpus),
        }

    def saved_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Leave the tree out: its embedding is saved with the weights."""
        return options | {"tree": dict.fromkeys(options["tree"])} if "tree" in options else options


def ancestry(kind: str, code: str) -> list[str]:
    """Name a code and its ancestors, by its prefixes.

    Args:
        kind: "dx" or "pr".
        code: with a point before its subdivisions, or without any, as in CCS.

    Returns:
        Names from the code up to its kind.

    Example:
        >>> ancestry("dx", "427.31")
        ['dx 427.31', 'dx 427.3', 'dx 427', 'dx']
    """
    before, dot, after = code.partition(".")
    prefixes = [f"{before}.{after[:size]}" for size in range(len(after), 0, -1)] if dot else []
    return [*(f"{kind} {prefix}" for prefix in [*prefixes, before]), kind]


def company(corpus: Corpus, task: str) -> list[list[float]]:
    """Find the codes that occur together in the training notes.

    Args:
        corpus: a corpus with a split "train".
        task: the task whose codes are compared.

    Returns:
        `[i, j, cosine]` with i < j for the `COMPANIONS` largest cosines of each code. The cosine is
        the number of notes with both codes over the geometric mean of the numbers with each code,
        rounded to four decimals.
    """
    train = corpus["train"]
    notes = [train.code_indices(task, note) for note in range(len(train))]
    rows = np.repeat(np.arange(len(notes)), [len(codes) for codes in notes])
    columns = np.concatenate([np.zeros(0, np.int64), *notes])
    shape = (len(notes), corpus.tasks[task])
    present = sparse.csr_matrix((np.ones(len(columns)), (rows, columns)), shape=shape)
    together = (present.T @ present).tocoo()
    counts = together.diagonal()
    apart = together.row != together.col
    one, two = together.row[apart], together.col[apart]
    weight = together.data[apart] / np.sqrt(counts[one] * counts[two])
    ranked = np.lexsort((two, -weight, one))  # by code, then from the largest
    starts = np.searchsorted(one[ranked], np.arange(shape[1]))
    kept = ranked[np.arange(len(ranked)) - starts[one[ranked]] < COMPANIONS]
    pairs = zip(one[kept].tolist(), two[kept].tolist(), weight[kept].tolist(), strict=True)
    edges = {(min(i, j), max(i, j)): round(cosine, 4) for i, j, cosine in pairs}
    return [[i, j, cosine] for (i, j), cosine in sorted(edges.items()) if cosine > 0]
