import statistics

import pytest
import torch
from torch import nn

from marn.errors import MarnError
from marn.nn.layers import length_mask
from marn.nn.ram import ConvNorm, RecalibratedAggregation, TokenNorm


def parameters(size):
    return sum(p.numel() for p in RecalibratedAggregation(size).parameters())


@pytest.mark.parametrize(("size", "count"), [(600, 3_178_500), (300, 796_125), (50, 22_342)])
def test_published_sizes(size, count):
    assert parameters(size) == count


@pytest.mark.parametrize("size", [4, 5, 6, 7, 50])
@pytest.mark.parametrize("fusion", ["multiply", "add"])
def test_keeps_length_and_width(size, fusion):
    ram = RecalibratedAggregation(size, fusion=fusion)
    for width in (1, 2, 9):
        assert ram(torch.randn(3, width, size)).shape == (3, width, size)


def test_convolution_is_shift_and_add():
    # MT-RAM writes it as a "dislocation addition": three products, shifted by one token and added.
    torch.manual_seed(0)
    layer = ConvNorm(2, 3)
    layer.norm = nn.Identity()
    layer.norm.forward = lambda x, mask: x
    x = torch.randn(1, 4, 2)
    w = layer.weight  # (3, 2, 3)
    expected = torch.zeros(1, 4, 3)
    for t in range(4):
        for k in range(3):
            if 0 <= t + k - 1 < 4:
                expected[0, t] += w[:, :, k] @ x[0, t + k - 1]
    assert torch.allclose(layer(x, None), expected, atol=1e-6)


def test_deconvolution_is_torchs():
    torch.manual_seed(0)
    layer = ConvNorm(2, 4, transposed=True)
    layer.norm = nn.Identity()
    layer.norm.forward = lambda x, mask: x
    x = torch.randn(2, 5, 2)
    reference = nn.functional.conv_transpose1d(x.transpose(1, 2), layer.weight, padding=1)
    assert torch.allclose(layer(x, None), reference.transpose(1, 2), atol=1e-6)


def reference_ram(ram, h):
    """The equations with torch's own layers over (1, D, T)."""

    def block(part, x):
        for conv, last in ((part.first, False), (part.second, True)):
            op = nn.functional.conv_transpose1d if conv.transposed else nn.functional.conv1d
            x = op(x, conv.weight, padding=1)
            n = conv.norm
            x = nn.functional.batch_norm(
                x, n.running_mean.clone(), n.running_var.clone(), n.weight, n.bias, ram.training
            )
            x = x if last else torch.tanh(x)
        return x

    def up(part, x):
        if isinstance(part, nn.Linear):
            return torch.einsum("bct,dc->bdt", x, part.weight)
        return block(part, x)

    x = h.transpose(1, 2)
    d1 = block(ram.down1, x)
    l1 = block(ram.lateral, block(ram.down2, d1))
    u1 = up(ram.up1, l1) + d1
    u2 = up(ram.up2, u1)
    fused = u2 * x if ram.fusion == "multiply" else u2 + x
    return (torch.tanh(fused) if ram.squash is torch.tanh else fused).transpose(1, 2)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "reading",
    [
        {},
        {"fusion": "add"},
        {"up": "conv"},
        {"up": "linear"},
        {"tanh": False},
        {"fusion": "add", "tanh": False, "up": "linear"},
    ],
    ids=str,
)
def test_equals_the_equations(training, reading):
    torch.manual_seed(1)
    ram = RecalibratedAggregation(8, dropout=0.0, **reading).double().train(training)
    h = torch.randn(2, 6, 8, dtype=torch.float64)
    expected = reference_ram(ram, h)
    assert torch.allclose(ram(h), expected, atol=1e-10)
    whole = torch.ones(2, 6, dtype=torch.bool)
    assert torch.allclose(ram(h, whole), expected, atol=1e-10)


def test_readings_of_the_up_sample_block():
    # Eq. 6 as printed has as many weights as two deconvolutions; the second one is none.
    printed = RecalibratedAggregation(8, up="conv")
    assert sum(p.numel() for p in printed.parameters()) == parameters(8)
    assert printed.up2.first.transposed
    assert not printed.up2.second.transposed
    linear = RecalibratedAggregation(8, up="linear")
    assert linear.up2.weight.shape == (8, 4)
    mask = length_mask(torch.tensor([3]), 5)
    assert not linear(torch.randn(1, 5, 8) * mask[..., None], mask)[:, 3:].any()
    # Without the last tanh values may leave [-1, 1].
    h = 10 * torch.randn(2, 6, 8)
    assert RecalibratedAggregation(8, tanh=False, dropout=0.0)(h).abs().max() > 1
    assert RecalibratedAggregation(8, dropout=0.0)(h).abs().max() <= 1


def test_norm_over_real_tokens_only():
    norm = TokenNorm(1)
    x = torch.tensor([[[1.0], [3.0]], [[5.0], [100.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    # Mean 3, variance 8/3 over 1, 3 and 5.
    scale = (8 / 3 + norm.eps) ** 0.5
    found = norm(x, mask).flatten().tolist()
    assert found == pytest.approx([-2 / scale, 0, 2 / scale, 0], abs=1e-5)
    assert float(norm.running_mean) == pytest.approx(0.3)  # momentum 0.1 of 3
    assert float(norm.running_var) == pytest.approx(0.9 + 0.1 * 4)  # unbiased variance 4


def test_padding_changes_nothing_with_a_mask_and_something_without():
    torch.manual_seed(0)
    ram = RecalibratedAggregation(8, dropout=0.0)
    for _ in range(3):
        ram(torch.randn(4, 9, 8))
    for training in (True, False):
        ram.train(training)
        h = torch.randn(1, 5, 8)
        mask = length_mask(torch.tensor([5]), 8)
        longer = torch.cat([h, torch.zeros(1, 3, 8)], dim=1)
        alone = ram(h, torch.ones(1, 5, dtype=torch.bool))
        assert torch.allclose(ram(longer, mask)[:, :5], alone, atol=1e-6)
        assert not ram(longer, mask)[:, 5:].any()
    ram.train()
    assert not torch.allclose(ram(longer)[:, :5], ram(h), atol=1e-3)


def test_a_single_token_can_be_trained_on():
    ram = RecalibratedAggregation(8)
    out = ram(torch.randn(1, 1, 8), torch.ones(1, 1, dtype=torch.bool))
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("up", ["deconv", "conv"])
@pytest.mark.parametrize("fusion", ["multiply", "add"])
def test_identity_starts_near_the_tanh_of_its_input(fusion, up, training):
    torch.manual_seed(0)
    ram = RecalibratedAggregation(32, fusion=fusion, up=up, dropout=0, start="identity")
    h = torch.tanh(torch.randn(4, 50, 32))
    noise = RecalibratedAggregation(32, fusion=fusion, up=up, dropout=0)
    near, far = (
        float((m.train(training)(h) - torch.tanh(h)).detach().abs().mean()) for m in (ram, noise)
    )
    assert near < 0.08
    assert not training or far > 0.3
    assert sum(p.numel() for p in ram.parameters()) == sum(p.numel() for p in noise.parameters())


def test_identity_by_hand():
    # Of a normalised value of 2 the gate is 1 + 0.1 * 2; added to 0.5 it is 0.1 * 2.
    for fusion, expected in (("multiply", 1.2 * 0.5), ("add", 0.2 + 0.5)):
        ram = RecalibratedAggregation(4, fusion=fusion, dropout=0, start="identity").eval()
        last = ram.up2.second
        last.weight.data.zero_()
        last.norm.running_mean.fill_(-2.0)  # (0 + 2) / 1 = 2 in every channel
        out = ram(torch.full((1, 3, 4), 0.5))
        assert torch.allclose(out, torch.tensor(expected).tanh(), atol=1e-4)


def test_bad_arguments():
    with pytest.raises(MarnError, match="start must be one of"):
        RecalibratedAggregation(8, start="zero")
    with pytest.raises(MarnError, match="up='linear' has none; choose up='deconv' or 'conv'"):
        RecalibratedAggregation(8, up="linear", start="identity")
    with pytest.raises(MarnError, match="fusion"):
        RecalibratedAggregation(8, fusion="mul")
    with pytest.raises(MarnError, match="up must be one of"):
        RecalibratedAggregation(8, up="upsample")
    with pytest.raises(MarnError, match="at least 4"):
        RecalibratedAggregation(3)


def errors(x, above, mask, weight, layer):
    """Return {what: largest error in fp32 by the largest value}, against fp64.

    The released layout is `BatchNorm1d` over (B, C, T), here of the real tokens as one note.
    """

    def run(dtype, ours):
        norm = (TokenNorm if ours else nn.BatchNorm1d)(x.shape[2]).to(dtype)
        norm.weight.data.copy_(weight)
        given = x.to(dtype, copy=True).requires_grad_()
        out = norm(given, mask)[mask] if ours else norm(given[mask].T.contiguous()[None])[0].T
        out.backward(above[mask].to(dtype))
        return {
            "output": out.detach(),
            "input": given.grad,
            "weight": norm.weight.grad,
            "bias": norm.bias.grad,
        }

    exact, found = run(torch.float64, False), run(torch.float32, layer is TokenNorm)
    return {k: float((found[k].double() - v).abs().max() / v.abs().max()) for k, v in exact.items()}


def test_single_precision_is_as_exact_as_the_released_layout_at_any_size():
    # The largest of many rounding errors scatters by a factor of 2 in either layout: one draw may
    # be worse, but not the median. The gradients of weight and bias are sums, nearly exact.
    torch.manual_seed(0)
    ratios = {}
    sizes = [(16, 4000, 24), (1, 2, 5), (3, 50, 600), (1, 1025, 9)]
    sizes += [tuple(int(torch.randint(1, n, ())) + 1 for n in (32, 500, 30)) for _ in range(12)]
    for notes, width, channels in sizes:
        x = torch.randn(notes, width, channels) * 2 + 3 * torch.randn(channels)
        above, weight = torch.randn_like(x) + 0.3, torch.rand(channels) + 0.5
        mask = length_mask(torch.randint((width + 1) // 2, width + 1, (notes,)), width)
        mask[0] = True
        ours, released = (errors(x, above, mask, weight, k) for k in (TokenNorm, nn.BatchNorm1d))
        assert ours["output"] < 1e-6
        for what, error in ours.items():
            ratios.setdefault(what, []).append(error / max(released[what], 3e-8))
    for what, found in ratios.items():
        assert max(found) < 3, what
        assert statistics.median(found) < (0.5 if what in ("weight", "bias") else 1), what


def test_gradient_of_the_norm_is_that_of_its_function():
    torch.manual_seed(0)
    norm = TokenNorm(3).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    mask = length_mask(torch.tensor([4, 2]), 4)
    assert torch.autograd.gradcheck(lambda x: norm(x * mask[..., None], mask), (x,))
    assert torch.autograd.gradcheck(
        lambda w, b: torch.func.functional_call(norm, {"weight": w, "bias": b}, (x.detach(), mask)),
        (torch.rand(3, dtype=torch.float64, requires_grad=True), norm.bias),
    )
