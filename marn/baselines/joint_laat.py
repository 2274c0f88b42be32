"""JointLAAT: LAAT in two levels, where coarse codes inform the fine ones."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from marn.baselines.laat import LAAT
from marn.errors import MarnError
from marn.nn.heads import TanhAttention


class JointAttention(TanhAttention):
    r"""LAAT's head, with one task, the coarse one, that informs all others.

    If p are the probabilities of the coarse codes, the view of a fine code is its attended features
    followed by :math:`g = \sigma(p G)`, which is the same for all fine codes.

    Args:
        size: D, number of features per position.
        tasks: number of codes of each task.
        attention_size: A, width of the hidden layer of the attention.
        coarse: the task that informs the others; None if there is none.
        coarse_size: number of features of g.

    References:
        Vu, Nguyen and Nguyen 2020 (JointLAAT).
    """

    def __init__(
        self,
        size: int,
        tasks: Mapping[str, int],
        *,
        attention_size: int,
        coarse: str | None,
        coarse_size: int,
    ) -> None:
        super().__init__(size, tasks, attention_size=attention_size)
        self.coarse = coarse
        if coarse is None:
            return
        self.coarse_projection = nn.Linear(self.tasks[coarse], coarse_size, bias=False)
        for task, codes in self.tasks.items():
            if task != coarse:
                self.weight[task] = nn.Parameter(torch.randn(codes, size + coarse_size) * 0.03)

    def label_representations(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Give each code its view: (B, T, D) -> {task: (B, C, D)}; fine ones also get g."""
        views = super().label_representations(features, mask)
        if self.coarse is None:
            return views
        logits = (views[self.coarse] * self.weight[self.coarse]).sum(2) + self.bias[self.coarse]
        extra = torch.sigmoid(self.coarse_projection(torch.sigmoid(logits)))[:, None]
        return {
            task: view
            if task == self.coarse
            else torch.cat([view, extra.expand(-1, view.shape[1], -1)], dim=2)
            for task, view in views.items()
        }


class JointLAAT(LAAT):
    """LAAT that predicts coarse codes first and lets their probabilities inform the fine ones.

    The paper's coarse level is the category, the part of a code before its point: a task named
    "category", if the corpus has one, else the task "ccs". With neither of them, or with a single
    task, the system is LAAT.

    Compared with LAAT for C fine codes, C' coarse codes add
    2u d_a + C' (d_a + 2u + 1 + 128) + 128 C parameters.

    Args:
        coarse: the task that informs the others; by default "category", or else "ccs".
        coarse_size: number of features that the coarse probabilities are projected to; 128.
        **shared: see `LAAT`.

    Raises:
        MarnError: `coarse` is not one of several tasks.

    References:
        Vu, Nguyen and Nguyen 2020 (IJCAI); the projection and its two sigmoids as in the released
        code aehrc/LAAT. That code weights each level by its share of the codes
        (`task_weights={task: codes / all}`), whereas the paper sums the losses.
    """

    name = "joint_laat"
    training_defaults: ClassVar[Mapping[str, Any]] = {
        **LAAT.training_defaults,
        "task_weights": {"icd": 1.0},  # as all others: each level has weight 1 in the paper
    }

    def __init__(self, *, coarse: str | None = None, coarse_size: int = 128, **shared: Any) -> None:
        tasks = shared["tasks"]
        if coarse is None and len(tasks) > 1:
            coarse = next((task for task in ("category", "ccs") if task in tasks), None)
        elif coarse is not None and (coarse not in tasks or len(tasks) == 1):
            raise MarnError(f"coarse must be one of several tasks, not {coarse!r} of {[*tasks]}")
        head = partial(JointAttention, coarse=coarse, coarse_size=coarse_size)
        super().__init__(head, **shared)
