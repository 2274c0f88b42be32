"""Losses: binary cross-entropy, focal loss in both readings, and the weighted sum over tasks.

A loss depends only on logits and targets, not on the model.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from marn.errors import MarnError

Reading = Literal["released", "paper"]
Reduction = Literal["mean", "sum_codes", "none"]


def smooth(targets: Tensor, share: float) -> Tensor:
    """Soften targets for cross-entropy: y (1 - s) + s / C.

    Args:
        targets: (B, C) float, 0 or 1.
        share: s in [0, 1); 0 returns `targets` as they are.

    Returns:
        (B, C) float in [0, 1].

    References:
        Ji et al. 2020 (DCAN), with s = 0.1.

    Example:
        >>> smooth(torch.tensor([[1.0, 0.0]]), 0.5).tolist()
        [[0.75, 0.25]]
    """
    return targets * (1 - share) + share / targets.shape[1] if share else targets


def bce_loss(logits: Tensor, targets: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Compute binary cross-entropy, the loss of CAML, MultiResCNN and MT-RAM.

    Args:
        logits: (B, C) float, unbounded.
        targets: (B, C) float, 0 or 1, or between if smoothed.
        reduction: `"mean"` over notes and codes (the released code of all three systems),
            `"sum_codes"` for the sum over codes and the mean over notes (MT-RAM Eqs. 12-13 as
            printed), `"none"` for the (B, C) losses.

    Returns:
        A scalar, or (B, C) with `reduction="none"`, in nats.

    Raises:
        MarnError: the shapes differ, or `reduction` is unknown.

    Example:
        >>> bce_loss(torch.zeros(2, 3), torch.ones(2, 3)).item()  # log 2
        0.6931471824645996
    """
    _check(logits, targets)
    loss = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return _reduce(loss, reduction)


def focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.999,
    gamma: float = 2.0,
    reading: Reading = "released",
    reduction: Reduction | None = None,
) -> Tensor:
    r"""Compute the focal loss, as the authors' code does or as the paper prints it.

    With :math:`p_t` the predicted probability of the truth (p for a present code, 1 - p for an
    absent one), both readings weight the cross-entropy of each decision by its uncertainty:

    .. math:: FL = w \, (1 - p_t)^\gamma \, (-\log p_t)

    They differ in the weight and in the sum:

    * `"released"`: :math:`w = \alpha` for present and absent codes alike; mean over notes and
      codes. Adam ignores a constant factor, apart from its epsilon and gradient clipping.
    * `"paper"` (Eq. 16): :math:`w = \alpha` for present codes and :math:`1 - \alpha` for absent
      ones; sum over codes, mean over notes. The best output then crosses 0.5 where the true
      probability is :math:`1 - \alpha`, whatever :math:`\gamma` is.

    It is computed from log-sigmoids, so that it and its gradients are finite for any logit.

    Args:
        logits: (B, C) float, unbounded.
        targets: (B, C) float, 0 or 1.
        alpha: weight, dimensionless; in (0, 1) for `"paper"`, > 0 for `"released"`. Default 0.999
            (Section 4.2 of the paper).
        gamma: focusing exponent, >= 0. 0 gives `alpha` times the cross-entropy in the released
            reading. Default 2 (Section 4.2).
        reading: `"released"` (VRCMF/MARN, class `FocalLoss`) or `"paper"` (Sun et al. 2022,
            Eq. 16).
        reduction: as in `bce_loss`; by default that of the reading.

    Returns:
        A scalar, or (B, C) with `reduction="none"`, in nats times the weight.

    Raises:
        MarnError: the shapes differ, an argument is out of range, or a name is unknown.

    Example:
        >>> present, logits = torch.ones(1, 1), torch.zeros(1, 1)
        >>> round(focal_loss(logits, present, alpha=0.5, gamma=2.0).item(), 4)  # log(2) / 8
        0.0866
    """
    _check(logits, targets)
    _check_focal(alpha, gamma, reading)
    targets = targets.to(logits.dtype)
    signed = (2 * targets - 1) * logits  # (B, C): positive where the decision is right
    loss = -torch.exp(gamma * F.logsigmoid(-signed)) * F.logsigmoid(signed)
    if reading == "released":
        loss = alpha * loss
    else:
        loss = (alpha * targets + (1 - alpha) * (1 - targets)) * loss
    return _reduce(loss, reduction or ("mean" if reading == "released" else "sum_codes"))


def multitask_loss(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Compute the weighted sum of the tasks' losses: Eq. 17 (MARN), Eq. 14 (MT-RAM).

    Args:
        losses: one scalar per task.
        weights: weight per task; 1 for a task that is not named.

    Returns:
        A scalar.

    Raises:
        MarnError: there are no losses, or a weight names a task without a loss.
    """
    if not losses:
        raise MarnError("losses must have at least one task, but got none")
    unknown = sorted(set(weights) - set(losses))
    if unknown:
        raise MarnError(
            f"task_weights name unknown tasks {unknown}; the tasks are {sorted(losses)}"
        )
    return torch.stack([weights.get(task, 1.0) * loss for task, loss in losses.items()]).sum()


def _check(logits: Tensor, targets: Tensor) -> None:
    if logits.shape != targets.shape:
        raise MarnError(
            f"logits and targets must have the same shape, but got {tuple(logits.shape)} and "
            f"{tuple(targets.shape)}"
        )


def _check_focal(alpha: float, gamma: float, reading: str) -> None:
    if gamma < 0:
        raise MarnError(f"gamma must be at least 0, but got {gamma}; 0 is cross-entropy")
    if reading not in get_args(Reading):
        raise MarnError(f"reading must be one of {get_args(Reading)}, but got {reading!r}")
    if alpha <= 0 or (reading == "paper" and alpha >= 1):
        limits = "in (0, 1)" if reading == "paper" else "> 0"
        raise MarnError(f"alpha must be {limits} for reading {reading!r}, but got {alpha}")


def _reduce(loss: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum_codes":
        return loss.sum(dim=-1).mean()
    if reduction == "none":
        return loss
    raise MarnError(f"reduction must be one of {get_args(Reduction)}, but got {reduction!r}")
