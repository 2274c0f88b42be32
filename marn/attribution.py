"""Find the words that carried a code: attention, occlusion, integrated gradients or a product.

Every method returns, for each code, a weight >= 0 for each word that was read. A word that counts
against a code has weight 0.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marn.errors import MarnError
from marn.evaluation import evaluating
from marn.models import Coder

Method = Literal["attention_gradients", "gradients", "attention", "occlusion"]

STEPS = 4
"""Points on the path of the integrated gradients; eight find the same words."""
CANDIDATES = 16
"""Words that are occluded for each code: those with the largest integrated gradients."""
_BATCH = 32  # notes with a word occluded that are read at once


def default_method(model: Any) -> Method:
    """Return the default method for a model: gradients, if it has any.

    In `book/experiments/explanations.py` (chapter 12) gradients are always close to the best method
    for CAML, BiGRU and MARN, on the evidence of the hospital and of CodiEsp. Attention is best for
    recurrent encoders, but misses the evidence in CAML.

    Example:
        >>> from marn import build
        >>> default_method(build("bigru", vocabulary_size=9, tasks={"icd": 2}))
        'gradients'
    """
    return "gradients" if hasattr(model, "embedding") else "occlusion"


def word_weights(
    model: Coder,
    tokens: Tensor,
    columns: Sequence[int],
    task: str,
    unknown: int,
    method: Method | None = None,
) -> NDArray[np.float32]:
    """Weigh the words of one note for some codes.

    * `"attention"`: the word's share of the code's attention.
    * `"gradients"`: integrated gradients of the logit, from a note of unknown words to the note,
      summed over the features of a word, in units of the logit.
    * `"occlusion"`: drop in the logit when the word is replaced by the unknown word.
    * `"attention_gradients"`: the product of the first two.

    Args:
        model: a system on any device; its mode is restored.
        tokens: (T,) int64, the note, without padding.
        columns: K columns of the task's logits.
        task: one of the model's tasks.
        unknown: the number of the unknown word.
        method: one of these; None chooses by `default_method`.

    Returns:
        (K, T') float32 >= 0, where T' is the number of words that the model reads.

    Raises:
        MarnError: the method is unknown, or does not work with the model.

    References:
        Sundararajan et al. 2017, integrated gradients; Edin et al. 2024, the product of attention
        and gradients.
    """
    method = method or default_method(model)
    if method not in get_args(Method):
        raise MarnError(f"method must be one of {get_args(Method)}, but got {method!r}")
    if not columns:
        return np.zeros((0, min(len(tokens), model.max_length)), np.float32)
    if method == "attention":
        weights = _attention(model, tokens, columns, task)
    elif method == "occlusion":
        weights = _occlusion(model, tokens, columns, task, unknown)
    else:
        weights = _gradients(model, tokens, columns, task, unknown)
        if method == "attention_gradients":
            weights = weights * _attention(model, tokens, columns, task)
    return weights.clamp(min=0).float().cpu().numpy()


def _attention(model: Coder, tokens: Tensor, columns: Sequence[int], task: str) -> Tensor:
    """Return each code's attention to the words, (K, T')."""
    with evaluating(model):
        weights = model.attention(tokens[None], _lengths(tokens[None]), task)[0]
        return weights[torch.as_tensor(columns, device=weights.device)]


def _occlusion(
    model: Coder, tokens: Tensor, columns: Sequence[int], task: str, unknown: int
) -> Tensor:
    """Return how far each logit falls without a word, (K, T'); zero for words not tried."""
    width, places = len(tokens), torch.arange(len(tokens), device=tokens.device)
    if hasattr(model, "embedding"):
        estimated = _gradients(model, tokens, columns, task, unknown)
        width = estimated.shape[1]
        places = estimated.topk(min(CANDIDATES, width)).indices.unique()
    chosen = torch.as_tensor(columns, device=tokens.device)
    with evaluating(model):
        whole = model(tokens[None], _lengths(tokens[None]))[task][0, chosen]
        drops = whole.new_zeros(len(chosen), width)
        for some in places.split(_BATCH):
            rows = tokens.repeat(len(some), 1)
            rows.scatter_(1, some[:, None], unknown)
            drops[:, some] = (whole - model(rows, _lengths(rows))[task][:, chosen]).T
    return drops


def _gradients(
    model: Coder, tokens: Tensor, columns: Sequence[int], task: str, unknown: int
) -> Tensor:
    """Return integrated gradients, (K, T').

    They are the mean gradient at `STEPS` points between a note of unknown words and the note,
    times the difference of the two embeddings, summed over the features.
    """
    rows = tokens.expand(STEPS, -1)
    lengths = _lengths(rows)
    units, _ = model.to_subwords(rows, lengths)  # (STEPS, U), rows of the embedding
    nothing, _ = model.to_subwords(rows.new_full((1, 1), unknown), _lengths(rows[:1, :1]))
    points: dict[str, Tensor] = {}

    def interpolate(module: torch.nn.Module, inputs: tuple[Tensor], vectors: Tensor) -> Any:
        if not torch.equal(inputs[0], units):  # titles and special tokens are embedded too
            return None
        share = (torch.arange(STEPS, device=start.device) + 0.5) / STEPS
        points["way"] = vectors.detach() - start
        points["at"] = (start + share[:, None, None] * points["way"]).requires_grad_()
        return points["at"]

    training = model.training
    model.eval()
    with torch.no_grad():
        start = model.embedding(nothing)[0, 0]  # (E,)
    hook = model.embedding.register_forward_hook(interpolate)
    try:
        # cuDNN's recurrent layers have no gradient in evaluation mode
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            logits = model(rows, lengths)[task][:, list(columns)].sum(0)  # (K,)
            found = [
                torch.autograd.grad(logit, points["at"], retain_graph=True)[0].mean(0)
                for logit in logits
            ]
    finally:
        hook.remove()
        model.train(training)
    over_units = (torch.stack(found) * points["way"][0]).sum(-1)  # (K, U)
    read = tokens[None, : model.max_length]
    return model.subwords_to_words(over_units[None], read, lengths[:1])[0]


def _lengths(rows: Tensor) -> Tensor:
    return torch.full((len(rows),), rows.shape[1], device=rows.device)
