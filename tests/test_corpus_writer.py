"""Interrupted at any point, preparation leaves the corpus as it was, and no litter for long."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys

import pytest

from data_prep.__main__ import main
from data_prep.corpus_writer import swept
from marn.corpus import Corpus

# Functions on the way from tables to corpus, in the order in which they are called.
POINTS = [
    "data_prep.sources.mimic3.read_titles",
    "data_prep.tables.identifier",
    "data_prep.note_store.NoteStore.read",
    "data_prep.note_store.WordIndexer.index",
    "data_prep.sources.mimic3.read_codings",
    "data_prep.note_store.NoteStore.build_vocabulary",
    "data_prep.corpus_writer.CorpusWriter.split",
    "data_prep.prepare.word2vec",
    "data_prep.corpus_writer.CorpusWriter.finish",
    "data_prep.corpus_writer.sha256",
]
BETWEEN_RENAMINGS = "pathlib.Path.rename"


def _arguments(raw, out, vectors="none"):
    arguments = ["--raw", raw, "--out", out, "--vectors", vectors]
    return ["mimic3", *map(str, arguments)]


def _litter(out):
    return [path.name for path in out.parent.iterdir() if path != out]


@pytest.fixture(scope="module")
def corpus(tiny_raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("before") / "out"
    assert main(_arguments(tiny_raw, out)) == 0
    return out


@pytest.mark.parametrize("point", POINTS)
def test_interrupted(tiny_raw, tmp_path, monkeypatch, capsys, point):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(point, interrupt)
    out = tmp_path / "out"
    vectors = "train" if point == "data_prep.prepare.word2vec" else "none"
    assert main(_arguments(tiny_raw, out, vectors)) == 130
    assert "nothing was kept" in capsys.readouterr().err
    assert not out.exists()
    assert not _litter(out)


def _killed(arguments, point, calls=1):
    """Prepare in a process that kills itself when a function is called so many times.

    Returns when that process and all that it started have closed their output, by ending.
    """
    module, _, name = point.rpartition(".")
    lines = [
        "import importlib, os, signal, sys, pkgutil",
        "from data_prep.__main__ import main",
        f"owner, name, left = pkgutil.resolve_name({module!r}), {name!r}, [{calls}]",
        "real = getattr(owner, name)",
        "def die(*args, **named):",
        "    left[0] -= 1",
        "    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)",
        "    return real(*args, **named)",
        "setattr(owner, name, die)",
        f"main({arguments!r})",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize("point", [POINTS[3], POINTS[6], POINTS[9]])
def test_killed(tiny_raw, tmp_path, capsys, corpus, point):
    out = tmp_path / "out"
    _killed(_arguments(tiny_raw, out), point)
    assert not out.exists()
    assert len(_litter(out)) == 1
    assert main(_arguments(tiny_raw, out)) == 0
    assert "left by an interruption" in capsys.readouterr().err
    assert not _litter(out)
    assert Corpus.load(out).hash == Corpus.load(corpus).hash


def test_killed_between_the_two_renamings(tiny_raw, tmp_path, capsys):
    """The former corpus is aside already and the new one not yet in its place."""
    out = tmp_path / "out"
    assert main([*_arguments(tiny_raw, out), "--seed", "5"]) == 0
    before = Corpus.load(out).hash
    _killed(_arguments(tiny_raw, out), BETWEEN_RENAMINGS, calls=2)
    assert not out.exists()
    assert len(_litter(out)) == 2
    (tmp_path / "no").mkdir()
    assert main(_arguments(tmp_path / "no", out)) == 2
    assert "put back after an interruption" in capsys.readouterr().err
    assert Corpus.load(out).hash == before
    assert _litter(out) == ["no"]


def test_the_processes_of_a_killed_one_end_with_it(tmp_path):
    out, lines = tmp_path / "out", []
    arguments = ["teaching", "--preset", "tiny", "--workers", "2", "--out", str(out)]
    _killed(arguments, "marn.progress.Progress.step")
    with swept(out, lines.append):
        assert len(lines) == 1
    assert not _litter(out)


def test_nobody_at_work_is_disturbed(tmp_path):
    out, lines = tmp_path / "out", []
    at_work = tmp_path / "out.abcdefgh.partial"
    others = [
        tmp_path / name for name in ("out.partial", "other.abcdefgh.partial", "out.x.partial")
    ]
    for path in (at_work, *others):
        path.mkdir()
    with swept(tmp_path / "another", lines.append), swept(out, lines.append):
        assert at_work.exists()
    assert not lines
    with swept(out, lines.append):
        assert not at_work.exists()
        handle = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)
    assert len(lines) == 1
    assert all(path.exists() for path in others)
    with swept(tmp_path / "nowhere" / "out", lines.append):
        pass


def test_an_output_folder_that_is_a_link_is_written_through(tiny_raw, tmp_path, corpus):
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "out"
    out.symlink_to(tmp_path / "elsewhere")
    for _ in range(2):  # into an empty folder, and over a corpus
        assert main(_arguments(tiny_raw, out)) == 0
        assert out.is_symlink()
        assert Corpus.load(tmp_path / "elsewhere").hash == Corpus.load(corpus).hash
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere", "out"}


def test_a_former_corpus_that_cannot_be_removed_is_told(tiny_raw, tmp_path, corpus, capsys):
    out = tmp_path / "out"
    assert main([*_arguments(tiny_raw, out), "--seed", "5"]) == 0
    remove = shutil.rmtree

    def refuse(path, **options):
        if path.suffix != ".former":
            remove(path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.rmtree", refuse)
        assert main(_arguments(tiny_raw, out)) == 2
        (former,) = tmp_path.glob("*.former")
        said = "out is complete, but the former corpus cannot be removed completely; remove "
        assert f"{said}{former} yourself" in capsys.readouterr().err
        assert main(_arguments(tmp_path / "nowhere", out)) == 2
        assert f"{former}, left by an interruption: cannot be removed" in capsys.readouterr().err
    assert Corpus.load(out).hash == Corpus.load(corpus).hash
    assert main(_arguments(tiny_raw, out)) == 0
    assert not _litter(out)


def test_the_folder_you_are_in_is_refused(tiny_raw, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(_arguments(tiny_raw, ".")) == 2
    assert "is the folder you are in" in capsys.readouterr().err


def test_the_umask_decides_who_may_read(tiny_raw, tmp_path):
    former = os.umask(0o027)
    try:
        assert main(_arguments(tiny_raw, tmp_path / "out")) == 0
    finally:
        os.umask(former)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "out" / "card.json").stat().st_mode & 0o777 == 0o640
