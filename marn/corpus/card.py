"""The card of a corpus: what it is, how it was made, and the size and hash of each of its files."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from marn.errors import MarnError
from marn.settings import read_json_file

FORMAT = 1
"""Version of the layout on disk; a corpus of another version is refused."""

CARD = "card.json"
VECTORS = "vectors.npy"


class _Created(BaseModel, strict=True):
    command: str


class _OldCard(BaseModel, strict=True):
    """Fields that are read from the card of a corpus of any version."""

    created: _Created


class _File(BaseModel, strict=True):
    bytes: int
    sha256: str


class _Card(_OldCard, strict=True):
    """Fields that are read from the card of a corpus of this version."""

    name: str
    text: Literal["open", "credentialed"]
    splits: dict[Literal["train", "dev", "test"], dict[str, Any]] = Field(min_length=1)
    tasks: dict[str, int] = Field(min_length=1)
    ccs_key: str | None
    settings: dict[str, Any]
    dropped: dict[str, int]
    roles: list[str]
    hash: str
    files: dict[str, _File]
    vectors: _File | None


def read_part(path: Path, form: Any) -> Any:
    """Read a JSON file of a corpus, whose contents must be of a type that pydantic knows.

    Raises:
        MarnError: the file cannot be read, or is damaged.
    """
    try:
        return TypeAdapter(form).validate_python(read_json_file(path))
    except ValidationError as error:
        what = ".".join(map(str, error.errors(include_input=False)[0]["loc"])) or "its contents"
    except MarnError as error:
        what = str(error).partition(";")[0]
    except ValueError:
        what = "not JSON"
    except OSError as error:
        raise MarnError(f"{path} cannot be read: {error.strerror}") from None
    raise MarnError(f"{path} is damaged ({what}); make the corpus again")


def read_card(path: Path) -> dict[str, Any]:
    """Read the card of the corpus in a folder.

    Raises:
        MarnError: the folder holds no corpus, or its card is damaged.
    """
    if path.is_file():
        raise MarnError(f"{path} is a file; pass the folder of a corpus")
    try:
        has_card = (path / CARD).is_file()
    except OSError as error:
        raise MarnError(f"{path} cannot be read: {error.strerror}") from None
    if not has_card:
        if (path / "model.json").exists():
            raise MarnError(f"{path} is the folder of a run; pass the folder of a corpus instead")
        raise MarnError(
            f"no corpus at {path}; make one with: python -m data_prep teaching --out {path} "
            "(own for your own notes; or mimic3, codiesp: see python -m data_prep --help)"
        )
    card: dict[str, Any] = read_part(path / CARD, dict[str, Any])
    if "format" not in card or "created" not in card:
        raise MarnError(f"{path / CARD} is not the card of a corpus; pass another folder")
    read_part(path / CARD, _Card if card["format"] == FORMAT else _OldCard)
    return card


def remedy_of(card: Mapping[str, Any]) -> str:
    """Say how to make a corpus again, by its card."""
    return f"make it again with: {card['created']['command']}"


def files_of(card: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file by the card, word vectors included."""
    files = dict(card["files"])
    if card["vectors"] is not None:
        files[VECTORS] = card["vectors"]
    return files


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
