"""Write a corpus completely or not at all, the card last; `marn.corpus` reads it."""

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from marn.corpus.card import CARD, FORMAT, VECTORS, read_card, sha256
from marn.corpus.reading import SPLITS, CodeEntry
from marn.corpus.text import Vocabulary
from marn.errors import MarnError

_AT_ONCE = 1 << 20  # bytes of an array that are written at once
_OWN = {CARD, "vocabulary.json", "codes.json", VECTORS, "raw", *SPLITS}


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a folder completely or not at all.

    After an interruption, by an error or Ctrl-C, the fresh folder is removed and `path` is as it
    was before.

    Args:
        path: where the corpus goes; missing, an empty folder, or a corpus, which is replaced. A
            symbolic link stays, and the folder it points to is replaced.

    Yields:
        A fresh folder beside `path`, which takes its place at the end.

    Raises:
        MarnError: if something other than a corpus is there, the folder cannot be written, or the
            former corpus cannot be removed.
    """
    path = Path(path).resolve()
    _refuse_foreign(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
        partial.mkdir()
    except OSError as error:
        raise MarnError(
            f"cannot write beside {path}: {error.strerror}; choose another folder"
        ) from None
    try:
        yield partial
        if path.exists():
            former = partial.with_suffix(".former")
            path.rename(former)
            try:
                partial.rename(path)
            except BaseException:
                former.rename(path)
                raise
            shutil.rmtree(former, ignore_errors=True)
            if former.exists():
                raise MarnError(
                    f"{path} is complete, but the former corpus cannot be removed completely; "
                    f"remove {former} yourself"
                )
        else:
            partial.rename(path)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise MarnError(
            f"cannot write {path} ({error}), and nothing was kept; free some space or "
            "choose another folder"
        ) from None
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _refuse_foreign(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise MarnError(f"{path} is a file; choose a folder that does not exist yet")
    if path == Path.cwd():
        raise MarnError(f"{path} is the folder you are in, and would be replaced; choose another")
    foreign = sorted({entry.name for entry in path.iterdir()} - _OWN)
    if foreign:
        raise MarnError(
            f"{path} holds {foreign[0]}, which is not part of a corpus, and would be lost; "
            "choose another folder or move it away"
        )
    if any(path.iterdir()):
        if not (path / CARD).is_file():
            raise MarnError(f"{path} is not a corpus; choose another folder or remove it")
        read_card(path)


@contextmanager
def swept(out: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Remove what killed preparations of a corpus left behind, unless one may still be running.

    After an error or Ctrl-C, `replacing` removes the folder that it wrote; a killed process cannot.

    Within this context the process holds a shared lock on the parent folder of `out`, which ends
    with the process. Only a process that gets the lock exclusively removes anything.

    Args:
        out: folder of the corpus.
        progress: takes a line about each folder that was left.
    """
    out = out.resolve()
    try:
        folder = os.open(out.parent, os.O_RDONLY)
    except OSError:  # the parent folder does not exist, so nothing was left in it
        yield
        return
    try:
        with suppress(OSError):  # another process is at work, or the file system has no locks
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _sweep(out, progress)
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_SH)
        yield
    finally:
        os.close(folder)


def _sweep(out: Path, progress: Callable[[str], None]) -> None:
    left = re.compile(rf"{re.escape(out.name)}\.[a-z0-9_]{{8}}\.(partial|former)")
    for path in sorted(out.parent.iterdir()):
        match = left.fullmatch(path.name)
        if match is None:
            continue
        if match[1] == "former" and not out.exists():
            path.rename(out)  # killed between two renamings: restore the former corpus
            progress(f"{out}: put back after an interruption")
        else:
            shutil.rmtree(path, ignore_errors=True)
            done = "cannot be removed; remove it yourself" if path.exists() else "removed"
            progress(f"{path}, left by an interruption: {done}")


def _write_array(path: Path, dtype: type, size: int, arrays: Iterable[np.ndarray]) -> None:
    """Write a one-dimensional .npy file of `size` numbers from an iterator of parts."""
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
    header = {"descr": descr, "fortran_order": False, "shape": (size,)}
    with path.open("wb", buffering=_AT_ONCE) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for array in arrays:
            assert array.dtype == dtype
            size -= len(array)
            file.write(array.data)
    assert size == 0


@dataclass
class CorpusWriter:
    """Write the files of a corpus into a folder, the card last.

    Within `replacing`, call `split` for each split, then `vectors` if there are any, then `finish`.
    The codes are given first because each split is checked against them.
    """

    folder: Path
    """Where to write; `replacing` yields it."""
    codes: Mapping[str, Sequence[CodeEntry]]
    """Columns of each task, sorted by code."""
    parent: Sequence[int]
    """Column in task "ccs" of each code of task "icd", -1 for none; empty without "ccs"."""
    roles: Sequence[str] = ()
    """Roles that evidence may have."""
    _counts: dict[str, dict[str, int]] = field(default_factory=dict, init=False)
    _vectors: dict[str, Any] | None = field(default=None, init=False)

    def split(
        self,
        name: str,
        *,
        ids: Sequence[str],
        subjects: Sequence[str],
        sizes: np.ndarray,
        texts: Iterable[bytes],
        lengths: np.ndarray,
        tokens: Iterable[np.ndarray],
        columns: Mapping[str, Sequence[Sequence[int]]],
        evidence: np.ndarray | None = None,
    ) -> None:
        """Write one split; texts and tokens are consumed note by note.

        Args:
            name: "train", "dev" or "test".
            ids: the N admissions.
            subjects: the N patients.
            sizes: (N,) number of bytes of each text.
            texts: the N texts, in UTF-8.
            lengths: (N,) number of words of each note.
            tokens: the words of each note, (T,) int32.
            columns: for each task, the columns of every note's codes.
            evidence: rows of dtype `EVIDENCE`, or None if the source marks no evidence.
        """
        assert name in SPLITS
        assert len(ids) == len(subjects) == len(sizes) == len(lengths)
        assert set(columns) == set(self.codes)
        folder = self.folder / name
        folder.mkdir()
        np.save(folder / "text_offsets.npy", _offsets(sizes))
        arrays = (np.frombuffer(text, dtype=np.uint8) for text in texts)
        _write_array(folder / "text.npy", np.uint8, int(np.sum(sizes)), arrays)
        np.save(folder / "ids.npy", np.array(ids, dtype=str))
        np.save(folder / "subjects.npy", np.array(subjects, dtype=str))
        np.save(folder / "token_offsets.npy", _offsets(lengths))
        for task, rows in columns.items():
            flat = [column for row in rows for column in sorted(row)]
            indices = np.array(flat, dtype=np.int32)
            assert len(rows) == len(ids)
            assert not len(indices) or 0 <= indices.min() <= indices.max() < len(self.codes[task])
            np.save(folder / f"{task}.indices.npy", indices)
            np.save(folder / f"{task}.offsets.npy", _offsets([len(row) for row in rows]))
        if evidence is not None:
            order = np.lexsort((evidence["end"], evidence["begin"], evidence["note"]))
            np.save(folder / "evidence.npy", evidence[order])
        _write_array(folder / "tokens.npy", np.int32, int(np.sum(lengths)), tokens)
        self._counts[name] = {
            "notes": len(ids),
            "subjects": len(set(subjects)),
            "tokens": int(np.sum(lengths)),
        }

    def vectors(self, vectors: np.ndarray, settings: Mapping[str, Any]) -> None:
        """Write the (V + 2, E) float32 word vectors and how they were made."""
        assert vectors.dtype == np.float32
        np.save(self.folder / VECTORS, vectors)
        self._vectors = dict(settings) | {"width": vectors.shape[1]}

    def finish(self, vocabulary: Vocabulary, **about: Any) -> dict[str, Any]:
        """Write vocabulary, codes and card, and return the card.

        Args:
            vocabulary: the words of the corpus.
            **about: the fields of `data_prep.prepare.Origin`, and `name`, `seed`, `settings` (the
                choices made), `dropped` (rows left out, by reason) and perhaps `given` (number of
                notes and of rows of codes that the source had).
        """
        assert about["text"] in ("open", "credentialed")
        _write_json(self.folder / "vocabulary.json", vocabulary.words)
        _write_json(self.folder / "codes.json", self._code_tables())
        files = self._file_records()
        contents = "".join(f"{name} {file['sha256']}\n" for name, file in files.items())
        card = {
            "format": FORMAT,
            **{key: about[key] for key in ("name", "source", "text", "language")},
            "created": {
                "command": about["command"],
                "marn": version("marn"),
                "seed": about["seed"],
            },
            "splits": {split: self._counts[split] for split in SPLITS if split in self._counts},
            "tasks": {task: len(entries) for task, entries in self.codes.items()},
            **{key: about[key] for key in ("ccs_key", "settings")},
            "given": about.get("given", {}),
            "dropped": about["dropped"],
            "roles": list(self.roles),
            "hash": hashlib.sha256(contents.encode()).hexdigest(),
            "vectors": self._vectors and self._vectors | _record(self.folder / VECTORS),
            "files": files,
        }
        _write_json(self.folder / CARD, card)
        return card

    def _code_tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the codes of each task, those of "icd" with the column of their category."""
        parents = self.parent or [-1] * len(self.codes["icd"])
        return {
            task: [
                asdict(entry) | ({"ccs": parents[column]} if task == "icd" else {})
                for column, entry in enumerate(entries)
            ]
            for task, entries in self.codes.items()
        }

    def _file_records(self) -> dict[str, dict[str, Any]]:
        """Return size and SHA-256 of every file except the card and the vectors."""
        paths = [self.folder / "vocabulary.json", self.folder / "codes.json"]
        paths += [file for split in self._counts for file in (self.folder / split).iterdir()]
        return {path.relative_to(self.folder).as_posix(): _record(path) for path in sorted(paths)}


def _offsets(lengths: np.ndarray | Sequence[int]) -> np.ndarray:
    """Return the offsets of N concatenated pieces, (N + 1,) int64."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]).astype(np.int64)


def _record(path: Path) -> dict[str, Any]:
    return {"bytes": os.path.getsize(path), "sha256": sha256(path)}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
