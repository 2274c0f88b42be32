"""Sweeps: what runs, what runs again, what is refused, and what a kill leaves."""

import fcntl
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import nbformat
import pytest
import yaml
from distributed import LocalCluster
from nbformat.v4 import new_code_cell, new_notebook
from notebooks import run_here
from toys import toy_corpus

from marn import MarnError, available
from marn.cli import main
from marn.experiments import plan as planning
from marn.experiments import results, sweep
from marn.experiments.plan import Experiment, combinations, plan, read
from marn.experiments.sweep import execute, expected

PARAMETERS = 'corpus: str = "toy"\nbias: int = 0\nbad: bool = False\nwait: float = 0.0\n'
PARAMETERS += 'options: dict = {}\nseed: int = 0\nrun_dir: str = ""'
WORK = """
import time
import types
from pathlib import Path
time.sleep(wait)
with open("log", "a") as log:
    log.write(f"{bias} {seed}\\n")
if bad and not Path("mended").exists():
    raise ValueError("it is bad")
Path(run_dir).mkdir()
"""


@pytest.fixture
def home(tmp_path):
    """A folder with a notebook that notes in `log` that it ran, and a corpus."""
    cells = [new_code_cell(PARAMETERS), new_code_cell(WORK)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), tmp_path / "work.ipynb")
    toy_corpus(tmp_path / "toy")
    return tmp_path


def write(home, **said):
    path = home / "experiment.yaml"
    notebook = {} if "extends" in said else {"notebook": "work.ipynb"}
    path.write_text(yaml.safe_dump(notebook | said, sort_keys=False))
    return path


def test_combinations_by_hand():
    loss = {"BCE": {"train.loss": "bce"}, "FL": {"train": {"loss": "focal", "gamma": 2.0}}}
    experiment = Experiment(
        notebook="x.ipynb",
        parameters={"train": {"loss": "none", "epochs": 3}, "model.size": 8},
        grid={"model.size": [4, None], "loss": loss},
        seeds=[0, 7],
    )
    found = combinations(experiment)
    assert len(found) == 2 * 2 * 2
    assert found[0] == (
        {"size": 4, "loss": "BCE", "seed": 0},
        {"train": {"loss": "bce", "epochs": 3}, "model": {"size": 4}, "seed": 0},
    )
    labels, parameters = found[-1]
    assert labels == {"size": "None", "loss": "FL", "seed": 7}
    assert parameters["train"] == {"loss": "focal", "epochs": 3, "gamma": 2.0}
    assert parameters["model"] == {"size": None}
    assert experiment.parameters["train"] == {"loss": "none", "epochs": 3}  # left as it was


def test_what_is_set_has_priority_over_the_file(home):
    path = write(home, parameters={"wait": 1.0}, grid={"bias": [1, 2]}, seeds=[0, 1])
    changes = {"seeds": [5], "bias": 3, "options.rate": 0.1, "wait": 0.0}
    runs = plan(path, home / "runs", changes)
    assert [run.labels for run in runs] == [{"bias": 3, "seed": 5}]
    expected = {"wait": 0.0, "bias": 3, "seed": 5, "options": {"rate": 0.1}}
    assert runs[0].parameters == expected
    with pytest.raises(MarnError, match="no parameter 'biass'"):
        plan(path, home / "runs", {"biass": 1})


def test_some_labels_of_an_axis_can_be_set(home):
    rows = {"a": {"bias": 1}, "b": {"bias": 2, "wait": 0.5}, "c": {"bias": 3}}
    path = write(home, grid={"row": rows})
    runs = plan(path, home / "runs", {"row": ["b", "c"]})
    assert [run.labels["row"] for run in runs] == ["b", "c"]
    assert runs[0].parameters == {"bias": 2, "wait": 0.5, "seed": 0}
    assert plan(path, home / "runs", {"row": "a"})[0].parameters == {"bias": 1, "seed": 0}
    with pytest.raises(MarnError, match="axis 'row' has no label 'd'; choose from a, b, c"):
        plan(path, home / "runs", {"row": ["d"]})
    other = plan(path, home / "runs", {"row": {"d": {"bias": 9}}})[0]
    assert other.labels["row"] == "d"


def test_an_experiment_extends_another(home):
    rows = {"a": {"bias": 1}, "b": {"bias": 2}, "c": {"bias": 3}}
    shared = {"notebook": "work.ipynb", "parameters": {"wait": 0.5, "bad": True}, "seeds": [0, 1]}
    (home / "base.yaml").write_text(yaml.safe_dump(shared | {"grid": {"row": rows}}))
    own = {"extends": "base.yaml", "grid": {"row": ["c", "a"]}, "parameters": {"wait": 0.0}}
    (home / "own.yaml").write_text(yaml.safe_dump(own))
    runs = plan(home / "own.yaml", home / "runs")
    assert [tuple(run.labels.values()) for run in runs] == [("c", 0), ("c", 1), ("a", 0), ("a", 1)]
    assert runs[0].parameters == {"bias": 3, "wait": 0.0, "bad": True, "seed": 0}
    (home / "own.yaml").write_text("extends: base.yaml\ngrid: {row: [d]}")
    with pytest.raises(MarnError, match="axis 'row' has no label 'd'"):
        read(home / "own.yaml")
    (home / "own.yaml").write_text("extends: own.yaml")
    with pytest.raises(MarnError, match=r"own\.yaml extends an experiment itself"):
        read(home / "own.yaml")
    (home / "own.yaml").write_text("extends: none.yaml")
    with pytest.raises(MarnError, match=r"none\.yaml cannot be read"):
        read(home / "own.yaml")


def test_each_worker_gets_a_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    plugin, seen = sweep._own_gpu(["2", "5"]), []
    for name in (0, 1, 2):
        plugin.setup(type("Worker", (), {"name": name}))
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert seen == ["2", "5", "2"]


def test_a_wrong_setting_or_place_is_said_by_the_command_before_any_run(home, capsys):
    line = ["sweep", str(write(home)), "--out", str(home / "runs")]
    (home / "file").touch()
    for more, said in (
        (["--set", "a=1", "--set", "a=2"], "--set a=… is given twice; keep one of them"),
        (["--set", 'a={"b": 1, "b": 2}'], "has the same key twice; keep one of them"),
        (["--set", "seeds"], "--set must be KEY=VALUE, but got 'seeds'; try seeds=[0]"),
        (["--set", "seeds=x"], "marn sweep: seeds"),
        (["--table", str(home / "file" / "t")], "could not be written"),
    ):
        assert main([*line, *more]) == 2
        error = capsys.readouterr().err
        assert error.startswith("marn sweep: ")
        assert said in error
    assert not (home / "runs").exists()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"grid": {"biass": [1]}}, "work.ipynb has no parameter 'biass'; did you mean 'bias'"),
        ({"parameters": {"run_dir": "x"}}, "has no parameter 'run_dir'"),
        ({"grid": {"bias": []}}, "axis 'bias' of the grid is empty"),
        ({"grid": {"bias": {}}}, "axis 'bias' of the grid is empty"),
        ({"grid": {"bias": 3}}, r"axis 'bias' must be a list; write bias: \[3\]"),
        ({"grid": {"row": {"a": None}}}, "label 'a' of axis 'row' has no parameters; write a: {}"),
        ({"grid": None}, "grid must be a dictionary; write one, or leave grid out"),
        ({"overrides": {}}, "has 'overrides', which is what --set sets"),
        ({"parameters": {"seed": 3}}, r"sets the seed as a parameter; give seeds: \[3\]"),
        ({"grid": {"seed": [1, 2]}}, "sets the seed as a parameter"),
        ({"grid": {"row": {"a": {"seed": 1}}}}, "sets the seed as a parameter"),
        ({"parameters": {"bias": "many"}}, "bias must be a whole number, but got 'many'"),
        ({"parameters": {"options": 3}}, "options must be a dictionary, but got 3"),
        ({"grid": {"bias": [1, 2.5]}}, "bias must be a whole number, but got 2.5"),
        ({"seeds": []}, "seeds must"),
        ({"seeds": [-1]}, "seeds"),
        ({"seed": [1]}, "no setting 'seed'; did you mean 'seeds'"),
        ({"seeds": [1, 1]}, "are the same run; drop one"),
        ({"notebook": "play.ipynb"}, "no notebook at .* counts from the YAML file"),
        ({"parameters": {"corpus": "none"}}, "no corpus at"),
    ],
)
def test_what_is_wrong_is_said_before_any_run(home, said, message):
    with pytest.raises(MarnError, match=message) as caught:
        sweep.sweep(write(home, **said), home / "runs")
    assert "\n" not in str(caught.value)
    assert not (home / "runs").exists()


def test_the_seed_is_set_by_seeds_alone(home):
    with pytest.raises(MarnError, match=r"give seeds: \[3\]"):
        plan(write(home), home / "runs", {"seed": 3})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: "{", "is not a notebook .*; save it again in Jupyter"),
        (lambda text: '{"cells": 3}', "is not a notebook"),
        (lambda text: text.replace("bias: int = 0", "bias: int = int()"), "the default of bias"),
        (lambda text: text.replace("seed: int = 0", "age: int = 0"), "add `seed: int = 0`"),
    ],
)
def test_a_notebook_that_cannot_be_run_over_seeds(home, spoil, message):
    notebook = home / "work.ipynb"
    notebook.write_text(spoil(notebook.read_text()))
    with pytest.raises(MarnError, match=message) as caught:
        plan(write(home), home / "runs")
    assert "\n" not in str(caught.value)


def test_a_corpus_whose_path_counts_from_elsewhere(home, monkeypatch):
    (home / "inner").mkdir()
    (home / "work.ipynb").rename(home / "inner" / "work.ipynb")
    monkeypatch.chdir(home)
    path = write(home, notebook="inner/work.ipynb", parameters={"corpus": "toy"})
    with pytest.raises(MarnError, match=r"counts from the folder of work\.ipynb; give \.\./toy"):
        plan(path, home / "runs")
    write(home, notebook="inner/work.ipynb", parameters={"corpus": "../toy"})
    assert len(plan(path, home / "runs")) == 1


def test_a_damaged_record_of_a_run(home):
    (home / "runs" / "a").mkdir(parents=True)
    (home / "runs" / "a" / "done.json").write_text("{")
    with pytest.raises(MarnError, match=r"done\.json is damaged; delete it"):
        sweep.sweep(write(home), home / "runs")


BOMB = "a: &a0 [1, 1]" + "".join(f"\nb{n}: &a{n + 1} [*a{n}, *a{n}]" for n in range(40))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(("a: [", "is not YAML"), ("- 1", "must hold settings"), ("", "must hold settings")),
        ("a: 2020-01-01", "is not YAML .*date is not JSON"),
        ("a: &a [*a]", "is not YAML .*recursion"),
        ("a: " + "[" * 9999, "is not YAML .*recursion"),
        ("a: 1\nb: {c: 1,\n  c: 2}", "bad.yaml, line 3: a second 'c'; keep one of them"),
        (BOMB, "expands to more than 1,000,000 values; remove its aliases"),
        (f"notebook: a\nseeds: {[*range(100)]}\ngrid: {{a: {[*range(101)]}}}", "10,100 runs, and"),
    ],
)
def test_a_file_that_is_none(home, text, message):
    (home / "bad.yaml").write_text(text)
    with pytest.raises(MarnError, match=message):
        read(home / "bad.yaml")
    with pytest.raises(MarnError, match="cannot be read"):
        read(home / "none.yaml")


def test_a_wrong_system_option_or_setting_is_said_before_any_run(home):
    notebook = Path(__file__).parents[1] / "book" / "experiments" / "training.ipynb"
    for grid, message in (
        ({"model": ["mran"]}, "no system is named 'mran'; did you mean 'marn'"),
        ({"model": ["marn"], "model_args.hiden_size": [8]}, "marn has no option 'hiden_size'"),
        ({"model": ["caml"], "train_args.learning_rte": [1e-3]}, "no setting 'learning_rte'"),
        ({"model": ["caml"], "train_args.learning_rate": [-1.0]}, "learning_rate must be above 0"),
        ({"model": ["marn"], "recipe": ["laptopp"]}, "no recipe is named 'laptopp'; did you mean"),
        ({"model": ["marn"], "recipe": ["paper"], "steps": [3]}, "'paper' has no steps"),
        ({"model": ["marn"], "steps": [-3]}, "steps must be at least 0"),
        ({"model": ["marn"], "tasks": [["foo"]]}, "tasks must be among icd, ccs, but got foo"),
        ({"model": ["marn"], "tasks": ["icd"]}, "tasks must be a list"),
        ({"model": ["caml"], "preset": ["sound"]}, "a preset is of MARN, but the model is caml"),
    ):
        shared = {"corpus": str(home / "toy")}
        path = write(home, notebook=str(notebook), parameters=shared, grid=grid)
        with pytest.raises(MarnError, match=message):
            plan(path, home / "runs")
    everything = {"model": available()}
    path = write(home, notebook=str(notebook), parameters=shared, grid=everything)
    assert len(plan(path, home / "runs")) == len(everything["model"])


def test_yaml_numbers_with_an_exponent_are_numbers(home):
    path = home / "one.yaml"
    path.write_text("notebook: a.ipynb\nparameters: {rate: 1e-3, name: e-3}\n")
    assert read(path).parameters == {"rate": 0.001, "name": "e-3"}


def test_a_run_is_known_by_parameters_corpus_and_code(home, monkeypatch):
    def key(**said):
        return plan(write(home, **said), home / "runs")[0].key

    first = key()
    assert key() == first
    assert key(parameters={"bias": 1}) != first
    assert key(seeds=[1]) != first
    book = nbformat.read(home / "work.ipynb", 4)
    book.cells[1].source += "\n# a comment"
    nbformat.write(book, home / "work.ipynb")
    assert key() == first
    book.cells[1].source += "\nnew = 1"
    nbformat.write(book, home / "work.ipynb")
    assert key() != first
    changed = key()
    toy_corpus(home / "toy", seed=1)
    assert key() != changed


def test_comments_and_docstrings_make_no_other_code():
    one = 'def f(x):\n    """Say."""\n    return x  # it\n'
    assert planning._bare(one) == planning._bare("def f(x):\n\n    return (x)\n")
    assert planning._bare(one) != planning._bare(one.replace("return x", "return -x"))
    assert planning._bare("%matplotlib inline\nx") == "%matplotlib inline\nx"


def said_of(run):
    return {"labels": run.labels, "parameters": run.parameters, "about": run.about, "key": run.key}


def test_a_finished_run_is_not_run_again_and_a_failed_one_is(home):
    runs = plan(write(home, parameters={"bad": True}), home / "runs")
    run = runs[0]
    arguments = (str(run.folder), str(home / "work.ipynb"), said_of(run))
    assert execute(*arguments) == "ValueError: it is bad"
    assert not run.finished
    (home / "mended").touch()
    run.folder.mkdir(exist_ok=True)
    with (run.folder / "lock").open("w") as lock:  # another sweep has it
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert execute(*arguments) == "busy"
    assert execute(*arguments) == "done"
    assert execute(*arguments) == "done"
    assert (home / "log").read_text().split("\n") == ["0 0", "0 0", ""]
    done = json.loads((run.folder / "done.json").read_text())
    assert done["labels"] == {"seed": 0}
    assert done["key"] == run.key
    assert done["seconds"] > 0


def test_time_is_expected_from_runs_alike(home):
    run = plan(write(home, grid={"bias": [1]}), home / "runs")[0]
    assert expected(run, []) is None
    others = [{"labels": {"bias": 2, "seed": 0}, "seconds": s} for s in (5.0, 9.0, 30.0)]
    assert expected(run, others) == 9.0
    alike = {"labels": {"bias": 1, "seed": 4}, "seconds": 2.0}
    assert expected(run, [*others, alike]) == 2.0


def test_no_room_on_the_disk_is_said_before_any_run(home, monkeypatch):
    usage = type("Usage", (), {"free": 3 << 20})
    monkeypatch.setattr(sweep.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(MarnError, match=r"2 runs need about 128 MB .* has 3 MB free; free space"):
        sweep.sweep(write(home, grid={"bias": [1, 2]}), home / "runs")


def test_no_scheduler_at_the_address_is_one_line(home, monkeypatch):
    with pytest.raises(MarnError, match="no Dask scheduler answers at nonsense"):
        sweep.sweep(write(home), home / "runs", address="nonsense")


@pytest.mark.parametrize("missing", ["distributed", "papermill"])
def test_what_is_not_installed_is_one_line(home, capsys, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["sweep", str(write(home)), "--out", str(home / "runs")]) == 2
    assert f"needs {missing}; install it with: pip install 'marn[sweep]'" in capsys.readouterr().err


def test_a_dry_run_runs_nothing(home, capsys):
    path = write(home, grid={"bias": [1, 2]}, seeds=[0, 1])
    assert main(["sweep", str(path), "--out", str(home / "runs"), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "bias 1, seed 0: time unknown"
    assert lines[-1] == "4 runs, 0 of them finished"
    assert not (home / "runs").exists()


def test_a_dry_run_expects_the_time_that_the_book_keeps(home, capsys):
    for name in ("experiments", "results"):
        (home / name).mkdir()
    path = write(home, notebook="../work.ipynb", seeds=[0, 1]).rename(
        home / "experiments" / "e.yaml"
    )
    line = ["sweep", str(path), "--out", str(home / "runs"), "--dry-run"]
    kept = home / "results" / "e.json"
    kept.write_text('{"runs": {"count": 6, "hours": 0.5}}')
    assert main(line) == 0
    assert capsys.readouterr().out.splitlines() == [
        *("seed 0: 5 min 00 s", "seed 1: 5 min 00 s"),
        "2 runs, 0 of them finished; the rest will take about 10 min 00 s",
    ]
    assert main([*line, "--address", "tcp://host:8786"]) == 0
    assert "about 10 min 00 s of one worker\n" in capsys.readouterr().out
    kept.write_text('{"rows": []}')  # of another form
    assert main(line) == 0
    assert "time unknown" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_sweep_is_finished_by_the_next_and_no_run_runs_twice(home, capsys):
    path = write(home, parameters={"wait": 0.3}, seeds=[0, 1, 2])
    line = ["sweep", str(path), "--out", str(home / "runs")]
    killed = subprocess.Popen([sys.executable, "-m", "marn", *line], stdout=subprocess.DEVNULL)
    while not (early := {*home.glob("runs/*/done.json")}):
        assert killed.poll() is None
        time.sleep(0.1)
    killed.kill()  # the process alone: its worker and its kernel notice by themselves
    killed.wait()
    times = {file: file.stat().st_mtime_ns for file in early}
    time.sleep(1.5)  # as they do
    assert main([*line, "--jobs", "2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("3 runs, ")
    assert said[-1].startswith("3/3 ")
    assert len(list(home.glob("runs/*/done.json"))) == 3
    assert all(file.stat().st_mtime_ns == when for file, when in times.items())
    ran = (home / "log").read_text().split("\n")[:-1]
    assert len(set(ran)) == 3
    assert len(ran) <= 4  # the one that was killed may have run once more


def test_a_sweep_without_workers_waits_and_says_so_once(home, monkeypatch):
    class Said(io.StringIO):
        def write(self, text):
            if "waiting" in text:  # it looks again after two seconds
                threading.Timer(3.0, cluster.scale, [1]).start()
            return super().write(text)

    said = Said()
    started = LocalCluster(n_workers=0, processes=False, protocol="tcp://", dashboard_address=None)
    with started as cluster:
        address = cluster.scheduler_address
        sweep.sweep(write(home), home / "runs", address=address, stream=said)
    assert said.getvalue().count("all workers have stopped; waiting for one") == 1
    assert "1/1 seed 0: " in said.getvalue()
    monkeypatch.setattr(sweep, "find_spec", lambda name: name == "bokeh")
    sweep.sweep(write(home, seeds=[1]), home / "runs", stream=said)
    assert "Dask's dashboard: http://" in said.getvalue()


def begin_work_with(home, code):
    notebook = nbformat.read(home / "work.ipynb", as_version=4)
    notebook.cells[1].source = f"import os\nfrom pathlib import Path\n{code}\n{WORK}"
    nbformat.write(notebook, home / "work.ipynb")


def test_a_run_whose_worker_dies_is_taken_up(home):
    once = "if not Path('dead').exists():\n    Path('dead').touch()\n"
    begin_work_with(home, f"{once}    os.kill(os.getppid(), 9)\n    os._exit(0)  # the kernel, too")
    said = io.StringIO()
    sweep.sweep(write(home, seeds=[0, 1]), home / "runs", stream=said)
    assert said.getvalue().count("seed 0: its worker died; trying again") == 1
    assert sorted((home / "log").read_text().splitlines()) == ["0 0", "0 1"]


def test_a_disk_that_fills_up_ends_the_sweep_and_keeps_what_is_finished(home):
    begin_work_with(home, "if seed:\n    raise OSError(28, 'No space left on device')")
    said = io.StringIO()
    full = r"1 of 4 runs failed \(seed 1: .*No space left on device.*repeat the command"
    with pytest.raises(MarnError, match=full):
        sweep.sweep(write(home, seeds=[0, 1, 2, 3]), home / "runs", stream=said)
    assert "1/4 seed 0" in said.getvalue()
    assert (home / "log").read_text() == "0 0\n"
    assert [run.finished for run in plan(home / "experiment.yaml", home / "runs")] == [True] + 3 * [
        False
    ]


def test_a_run_whose_worker_dies_is_taken_up_once(home):
    run, said = plan(write(home), home / "runs")[0], io.StringIO()
    killed_worker = type("KilledWorker", (Exception,), {})  # as Dask calls it
    future = types.SimpleNamespace(exception=lambda: killed_worker("it died"))
    client = types.SimpleNamespace(cancel=lambda futures: None)
    progress = sweep.Progress(1, stream=said)
    queue = sweep._Queue(client, [], progress)
    submitted = []
    queue._submit = submitted.append
    queue._ended(future, run)
    assert submitted == [run]
    assert "seed 0: its worker died; trying again" in said.getvalue()
    assert not queue.failed
    queue._ended(future, run)
    assert submitted == [run]
    assert queue.failed == ["seed 0: it died"]


EXPERIMENTS = Path(__file__).parents[1] / "book" / "experiments"


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_of_the_book_can_be_run(path, home):
    text = path.read_text()
    for name in set(re.findall(r"\.\./\.\./data/(\w+)", text)):
        (home / name).symlink_to(home / "toy")
    said = yaml.safe_load(text.replace("../../data", str(home)))
    for key in {"notebook", "extends"} & {*said}:
        said[key] = str(path.parent / said[key])
    said["parameters"] = said.get("parameters", {}) | {"corpus": str(home / "toy")}
    runs = plan(write(home, **said), home / "runs")
    assert len({run.folder for run in runs}) == len(runs) > 0
    labels = {tuple(run.labels.values()) for run in runs}
    assert len(labels) == len(runs)


def test_the_training_notebook_is_stored_without_outputs():
    book = nbformat.read(EXPERIMENTS / "training.ipynb", as_version=4)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


def test_the_training_notebook_runs_and_its_run_is_collected(home):
    said = {"corpus": str(home / "toy"), "model": "bigru_la", "steps": 2}
    said |= {"model_args": {"hidden_size": 4}, "tasks": ["icd"]}
    path = write(home, notebook=str(EXPERIMENTS / "training.ipynb"), parameters=said)
    run = plan(path, home / "runs")[0]
    run_here(EXPERIMENTS / "training.ipynb", run.parameters | {"run_dir": str(run.folder / "run")})
    (run.folder / "done.json").write_text(json.dumps(said_of(run) | {"seconds": 1.0}))
    table = results.collect(home / "runs")
    assert set(table["task"]) == {"icd"}
    assert set(table["learning_rate"]) == {8e-3}
    assert set(table["steps"]) == {2}
