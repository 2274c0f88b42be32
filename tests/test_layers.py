import math

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from marn.layers import BiGRU, LabelAttention, WordEmbedding, length_mask

LENGTHS = torch.tensor([7, 3, 1])


def masked_input(features=5, seed=0):
    torch.manual_seed(seed)
    mask = length_mask(LENGTHS, 7)
    return torch.randn(3, 7, features, dtype=torch.float64) * mask[..., None], mask


def test_mask_by_hand():
    assert length_mask(torch.tensor([2, 0]), 3).tolist() == [[True, True, False], [False] * 3]


def test_bigru_equals_a_packed_sequence():
    x, mask = masked_input()
    ours = BiGRU(5, 4).double()
    packed = nn.GRU(5, 4, batch_first=True, bidirectional=True).double()
    state = dict(ours.forwards.state_dict().items())
    state |= {f"{k}_reverse": v for k, v in ours.backwards.state_dict().items()}
    packed.load_state_dict(state)
    reference, _ = packed(pack_padded_sequence(x, LENGTHS, batch_first=True))
    reference, _ = pad_packed_sequence(reference, batch_first=True)
    assert torch.allclose(ours(x, mask), reference, atol=1e-12)
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
