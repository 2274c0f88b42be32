"""What you choose when you make a corpus, the same for every source."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from marn.errors import MarnError
from marn.settings import Count, Location, settings


@settings
class PrepareConfig:
    """The settings that every source has; each adds its own in a subclass."""

    out: Location
    """Folder of the corpus to write."""
    codes: str = "50"
    """How many of the most frequent codes to keep, or "full" for all."""
    min_code_count: Count = 1
    """Admissions with a note that a code must be in to be kept (Edin et al. 2023: 10)."""
    keep_uncoded: bool = False
    """Keep notes without a code; by default they are left out."""
    splits: Location | None = None
    """Folder of {train,dev,test}_CODES_hadm_ids.csv, lists of admissions in CAML's form; a table of
    ids and splits (CSV, Parquet or Feather, such as those of Edin et al. 2023); or shares of the
    patients, such as 0.8,0.1,0.1. By default patients are split by a hash."""
    min_count: Count = 3
    """Training notes that a word must occur in to enter the vocabulary (CAML: 3)."""
    vocabulary: Literal["corpus", "full"] = "corpus"
    """Notes that give the vocabulary and the word vectors: "corpus", its own; "full", those of all
    admissions, as in CAML and MARN also for 50 codes (with lists: train_full_hadm_ids.csv)."""
    vectors: Literal["train", "all", "none"] = "train"
    """Notes that word2vec learns from: "train", "all" (as the papers read) or "none"."""
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
        """Name of the corpus: that of its folder."""
        return self.out.resolve().name

    def options(self) -> str:
        """Write the settings that make the corpus what it is as options of a command line."""
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
class CcsConfig(PrepareConfig):
    """The settings of a source whose codes have CCS categories."""

    ccs_procedures: Location | None = None
    """HCUP's prref 2015 file, or "hcup" to download it. By default, the categories of procedures
    that the project states itself."""
    ccs_key: Literal["kind:number", "number"] = "kind:number"
    """What tells categories apart; the papers merge equal numbers of diagnoses and procedures
    ("number")."""
    ccs_lookup: Literal["all", "released"] = "all"
    """Procedures that have a category: "all" of the table; "released", as MARN's released converter
    has it, none that is written as a stub (17.) or with a second decimal of zero (93.90)."""

    def options(self) -> str:
        """Write the settings that make the corpus what it is as options of a command line."""
        return super().options() + (
            f" --ccs-lookup {self.ccs_lookup}" if self.ccs_lookup != "all" else ""
        )


def check_out(out: Path, *raw: Path | None) -> None:
    """Refuse to write a corpus over the raw files.

    Args:
        out: folder of the corpus.
        *raw: files and folders that are read; None is passed over.

    Raises:
        MarnError: `out` is one of them, or holds one.
    """
    for path in raw:
        if path is not None and out.resolve() in [path.resolve(), *path.resolve().parents]:
            raise MarnError(f"{out} holds the raw files; choose another folder for --out")
