"""A training epoch and an evaluation, notes of MIMIC-III's lengths, 50 and 38 codes, batches of 16.

320 notes, a pool of 20 batches, of a fourth of the real lengths.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks import Bar, agree, interleaved
from benchmarks.made_up import made_up, note_lengths
from benchmarks.reference import Loop, Reference
from marn.evaluation import predict
from marn.registry import build
from marn.train.config import TrainConfig
from marn.train.loop import TrainingStep, epoch_batches

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
        texts = [train.note_tokens(i).tolist() for i in range(notes)]
        codes = [
            {task: train.code_indices(task, i).tolist() for task in TASKS} for i in range(notes)
        ]
        loop = Loop(Reference(model), texts, codes, dict(config.task_weights))
        step = TrainingStep(model, train, config)
        _same_loss(step, loop)
        theirs = loop.predict()
        ours = predict(model, corpus, "train")
        apart = max(float(np.abs(ours.logits[t] - theirs[t].numpy()).max()) for t in TASKS)
        read = interleaved(
            {"ours": lambda: predict(model, corpus, "train"), "reference": loop.predict}
        )
        epochs = iter(range(1, 1000))
        torch.manual_seed(0)

        def ours_epoch() -> None:
            model.train()
            for batch in epoch_batches(train, model, config, next(epochs)):
                step(batch, config.learning_rate)

        spent = interleaved({"ours": ours_epoch, "reference": lambda: loop.epoch(batch_size)})
        padded = sum(
            len(batch) * lengths[batch].max() for batch in epoch_batches(train, model, config, 1)
        )
    return {
        "train": spent["reference"] / spent["ours"],
        "evaluation": read["reference"] / read["ours"],
        "logits": apart,
        "train_seconds": spent["ours"],
        "train_reference_seconds": spent["reference"],
        "evaluation_seconds": read["ours"],
        "evaluation_reference_seconds": read["reference"],
        "padding": float(padded / lengths.sum() - 1),
    }


def _same_loss(step: TrainingStep, loop: Loop) -> None:
    """See that both sides have the same loss on one note, which needs no padding."""
    tokens, targets = loop.batch([0])
    model = step.model.eval()
    with torch.no_grad():
        ours = step.config.loss_of(model(tokens, torch.tensor([tokens.shape[1]])), targets)
        agree("loss", float(ours), float(loop.loss(loop.model.eval()(tokens), targets)), 1e-6)
