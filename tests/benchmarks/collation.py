"""Sixteen notes into a batch: tokens and targets from flat arrays, against lists."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks import Bar, agree, interleaved
from benchmarks.made_up import made_up, note_lengths
from benchmarks.reference import collate as from_lists
from marn.corpus.batches import collate, reading_order

BARS = [Bar("ms", "16 notes", most=0.3, unit="ms")]
TASKS = {"icd": 50, "ccs": 38}


def measure(*, quick: bool) -> dict[str, float]:
    """Measure the bar and the ratio to lists."""
    notes, rounds = (32, 1) if quick else (320, 10)
    with tempfile.TemporaryDirectory() as folder:
        corpus = made_up(Path(folder) / "corpus", note_lengths(notes), TASKS)
        train = corpus["train"]
        order = reading_order(train.lengths, 16)
        texts = [train.note_tokens(i).tolist() for i in range(notes)]
        codes = [
            {task: train.code_indices(task, i).tolist() for task in TASKS} for i in range(notes)
        ]

        def listed(batch: list[int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return from_lists([texts[i] for i in batch], [codes[i] for i in batch], TASKS)

        ours = collate(train, order[0], TASKS, 4000)
        tokens, targets = listed(order[0].tolist())
        agree("tokens", ours.tokens, tokens, 0)
        agree("targets", ours.targets["icd"], targets["icd"], 0)
        taken = interleaved(
            {
                "ours": lambda: [
                    collate(train, batch, TASKS, 4000) for _ in range(rounds) for batch in order
                ],
                "reference": lambda: [listed(batch.tolist()) for batch in order],
            },
            repeats=5,
        )
        ours_ms = taken["ours"] / rounds / len(order) * 1000
        theirs_ms = taken["reference"] / len(order) * 1000
    return {"ms": ours_ms, "reference_ms": theirs_ms, "speed": theirs_ms / ours_ms}
