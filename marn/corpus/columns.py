"""Names of the columns of tables of notes, for whoever reads one."""

import re
import unicodedata

TEXT_NAMES = (
    *("text", "note_text", "report_text", "document_text", "full_text", "note", "report"),
    *("content", "body", "discharge_summary", "summary", "transcription", "document", "texto"),
)
ID_NAMES = (
    *("note_id", "hadm_id", "_id", "id", "admission_id", "doc_id", "document_id", "case_id"),
    *("report_id", "file_name", "filename", "file", "document", "doc", "note", "case", "name"),
    *("encounter_id", "visit_id", "row_id", "study_id", "uid", "key", "identifier"),
)
"""Names of a column of ids, the likeliest first, compared by `bare`."""
SEPARATOR_LINE = re.compile(r'\s*"?sep=.?"?[,;]*\s*', re.IGNORECASE)
"""The first line that Excel may write above the header of a CSV."""


def bare(name: str) -> str:
    """Return a column's name without case, blanks and punctuation: "Note ID" is "noteid"."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())
