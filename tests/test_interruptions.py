"""What a training survives: kills at any moment, a full disk, a lost device, too little memory."""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace

import psutil
import pytest
import torch
from toys import SYSTEM_SIZES, toy_corpus, watch_training

from data_prep.__main__ import main
from marn import Corpus, MarnError, TrainConfig, build, fit

CONFIG = TrainConfig(epochs=4, batch_size=4, learning_rate=0.01, seed=3)
KILLS = int(os.environ.get("MARN_KILLS", "5"))
"""How often the run is killed before it may end; 100 in the long form."""


def small(corpus, name="marn", **options):
    return build(name, corpus, embedding_size=12, **SYSTEM_SIZES[name], **options)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return toy_corpus(tmp_path_factory.mktemp("toy") / "corpus")


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


def train(folder):
    torch.set_num_threads(1)
    corpus = Corpus.load(folder.parent / "corpus")
    fit(small(corpus), corpus, CONFIG, run_dir=folder, quiet=True)


def prepare(folder):
    multiprocessing.set_start_method("fork", force=True)  # as from a command line
    arguments = ["teaching", "--preset", "tiny", "--vectors", "none", "--workers", "2"]
    assert main([*arguments, "--out", str(folder / "corpus")]) == 0


def result(folder):
    """Return the names of all files, and what they hold but for times."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    logs = ("checkpoint.pt", "history.csv", "steps.csv")
    return {str(path.relative_to(folder)): path.name in logs or path.read_bytes() for path in files}


@pytest.mark.parametrize("work", [train, prepare])
def test_killed_at_any_moment_and_started_again(tmp_path, work):
    toy_corpus(tmp_path / "corpus")
    # A server that has imported everything once: its children start at once, without threads.
    processes = multiprocessing.get_context("forkserver")
    modules = ["lightning_fabric", "marn.train.loop", "toys", "data_prep.sources.teaching"]
    processes.set_forkserver_preload(modules)

    def start(name):
        (tmp_path / name).mkdir(exist_ok=True)
        process = processes.Process(target=work, args=[tmp_path / name])
        process.start()
        return process

    start("warm").join()
    began = time.monotonic()
    whole = start("whole")
    whole.join()
    assert whole.exitcode == 0
    seconds, chance = time.monotonic() - began, random.Random(0)
    kills, wanted = 0, result(tmp_path / "whole")
    while True:
        process, its_own = start("killed"), []
        if kills < KILLS:
            # Late moments too: of an epoch, of a checkpoint, of the last files.
            process.join(chance.uniform(0, seconds))
            with suppress(psutil.NoSuchProcess):
                its_own = psutil.Process(process.pid).children()
            process.kill()
        process.join()
        assert not psutil.wait_procs(its_own, timeout=10)[1]
        kills += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            assert result(tmp_path / "killed") == wanted
            if kills >= KILLS:
                break
            # It was done before the kill: begin anew.
            shutil.rmtree(tmp_path / "killed")
        else:
            assert process.exitcode == -signal.SIGKILL


OTHER = """
import os, subprocess, sys, time
if len(sys.argv) > 1:
    here = {"LOCAL_RANK": "1", "MARN_PARENT_PROCESS": str(os.getpid())}
    subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=os.environ | here)
    time.sleep(100)
import marn
print("ready", flush=True)
time.sleep(20)
print("it lives on", flush=True)
"""


def test_a_process_ends_with_the_one_that_started_it():
    command = [sys.executable, "-c", OTHER, OTHER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        assert parent.stdout.read() == ""  # when nobody has the pipe


def test_a_full_disk_stops_and_leaves_the_last_checkpoint(corpus, tmp_path):
    whole = fit(small(corpus), corpus, CONFIG, run_dir=tmp_path / "whole", quiet=True)
    size = (tmp_path / "whole" / "checkpoint.pt").stat().st_size
    limits, forwards = resource.getrlimit(resource.RLIMIT_FSIZE), []

    def fill(number, tokens, logits):
        if number == 2 * 6 + 1:  # no file may now be half as large as a checkpoint
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))

    model = watch_training(small(corpus), fill)
    try:
        with pytest.raises(MarnError, match=r"checkpoint\.pt could not be written .*free space"):
            fit(model, corpus, CONFIG, run_dir=tmp_path / "full", quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "full").glob(".*"))
    model = watch_training(small(corpus), lambda number, *_: forwards.append(number))
    again = fit(model, corpus, CONFIG, run_dir=tmp_path / "full", quiet=True)
    assert len(forwards) == 2 * 6  # two epochs had been saved
    assert same(whole.model.state_dict(), again.model.state_dict())


def test_a_lost_device_stops_and_leaves_the_last_checkpoint(corpus, tmp_path):
    forwards = []

    def lose(number, tokens, logits):
        forwards.append(number)
        if len(forwards) == 8:  # in the second epoch of six steps each
            raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors …")

    with pytest.raises(MarnError, match=r"CUDA error: unspecified launch failure\); the last che"):
        fit(watch_training(small(corpus), lose), corpus, CONFIG, run_dir=tmp_path, quiet=True)
    fit(watch_training(small(corpus), lose), corpus, CONFIG, run_dir=tmp_path, quiet=True)
    assert len(forwards) == 8 + 3 * 6


def short_of_memory(model, room, held):
    """Make a model refuse to hold more than this; return what it tried to hold."""
    tries = []

    def refuse(number, tokens, logits):
        tries.append(held(tokens))
        if tries[-1] > room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    watch_training(model, refuse)
    return tries


def scores(model):
    """Return what counts the attention scores that a model holds at a time."""
    return lambda tokens: min(model.head.at_once, tokens.numel() * sum(model.tasks.values()))


def test_out_of_memory_holds_fewer_scores_and_changes_nothing(corpus):
    whole = fit(small(corpus), corpus, CONFIG, quiet=True)
    model = small(corpus)
    tries = short_of_memory(model, 200, scores(model))
    lean = fit(model, corpus, CONFIG, quiet=True)
    assert model.head.at_once <= 200 < max(tries)
    # Running statistics and dropout went on as if the step had been done once.
    assert same(whole.model.state_dict(), lean.model.state_dict())


def test_out_of_memory_with_no_way_out_is_a_message(corpus, tmp_path):
    model = small(corpus)
    short_of_memory(model, 0, scores(model))
    with pytest.raises(MarnError, match=r"no memory for 4 notes .*batch_size, accumulate=2"):
        fit(model, corpus, CONFIG, run_dir=tmp_path, quiet=True)


def test_out_of_memory_cuts_the_batch_where_no_statistics_notice(corpus):
    config = replace(CONFIG, epochs=2, learning_rate=1e-3)
    names = {"name": "cnn", "embedding_dropout": 0.0}
    whole = fit(small(corpus, **names), corpus, config, quiet=True)
    model = small(corpus, **names)
    tries = short_of_memory(model, 2, len)
    cut = fit(model, corpus, config, quiet=True)
    assert tries[:2] == [4, 2]
    for one, other in zip(
        whole.model.state_dict().values(), cut.model.state_dict().values(), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-6)
