"""Training on several devices: real processes on a CPU, beside one that does it all."""

import dataclasses
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from torch import nn
from toys import SYSTEM_SIZES, interrupt, toy_corpus, watch_training

import marn
from marn import Corpus, MarnError, TrainConfig, build, fit, parallel, predict
from marn.cli import main
from marn.nn.ram import TokenNorm
from marn.train import budget, launch, memory

CONFIG = TrainConfig(epochs=2, batch_size=8, learning_rate=1e-3, seed=3, device="cpu")
STILL = {"embedding_dropout": 0.0}  # no dropout, which differs between numbers of devices
# 25 notes leave a batch of one, of which the second process gets nothing.
TRAININGS = {
    "marn": ("marn", {"ram_dropout": 0.0}, {}),
    "multirescnn": ("multirescnn", {}, {}),
    "in parts": ("marn", {"ram_dropout": 0.0}, {"accumulate": 3}),
    "padding counts": ("mt_ram", {"ram_dropout": 0.0, "padding": "released"}, {"loss": "bce"}),
    # a term beside the loss, weights without a gradient in some batches, and weight decay
    "dr_caml": ("dr_caml", {}, {"loss": "bce", "weight_decay": 0.1}),
    "bf16": ("marn", {"ram_dropout": 0.0}, {"precision": "bf16"}),
}
ROWS = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def small(corpus, name="marn", **options):
    sizes = {**SYSTEM_SIZES[name], **STILL, **options}
    if name == "dr_caml":
        sizes["descriptions"] = {"ccs": [[3], []]}
    return build(name, corpus, embedding_size=12, **sizes)


def training(corpus, name, **changes):
    system, options, settings = TRAININGS[name]
    config = dataclasses.replace(CONFIG, **settings, **changes)
    run = fit(small(corpus, system, **options), corpus, config, quiet=True)
    return run.model.state_dict(), run.history


def interrupted(corpus, folder, steps, **changes):
    """Train until the step, which is not done."""
    with pytest.raises(KeyboardInterrupt):
        going_on(corpus, folder, lambda model: interrupt(model, steps + 1), **changes)


def going_on(corpus, folder, prepare=lambda model: model, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    model = prepare(small(corpus, ram_dropout=0.0))
    run = fit(model, corpus, config, run_dir=folder, quiet=True)
    return run.model.state_dict(), run.history


def exploding(rank, corpus, folder, **changes):
    """Train with logits that are not finite in the second epoch, on rank 1."""

    def explode(number, tokens, logits):
        if number > 5 and rank == 1:
            return {task: x * math.nan for task, x in logits.items()}
        return None

    with pytest.raises(MarnError) as error:
        going_on(corpus, folder, lambda model: watch_training(model, explode), **changes)
    return str(error.value)


def draws(corpus):
    """Random numbers where the first dropout of each epoch draws its own."""
    found, model = [], small(corpus)
    model.embedding.dropout.register_forward_pre_hook(
        lambda module, inputs: found.append(torch.rand(1).item()) if module.training else None
    )
    fit(model, corpus, dataclasses.replace(CONFIG, devices=2, batch_size=25), quiet=True)
    return found


def normalised(rows, weight):
    """Output, gradients and statistics of a normalisation, of a loss that differs by row."""
    norm = TokenNorm(3).double()
    rows = rows.clone().requires_grad_()
    out = norm(rows[None])[0]
    (out * weight).sum().backward()
    add = [parallel.all_reduce(x.grad) for x in (norm.weight, norm.bias)]
    return [out.detach(), rows.grad, *add, norm.running_mean, norm.running_var]


def normalisations(rank):
    split, nothing = [ROWS[:2], ROWS[2:]][rank], [1.0, 0.0][rank]
    weights = torch.arange(7.0, dtype=torch.float64)[:, None].square()
    with parallel.collective():
        whole = normalised(split, weights[:2] if rank == 0 else weights[2:])
        with parallel.shadowing(rank == 1):
            shadowed = normalised(ROWS, weights * nothing)
            lone = normalised(ROWS[:1], weights[1:2] * nothing)
    return whole, shadowed, lone


def predictions(corpus):
    model = small(corpus)
    with parallel.collective():
        return predict(model, corpus, "test", batch_size=2).logits


def pair(rank, port, folder, work, nodes):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_RANK": str(rank * (not nodes)), "NODE_RANK": str(rank * nodes)}
    torch.save(work(rank, folder), folder / f"{work.__name__}{rank}")


def of_two(folder, work, nodes=False):
    """Let two processes do something; what each gave back, or its exit status."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning_fabric.strategies", "marn.train.loop", "toys"])
    arguments = [(rank, port, folder, work, nodes) for rank in (0, 1)]
    processes = [context.Process(target=pair, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        late = process.is_alive()
        process.kill()
        assert not late, "a process waits for the other"
    return [
        process.exitcode
        if process.exitcode
        else torch.load(folder / f"{work.__name__}{rank}", weights_only=False)
        for rank, process in enumerate(processes)
    ]


def everything(rank, folder):
    corpus, two = Corpus.load(folder / "corpus"), {"devices": 2}
    found = {name: training(corpus, name, **two) for name in TRAININGS}
    found["one, two"] = going_on(corpus, folder / "one, two", **two)
    interrupted(corpus, folder / "two, one", 6, **two)
    found["infinite"] = exploding(rank, corpus, folder / "infinite", **two)
    found["draws"] = draws(corpus)
    found["norms"] = normalisations(rank)
    found["predictions"] = predictions(corpus)
    found["a single note"] = predictions(Corpus.load(folder / "few"))
    random = torch.get_rng_state()
    dropped = [going_on(corpus, None, devices=2, epochs=1)[0] for _ in range(2)]
    found["again"] = (dropped, torch.equal(random, torch.get_rng_state()))
    own = small(corpus)
    own.add_module("own", nn.BatchNorm1d(3))
    for name, wrong in {
        "other seeds": lambda: going_on(corpus, None, devices=2, seed=rank),
        "own statistics": lambda: fit(own, corpus, dataclasses.replace(CONFIG, devices=2)),
        "one process": lambda: going_on(corpus, None),
        "another run": lambda: going_on(corpus, folder / "one, two", devices=2, seed=9),
    }.items():
        with pytest.raises(MarnError) as error:
            wrong()
        found[name] = str(error.value)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    toy_corpus(folder / "corpus", notes=(25, 7, 5))
    toy_corpus(folder / "few", notes=(4, 1, 1))
    return folder


@pytest.fixture(scope="module")
def corpus(folder):
    return Corpus.load(folder / "corpus")


@pytest.fixture(scope="module")
def both(folder, corpus):
    interrupted(corpus, folder / "one, two", 6)  # four steps an epoch
    return of_two(folder, everything)


def equal(one, other, within=1e-5):
    assert one.keys() == other.keys()
    for name, x in one.items():
        assert torch.allclose(x, other[name], rtol=0, atol=within), name


def same_run(one, other, within=1e-5):
    equal(one[0], other[0], within)
    drop = ["seconds"]
    pd.testing.assert_frame_equal(
        one[1].drop(columns=drop), other[1].drop(columns=drop), rtol=0, atol=within
    )


def distance(one, other):
    """Return the length of the difference of two models' weights."""
    gaps = [(x - other[name]).double().norm() for name, x in one.items() if x.is_floating_point()]
    return float(torch.stack(gaps).norm())


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_what_one_does(corpus, both, name):
    alone = training(corpus, name)
    start = small(corpus, TRAININGS[name][0]).state_dict()
    trained = distance(alone[0], start)
    for found in both:
        if name == "bf16":  # few digits, and other ones on a processor without bf16 products
            assert distance(alone[0], found[name][0]) < 0.01 * trained
        else:
            same_run(alone, found[name])
    equal(both[0][name][0], both[1][name][0], 0)
    heads = [key for key in start if key.startswith("head.")]
    assert max((alone[0][key] - start[key]).abs().max() for key in heads) > 3e-3


def test_a_run_goes_on_with_more_devices_or_fewer(corpus, folder, both):
    whole = going_on(corpus, None)
    same_run(whole, both[0]["one, two"])
    history = pd.read_csv(folder / "two, one" / "history.csv")
    assert len(history) == 1
    same_run(whole, going_on(corpus, folder / "two, one"))
    saved = marn.load_model(folder / "one, two").model.state_dict()
    equal(saved, both[1]["one, two"][0], 0)
    # one line for each epoch, from the first process alone
    assert pd.read_csv(folder / "one, two" / "steps.csv").epoch.tolist() == [1, 2]


def test_an_infinite_loss_in_one_process_stops_both(corpus, folder, both):
    for found in both:
        assert "the loss became" in found["infinite"]
        assert "in epoch 2, by step 4 of 4" in found["infinite"]
    same_run(going_on(corpus, None), going_on(corpus, folder / "infinite"))


def test_dropout_differs_between_ranks_and_epochs(both):
    numbers = [number for found in both for number in found["draws"]]
    assert len(set(numbers)) == len(numbers) == 2 * CONFIG.epochs


def test_statistics_of_all_rows(both):
    weights = torch.arange(7.0, dtype=torch.float64)[:, None].square()
    norm = nn.BatchNorm1d(3).double()
    rows = ROWS.clone().requires_grad_()
    out = norm(rows)
    (out * weights).sum().backward()
    expected = [out.detach(), rows.grad, norm.weight.grad, norm.bias.grad]
    expected += [norm.running_mean, norm.running_var]
    (one, other), (first, second) = (
        (found["norms"][0] for found in both),
        zip(*(found["norms"][1:] for found in both), strict=True),
    )
    dealt = [torch.cat([one[i], other[i]]) for i in (0, 1)]
    for given, wanted in zip([*dealt, *one[2:]], expected, strict=True):
        assert torch.allclose(given, wanted, atol=1e-12)
    # The second process stands in with the same rows: as if it were not there.
    for given, wanted in zip(first[0], expected, strict=True):
        assert torch.allclose(given, wanted, atol=1e-12)
    assert torch.equal(first[1][1], torch.zeros_like(ROWS))
    # One row in all is normalised by the running statistics, which stay 0 and 1.
    lone = [x / math.sqrt(1 + norm.eps) for x in (ROWS[:1], torch.ones(1, 3).double())]
    for given, wanted in zip(second[0][:2], lone, strict=True):
        assert torch.allclose(given, wanted, atol=1e-12)
    assert second[0][4].tolist() == [0, 0, 0]


def test_sharded_predictions_are_each_notes_own(corpus, folder, both):
    alone = predict(small(corpus), corpus, "test", batch_size=2)
    few = Corpus.load(folder / "few")
    single = predict(small(few), few, "test").logits
    for found in both:
        for task, logits in alone.logits.items():
            assert np.array_equal(found["predictions"][task], logits)
            assert np.array_equal(found["a single note"][task], single[task])


def test_the_same_devices_give_the_same_run_to_the_bit(both):
    for found in both:
        (one, other), random_state_kept = found["again"]
        equal(one, other, 0)
        assert random_state_kept


def test_processes_that_do_not_fit_together(both):
    for found in both:
        assert "differ (training.seed was" in found["other seeds"]
        assert "own is a BatchNorm1d" in found["own statistics"]
        assert "2 processes were started for a training on one device" in found["one process"]
        assert "contains another run (training.seed was 3, now 9)" in found["another run"]


def full(rank, folder):
    """Run out of memory in the middle of the seventh step, on rank 1."""

    def refuse(number, tokens, logits):
        if rank == 1 and number == 7:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(parallel.RankError) as error:
        going_on(
            Corpus.load(folder / "corpus"),
            folder / "full",
            lambda model: watch_training(model, refuse),
            devices=2,
        )
    return str(error.value)


def test_one_process_out_of_memory_within_a_step_ends_both(corpus, folder):
    first, second = of_two(folder, full)
    assert "rank 0 of 2 lost another process" in first
    assert re.search(r"no memory for 4 notes of up to \d+ tokens; choose a smaller", second)
    same_run(going_on(corpus, None), going_on(corpus, folder / "full"))


def lean(rank, folder):
    """Train where rank 1 has no memory for what the longest notes need at first."""
    memory.REHEARSED, corpus, found = ("cpu",), Corpus.load(folder / "corpus"), {}
    for name, options in (("marn", {"ram_dropout": 0.0}), ("cnn", {})):
        model = small(corpus, name, **options)

        def refuse(number, tokens, logits, model=model):
            held = tokens.numel() * sum(model.tasks.values())
            if rank == 1 and min(model.head.at_once or len(tokens) * 100, held) > 200:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")

        config = dataclasses.replace(CONFIG, devices=2)
        run = fit(watch_training(model, refuse), corpus, config, quiet=True)
        found[name] = run.model.state_dict(), run.history
    model = watch_training(small(corpus, ram_dropout=0.0), full_on(rank))
    with pytest.raises(MarnError) as error:
        fit(model, corpus, dataclasses.replace(CONFIG, devices=2), quiet=True)
    return found, str(error.value)


def full_on(rank):
    def refuse(number, tokens, logits):
        if rank == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    return refuse


def test_ranks_agree_on_a_way_for_which_all_have_memory(corpus, folder):
    both = of_two(folder, lean)
    for name, options in (("marn", {"ram_dropout": 0.0}), ("cnn", {})):
        alone = fit(small(corpus, name, **options), corpus, CONFIG, quiet=True)
        for found, said in both:
            same_run((alone.model.state_dict(), alone.history), found[name])
            assert "no memory for 4 notes" in said


def killed_second(rank, folder):
    return killed(rank, folder, 1)


def killed_first(rank, folder):
    return killed(rank, folder, 0)


def killed(rank, folder, who):
    def die(number, tokens, logits):
        if rank == who and number == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(parallel.RankError) as error:
        # two machines that are one
        going_on(
            Corpus.load(folder / "corpus"),
            folder / f"killed{who}",
            lambda model: watch_training(model, die),
            devices=1,
            nodes=2,
        )
    return str(error.value)


@pytest.mark.parametrize(("work", "who"), [(killed_first, 0), (killed_second, 1)])
def test_where_one_is_killed_the_other_ends(corpus, folder, work, who):
    found = of_two(folder, work, nodes=True)
    assert found[who] == -signal.SIGKILL
    assert f"rank {1 - who} of 2 lost another process" in found[1 - who]
    same_run(going_on(corpus, None), going_on(corpus, folder / f"killed{who}"))


def test_one_process_waits_for_nothing():
    x = torch.ones(2)
    assert parallel.all_reduce(x) is x
    assert parallel.on_main_process(lambda: 3) == 3
    assert parallel.all_gather_object("a") == ["a"]
    with pytest.raises(MarnError, match="as it was"):
        parallel.on_main_process(lambda: (_ for _ in ()).throw(MarnError("as it was")))
    with parallel.collective():
        assert (parallel.world_size(), parallel.rank()) == (1, 0)


def test_more_processes_than_cores_are_warned_of(caplog, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    cores = os.cpu_count()
    config = TrainConfig(batch_size=cores + 1, devices=cores + 1, device="cpu")
    with pytest.raises(MarnError, match="needs a process for each"):
        launch.start(config)
    assert f"{cores + 1} processes share " in caplog.text


def test_a_script_without_processes_is_told_how_to_start_them(corpus):
    config = dataclasses.replace(CONFIG, devices=2)
    with pytest.raises(MarnError, match=r"python -m marn train … --devices 2 .* torchrun"):
        fit(small(corpus), corpus, config)
    with pytest.raises(MarnError, match="with MASTER_ADDR, MASTER_PORT and NODE_RANK set"):
        launch.start(dataclasses.replace(config, nodes=2), launch=True)
    with pytest.raises(MarnError, match="at least the number of processes, 10, but got 8"):
        dataclasses.replace(config, nodes=5)


def test_more_devices_than_there_are(corpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = dataclasses.replace(CONFIG, devices=2)
    with pytest.raises(MarnError, match=r"devices=2 needs more GPUs than the 1 of this machine"):
        fit(small(corpus), corpus, dataclasses.replace(config, device="auto"))
    with pytest.raises(MarnError, match="'cuda:0' is one device, but 2 are to train"):
        fit(small(corpus), corpus, dataclasses.replace(config, device="cuda:0"))


OPTIONS = ("hidden_size=8", "embedding_size=12", "ram_dropout=0", "embedding_dropout=0")
LINE = [part for option in OPTIONS for part in ("--model", option)]
LINE += ["--epochs", "2", "--batch-size", "8", "--seed", "3", "--device", "cpu"]


def test_one_of_two_processes_is_killed(corpus, tmp_path):
    kills = int(os.environ.get("MARN_KILLS", "5")) // 5  # 20 in the long form
    chance, run = random.Random(0), tmp_path / "run"
    line = ["train", "marn", str(corpus.path), str(run), *LINE]
    command = [sys.executable, "-m", "marn", *line, "--devices", "2"]
    for number in range(kills):
        with (tmp_path / "said").open("w+") as said:
            first = psutil.Popen(command, cwd=Path(__file__).parents[1], stderr=said)
            while not (others := first.children()):
                time.sleep(0.01)
            # The first as it begins to import, the others in training, or when a file is written.
            time.sleep(chance.uniform(0, 8) * (number > 0))
            with suppress(psutil.NoSuchProcess):  # it was done before
                [first, *others][number % 2].kill()
            assert not psutil.wait_procs([first, *others], timeout=60)[1]
            said.seek(0)
            if first.wait() == 0:  # begin anew
                shutil.rmtree(run)
            elif number % 2:
                assert "repeat the command to resume" in said.read()
    assert main(line) == 0  # on one device
    assert not [*run.glob(".*"), *run.glob("lock")]
    equal(marn.load_model(run).model.state_dict(), alone(corpus))


def alone(corpus):
    """Return the weights that `LINE` leads to."""
    model = build("marn", corpus, hidden_size=8, embedding_size=12, ram_dropout=0, seed=3, **STILL)
    config = TrainConfig.of(model, **dataclasses.asdict(CONFIG))
    return fit(model, corpus, config, quiet=True).model.state_dict()


def test_the_same_command_for_one_device_and_for_two(corpus, folder, capfd):
    line = ["train", "marn", str(folder / "corpus"), str(folder / "command"), *LINE]
    shown = subprocess.run(
        [sys.executable, "-m", "marn", *line, "--devices", "2", "--test"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    few_cores = re.compile(r".* processes share .*\n")  # on a machine with one
    assert few_cores.sub("", shown.stderr) == ""
    lines = [text for text in shown.stdout.splitlines() if not text.startswith("warning")]
    assert [text.startswith("epoch") for text in lines[:3]] == [True, True, False]
    tuned = marn.load_model(folder / "command").thresholds["icd"]
    about, *what_next = lines[-4:]
    assert about.startswith("thresholds tuned on 7 dev notes, which are few")
    assert f": icd {tuned:.3f}, ccs 0." in about
    assert [text.split()[:2] for text in what_next[1:]] == [
        ["marn", "evaluate"],
        ["marn", "predict"],
    ]
    assert len([text for text in lines if text.startswith("test icd micro_f1_tuned ")]) == 1
    assert len([text for text in lines if text.startswith("test icd micro_f1 ")]) == 1
    equal(marn.load_model(folder / "command").model.state_dict(), alone(corpus))
    # With one device the same command finds the run finished.
    assert main([*line, "--test"]) == 0
    again = capfd.readouterr().out.splitlines()
    assert again == [f"{folder / 'command'}: 2 epochs already done", *lines[2:]]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"NAME": "marm"}, "no system is named 'marm'; did you mean 'marn'?"),
        ({"CORPUS": "nowhere"}, "no corpus at"),
        ({"more": ["--epoch", "3"]}, "no such option: --epoch"),
        ({"more": ["--epochs", "ten"]}, "epochs must be a whole number, but got 'ten'"),
        ({"more": ["--epochs", "0"]}, "epochs must be at least 1, but got 0"),
        ({"more": ["--loss", "mse"]}, "loss must be 'focal' or 'bce', but got 'mse'"),
        ({"more": ["--clip-norm", "much"]}, "clip_norm must be a number, but got 'much'"),
        ({"more": ["--task-weights", "0.7"]}, "task_weights must be a dictionary, but got '0.7'"),
        ({"more": ["--model", "hidden"]}, "--model must be KEY=VALUE, but got 'hidden'"),
        ({"more": ["--model", "hiden_size=8"]}, "did you mean 'hidden_size'?"),
        (
            {"more": ["--devices", "9"]},
            "at least the number of processes, 9, but got 8",
        ),
        ({"more": ["--device", "cuda:7"]}, "device 'cuda:7' "),
        ({"more": ["--init-from", "nowhere"]}, "nowhere contains no model"),
    ],
)
def test_a_command_line_that_is_wrong_is_one_line(folder, tmp_path, capsys, changes, says):
    given = {"NAME": "marn", "CORPUS": str(folder / "corpus"), "more": []} | changes
    try:
        status = main(
            ["train", given["NAME"], given["CORPUS"], str(tmp_path / "run"), *LINE, *given["more"]]
        )
    except SystemExit as end:
        status = end.code
    shown = capsys.readouterr()
    assert status == 2
    assert shown.err.startswith("marn train: ")
    assert says in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not (tmp_path / "run").exists()


def test_the_command_takes_every_setting(folder, tmp_path, capsys):
    line = ["train", "cnn", str(folder / "corpus"), str(tmp_path), "--epochs", "1"]
    line += ["--model", "filters=4", "--clip-norm", "None", "--batch-size", "8"]
    assert main([*line, "--task-weights", '{"icd": 1, "ccs": 0.5}', "--learning-rate", "1e-2"]) == 0
    settings = json.loads((tmp_path / "run.json").read_text())["settings"]
    assert settings["training"]["task_weights"] == {"icd": 1, "ccs": 0.5}
    assert settings["training"]["clip_norm"] is None
    assert settings["training"]["learning_rate"] == 0.01
    assert not {"device", "devices", "nodes"} & set(settings["training"])
    assert main([*line, "--seed", "4"]) == 2
    assert "contains another run" in capsys.readouterr().err


def test_the_budget_of_several_devices_is_a_share(corpus):
    seen, model = [], small(corpus)
    watch_training(model, lambda number, tokens, logits: seen.append(len(tokens)))
    found = budget.estimate(model, corpus, dataclasses.replace(CONFIG, devices=4))
    assert max(seen) == 2
    assert found["steps"] == 4
    assert found["notes_per_second"] == pytest.approx(25 / found["seconds"])
