import math

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from marn.errors import MarnError
from marn.nn.convolution import Convolution, ResidualConvolution
from marn.nn.heads import PooledHead, TanhAttention
from marn.nn.layers import (
    BiGRU,
    BiLSTM,
    LabelAttention,
    WordEmbedding,
    attend,
    convolve,
    length_mask,
    reorder,
)
from marn.nn.ram import TokenNorm

LENGTHS = torch.tensor([7, 3, 1])


def masked_input(features=5, seed=0):
    torch.manual_seed(seed)
    mask = length_mask(LENGTHS, 7)
    return torch.randn(3, 7, features, dtype=torch.float64) * mask[..., None], mask


def test_mask_by_hand():
    assert length_mask(torch.tensor([2, 0]), 3).tolist() == [[True, True, False], [False] * 3]


@pytest.mark.parametrize(("layer", "reference"), [(BiGRU, nn.GRU), (BiLSTM, nn.LSTM)])
def test_both_directions_equal_a_packed_sequence(layer, reference):
    x, mask = masked_input()
    ours = layer(5, 4).double()
    packed = reference(5, 4, batch_first=True, bidirectional=True).double()
    state = dict(ours.forwards.state_dict().items())
    state |= {f"{k}_reverse": v for k, v in ours.backwards.state_dict().items()}
    packed.load_state_dict(state)
    expected, _ = packed(pack_padded_sequence(x, LENGTHS, batch_first=True))
    expected, _ = pad_packed_sequence(expected, batch_first=True)
    assert torch.allclose(ours(x, mask), expected, atol=1e-12)
    # Without a mask it is the plain padded layer of the authors' code.
    assert torch.allclose(ours(x, None), packed(x)[0], atol=1e-12)
    assert not torch.allclose(ours(x, None)[1, :3], ours(x, mask)[1, :3], atol=1e-3)


def test_bigru_by_hand_with_one_unit():
    # Zero weights leave h_t = (1 - z) n + z h with z = 1/2, n = tanh(b): a geometric approach.
    layer = BiGRU(1, 1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        for direction in (layer.forwards, layer.backwards):
            direction.bias_ih_l0[2] = 1.0  # the candidate's bias
    n = math.tanh(1)
    out = layer(torch.zeros(1, 3, 1), torch.tensor([[True, True, False]]))[0]
    assert out[:, 0].tolist() == pytest.approx([n / 2, 3 * n / 4, 0])
    assert out[:, 1].tolist() == pytest.approx([3 * n / 4, n / 2, 0])


def test_label_attention_by_hand():
    head = LabelAttention(2, {"icd": 1})
    with torch.no_grad():
        head.query["icd"].copy_(torch.tensor([[1.0, 0.0]]))
        head.weight["icd"].copy_(torch.tensor([[2.0, 4.0]]))
        head.bias["icd"].fill_(0.5)
    # Scores log 1, log 3: weights 1/4, 3/4. View: (3/4 log 3, 1/4 * 8). Logit: its product + 0.5.
    log3 = float(torch.tensor(3.0).log())
    features = torch.tensor([[[0.0, 8.0], [log3, 0.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    assert head.attention(features, mask, "icd")[0, 0].tolist() == pytest.approx([0.25, 0.75, 0])
    expected = 2 * 0.75 * log3 + 4 * 2 + 0.5
    assert head(features, mask)["icd"].item() == pytest.approx(expected, rel=1e-6)


def test_poolings_by_hand():
    # One token, so that every code's view is its features (3, -1).
    features = torch.tensor([[[3.0, -1.0]]])
    expected = {"sum": [5 + 0.5, -9 + 0.5], "max": [6 + 0.5, -3 + 0.5]}
    weights = torch.tensor([[2.0, 1.0], [-2.0, 3.0]])
    for pooling, logits in expected.items():
        head = LabelAttention(2, {"icd": 2}, pooling=pooling)
        with torch.no_grad():
            head.weight["icd"].copy_(weights)
            head.bias["icd"].fill_(0.5)
        assert head(features, None)["icd"][0].tolist() == pytest.approx(logits)
    head = LabelAttention(2, {"icd": 2}, pooling="mixed_max")
    with torch.no_grad():
        head.weight["icd"].copy_(weights)
        head.bias["icd"].fill_(0.5)
    # Rows of W V, with V = (3, -1; 3, -1): (9, -3) and (3, -1).
    assert head(features, None)["icd"][0].tolist() == pytest.approx([9 + 0.5, 3 + 0.5])
    with pytest.raises(MarnError, match="pooling must be one of"):
        LabelAttention(2, {"icd": 2}, pooling="mean")


def test_mixed_max_has_the_weights_that_mt_ram_prints():
    tasks = {"icd": 50, "ccs": 38}
    head = LabelAttention(600, tasks, pooling="mixed_max")
    classifiers = sum(head.weight[t].numel() + head.bias[t].numel() for t in tasks)
    assert classifiers == (50 * 50 + 50) + (38 * 38 + 38)
    features, mask = masked_input(600)
    views = head.double().label_representations(features, mask)["ccs"]
    expected = torch.stack([(head.weight["ccs"] @ view).max(1).values for view in views])
    assert torch.allclose(head(features, mask)["ccs"], expected + head.bias["ccs"], atol=1e-12)


@pytest.mark.parametrize("with_mask", [True, False])
def test_label_attention_equals_a_loop(with_mask):
    features, mask = masked_input(6)
    head = LabelAttention(6, {"icd": 4, "ccs": 3}).double()
    found = head(features, mask if with_mask else None)
    for task, codes in head.tasks.items():
        for b in range(3):
            positions = range(int(LENGTHS[b]) if with_mask else 7)
            for c in range(codes):
                scores = [(head.query[task][c] @ features[b, t]).item() for t in positions]
                weights = torch.tensor(scores, dtype=torch.float64).softmax(0)
                view = sum(w * features[b, t] for w, t in zip(weights, positions, strict=True))
                logit = head.weight[task][c] @ view + head.bias[task][c]
                assert found[task][b, c].item() == pytest.approx(logit.item(), abs=1e-12)


def test_attention_sums_to_one_over_real_tokens():
    features, mask = masked_input(6)
    weights = LabelAttention(6, {"icd": 4}).double().attention(features, mask, "icd")
    assert torch.allclose(weights.sum(2), torch.ones(3, 4, dtype=torch.float64))
    assert float((weights * ~mask[:, None]).abs().max()) == 0


def test_embedding_keeps_padding_zero_while_training():
    torch.manual_seed(0)
    layer = WordEmbedding(6, 3, dropout=0.0)
    assert torch.allclose(layer.table.weight[1:].norm(dim=1), torch.ones(5))
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0)
    before = layer.table.weight.detach().clone()
    layer(torch.tensor([[1, 2, 0]])).sum().backward()
    optimiser.step()
    assert not layer.table.weight[0].any()
    assert not torch.equal(layer.table.weight[1], before[1])
    frozen = WordEmbedding(6, 3, vectors=before, tune=False)
    assert not frozen.table.weight.requires_grad
    assert torch.equal(frozen.table.weight, before)


def test_padding_is_zero_whatever_vectors_say():
    vectors = torch.arange(1.0, 7).view(3, 2)
    layer = WordEmbedding(3, 2, vectors=vectors, dropout=0.0)
    assert layer(torch.tensor([[2, 0, 1]])).tolist() == [[[5, 6], [0, 0], [3, 4]]]
    assert vectors[0].tolist() == [1, 2]  # what was given is left alone


def test_convolution_by_hand():
    layer = Convolution(1, 1, 2, padding=1, dilation=1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[2.0, 1.0]]]))
        layer.bias.fill_(0.5)
    # Position i is 2 x[i - 1] + x[i] + 1/2; padding by one on both sides adds a position.
    out = layer(torch.tensor([[[1.0], [3.0]]]))
    assert out.flatten().tolist() == [1.5, 5.5, 6.5]


def test_gradients_of_a_convolution_by_hand():
    x = torch.tensor([[[1.0], [3.0]], [[5.0], [0.0]]], requires_grad=True)
    weight = torch.tensor([[[2.0, 1.0, 4.0]]], requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    out = convolve(x, weight, bias, padding=1)
    assert out.flatten().tolist() == [1 + 4 * 3, 2 * 1 + 3, 5, 2 * 5]
    (out * torch.tensor([[[1.0], [10.0]], [[100.0], [1000.0]]])).sum().backward()
    # Each tap meets the gradient of the position that read it: note by note, never across notes.
    assert weight.grad.flatten().tolist() == [10 * 1 + 1000 * 5, 1 + 30 + 500, 1 * 3 + 100 * 0]
    assert x.grad.flatten().tolist() == [1 + 20, 4 + 10, 100 + 2000, 400 + 1000]
    assert bias.grad.tolist() == [1111]


@pytest.mark.parametrize("notes", [1, 3])
@pytest.mark.parametrize(
    ("size", "padding", "dilation"), [(4, 0, 1), (5, 2, 1), (2, 3, 3), (1, 0, 1), (3, 9, 8)]
)
def test_convolution_equals_conv1d(notes, size, padding, dilation):
    x, _ = masked_input()
    sides = x[:notes].clone().requires_grad_(), x[:notes].clone().requires_grad_()
    ours = Convolution(5, 4, size, padding=padding, dilation=dilation).double()
    theirs = nn.Conv1d(5, 4, size, padding=padding, dilation=dilation).double()
    theirs.load_state_dict(ours.state_dict())
    out, expected = ours(sides[0]), theirs(sides[1].transpose(1, 2)).transpose(1, 2)
    assert torch.allclose(out, expected, atol=1e-12)
    out.square().sum().backward()
    expected.square().sum().backward()
    for mine, other in zip(
        [sides[0], ours.weight, ours.bias], [sides[1], theirs.weight, theirs.bias], strict=True
    ):
        assert torch.allclose(mine.grad, other.grad, atol=1e-12)


def test_convolution_in_bf16_is_torchs():
    x, _ = masked_input()
    layer = Convolution(5, 4, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x.float())
        expected = nn.functional.conv1d(
            x.float().transpose(1, 2), layer.weight, layer.bias, padding=1
        )
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out, expected.transpose(1, 2), atol=0.02)
    out.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_residual_block_by_hand():
    block = ResidualConvolution(1, 1, 3, norm=lambda _: Plain(), dropout=0.0)
    with torch.no_grad():
        block.first.weight.copy_(torch.tensor([[[0.0, 1.0, 0.0]]]))
        block.second.weight.copy_(torch.tensor([[[1.0, 0.0, 0.0]]]))  # what came before
        block.shortcut.weight.fill_(3.0)
    out = block(torch.tensor([[[0.2], [0.4]]]), None).flatten().tolist()
    assert out == pytest.approx([math.tanh(0.6), math.tanh(math.tanh(0.2) + 1.2)])
    with pytest.raises(MarnError, match="must be odd"):
        ResidualConvolution(1, 1, 4, norm=TokenNorm, dropout=0.0)


class Plain(nn.Module):
    def forward(self, x, mask):
        return x


def test_residual_block_equals_torch_layers_and_leaves_padding_out():
    x, mask = masked_input()
    block = ResidualConvolution(5, 4, 3, norm=TokenNorm, dropout=0.0).double()

    copies = [nn.BatchNorm1d(4).double() for _ in range(3)]
    convolve = nn.functional.conv1d
    h = x.transpose(1, 2)
    main = torch.tanh(copies[0](convolve(h, block.first.weight, padding=1)))
    main = copies[1](convolve(main, block.second.weight, padding=1))
    expected = torch.tanh(main + copies[2](convolve(h, block.shortcut.weight)))
    assert torch.allclose(block(x, None), expected.transpose(1, 2), atol=1e-12)
    wider = nn.functional.pad(x, (0, 0, 0, 4))
    masked = block(wider, length_mask(LENGTHS, 11))
    assert torch.allclose(masked[:, :7], block(x, mask), atol=1e-12)
    assert not masked[~length_mask(LENGTHS, 11)].any()


def test_tanh_attention_by_hand():
    head = TanhAttention(2, {"icd": 1}, attention_size=1)
    with torch.no_grad():
        head.projection["icd"].copy_(torch.tensor([[1.0], [0.0]]))
        head.query["icd"].fill_(math.log(3) / math.tanh(1))
        head.weight["icd"].copy_(torch.tensor([[2.0, 4.0]]))
        head.bias["icd"].fill_(0.5)
    # tanh is 0 and tanh 1, scores 0 and log 3, weights 1/4 and 3/4; the view is (3/4, 1/4 * 8).
    features = torch.tensor([[[0.0, 8.0], [1.0, 0.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    assert head.attention(features, mask, "icd")[0, 0].tolist() == pytest.approx([0.25, 0.75, 0])
    assert head(features, mask)["icd"].item() == pytest.approx(2 * 0.75 + 4 * 2 + 0.5)


@pytest.mark.parametrize("with_mask", [True, False])
def test_tanh_attention_equals_a_loop_and_its_own_weights(with_mask):
    features, mask = masked_input(6)
    head = TanhAttention(6, {"icd": 4, "ccs": 3}, attention_size=5).double()
    seen = mask if with_mask else None
    found = head(features, seen)
    for task, codes in head.tasks.items():
        weights = head.attention(features, seen, task)
        assert torch.allclose(weights.sum(2), torch.ones(3, codes, dtype=torch.float64))
        assert torch.allclose(
            weights @ features, head.label_representations(features, seen)[task], atol=1e-12
        )
        for b in range(3):
            positions = range(int(LENGTHS[b]) if with_mask else 7)
            hidden = [torch.tanh(head.projection[task].T @ features[b, t]) for t in positions]
            for c in range(codes):
                scores = torch.stack([head.query[task][c] @ z for z in hidden]).exp()
                parts = [s * features[b, t] for s, t in zip(scores, positions, strict=True)]
                logit = head.weight[task][c] @ sum(parts) / scores.sum() + head.bias[task][c]
                assert found[task][b, c].item() == pytest.approx(logit.item(), abs=1e-12)


def test_pooled_head_gives_every_code_the_same_view():
    class First(PooledHead):
        def pool(self, features, mask):
            return features[:, 0]

    features, _ = masked_input(6)
    head = First(6, {"icd": 4, "ccs": 3}).double()
    for task, logits in head(features, None).items():
        layer = nn.Linear(6, head.tasks[task]).double()
        layer.load_state_dict({"weight": head.weight[task], "bias": head.bias[task]})
        assert torch.allclose(logits, layer(features[:, 0]), atol=1e-12)
        view = head.label_representations(features, None)[task]
        assert torch.equal(view, features[:, :1].expand_as(view))


@pytest.mark.parametrize("width", [6, 4])  # with 4 the fused kernel cannot be used
@pytest.mark.parametrize("at_once", [2**28, 30, 1])
def test_attention_in_parts_is_attention(width, at_once):
    torch.manual_seed(0)
    values = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(2, 5, width, dtype=torch.float64, requires_grad=True)
    queries = torch.randn(7, width, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    found = attend(queries, keys, values, mask, at_once=at_once)
    scores = torch.einsum("cd,btd->bct", queries, keys).masked_fill(~mask[:, None], -torch.inf)
    expected = torch.einsum("bct,btd->bcd", scores.softmax(2), values)
    assert torch.allclose(found, expected, atol=1e-12)
    weight = torch.randn_like(found)
    for one, other in zip(
        torch.autograd.grad((found * weight).sum(), [queries, keys, values]),
        torch.autograd.grad((expected * weight).sum(), [queries, keys, values]),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-12)


def test_reorder_is_a_gather_of_rows():
    x = torch.randn(3, 5, 2, dtype=torch.float64).transpose(0, 1).transpose(0, 1)  # (B, T, D)
    order = torch.stack([torch.randperm(5)[:4] for _ in range(3)])  # (B, T')
    gradients = []
    for way in (reorder, lambda x, order: x.gather(1, order[..., None].expand(-1, -1, 2))):
        leaf = x.clone().requires_grad_()
        out = way(leaf, order)
        (out * torch.arange(24).view(3, 4, 2)).sum().backward()
        gradients.append((out.detach(), leaf.grad))
    assert all(map(torch.equal, *gradients))
    assert reorder(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[1, 0]])).tolist() == [[[2], [1]]]


@pytest.mark.parametrize("encoder", [BiGRU, BiLSTM])
def test_a_recurrence_keeps_its_precision_under_autocast(encoder):
    torch.manual_seed(0)
    model = encoder(5, 4)
    x, mask = masked_input()
    x = x.float()
    expected = model(x, mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x, mask)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=0.02)
