import pytest
import torch
from torch import nn

from marn.nn.layers import bidirectional_gru


def parameters(gru):
    return [gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0]


@pytest.mark.parametrize("shape", [(3, 7), (1, 1), (4, 2), (2, 70)])
def test_equals_torchs_gru_with_its_gradients(shape):
    torch.manual_seed(0)
    cells = [nn.GRU(5, 4, batch_first=True).double() for _ in range(2)]
    x = torch.randn(2, *shape, 5, dtype=torch.float64, requires_grad=True)
    ours = bidirectional_gru(x, [parameters(cell) for cell in cells])
    reference = torch.stack([cell(part)[0] for cell, part in zip(cells, x, strict=True)])
    assert torch.allclose(ours, reference, atol=1e-12)
    weight = torch.randn_like(ours)
    wanted = [x, *parameters(cells[0]), *parameters(cells[1])]
    found = torch.autograd.grad((ours * weight).sum(), wanted)
    expected = torch.autograd.grad((reference * weight).sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_by_hand():
    # One unit, all weights 0: r = z = 1/2, n = tanh(i_n + b_n / 2), h = n (1 - 1/2^t).
    weight_ih, weight_hh = torch.zeros(3, 1), torch.zeros(3, 1)
    bias_ih, bias_hh = torch.tensor([0.0, 0.0, 0.5]), torch.tensor([0.0, 0.0, 1.0])
    out = bidirectional_gru(torch.zeros(1, 1, 3, 1), [[weight_ih, weight_hh, bias_ih, bias_hh]])
    n = torch.tanh(torch.tensor(1.0))
    assert torch.allclose(out.flatten(), n * torch.tensor([1 / 2, 3 / 4, 7 / 8]))


def test_ways_do_not_see_each_other():
    torch.manual_seed(0)
    cells = [parameters(nn.GRU(3, 2, batch_first=True)) for _ in range(2)]
    x = torch.randn(2, 2, 4, 3)
    changed = x.clone()
    changed[1] += 1
    one, other = bidirectional_gru(x, cells), bidirectional_gru(changed, cells)
    assert torch.equal(one[0], other[0])
    assert not torch.allclose(one[1], other[1], atol=1e-3)


def test_autocast_changes_little_and_gradients_stay_whole():
    torch.manual_seed(0)
    cells = [parameters(nn.GRU(3, 2, batch_first=True)) for _ in range(2)]
    x = torch.randn(2, 2, 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        half = bidirectional_gru(x, cells)
    assert half.dtype == torch.float32
    assert torch.allclose(half, bidirectional_gru(x, cells), atol=0.02)
    half.sum().backward()
    assert all(weight.grad.dtype == torch.float32 for cell in cells for weight in cell)
