"""Corpora: reading, text, codes and batches."""

from marn.corpus.reading import (
    EVIDENCE,
    FORMAT,
    SPLITS,
    CodeEntry,
    Corpus,
    Evidence,
    Split,
)

__all__ = ["EVIDENCE", "FORMAT", "SPLITS", "CodeEntry", "Corpus", "Evidence", "Split"]
