"""Recognise the names of columns, splits and kinds of codes in your own tables."""

from typing import Final

PATIENTS: Final = ("subject_id", "patient_id", "person_id", "subject", "patient", "mrn")
SPLIT: Final = ("split", "splits", "set", "subset", "fold", "partition")
CODES: Final = (
    *("code", "codes", "icd_code", "icd_codes", "icd", "icd9_code", "icd9_codes", "icd9"),
    *("icd10_code", "icd10_codes", "icd10", "icd10cm", "icd9cm", "label", "labels", "target"),
    *("codigo", "código"),
)
DIAGNOSES: Final = (
    *("dx", "dx_code", "dx_codes", "diagnosis_code", "diagnosis_codes", "diagnosis", "diagnoses"),
    *("icd9_diag", "icd10_diag", "diag"),
)
PROCEDURES: Final = (
    *("pr", "px", "pr_code", "pr_codes", "procedure_code", "procedure_codes", "procedure"),
    *("procedures", "icd9_proc", "icd10_proc", "proc"),
)
KINDS: Final = ("kind", "code_type", "code_kind")
WRONG_SPLIT: Final = (
    "its split is none of train, dev (or val, valid, validation, development) and test; correct it"
)

WRONG_KIND: Final = "its kind is neither dx (or diagnosis) nor pr (or procedure); correct it"

_KIND_NAMES: Final = {
    "": "",
    **dict.fromkeys(("dx", "d", "diag", "diagnosis", "diagnoses", "diagnostico"), "dx"),
    **dict.fromkeys(("pr", "p", "px", "proc", "procedure", "procedures", "procedimiento"), "pr"),
}
_SPLIT_NAMES: Final = {
    **dict.fromkeys(("train", "training", "trn", "tr"), "train"),
    **dict.fromkeys(("dev", "devel", "development", "val", "valid", "validation"), "dev"),
    **dict.fromkeys(("test", "testing", "tst", "te"), "test"),
}


def split_name(written: str) -> str | None:
    """Return the split, "train", "dev" or "test", that a word names, or None for any other word.

    >>> split_name("Validation"), split_name("fold 3")
    ('dev', None)
    """
    return _SPLIT_NAMES.get(written.strip().casefold())


def kind_name(written: str) -> str | None:
    """Return the kind, "dx" or "pr", that a word names, "" for a blank, None for any other word."""
    return _KIND_NAMES.get(written.strip().casefold())
