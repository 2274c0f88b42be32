"""A training epoch and an evaluation, notes of MIMIC-III's lengths, 50 and 38 codes, batches of 16.

320 notes, a pool of 20 batches, of a fourth of the real lengths.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks import Bar, agree, interleaved, share_of_peak
from benchmarks.made_up import made_up, note_lengths
from benchmarks.reference import as_tensors, multiplications, transplant
from marn import plain
from marn.evaluation import predict
from marn.registry import build
from marn.train.config import TrainConfig
from marn.train.step import TrainingStep, epoch_batches

BARS = [
    Bar("train", "training epoch", least=2.0),
    Bar("evaluation", "evaluation", least=2.2),
    Bar("logits", "its logits against one note at a time", most=1e-6, unit="apart"),
]
TASKS = {"icd": 50, "ccs": 38}


def measure(*, quick: bool) -> dict[str, float]:
    """Measure the bars, the seconds of each side and the padding of each."""
    notes, shorter, batch_size, hidden, words = (
        (24, 100, 4, 8, 200) if quick else (320, 4, 16, 300, 51_917)
    )
    with tempfile.TemporaryDirectory() as folder:
        lengths = note_lengths(notes, shorter=shorter)
        corpus = made_up(Path(folder) / "corpus", lengths, TASKS, words=words)
        train = corpus["train"]
        model = build("marn", corpus, hidden_size=hidden)
        config = TrainConfig.of(model, batch_size=batch_size, device="cpu")
        texts, targets = as_tensors(train, TASKS)
        twin = transplant(model).eval()
        with torch.no_grad():
            rows = [twin(text[None]) for text in texts]
        ours = predict(model, corpus, "train")
        apart = max(
            float(np.abs(ours.logits[task] - torch.cat([row[task] for row in rows]).numpy()).max())
            for task in TASKS
        )
        step = TrainingStep(model, train, config)
        _same_loss(step, twin, texts[0], {task: y[:1] for task, y in targets.items()})
        read = interleaved(
            {
                "ours": lambda: predict(model, corpus, "train"),
                "reference": lambda: plain.predict(twin, texts, batch_size=1),
            }
        )
        epochs = iter(range(1, 1000))
        torch.manual_seed(0)

        def ours_epoch() -> None:
            model.train()
            for batch in epoch_batches(train, model, config, next(epochs)):
                step(batch, config.learning_rate)

        spent = interleaved(
            {
                "ours": ours_epoch,
                "reference": lambda: plain.train(twin, texts, targets, batch_size=batch_size),
            }
        )
        padded = sum(
            len(batch) * lengths[batch].max() for batch in epoch_batches(train, model, config, 1)
        )
    counted = int(lengths.sum()) * sum(multiplications(hidden, sum(TASKS.values())).values())
    return {
        "train": spent["reference"] / spent["ours"],
        "evaluation": read["reference"] / read["ours"],
        "logits": apart,
        "train_seconds": spent["ours"],
        "train_reference_seconds": spent["reference"],
        "evaluation_seconds": read["ours"],
        "evaluation_reference_seconds": read["reference"],
        "train_of_peak": share_of_peak(3 * counted, spent["ours"]),
        "evaluation_of_peak": share_of_peak(counted, read["ours"]),
        "padding": float(padded / lengths.sum() - 1),
    }


def _same_loss(
    step: TrainingStep, twin: plain.MARN, text: torch.Tensor, targets: dict[str, torch.Tensor]
) -> None:
    """Check that both sides have the same loss on one note, which needs no padding."""
    model = step.model.eval()
    with torch.no_grad():
        ours = step.config.loss_of(model(text[None], torch.tensor([len(text)])), targets)
        agree("loss", float(ours), float(plain.joint_loss(twin(text[None]), targets)), 1e-6)
