"""Define the settings that every source shares."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from marn.errors import MarnError
from marn.settings import Count, Location, settings


@settings
class PrepareConfig:
    """Set the options of every source; each adds its own in a subclass."""

    out: Location
    """Folder of the corpus to write."""
    codes: str = "50"
    """How many of the most frequent codes to keep, or "full" for all."""
    min_code_count: Count = 1
    """Minimum number of admissions with a note for a code to be kept (Edin et al. 2023: 10)."""
    keep_uncoded: bool = False
    """Keep notes without a code; by default they are left out."""
    splits: Location | None = None
    """Folder of {train,dev,test}_CODES_hadm_ids.csv, lists of admissions in CAML's form; a table of
    ids and splits (CSV, Parquet or Feather, such as those of Edin et al. 2023); or shares of the
    patients, such as 0.8,0.1,0.1. By default patients are split by a hash."""
    min_count: Count = 3
    """Minimum number of training notes for a word to enter the vocabulary (CAML: 3)."""
    vocabulary: Literal["corpus", "full"] = "corpus"
    """Notes for the vocabulary and word vectors: "corpus", the corpus's own; "full", those of all
    admissions, as CAML and MARN do even with 50 codes (with lists: train_full_hadm_ids.csv)."""
    vectors: Literal["train", "all", "none"] = "train"
    """Notes for word2vec: "train", "all" (as in the papers) or "none"."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of the split by patient and of the word vectors."""

    @field_validator("codes")
    @classmethod
    def _is_a_number_or_full(cls, codes: str) -> str:
        codes = codes.strip().casefold()
        if codes != "full" and not (codes.isdecimal() and int(codes) > 0):
            raise ValueError("a number of at least 1, or 'full'")
        return codes

    @property
    def name(self) -> str:
        """Name of the corpus, taken from its folder."""
        return self.out.resolve().name

    def options(self) -> str:
        """Return the settings that determine the corpus as command-line options."""
        written = f"--codes {self.codes} --min-count {self.min_count} --vectors {self.vectors} "
        written += f"--seed {self.seed}"
        if self.min_code_count > 1:
            written += f" --min-code-count {self.min_code_count}"
        written += " --keep-uncoded" if self.keep_uncoded else ""
        written += f" --vocabulary {self.vocabulary}" if self.vocabulary != "corpus" else ""
        if self.splits is not None:
            is_path = any(mark.isalpha() for mark in str(self.splits))
            written += f" --splits {'SPLITS' if is_path else self.splits}"
        return written


@settings
class CasesConfig(PrepareConfig):
    """Set the options of a source of cases, which are not admissions and have official splits."""

    min_code_count: Count = 1
    """Minimum number of cases that must have a code for it to be kept."""
    keep_uncoded: bool = False
    """Keep cases without a code; by default they are left out."""
    splits: Location | None = None
    """Instead of the official splits: a folder of {train,dev,test}_CODES_hadm_ids.csv, lists of
    cases in CAML's form; a table of ids and splits (CSV, Parquet or Feather); or shares of the
    cases, such as 0.8,0.1,0.1."""
    min_count: Count = 3
    """Minimum number of training cases for a word to enter the vocabulary (CAML: 3)."""
    vocabulary: Literal["corpus", "full"] = "corpus"
    """Cases for the vocabulary and word vectors: "corpus", the corpus's own training cases; "full",
    all training cases, also those without a kept code."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of the word vectors, and of the split if --splits gives shares."""


@settings
class CcsConfig(PrepareConfig):
    """Set the options of a source whose codes have CCS categories."""

    ccs_procedures: Location | None = None
    """HCUP's prref 2015 file, or "hcup" to download it; by default the project's own table of
    procedure categories."""
    ccs_key: Literal["kind:number", "number"] = "kind:number"
    """What identifies a category: "kind:number", or "number" alone, which merges diagnoses and
    procedures with the same number, as the papers do."""
    ccs_lookup: Literal["all", "released"] = "all"
    """Which procedures get a category: "all" in the table, or "released", as in MARN's released
    converter, all but those written as a stub (17.) or with a second decimal of zero (93.90)."""

    def options(self) -> str:
        """Return the settings that determine the corpus as command-line options."""
        return super().options() + (
            f" --ccs-lookup {self.ccs_lookup}" if self.ccs_lookup != "all" else ""
        )


def check_out(out: Path, *raw: Path | None) -> None:
    """Refuse to write a corpus over the raw files.

    Args:
        out: folder of the corpus.
        *raw: files and folders that are read; None is ignored.

    Raises:
        MarnError: `out` is one of them, or contains one.
    """
    for path in raw:
        if path is not None and out.resolve() in [path.resolve(), *path.resolve().parents]:
            raise MarnError(f"{out} contains the raw files; choose another folder for --out")
