"""The command line of marn: what is wrong is one line before anything is made; help is quick."""

import json
import shlex
import subprocess
import sys

import pytest
import torch
from toys import toy_corpus

import marn
from marn import command_line
from marn.cli import main


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return toy_corpus(tmp_path_factory.mktemp("cli") / "corpus").path


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("--model hidden_size=8.5", "hidden_size must be a whole number, but got 8.5"),
        ("--model hidden_size=abc", "hidden_size must be a whole number, but got 'abc'"),
        ("--model hidden_size=1e9", "hidden_size must be a whole number, but got 1000000000.0"),
        ("--model hidden_size=1000000000", "hidden_size must be at most 65536"),
        ("--model max_length=null", "max_length must be a whole number, but got None"),
        ("--model embedding_dropout=1.5", "embedding_dropout must be below 1, but got 1.5"),
        ("--model seed=abc", "seed must be a whole number, but got 'abc'"),
        ("--device meta", "device must be 'auto', 'cpu'"),
        ("--seed 99999999999999999999", "seed must be at most 9223372036854775807"),
        ("--seed", "option '--seed' requires an argument; see marn train --help"),
        ("--learning-rate NaN", "learning_rate must be a finite number"),
        ("--device=", "--device is empty; give a value, or leave the option out"),
        ("extra", "got unexpected extra argument"),
        (
            "--recipe foo",
            "recipe must be 'auto', 'paper', 'laptop' or 'few_notes', but got 'foo'; the default",
        ),
        ("--init-from nowhere", "nowhere contains no model (model.json is missing)"),
    ],
)
def test_what_is_wrong_is_one_line(corpus, tmp_path, capsys, given, says):
    line = ["train", "marn", str(corpus), str(tmp_path / "run"), *given.split()]
    assert main(line) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("marn train: ")
    assert says in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not (tmp_path / "run").exists()


def test_an_empty_argument_is_not_the_present_folder(corpus, capsys):
    """As "$RUN" is where RUN is not set."""
    assert main(["train", "cnn", str(corpus), ""]) == 2
    assert f"what follows {corpus} is empty" in capsys.readouterr().err
    assert main(["predict", "--out", "", "run", "notes.csv"]) == 2
    assert "--out is empty; give a value" in capsys.readouterr().err


def test_a_recipe_is_a_start_that_options_change(corpus, tmp_path, capsys):
    folder = tmp_path / "a run"
    words = ["bigru_la", str(corpus), str(folder), "--recipe", "few_notes"]
    assert main(["train", *words, "--epochs", "1", "--model", "hidden_size=8"]) == 0
    *_, evaluate, predict = capsys.readouterr().out.splitlines()
    assert evaluate == f"  marn evaluate '{folder}' {corpus}"
    assert main(shlex.split(evaluate)[1:]) == 0
    assert predict == f"  marn predict '{folder}' new_notes.csv --out '{folder}/new_codes.csv'"
    settings = json.loads((folder / "run.json").read_text())["settings"]
    assert settings["model"]["options"]["code_start"] == "titles"
    assert settings["model"]["options"]["hidden_size"] == 8
    assert (settings["training"]["epochs"], settings["training"]["loss"]) == (1, "bce")
    words[0] = "cnn"
    assert main(["train", *words]) == 2
    assert "cnn cannot take word_path" in capsys.readouterr().err


def test_a_system_that_learns_at_once_takes_no_training_settings(corpus, tmp_path, capsys):
    line = ["train", "words", str(corpus), str(tmp_path / "run")]
    assert main([*line, "--learning-rate", "0.1", "--epochs", "3", "--seed", "1"]) == 2
    assert capsys.readouterr().err == (
        "marn train: words takes no training settings; leave out --epochs, --learning-rate\n"
    )
    assert not (tmp_path / "run").exists()
    assert main([*line, "--seed", "1", "--monitor", "micro_f1"]) == 0
    assert "dev icd micro_f1 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "titles"),
    [
        (["bigru_la"], True),
        (["bigru_la", "--recipe", "paper"], False),
        (["bigru_la", "--epochs", "1"], True),
        (["bigru_la", "--learning-rate", "1e-3"], False),
        (["bigru_la", "--model", "hidden_size=4"], False),
        (["bigru_la", "--model", "seed=4"], True),
        (["cnn"], False),
    ],
)
def test_few_notes_get_their_recipe_if_nothing_else_is_asked_for(
    corpus, tmp_path, capsys, monkeypatch, options, titles
):
    from marn.train import loop

    monkeypatch.setattr(loop, "fit", lambda model, *rest, **named: sys.exit(model.code_start))
    with pytest.raises(SystemExit) as said:
        main(["train", options[0], str(corpus), str(tmp_path / "run"), *options[1:]])
    assert (said.value.code == "titles") == titles
    assert ("recipe few_notes" in capsys.readouterr().out) == titles


def test_a_corpus_is_no_run_directory_and_a_file_no_corpus(corpus, tmp_path, capsys):
    line = ["train", "cnn", str(corpus), str(corpus), "--model", "filters=4"]
    assert main(line) == 2
    assert "is a corpus; choose another folder" in capsys.readouterr().err
    assert main(["train", "cnn", str(corpus / "card.json"), str(tmp_path / "run")]) == 2
    assert "card.json is a file; pass the folder of a corpus" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(corpus, tmp_path, capsys):
    assert main(["train", "cnn", str(corpus), str(tmp_path / "run"), "--device", "cuda"]) == 2
    assert capsys.readouterr().err == (
        "marn train: device 'cuda' needs a GPU that torch can use, and there is none; choose 'cpu' "
        "or 'auto'\n"
    )


def test_version_and_no_command(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"marn {marn.__version__}\n"
    assert main([]) == 2
    assert capsys.readouterr().err == "marn: missing command; see marn --help\n"
    assert main(["trian"]) == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err


def test_help_has_the_docstrings_and_neither_torch_nor_rich(capsys):
    assert main(["train", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    fields = marn.TrainConfig.__pydantic_fields__
    for name, field in fields.items():
        assert f"--{name.replace('_', '-')} " in shown
        assert " ".join(field.description.split())[:40].partition("-")[0] in shown
    code = "import sys; from marn.cli import main; main(['train', '--help']); "
    code += "sys.exit(bool({'torch', 'rich', 'pandas'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_options_are_read_by_the_types_of_their_fields():
    app, seen = command_line.new("Try."), []

    def attempt(given: dict, model: list[str] | None = None, test: bool = False) -> None:
        """Try it."""
        seen.append((given, model, test))

    command_line.add(app, attempt, marn.TrainConfig)
    line = (
        "attempt --model a=1 --model b=2 --epochs 3 --clip-norm None --model c=3 --test --keep LAST"
    )
    assert command_line.run(app, "toy", line.split(), kept="nothing") == 0
    given = {"epochs": 3, "clip_norm": None, "keep": "last"}
    assert seen == [(given, ["a=1", "b=2", "c=3"], True)]


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "toy fail: interrupted; all is kept\n"),
        (OSError(28, "No space left on device"), 2, "toy fail: No space left on device; all is"),
        (OSError(13, "Permission denied", "x"), 2, "toy fail: x: Permission denied; all is kept\n"),
        (marn.MarnError("no"), 2, "toy fail: no\n"),
        (RuntimeError("Symlink loop from 'x'"), 2, "toy fail: 'x' is a link to itself; give an"),
    ],
)
def test_errors_are_one_line(capsys, error, status, line):
    app = command_line.new("Fail.")

    def fail(given: dict) -> None:
        """Fail."""
        raise error

    command_line.add(app, fail, marn.TrainConfig)
    assert command_line.run(app, "toy", ["fail"], kept="all is kept") == status
    assert capsys.readouterr().err.startswith(line)
    silent = {"kept": "all is kept", "silent": [type(error)]}
    if not isinstance(error, OSError | RuntimeError):
        assert command_line.run(app, "toy", ["fail"], **silent) == status
        assert capsys.readouterr().err == ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
@pytest.mark.parametrize(
    ("redirected", "status"),
    [(">/dev/full", 2), (">&-", 0), ("2>&-", 0), (">/dev/full 2>/dev/full", 2)],
)
def test_output_with_nowhere_to_go_is_at_most_one_line(redirected, status):
    shell = f"{shlex.quote(sys.executable)} -m marn --version {redirected}"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True)
    assert done.returncode == status
    if redirected == ">/dev/full":
        assert done.stderr.startswith("marn: No space left on device; ")
        assert done.stderr.count("\n") == 1
    else:
        assert done.stderr == ""
