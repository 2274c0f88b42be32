"""Notes of MIMIC-III's lengths with random words and codes, for benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.corpus_writer import CorpusWriter, replacing
from marn.corpus import CodeEntry, Corpus
from marn.corpus.text import Vocabulary

WORDS = 51_917
"""Words of MIMIC-III's vocabulary."""


def note_lengths(notes: int, *, shorter: float = 1, seed: int = 0) -> np.ndarray:
    """Draw lengths as those of MIMIC-III: log-normal, median 1,400, 10 % over 2,700, at most 4,000.

    Args:
        notes: N.
        shorter: what to divide them by.
        seed: of the draw.

    Returns:
        (N,) int64.
    """
    spread = np.log(2700 / 1400) / 1.2816  # the normal's 90th percentile
    drawn = np.random.default_rng(seed).lognormal(np.log(1400), spread, notes).clip(20, 4000)
    return np.maximum(drawn / shorter, 2).astype(np.int64)


def made_up(
    folder: Path,
    lengths: np.ndarray,
    tasks: dict[str, int],
    *,
    words: int = WORDS,
    share: float = 0.1,
    seed: int = 0,
) -> Corpus:
    """Write a corpus of random words, with the split train alone.

    Args:
        folder: to make.
        lengths: (N,) words of each note.
        tasks: number of codes of each.
        words: V.
        share: chance of a code to be a note's.
        seed: of words and codes.
    """
    rng = np.random.default_rng(seed)
    entries = {
        task: [CodeEntry(f"{k:05d}", "dx", "made up") for k in range(codes)]
        for task, codes in tasks.items()
    }
    with replacing(folder) as partial:
        writer = CorpusWriter(
            partial,
            entries,
            [-1] * tasks["icd"] if len(tasks) > 1 else [],
        )
        writer.split(
            "train",
            ids=[str(i) for i in range(len(lengths))],
            subjects=[str(i) for i in range(len(lengths))],
            sizes=np.zeros(len(lengths), np.int64),
            texts=[],
            lengths=lengths,
            tokens=[rng.integers(1, words + 1, n, dtype=np.int32) for n in lengths],
            columns={
                task: [np.flatnonzero(rng.random(codes) < share).tolist() for _ in lengths]
                for task, codes in tasks.items()
            },
        )
        writer.finish(
            vocabulary=Vocabulary([f"w{k:06d}" for k in range(words)]),
            name="made_up",
            source="random words of a benchmark",
            text="open",
            language="none",
            command="python -m benchmarks",
            seed=seed,
            ccs_key="kind:number",
            settings={},
            dropped={},
        )
    return Corpus.load(folder)
