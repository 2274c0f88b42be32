"""What a training survives: kills at any moment, a full disk, a lost device, too little memory."""

import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from toys import SYSTEM_SIZES, toy_corpus, watch_training

from marn import Corpus, MarnError, TrainConfig, build, fit, load_model

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


def train(path, run_dir):
    torch.set_num_threads(1)
    corpus = Corpus.load(path)
    fit(small(corpus), corpus, CONFIG, run_dir=run_dir, quiet=True)


def test_killed_at_any_moment_and_started_again(corpus, tmp_path):
    # A server that has imported everything once: its children start at once, without threads.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["lightning_fabric", "marn.train.loop", "toys"])

    def start(name):
        process = processes.Process(target=train, args=(corpus.path, tmp_path / name))
        process.start()
        return process

    start("warm").join()
    began = time.monotonic()
    whole = start("whole")
    whole.join()
    assert whole.exitcode == 0
    seconds, chance = time.monotonic() - began, random.Random(0)
    kills = 0
    while True:
        process = start("killed")
        if kills < KILLS:
            # Late moments too: of an epoch, of a checkpoint, of the last files.
            process.join(chance.uniform(0, seconds))
            process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            if kills >= KILLS:
                break
            # It was done before the kill: begin anew.
            assert same_runs(tmp_path)
            for file in (tmp_path / "killed").iterdir():
                file.unlink()
        else:
            assert process.exitcode == -signal.SIGKILL
    assert same_runs(tmp_path)


def same_runs(folder):
    weights = [load_model(folder / name).model.state_dict() for name in ("whole", "killed")]
    left = [sorted(path.name for path in (folder / name).iterdir()) for name in ("whole", "killed")]
    return same(*weights) and left[0] == left[1]


OTHER = """
import os, subprocess, sys, time
from marn.train.launch import end_with_parent
if len(sys.argv) > 1:
    end_with_parent()
    subprocess.Popen([sys.executable, "-c", sys.argv[1]])
    time.sleep(100)
os.environ["LOCAL_RANK"] = "1"
end_with_parent()
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
