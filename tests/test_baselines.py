"""What each system has of its own; what all have in common is in test_models."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from toys import SYSTEM_SIZES, padded, toy_corpus

from marn import MarnError, build
from marn.baselines.bigru import FinalStates
from marn.baselines.cnn import MaxPool
from marn.baselines.fusion import NoteNorm, PairPooling, TransformerLayer, sinusoids
from marn.nn.layers import length_mask
from marn.saving import load_model, save_model

TASKS = {"icd": 5, "ccs": 3}
LENGTHS = torch.tensor([7, 4, 1])


def small(name, tasks=TASKS, **options):
    sizes = {"embedding_size": 12} | SYSTEM_SIZES[name] | options
    return build(name, vocabulary_size=40, tasks=tasks, **sizes).eval()


def notes(features=6, seed=0):
    torch.manual_seed(seed)
    mask = length_mask(LENGTHS, 7)
    return torch.randn(3, 7, features, dtype=torch.float64) * mask[..., None], mask


# CNN


def test_max_pool_by_hand():
    head = MaxPool(3, {"icd": 2})
    with torch.no_grad():
        head.weight["icd"].copy_(torch.tensor([[1.0, 3.0, -1.0], [-1.0, -1.0, -1.0]]))
        head.bias["icd"].fill_(0.5)
    features = torch.tensor([[[0.1, 0.5, 0.0], [0.5, -0.5, 0.2], [0.9, 0.9, 0.9]]])
    mask = torch.tensor([[True, True, False]])
    # Maxima 0.5 (position 1), 0.5 (position 0), 0.2 (position 1); only the first two speak for
    # code 0, with 0.5 and 1.5. Nothing speaks for code 1, so each feature counts the same.
    logits = head(features, mask)["icd"][0].tolist()
    assert logits == pytest.approx([0.5 + 1.5 - 0.2 + 0.5, -1.2 + 0.5])
    weights = head.attention(features, mask, "icd")[0].tolist()
    assert weights[0] == pytest.approx([0.75, 0.25, 0])
    assert weights[1] == pytest.approx([1 / 3, 2 / 3, 0])


def test_cnn_equals_torch_layers_on_one_note():
    model = small("cnn")
    tokens, lengths = padded([9])
    x = model.embedding(tokens).transpose(1, 2)
    windows = torch.tanh(
        nn.functional.conv1d(x, model.convolution.weight, model.convolution.bias)
    )  # (1, 16, 6)
    pooled = nn.functional.adaptive_max_pool1d(windows, 1)[..., 0]
    expected = pooled @ model.head.weight["icd"].T + model.head.bias["icd"]
    assert torch.allclose(model(tokens, lengths)["icd"], expected, atol=1e-6)


def test_cnn_lays_a_window_over_its_tokens():
    model = small("cnn")
    weights = torch.zeros(2, 1, 3)
    weights[0, 0, 1], weights[1, 0, 0] = 1, 1
    found = model.positions_to_tokens(weights, torch.tensor([6, 2]), 6)[:, 0]
    assert found.tolist() == [[0, 0.25, 0.25, 0.25, 0.25, 0], [0.5, 0.5, 0, 0, 0, 0]]


# GRU


def test_final_states_by_hand():
    head = FinalStates(2, {"icd": 1}, backwards=1)
    features = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]])
    assert head.pool(features, torch.tensor([[True, True, False]])).tolist() == [[2, 10]]
    assert head.pool(features, None).tolist() == [[3, 10]]
    assert FinalStates(2, {"icd": 1}, backwards=0).pool(features, None).tolist() == [[3, 30]]


@pytest.mark.parametrize("bidirectional", [True, False])
def test_bigru_classifies_what_torch_calls_the_last_state(bidirectional):
    model = small("bigru", bidirectional=bidirectional)
    tokens, lengths = padded([9, 4, 1])
    reference = nn.GRU(12, 16, batch_first=True, bidirectional=bidirectional)
    if bidirectional:
        state = model.encoder.forwards.state_dict() | {
            f"{key}_reverse": value for key, value in model.encoder.backwards.state_dict().items()
        }
    else:
        state = model.encoder.state_dict()
    reference.load_state_dict(state)
    packed = nn.utils.rnn.pack_padded_sequence(model.embedding(tokens), lengths, batch_first=True)
    _, last = reference(packed)  # (directions, 3, 16)
    last = last.transpose(0, 1).flatten(1)
    expected = last @ model.head.weight["icd"].T + model.head.bias["icd"]
    assert torch.allclose(model(tokens, lengths)["icd"], expected, atol=1e-6)


# MultiResCNN


@pytest.mark.parametrize(("widths", "layers"), [((8, 4), 3), ((8, 6, 4), 5)])
def test_each_branch_reads_as_far_as_its_kernels_reach(widths, layers):
    model = small("multirescnn", kernel_sizes=(3, 5), widths=widths)
    tokens, _ = padded([40])
    for branch, reach in enumerate([1, 2]):
        x = model.embedding(tokens).detach().requires_grad_()
        features = model.encode(x, None)
        assert features.shape == (1, 40, 8)
        features[0, 20, 4 * branch : 4 * branch + 4].sum().backward()
        read = x.grad[0].abs().sum(1).nonzero()[:, 0].tolist()
        assert read == list(range(20 - layers * reach, 20 + layers * reach + 1))


# LAAT


def test_laats_released_padding_takes_weight_but_is_not_read():
    masked, released = small("laat"), small("laat", padding="released")
    tokens, lengths = padded([9, 4])
    weights = released.attention(tokens, lengths, "icd")
    assert torch.allclose(weights.sum(2), torch.ones(2, 5), atol=1e-6)
    # Features at padding are zero, so is their score: the weight that real tokens keep scales the
    # view.
    kept = weights[:, :, :4].sum(2)[1, :, None]
    assert (kept < 0.99).all()
    view = masked.code_features(tokens, lengths)["icd"][1]
    assert torch.allclose(released.code_features(tokens, lengths)["icd"][1], view * kept, atol=1e-6)


def test_joint_laat_by_its_formula():
    model = small("joint_laat")
    tokens, lengths = padded([9, 4])
    features, mask = model.features(tokens, lengths)
    head = model.head
    logits, views = model(tokens, lengths), model.code_features(tokens, lengths)
    plain = {task: head.attention(features, mask, task) @ features for task in TASKS}
    coarse = (plain["ccs"] * head.weight["ccs"]).sum(2) + head.bias["ccs"]
    assert torch.allclose(logits["ccs"], coarse, atol=1e-6)
    hint = torch.sigmoid(torch.sigmoid(coarse) @ head.coarse_projection.weight.T)  # (2, 4)
    for note in range(2):
        for code in range(5):
            joined = torch.cat([plain["icd"][note, code], hint[note]])
            assert torch.allclose(views["icd"][note, code], joined, atol=1e-6)
            logit = joined @ head.weight["icd"][code] + head.bias["icd"][code]
            assert logits["icd"][note, code].item() == pytest.approx(logit.item(), abs=1e-5)


def test_joint_laat_finds_its_coarse_level():
    assert small("joint_laat", {"icd": 5, "ccs": 3, "category": 4}).head.coarse == "category"
    assert small("joint_laat").head.coarse == "ccs"
    assert small("joint_laat", {"icd": 5}).head.coarse is None
    assert small("joint_laat", {"icd": 5, "chapter": 2}, coarse="chapter").head.coarse == "chapter"
    for tasks in (TASKS, {"chapter": 2}):
        with pytest.raises(MarnError, match="one of several tasks, not 'chapter'"):
            small("joint_laat", tasks, coarse="chapter")


def test_coarse_codes_inform_fine_ones_and_not_the_reverse():
    model = small("joint_laat")
    tokens, lengths = padded([9, 4])
    before = model(tokens, lengths)
    with torch.no_grad():
        model.head.bias["ccs"] += 3
    after = model(tokens, lengths)
    assert not torch.allclose(before["icd"], after["icd"], atol=1e-4)
    with torch.no_grad():
        model.head.bias["icd"] += 3
    assert torch.equal(model(tokens, lengths)["ccs"], after["ccs"])


# DCAN


def test_dcan_reads_no_later_token_and_so_far_back():
    model = small("dcan", levels=2, filters=24, projected=24)
    tokens, _ = padded([20])
    x = model.embedding(tokens).detach().requires_grad_()
    model.encode(x, None)[0, 12].sum().backward()
    read = x.grad[0].abs().sum(1).nonzero()[:, 0].tolist()
    # 2 (2^2 - 1) = 6 tokens back: two convolutions with dilation 1, two with 2.
    assert read == list(range(6, 13))


def test_dcan_equals_torch_layers():
    model = small("dcan", levels=2)
    tokens, _ = padded([11])
    x = model.embedding(tokens)
    h = x.transpose(1, 2)
    for level, block in enumerate(model.blocks):
        inner = h
        for part in (block.first, block.second):
            parts = part.convolution.parametrizations.weight
            size, direction = parts.original0, parts.original1
            weight = size * direction / direction.flatten(1).norm(dim=1)[:, None, None]
            inner = nn.functional.pad(inner, (2**level, 0))
            inner = torch.relu(
                nn.functional.conv1d(inner, weight, part.convolution.bias, dilation=2**level)
            )
        if level == 0 and not isinstance(block.shortcut, nn.Identity):
            h = nn.functional.conv1d(h, block.shortcut.weight, block.shortcut.bias)
        h = torch.relu(inner + h)
    expected = torch.relu(model.projection(h.transpose(1, 2)))
    assert torch.allclose(model.encode(x, None), expected, atol=1e-6)
    assert isinstance(model.blocks[0].shortcut, nn.Identity)  # widths 12 and 12
    assert not isinstance(small("dcan", filters=8).blocks[0].shortcut, nn.Identity)


# Fusion


def test_note_norm_by_hand_and_as_group_norm():
    norm = NoteNorm(2)
    mask = torch.tensor([[True, False]])
    x = torch.tensor([[[1.0, 3.0], [0.0, 0.0]]])  # mean 2, variance 1 over what is real
    assert norm(x, mask).flatten().tolist() == pytest.approx([-1, 1, 0, 0], abs=1e-4)
    features, mask = notes()
    ours, theirs = NoteNorm(6).double(), nn.GroupNorm(1, 6).double()
    with torch.no_grad():
        for module in (ours, theirs):
            module.weight.copy_(torch.arange(6) + 1.0)
            module.bias.copy_(torch.arange(6) - 2.0)
    assert torch.allclose(
        ours(features, None), theirs(features.transpose(1, 2)).transpose(1, 2), atol=1e-12
    )
    masked = ours(features, mask)
    for row, length in enumerate(LENGTHS):
        alone = theirs(features[row : row + 1, :length].transpose(1, 2)).transpose(1, 2)
        assert torch.allclose(masked[row, :length], alone[0], atol=1e-12)
        assert not masked[row, length:].any()


def test_pair_pooling_by_hand():
    pool = PairPooling(1)
    with torch.no_grad():
        pool.score.weight.fill_(1.0)
    log3 = math.log(3)
    # Scores log 3 and 0 weigh 3/4 and 1/4; the third token is paired with zeros.
    out = pool(torch.tensor([[[log3], [0.0], [log3]]]))
    assert out.flatten().tolist() == pytest.approx([0.75 * log3, 0.75 * log3])


def test_pair_pooling_equals_a_loop_and_ignores_padding():
    features, _ = notes()
    pool = PairPooling(6).double()
    found = pool(features)
    assert found.shape == (3, 4, 6)
    for row in range(3):
        for pair in range(4):
            members = [*features[row, 2 * pair : 2 * pair + 2]]
            members += [torch.zeros(6, dtype=torch.float64)] * (2 - len(members))
            weights = torch.stack([pool.score(m)[0] for m in members]).exp()
            expected = sum(w * m for w, m in zip(weights, members, strict=True)) / weights.sum()
            assert torch.allclose(found[row, pair], expected, atol=1e-12)
    wider = pool(nn.functional.pad(features, (0, 0, 0, 2)))
    assert torch.allclose(wider[:, :4], found, atol=1e-12)
    assert not wider[:, 4].any()


def test_sinusoids_by_hand():
    rows = sinusoids(3, 4)
    assert rows[0].tolist() == pytest.approx(
        [math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)], rel=1e-5
    )
    assert rows[2, 0].item() == pytest.approx(math.sin(3), rel=1e-5)
    assert sinusoids(2, 5).shape == (2, 5)
    # The distance of two rows depends on how far apart they are, not on where they are.
    rows = sinusoids(50, 8).double()
    assert torch.allclose((rows[3] - rows[10]).norm(), (rows[30] - rows[37]).norm(), atol=1e-5)


@pytest.mark.parametrize("with_mask", [True, False])
def test_transformer_layer_equals_torchs(with_mask):
    features, mask = notes(8)
    ours = TransformerLayer(8, 2, 12, "standard").double()
    theirs = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True).double()
    with torch.no_grad():
        attention = theirs.self_attn
        attention.in_proj_weight.copy_(
            torch.cat([ours.query.weight, ours.key.weight, ours.value.weight])
        )
        key_bias = torch.randn(8, dtype=torch.float64)  # has no effect, so ours has none
        attention.in_proj_bias.copy_(torch.cat([ours.query.bias, key_bias, ours.value.bias]))
    attention.out_proj.load_state_dict(ours.out.state_dict())
    theirs.linear1.load_state_dict(ours.first.state_dict())
    theirs.linear2.load_state_dict(ours.second.state_dict())
    expected = theirs(features, src_key_padding_mask=~mask if with_mask else None)
    found = ours(features, mask if with_mask else None)
    real = mask if with_mask else torch.ones_like(mask)
    assert torch.allclose(found[real], expected[real], atol=1e-10)


def test_released_heads_equal_a_loop_over_rows():
    features, _ = notes(8)
    layer = TransformerLayer(8, 2, 12, "released").double()
    query, key, value = (
        m(features).reshape(3, 14, 4) for m in (layer.query, layer.key, layer.value)
    )
    rows = torch.zeros(3, 14, 4, dtype=torch.float64)
    for b in range(3):
        for i in range(14):  # rows of 4 features in memory order; the first 7 are a head
            mates = range(7) if i < 7 else range(7, 14)
            scores = torch.stack([query[b, i] @ key[b, j] for j in mates]).exp()  # 4 // 4 = 1
            parts = [s * value[b, j] for s, j in zip(scores, mates, strict=True)]
            rows[b, i] = sum(parts) / scores.sum()
    expected = layer.norms[0](features + layer.out(rows.reshape(3, 7, 8)))
    expected = layer.norms[1](expected + layer.second(torch.relu(layer.first(expected))))
    assert torch.allclose(layer(features, None), expected, atol=1e-10)


def test_released_heads_run_and_count():
    model = small("fusion", heads_as="released", padding="released")
    tokens, lengths = padded([9, 4])
    assert torch.isfinite(model(tokens, lengths)["icd"]).all()
    standard = small("fusion", padding="released")
    assert model.count_parameters(unused=True) == standard.count_parameters(unused=True)
    with pytest.raises(MarnError, match="needs padding='released'"):
        small("fusion", heads_as="released")
    with pytest.raises(MarnError, match="heads_as must be '"):
        small("fusion", heads_as="mixed")
    with pytest.raises(MarnError, match="3 heads do not divide 8 features"):
        small("fusion", heads=3)


def test_fusion_lays_a_pair_over_its_tokens():
    model = small("fusion")
    weights = torch.tensor([[[0.5, 0.3, 0.2]], [[1.0, 0.0, 0.0]]])
    found = model.positions_to_tokens(weights, torch.tensor([5, 2]), 6)[:, 0]
    assert found[0].tolist() == pytest.approx([0.25, 0.25, 0.15, 0.15, 0.2, 0])
    assert found[1].tolist() == pytest.approx([0.5, 0.5, 0, 0, 0, 0])


# DR-CAML

TARGETS = torch.tensor([[1.0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 0, 0]])


def loop_over_notes(model, targets, reading):
    total = 0.0
    for row in targets:
        codes = row.nonzero()[:, 0]
        for code in codes:
            z = model.describe("icd", code[None])[0]
            squares = (model.head.weight["icd"][code] - z).square()
            total += squares.mean() if reading == "released" else squares.sum() / len(codes)
    return 10.0 * total / len(targets)


@pytest.mark.parametrize("reading", ["released", "paper"])
def test_penalty_equals_a_loop(reading):
    model = small("dr_caml", {"icd": 5}, penalty_as=reading)
    found = model.penalty({"icd": TARGETS})
    assert found.item() == pytest.approx(loop_over_notes(model, TARGETS, reading).item(), rel=1e-5)
    assert model.penalty({"icd": torch.zeros(3, 5)}).item() == 0


@pytest.mark.parametrize("reading", ["released", "paper"])
def test_released_padding_pads_the_descriptions_of_a_note_to_its_longest(reading):
    model = small("dr_caml", {"icd": 5}, penalty_as=reading, padding="released")
    table, layer = model.description_embedding, model.description_convolution
    total = 0.0
    for row in TARGETS:
        codes = row.nonzero()[:, 0]
        if not len(codes):
            continue
        texts = model.get_buffer("description_icd")[codes]
        texts = texts[:, : int((texts > 0).sum(dim=1).max())]  # as CAML's pad_desc_vecs
        h = nn.functional.conv1d(table(texts).transpose(1, 2), layer.weight, layer.bias, padding=2)
        z = model.description_projection(torch.tanh(h).amax(dim=2))
        squares = (model.head.weight["icd"][codes] - z).square()
        total += (
            squares.mean() * len(codes) if reading == "released" else squares.sum() / len(codes)
        )
    found = model.penalty({"icd": TARGETS})
    assert found.item() == pytest.approx(10 * total.item() / 3, rel=1e-5)
    masked = small("dr_caml", {"icd": 5}, penalty_as=reading).penalty({"icd": TARGETS})
    assert abs(found.item() - masked.item()) > 1e-3
    model.penalty({"icd": torch.zeros(3, 5)}).backward()  # reaches every weight of the penalty
    assert table.weight.grad is not None


@pytest.mark.parametrize("word_path", [False, True])
def test_penalty_by_hand_and_over_tasks(word_path):
    model = small("dr_caml", word_path=word_path)
    with torch.no_grad():
        model.description_projection.weight.zero_()
        model.description_projection.bias.fill_(1.0)  # z is 1 everywhere
        model.head.weight["icd"].fill_(3.0)
        model.head.weight["ccs"].fill_(2.0)
        for weight in model.head.weight.values():
            weight[:, 8:] = 50  # of words, which are not compared
    ccs = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]])
    # Five positive ICD codes, each (3 - 1)^2 a feature, over three notes; one CCS code, (2 - 1)^2.
    found = model.penalty({"icd": TARGETS, "ccs": ccs}).item()
    assert found == pytest.approx(10 * (5 * 4 + 1) / 3)


def test_a_description_equals_torch_layers_and_ignores_its_neighbours():
    model = small("dr_caml")
    words = torch.tensor([[6, 7, 8, 9, 10, 11]])
    x = model.description_embedding(words).transpose(1, 2)
    layer = model.description_convolution
    h = torch.tanh(nn.functional.conv1d(x, layer.weight, layer.bias, padding=2))
    expected = model.description_projection(h.amax(dim=2))
    assert torch.allclose(model.describe("icd", torch.tensor([3])), expected, atol=1e-6)
    together = model.describe("icd", torch.arange(5))
    for code in range(5):
        alone = model.describe("icd", torch.tensor([code]))[0]
        assert torch.allclose(together[code], alone, atol=1e-6)


@pytest.mark.parametrize("word_path", [False, True])
def test_codes_never_met_are_classified_by_their_description(word_path):
    unseen = {"icd": [1, 3], "ccs": [], "chapter": [0]}
    model = small("dr_caml", unseen=unseen, word_path=word_path)
    plain = small("dr_caml", word_path=word_path)
    tokens, lengths = padded([9, 4])
    found, without = model(tokens, lengths), plain(tokens, lengths)
    views = model.code_features(tokens, lengths)["icd"][:, [1, 3]]
    z = model.describe("icd", torch.tensor([1, 3]))
    z = torch.cat([z, model.head.weight["icd"][[1, 3], 8:]], dim=1)  # words stay
    assert torch.allclose(found["icd"][:, [1, 3]], (views * z).sum(2), atol=1e-6)
    assert torch.equal(found["icd"][:, [0, 2, 4]], without["icd"][:, [0, 2, 4]])
    assert torch.equal(found["ccs"], without["ccs"])
    model.train()
    torch.manual_seed(0)
    in_training = model(tokens, lengths)["icd"]
    torch.manual_seed(0)
    assert torch.equal(in_training, plain.train()(tokens, lengths)["icd"])


def test_a_corpus_says_which_codes_training_never_meets(tmp_path):
    corpus = toy_corpus(tmp_path / "corpus", notes=(3, 1, 1), codes=40)
    model = build("dr_caml", corpus, embedding_size=12, filters=8, kernel_size=4)
    frequency = corpus["train"].targets("icd").sum(axis=0)
    assert 0 < len(model.unseen["icd"]) < 40
    assert all((frequency[code] == 0) == (code in model.unseen["icd"]) for code in range(40))
    save_model(tmp_path / "model", model, corpus)
    assert load_model(tmp_path / "model").model.unseen == model.unseen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"descriptions": None}, "needs descriptions"),
        ({"descriptions": {"chapter": [[1]]}}, "needs descriptions"),
        ({"descriptions": {"icd": [[1]]}}, "5 codes, but 1 descriptions"),
        ({"descriptions": {"icd": [[40]] * 5}}, "word ids from 1 to 39"),
        ({"descriptions": {"icd": [np.array([3])] * 5}}, "tolist"),
        ({"penalty_as": "printed"}, "penalty_as must be '"),
        ({"unseen": {"icd": [5]}}, "from 0 to 4, but gives \\[5\\]"),
        ({"unseen": {"icd": [1.0]}}, "whole numbers"),
    ],
)
def test_wrong_descriptions(change, message):
    with pytest.raises(MarnError, match=message):
        small("dr_caml", **change)
