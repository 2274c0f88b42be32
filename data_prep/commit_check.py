"""Refuse to commit files that may contain credentialed text: `python -m data_prep.commit_check`.

Staged contents are examined, not the work tree. A file passes if

* it is of a kind that belongs to the project (`ALLOWED`), in UTF-8; unreadable files are refused;
* it has no sign of MIMIC's notes and ids, and no mark of a credentialed corpus
  (`marn.privacy.announce`);
* it shares no eight consecutive words with a note of a credentialed corpus below `data/` or in the
  folders of `git config marn.corpora` (`data_prep.word_windows`);
* if it is a notebook with outputs, their corpora are known to be open;
* if it is a JSON result of a credentialed corpus, it has aggregates only (`data_prep.publishable`).

Pictures in the outputs of a notebook are not examined.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from data_prep.note_signs import UnreadableError, legible, mimic_id, placeholder, respelled
from data_prep.publishable import withheld
from data_prep.word_windows import WINDOW, card_of, corpora_below, runs_of, shared_runs
from marn.errors import MarnError
from marn.settings import read_json

ALLOWED: Final = (
    "*.py *.md *.ipynb Makefile LICENSE citation.cff pyproject.toml requirements.lock "
    "environment.yml _config.yml .gitignore .pre-commit-config.yaml .ci/* .githooks/* "
    ".github/*.yml book/_toc.yml book/references.bib book/*.svg book/_ext/static/*.css "
    "book/_ext/static/*.js book/experiments/*.yaml book/results/*.json data_prep/audit/*.csv "
    "data_prep/code_systems/*.csv data_prep/hospital/*.csv data_prep/hospital/*.txt "
    "data_prep/hospital/*.toml marn/experiments/*.csv marn/experiments/*.json "
    "marn/train/*.json marn/py.typed data_prep/py.typed tests/*.json tests/*.cfg *_editmsg"
).lower().split()  # fmt: skip
"""Names of files that may be committed if their contents are harmless. A star matches anything."""

REVIEWED: Final[frozenset[str]] = frozenset()
"""SHA-256 of files that would be refused, but pass because a person has reviewed them."""

_LARGEST: Final = 20_000_000  # bytes of a file that is read
_HOSPITAL: Final = "data_prep/hospital/"  # the teaching hospital's language has placeholders
_OPEN_NAMES: Final = ("teaching", "tiny", "codiesp", "cantemist")  # names of open corpora begin so
_PICTURES: Final = {  # how they begin and end
    "image/png": (b"\x89PNG", b"IEND\xaeB`\x82"),
    "image/jpeg": (b"\xff\xd8", b"\xff\xd9"),
    "image/gif": (b"GIF8", b"\x3b"),
}
_CHUNKS: Final = frozenset(  # chunks of a PNG without compressed text or unknown data
    b"IHDR PLTE IDAT IEND tEXt pHYs gAMA sRGB iCCP cHRM tIME bKGD tRNS sBIT".split()
)
_TEXT_TYPE: Final = re.compile(
    r"text/|image/svg|application/(?:[\w.+-]{0,80}json|javascript|vnd\.)"
)

_MARK: Final = re.compile(
    r"\[credentialed corpus [0-9a-f]{12}|Corpus\('[^'\n]{1,200}'[^'\n]{0,400}; text credentialed\)"
)
_OURS: Final = re.compile(r"\b(?:marn|data_prep)\b")
_LOADS: Final = re.compile(r"\bCorpus\.load\(|\bload_model\(")
_CORPUS: Final = re.compile(  # corpus: str = "…", corpus = Path("…")
    r"""\bcorpus\s{0,9}(?::[\w\s|.]{0,40})?=[\w\s.(]{0,40}['"]([^'"\n]{1,300})['"]"""
)
_LITERAL: Final = re.compile(r"""['"]([^'"\n]{1,300})['"]""")
_KEEP: Final = "keep it below data/ or runs/, which git ignores"
_CLEAR: Final = "clear its outputs, or keep it below runs/"
_KIND: Final = f"is not of a kind that is known to be harmless; {_KEEP}"
_AGGREGATE: Final = "publish aggregates, see data_prep.publishable"


@dataclass(frozen=True)
class _Checkout:
    """A work tree, with the credentialed corpora to compare with."""

    root: Path

    @cached_property
    def corpora(self) -> dict[Path, dict[str, Any]]:
        command = ["git", "config", "--type=path", "--get-all", "marn.corpora"]
        named = subprocess.run(command, cwd=self.root, capture_output=True, text=True).stdout
        return corpora_below([self.root / "data", *map(Path, named.splitlines())])

    @cached_property
    def hashes(self) -> set[str]:
        return {card["hash"] for card in self.corpora.values()}

    def is_open(self, name: str, notebook: str) -> bool | None:
        """Return whether a corpus is open, or None if unknown."""
        places = (self.root / notebook).parent / name, self.root / "book" / name, self.root / name
        for folder in places:  # folders in which kernels may run
            if (card := card_of(folder)) is not None:
                return card.get("text") == "open"
        if Path(name).name in {folder.name for folder in self.corpora}:
            return False
        return True if Path(name).name.startswith(_OPEN_NAMES) else None


@dataclass
class _Part:
    """A part of what would be committed, as text, and what to examine it for."""

    text: str
    remedy: str = _KEEP
    """What to do if it may hold credentialed text."""
    ids: bool = True
    """Whether ids of MIMIC are a sign."""
    placeholders: bool = True
    """Whether placeholders of MIMIC are a sign."""


def examine(path: Path, root: Path | None = None, content: bytes | None = None) -> list[str]:
    """Return why a file must not be committed.

    Args:
        path: the file, from the root or absolute; it need not exist if `content` is given.
        root: root of the checkout, whose `data/` says which corpora are credentialed; by default
            the work tree around the file.
        content: what would be committed; by default the file in the work tree.

    Returns:
        Reasons, one line each with a remedy, which show nothing of the file; empty if it may be
        committed.

    Example:
        >>> examine(Path("notes.csv"), Path("."), b"")
        ['notes.csv: is not of a kind that is known to be harmless; keep it below data/ or runs/, \
which git ignores']
    """
    path = (path if root is None else root / path).absolute()
    if root is None:
        root = next((folder for folder in path.parents if (folder / ".git").exists()), path.parent)
    root = root.absolute()
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    return _examine_all([(name, path.read_bytes() if content is None else content)], root)


def _examine_all(files: Iterable[tuple[str, bytes]], root: Path) -> list[str]:
    """Examine files, given by their paths from the root."""
    checkout = _Checkout(root)
    found = [(name, *_examine(name, data, checkout)) for name, data in files]
    for corpus in checkout.corpora:
        counts = shared_runs([runs for *_, runs in found], corpus)
        for (_, reasons, _), count in zip(found, counts, strict=True):
            if count:
                shared = f"{count} run{'s' * (count > 1)} of {WINDOW} words"
                reasons.append(f"shares {shared} with notes of {corpus.name}; {_KEEP}")
    return [f"{name}: {reason}" for name, reasons, _ in found for reason in dict.fromkeys(reasons)]


def _examine(name: str, data: bytes, checkout: _Checkout) -> tuple[list[str], NDArray[np.uint64]]:
    """Return why a file is refused, and its runs of words to compare with the corpora."""
    reasons: list[str] = []
    runs = [np.zeros(0, np.uint64)]
    if sha256(data).hexdigest() in REVIEWED:
        return reasons, runs[0]
    lower = name.lower()
    try:
        if not any(fnmatchcase(lower, pattern) for pattern in ALLOWED):
            raise UnreadableError(_KIND)
        if len(data) > _LARGEST:
            raise UnreadableError(f"has more than {_LARGEST:,} bytes; {_KEEP}")
        text = _text(data)
        if lower.endswith(".ipynb"):
            parts = list(_of_notebook(_json(text), name, checkout))
        else:
            # tests and the hospital's language have ids and placeholders that are made up
            hospital = name.startswith(_HOSPITAL)
            parts = [_Part(text, ids=not lower.endswith(".py"), placeholders=not hospital)]
            if lower.endswith(".json"):
                reasons += _of_result(_json(text), checkout)
                parts += [_Part(_readable(_json(text)))]
        for part in (*parts, _Part(name, remedy="choose another name")):
            text = legible(part.text)
            if checkout.corpora:
                runs += [runs_of(text), runs_of(respelled(text))]
            reasons += (f"{sign}; {part.remedy}" for sign in _signs(text, part, checkout))
    except UnreadableError as error:
        reasons.append(str(error))
    return reasons, np.concatenate(runs)


def _text(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UnreadableError(
            f"is not text in UTF-8, so it cannot be examined; save it as UTF-8, or {_KEEP}"
        )
    return text


def _json(text: str) -> Any:
    try:
        return read_json(text)
    except ValueError:
        raise UnreadableError(f"is not JSON that can be read; {_KEEP}") from None


def _of_notebook(notebook: Any, name: str, checkout: _Checkout) -> Iterator[_Part]:
    """Yield the sources and metadata of a notebook, then its outputs."""
    try:
        metadata, cells = notebook["metadata"], notebook["cells"]
        code = [_joined(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        outputs = [output for cell in cells for output in cell.get("outputs", ())]
        media = [output["data"] for output in outputs if "data" in output]
        media += [data for cell in cells for data in cell.get("attachments", {}).values()]
        shown = [*outputs, metadata.get("widgets", {})]
        written = [{key: cell[key] for key in cell if key != "outputs"} for cell in cells]
        pictures = [_joined(data.pop(kind)) for data in media for kind in _PICTURES if kind in data]
        kinds = {kind for data in media for kind in data}
        given = metadata.get("papermill", {}).get("parameters", {}).get("corpus")
    except (AttributeError, KeyError, TypeError):
        raise UnreadableError(f"is not a notebook that can be read; {_KEEP}") from None
    if not all(_TEXT_TYPE.match(kind) for kind in kinds):
        raise UnreadableError(f"shows something that cannot be examined; {_CLEAR}")
    text = "\n".join(code)
    corpora = _CORPUS.findall(text) + [given] * isinstance(given, str)
    known = {checkout.is_open(corpus, name) for corpus in corpora}
    if outputs and _OURS.search(text):
        if any(checkout.is_open(literal, name) is False for literal in set(_LITERAL.findall(text))):
            known.add(False)
        if False in known:
            raise UnreadableError(f"its outputs come from a credentialed corpus; {_CLEAR}")
        if None in known or (not known and _LOADS.search(text)):
            raise UnreadableError(
                f"its outputs come from a corpus that is not known to be open; {_CLEAR}"
            )
    about = {key: notebook[key] for key in notebook if key != "cells"}
    yield _Part(_readable([written, about]), _CLEAR)
    yield _Part(_readable(shown), _CLEAR, placeholders=known != {True})
    for picture in pictures:
        yield _Part(_of_picture(picture), _CLEAR)


def _of_picture(encoded: str) -> str:
    """Return the text in a base64 picture that is not part of its pixels."""
    try:
        data = base64.b64decode(encoded)
    except (binascii.Error, ValueError):
        data = b""
    whole = any(data.startswith(a) and data.rstrip().endswith(z) for a, z in _PICTURES.values())
    kinds = _chunks(data) if data.startswith(b"\x89PNG") else set()
    if not whole or kinds - _CHUNKS:
        raise UnreadableError(f"shows a picture that cannot be examined; {_CLEAR}")
    return "\n".join(run.decode() for run in re.findall(rb"[\t\n\r -~]{40,}", data))


def _chunks(data: bytes) -> set[bytes]:
    """Return the types of a PNG's chunks."""
    kinds, place = set(), 8
    while place < len(data):
        kinds.add(data[place + 4 : place + 8])
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return kinds


def _of_result(value: Any, checkout: _Checkout) -> Iterator[str]:
    """Yield why a JSON result of a credentialed corpus must not be published."""
    if _says_credentialed(value) or any(text in checkout.hashes for text in _strings(value)):
        for place in withheld(value)[:3]:
            yield f"was made from credentialed text: {place}; {_AGGREGATE}"


def _says_credentialed(value: Any) -> bool:
    """Return whether a result names a corpus that it says is not open."""
    if isinstance(value, Mapping):
        corpus = "hash" in value or "name" in value
        closed = corpus and (
            value.get("text", "open") != "open" or value.get("open", True) is not True
        )
        closed = closed or str(value.get("text")).lower() == "credentialed"
        return closed or any(_says_credentialed(inner) for inner in value.values())
    return isinstance(value, list) and any(_says_credentialed(inner) for inner in value)


def _signs(text: str, part: _Part, checkout: _Checkout) -> Iterator[str]:
    """Yield the signs of credentialed text in a text from `legible`."""
    if _MARK.search(text):
        yield "carries the mark of a credentialed corpus"
    if any(digest in checkout.hashes for digest in re.findall(r"\b[0-9a-f]{64}\b", text)):
        yield "carries the hash of a credentialed corpus"
    if part.placeholders and (found := placeholder(text)):
        yield f"holds {found}"
    if part.ids and (found := mimic_id(text)):
        yield f"holds {found}"


def _readable(value: Any) -> str:
    """Return all texts in JSON, and short ones again joined by their keys, such as all tokens."""
    named: dict[str, list[str]] = {}

    def walk(value: Any) -> None:
        for key, inner in value.items() if isinstance(value, Mapping) else ():
            if isinstance(inner, str) and inner.count(" ") < WINDOW:
                named.setdefault(key, []).append(inner)
        for inner in value.values() if isinstance(value, Mapping) else value:
            if isinstance(inner, Mapping | list):
                walk(inner)

    if isinstance(value, Mapping | list):
        walk(value)
    return "\n".join([*_strings(value), *map(" ".join, named.values())])


def _strings(value: Any) -> Iterator[str]:
    """Yield all texts in JSON, including keys; lists of lines are joined."""
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        value = ("" if all(line.endswith("\n") for line in value[:-1]) else " ").join(value)
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        if isinstance(value, Mapping):
            yield from value
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(inner)


def _joined(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def _git(*command: str) -> bytes:
    """Return the output of a git command."""
    done = subprocess.run(["git", *command], capture_output=True)
    if done.returncode:
        raise MarnError("not a git checkout; name files")
    return done.stdout


def _staged(root: Path) -> list[tuple[str, str]]:
    """Return staged paths, from the root, with their objects (several in a conflict).

    A submodule has no object.
    """
    listed = os.fsdecode(_git("-C", str(root), "ls-files", "--stage", "-z")).split("\0")[:-1]
    entries = [(name, *about.split(" ")) for about, _, name in (e.partition("\t") for e in listed)]
    return [(name, "" if mode == "160000" else digest) for name, mode, digest, _ in entries]


def _objects(root: Path, digests: Sequence[str]) -> Iterator[bytes]:
    """Yield the contents of the object with each digest, cut off if it is too large."""
    command = ["git", "-C", str(root), "cat-file", "--batch"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for digest in digests:
            process.stdin.write(f"{digest}\n".encode())
            process.stdin.flush()
            size = int(process.stdout.readline().split()[2]) + 1  # a line end follows
            data = process.stdout.read(min(size, _LARGEST + 2))
            for begin in range(len(data), size, _LARGEST):
                process.stdout.read(min(_LARGEST, size - begin))
            yield data[:-1]


def _chosen(names: Sequence[str], root: Path) -> list[tuple[str, bytes]]:
    """Return what would be committed in these files and folders; without names, everything."""
    staged = _staged(root) if (root / ".git").exists() else []
    wanted, read = [] if names else staged, []
    for name in names:
        path = Path(os.path.abspath(name))
        path = path.parent.resolve() / path.name
        inside = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        found = [e for e in staged if inside in (".", e[0]) or e[0].startswith(f"{inside}/")]
        if not found and not path.is_file():
            raise MarnError(f"{name} is neither staged nor a file; name what is to be committed")
        wanted += found
        read += [] if found else [(inside, path.read_bytes())]
    if modules := [name for name, digest in wanted if not digest]:
        raise MarnError(f"{modules[0]} is a submodule, which is not examined; do not commit it")
    objects = _objects(root, [digest for _, digest in wanted])
    return [*zip((name for name, _ in wanted), objects, strict=True), *read]


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine files as they are staged.

    Args:
        arguments: files or folders; by default those of the command line. Without any, everything
            that is staged.

    Returns:
        0, 1 if a file must not be committed, or 2 if a name is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.commit_check",
        description="Refuse to commit what may hold credentialed text. Files are examined as they "
        "are staged, and compared with the credentialed corpora below data/ and the folders of "
        "`git config --add marn.corpora FOLDER`.",
    )
    parser.add_argument("files", nargs="*", help="files or folders; default: all that is staged")
    names = parser.parse_args(arguments).files
    try:
        try:
            root = Path(os.fsdecode(_git("rev-parse", "--show-toplevel")).strip())
        except MarnError:
            if not names:
                raise
            root = Path.cwd()
        files = _chosen(names, root)
        reasons = _examine_all(files, root)
        compared = ", ".join(sorted(folder.name for folder in _Checkout(root).corpora))
    except MarnError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 2
    said = f"{len(files)} files examined, and compared with " + (
        compared or "no credentialed corpus"
    )
    sys.stderr.write("".join(f"{line}\n" for line in [*reasons, said]))
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
