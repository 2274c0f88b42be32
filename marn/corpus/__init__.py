"""Corpora: reading, text, codes and batches."""

from marn.corpus.card import FORMAT
from marn.corpus.reading import (
    EVIDENCE,
    SPLITS,
    CodeEntry,
    Corpus,
    Evidence,
    Split,
    as_corpus,
)

__all__ = ["EVIDENCE", "FORMAT", "SPLITS", "CodeEntry", "Corpus", "Evidence", "Split", "as_corpus"]
