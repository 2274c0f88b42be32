"""Corpora: reading, text, codes and batches."""

from marn.corpus.reading import (
    EVIDENCE,
    FORMAT,
    SPLITS,
    CodeEntry,
    Corpus,
    Evidence,
    Split,
    as_corpus,
)

__all__ = ["EVIDENCE", "FORMAT", "SPLITS", "CodeEntry", "Corpus", "Evidence", "Split", "as_corpus"]
