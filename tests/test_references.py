"""Whole systems against references written by hand: plain loops over numbers, no layer of torch.

A reference reads the weights by name and nothing else of the model, and follows the equations of
the papers and, for "released", the authors' code in what padding does.
"""

import math

import numpy as np
import pytest
import torch
from toys import padded

from marn import build

TASKS = {"icd": 4, "ccs": 3}
LENGTHS = [7, 4, 1]
WIDTH = max(LENGTHS)


def ready(name, *, training=False, **options):
    """A small double model with unlike normalisations, its weights as arrays, and three notes."""
    model = build(
        name, vocabulary_size=20, tasks=TASKS, embedding_size=6, embedding_dropout=0.0, **options
    ).double()
    generator = torch.Generator().manual_seed(1)
    for key, value in model.state_dict().items():
        if "norm" in key and value.is_floating_point():
            value.copy_(0.5 + torch.rand(value.shape, generator=generator, dtype=value.dtype))
    model.train(training)
    # Copied before the run, which moves the running statistics in training.
    weights = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    tokens, lengths = padded(LENGTHS, 20)
    with torch.no_grad():
        logits = {task: x.numpy() for task, x in model(tokens, lengths).items()}
    rows = weights["embedding.table.weight"]
    x = [[rows[tokens[note, t]] for t in range(WIDTH)] for note in range(3)]
    return weights, x, logits


def real(note, padding):
    """Positions of a note that count."""
    return LENGTHS[note] if padding == "masked" else WIDTH


def sigmoid(v):
    return 1 / (1 + math.exp(-v))


def matvec(weight, v):
    return [sum(row[k] * v[k] for k in range(len(v))) for row in weight]


def convolve(x, count, weight, bias, before):
    """`weight` (out, in, kernel) over the first `count` positions of x, `before` zeros in front."""
    out, _, kernel = weight.shape
    places = count + 2 * before - kernel + 1
    found = []
    for place in range(places):
        values = []
        for channel in range(out):
            total = 0.0 if bias is None else bias[channel]
            for tap in range(kernel):
                t = place + tap - before
                if 0 <= t < count:
                    total += sum(weight[channel, :, tap] * x[t])
            values.append(total)
        found.append(np.array(values))
    return found


def label_attention(weights, task, h):
    """MARN Eqs. 12 to 15 for one note whose positions h all count."""
    logits = []
    for code in range(TASKS[task]):
        query, classifier = (
            weights[f"head.query.{task}"][code],
            weights[f"head.weight.{task}"][code],
        )
        scores = [sum(query * position) for position in h]
        total = sum(math.exp(score) for score in scores)
        view = np.zeros(len(h[0]))
        for score, position in zip(scores, h, strict=True):
            view = view + math.exp(score) / total * position
        logits.append(sum(classifier * view) + weights[f"head.bias.{task}"][code])
    return logits


def check(weights, logits, encoded, atol=1e-6):
    """Compare all logits with label attention over each note's encoded positions."""
    for task in TASKS:
        for note, h in enumerate(encoded):
            expected = label_attention(weights, task, h)
            assert np.abs(logits[task][note] - expected).max() < atol


# CAML


@pytest.mark.parametrize("padding", ["masked", "released"])
def test_caml(padding):
    weights, x, logits = ready("caml", filters=5, kernel_size=4, padding=padding)
    encoded = []
    for note in range(3):
        h = convolve(
            x[note],
            real(note, padding),
            weights["convolution.weight"],
            weights["convolution.bias"],
            2,
        )
        encoded.append([np.tanh(position) for position in h])
    check(weights, logits, encoded)


# MARN


def gru(x, weights, key):
    """Eqs. 1-3 with the reset gate inside, as cuDNN and torch have it."""
    w_ih, w_hh = weights[f"{key}.weight_ih_l0"], weights[f"{key}.weight_hh_l0"]
    b_ih, b_hh = weights[f"{key}.bias_ih_l0"], weights[f"{key}.bias_hh_l0"]
    size = w_hh.shape[1]
    h, states = [0.0] * size, []
    for word in x:
        inner = [a + b for a, b in zip(matvec(w_ih, word), b_ih, strict=True)]
        outer = [a + b for a, b in zip(matvec(w_hh, h), b_hh, strict=True)]
        new = []
        for k in range(size):
            reset = sigmoid(inner[k] + outer[k])
            update = sigmoid(inner[size + k] + outer[size + k])
            proposal = math.tanh(inner[2 * size + k] + reset * outer[2 * size + k])
            new.append((1 - update) * proposal + update * h[k])
        h = new
        states.append(h)
    return states


def normalise(notes, weights, key, training):
    """Batch normalisation of each channel over all positions of all notes."""
    scale, shift = weights[f"{key}.weight"], weights[f"{key}.bias"]
    means, variances = weights[f"{key}.running_mean"], weights[f"{key}.running_var"]
    found = [[np.zeros(len(scale)) for _ in note] for note in notes]
    for channel in range(len(scale)):
        mean, variance = means[channel], variances[channel]
        if training:
            values = [position[channel] for note in notes for position in note]
            mean = sum(values) / len(values)
            variance = sum((value - mean) ** 2 for value in values) / len(values)
        for row, note in enumerate(notes):
            for t, position in enumerate(note):
                unit = (position[channel] - mean) / math.sqrt(variance + 1e-5)
                found[row][t][channel] = unit * scale[channel] + shift[channel]
    return found


def ram_block(notes, weights, key, training, transposed=False):
    """Eqs. 4 to 6: convolution, normalisation, tanh, convolution, normalisation."""
    for step, name in enumerate(("first", "second")):
        weight = weights[f"{key}.{name}.weight"]
        if transposed:
            # A deconvolution of stride 1 spreads what a convolution gathers.
            weight = weight.transpose(1, 0, 2)[:, :, ::-1]
        notes = [convolve(note, len(note), weight, None, 1) for note in notes]
        notes = normalise(notes, weights, f"{key}.{name}.norm", training)
        if step == 0:
            notes = [[np.tanh(position) for position in note] for note in notes]
    return notes


def ram(notes, weights, training, fusion):
    """Eqs. 7 to 11."""
    d1 = ram_block(notes, weights, "ram.down1", training)
    d2 = ram_block(d1, weights, "ram.down2", training)
    lateral = ram_block(d2, weights, "ram.lateral", training)
    up = ram_block(lateral, weights, "ram.up1", training, transposed=True)
    u1 = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(up, d1, strict=True)]
    u2 = ram_block(u1, weights, "ram.up2", training, transposed=True)
    return [
        [np.tanh(a * b if fusion == "multiply" else a + b) for a, b in zip(*pair, strict=True)]
        for pair in zip(u2, notes, strict=True)
    ]


# test_plain.py holds `multiply` to marn.plain in every mode; one case here ties it to the loops.


@pytest.mark.parametrize(
    ("padding", "training", "fusion"),
    [("masked", True, "add"), ("released", True, "add"), ("masked", True, "multiply")],
)
def test_marn(padding, training, fusion):
    weights, x, logits = ready(
        "marn",
        hidden_size=4,
        ram_dropout=0.0,
        padding=padding,
        training=training,
        recalibrate=fusion,
    )
    notes = []
    for note in range(3):
        words = x[note][: real(note, padding)]
        there = gru(words, weights, "encoder.forwards")
        back = gru(words[::-1], weights, "encoder.backwards")[::-1]
        notes.append([np.array([*a, *b]) for a, b in zip(there, back, strict=True)])
    check(weights, logits, ram(notes, weights, training, fusion))


# MultiResCNN


@pytest.mark.parametrize("padding", ["masked", "released"])
@pytest.mark.parametrize("training", [False, True])
def test_multirescnn(padding, training):
    weights, x, logits = ready(
        "multirescnn",
        kernel_sizes=(3, 5),
        widths=(4, 3),
        dropout=0.0,
        padding=padding,
        training=training,
    )
    counts = [real(note, padding) for note in range(3)]
    branches = []
    for branch, kernel in enumerate((3, 5)):
        key, same = f"branches.{branch}", kernel // 2

        def all_notes(notes, name, bias, before, key=key):
            weight = weights[f"{key}.{name}.weight"]
            shift = weights[f"{key}.{name}.bias"] if bias else None
            return [
                convolve(note, count, weight, shift, before)
                for note, count in zip(notes, counts, strict=True)
            ]

        def norm(notes, place, key=key):
            return normalise(notes, weights, f"{key}.blocks.0.norms.{place}", training)

        def tanh(notes):
            return [[np.tanh(position) for position in note] for note in notes]

        h = tanh(all_notes(x, "first", True, same))
        main = tanh(norm(all_notes(h, "blocks.0.first", False, same), 0))
        main = norm(all_notes(main, "blocks.0.second", False, same), 1)
        short = norm(all_notes(h, "blocks.0.shortcut", False, 0), 2)
        branches.append(
            tanh(
                [
                    [a + b for a, b in zip(*pair, strict=True)]
                    for pair in zip(main, short, strict=True)
                ]
            )
        )
    encoded = [
        [np.concatenate(parts) for parts in zip(*note, strict=True)]
        for note in zip(*branches, strict=True)
    ]
    check(weights, logits, encoded)


# LAAT


def lstm(x, weights, key):
    w_ih, w_hh = weights[f"{key}.weight_ih_l0"], weights[f"{key}.weight_hh_l0"]
    bias = weights[f"{key}.bias_ih_l0"] + weights[f"{key}.bias_hh_l0"]
    size = w_hh.shape[1]
    h, cell, states = [0.0] * size, [0.0] * size, []
    for word in x:
        gates = [
            a + b + c for a, b, c in zip(matvec(w_ih, word), matvec(w_hh, h), bias, strict=True)
        ]
        for k in range(size):
            keep = sigmoid(gates[size + k]) * cell[k]
            cell[k] = keep + sigmoid(gates[k]) * math.tanh(gates[2 * size + k])
        h = [sigmoid(gates[3 * size + k]) * math.tanh(cell[k]) for k in range(size)]
        states.append(h)
    return states


@pytest.mark.parametrize("padding", ["masked", "released"])
def test_laat(padding):
    weights, x, logits = ready("laat", hidden_size=3, attention_size=4, padding=padding)
    for note in range(3):
        words = x[note][: LENGTHS[note]]  # the release packs: the LSTM never sees padding
        there = lstm(words, weights, "encoder.forwards")
        back = lstm(words[::-1], weights, "encoder.backwards")[::-1]
        h = [np.array([*a, *b]) for a, b in zip(there, back, strict=True)]
        if padding == "released":  # but the attention does, as zeros
            h += [np.zeros(6)] * (WIDTH - len(h))
        for task, codes in TASKS.items():
            hidden = [np.tanh(matvec(weights[f"head.projection.{task}"].T, p)) for p in h]
            for code in range(codes):
                query = weights[f"head.query.{task}"][code]
                scores = [math.exp(sum(query * z)) for z in hidden]
                view = sum(s / sum(scores) * p for s, p in zip(scores, h, strict=True))
                expected = sum(weights[f"head.weight.{task}"][code] * view)
                expected += weights[f"head.bias.{task}"][code]
                assert abs(logits[task][note, code] - expected) < 1e-6
