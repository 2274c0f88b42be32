"""The library's MARN equals `marn.plain`: weights handed over, logits, losses, gradients."""

import math
import runpy
import sys

import pytest
import torch
from benchmarks.reference import plain_names, transplant
from torch.testing import assert_close
from toys import padded, toy_corpus

from marn import TrainConfig, build, plain
from marn.losses import focal_loss

TASKS = {"icd": 5, "ccs": 3}
LENGTHS = [9, 4, 1, 6]


def library_model(padding="masked"):
    """A small MARN in 64 bits, its norms and their running statistics unlike their start."""
    options = {"vocabulary_size": 20, "tasks": TASKS, "embedding_size": 6, "hidden_size": 4}
    model = build("marn", **options, embedding_dropout=0.0, ram_dropout=0.0, padding=padding)
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if "norm" in name and value.is_floating_point():
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return model.double()


def compare(model, twin, *, training, reading="released"):
    """Assert that both have the same logits, losses, gradients and running statistics."""
    tokens, lengths = padded(LENGTHS, 20)
    generator = torch.Generator().manual_seed(2)
    targets = {
        task: torch.randint(2, (len(LENGTHS), count), generator=generator).double()
        for task, count in TASKS.items()
    }
    ours, theirs = model.train(training)(tokens, lengths), twin.train(training)(tokens)
    for task in TASKS:
        close(ours[task], theirs[task])
        close(
            focal_loss(ours[task], targets[task], reading=reading),
            plain.focal_loss(theirs[task], targets[task], reading=reading),
        )
    loss = TrainConfig.of(model, reading=reading).loss_of(ours, targets)
    loss_of_twin = plain.joint_loss(theirs, targets, reading=reading)
    close(loss, loss_of_twin)
    loss.backward()
    loss_of_twin.backward()
    gradients = plain_names({name: p.grad for name, p in model.named_parameters()})
    assert len(gradients) == len(list(twin.parameters()))
    for name, parameter in twin.named_parameters():
        close(gradients[name], parameter.grad)
    state = plain_names(model.state_dict())
    for name, value in twin.state_dict().items():
        close(state[name], value)


def close(ours, theirs):
    assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("reading", ["released", "paper"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("padding", ["masked", "released"])
def test_library_equals_plain(padding, training, reading):
    model = library_model(padding)
    twin = transplant(model, padding=padding, dropout=0.0)
    compare(model, twin, training=training, reading=reading)


def without_mask(function):
    return lambda first, x, _mask: function(first, x, None)


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (plain, "reverse", lambda x, _mask: x.flip(1)),
        (plain.BiGRU, "forward", without_mask(plain.BiGRU.forward)),
        (plain.TokenNorm, "forward", without_mask(plain.TokenNorm.forward)),
        (plain.LabelAttention, "forward", without_mask(plain.LabelAttention.forward)),
        (plain.RAM, "forward", lambda _ram, h, _mask: torch.tanh(h)),
        (plain, "TASK_WEIGHTS", {"icd": 0.3, "ccs": 0.7}),
    ],
    ids=["reverse", "GRU", "norm", "attention", "RAM", "weights"],
)
def test_a_broken_plain_is_noticed(where, name, broken, monkeypatch):
    model = library_model()
    twin = transplant(model, padding="masked", dropout=0.0)
    monkeypatch.setattr(where, name, broken)
    with pytest.raises(AssertionError):
        compare(model, twin, training=True)


def test_a_note_does_not_depend_on_its_batch():
    twin = transplant(library_model(), padding="masked").eval()
    tokens, lengths = padded(LENGTHS, 20)
    together = twin(tokens)
    for row, length in enumerate(lengths):
        alone = twin(tokens[row : row + 1, :length])
        for task in TASKS:
            close(alone[task][0], together[task][row])


def test_reverse_by_hand():
    x = torch.tensor([[1, 2, 3, 0, 0], [1, 2, 3, 4, 5]])[..., None]
    masked = plain.reverse(x, x[..., 0] > 0)
    assert masked[..., 0].tolist() == [[3, 2, 1, 0, 0], [5, 4, 3, 2, 1]]
    assert plain.reverse(x, None)[0, :, 0].tolist() == [0, 0, 3, 2, 1]


def test_both_focal_losses_by_hand():
    # A probability of 1/2 for the truth costs (1/2)^2 log 2; there are two codes, one present.
    logits, targets = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    cost = 0.25 * math.log(2)
    released = plain.focal_loss(logits, targets)
    assert released.item() == pytest.approx(0.999 * cost)
    paper = plain.focal_loss(logits, targets, reading="paper")
    assert paper.item() == pytest.approx(0.999 * cost + 0.001 * cost)
    assert plain.focal_loss(torch.full((1, 2), -500.0), targets).isfinite()


def test_micro_f1_by_hand():
    probabilities = torch.tensor([[0.9, 0.6, 0.5], [0.1, 0.2, 0.7]])
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert plain.micro_f1(probabilities, targets) == pytest.approx(2 * 2 / (3 + 3))
    assert plain.micro_f1(torch.zeros(1, 1), torch.zeros(1, 1)) == 0


def test_training_learns_and_keeps_the_word_vectors():
    # Word 1 means code 0, and word 2 means that there is none.
    torch.manual_seed(0)
    notes = [torch.tensor([1, 3, 4] if i % 2 else [2, 3]) for i in range(32)]
    targets = {task: torch.tensor([[float(i % 2)] for i in range(32)]) for task in TASKS}
    vectors = torch.randn(5, 6)
    model = plain.MARN(vectors.clone(), dict.fromkeys(TASKS, 1), hidden_size=4, dropout=0.0)
    plain.train(model, notes, targets, epochs=20)
    found = plain.predict(model, notes, batch_size=5)
    assert {task: plain.micro_f1(found[task], targets[task]) for task in TASKS} == {
        "icd": 1.0,
        "ccs": 1.0,
    }
    assert torch.equal(model.embedding.weight, vectors)


def test_command_line(tmp_path, monkeypatch, capsys):
    toy_corpus(tmp_path / "toy")
    line = [str(tmp_path / "toy"), "--epochs", "2", "--hidden-size", "4"]
    monkeypatch.setattr(sys, "argv", ["plain", *line])
    monkeypatch.delitem(sys.modules, "marn.plain")
    runpy.run_module("marn.plain", run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["dev:", "test:"]
    assert all(0 <= float(line.split()[-1]) <= 1 for line in lines)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("none", "no corpus at none"),
        ("x --epochs 0", "--epochs must be 1 to 999, but got 0"),
        ("x --epochs -1", "--epochs must be 1 to 999, but got -1"),
        ("x --epochs many", "invalid int value: 'many'"),
        ("x --hidden-size 1", "--hidden-size must be 2 to 2048, but got 1"),
        ("x --max-length 0", "--max-length must be 1 to 9999, but got 0"),
        ("x --width 3", "unrecognized arguments: --width 3"),
    ],
)
def test_a_wrong_command_line_is_one_line(line, says, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["plain", *line.split()])
    with pytest.raises(SystemExit) as end:
        plain.main()
    assert end.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("python -m marn.plain: error: ")
    assert says in shown
    assert shown.count("\n") == 1
