"""The mathematics of the systems that are rebuilt from their papers, against slow and other ways.

What all systems have in common is in test_models.
"""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from toys import SYSTEM_SIZES, TITLES, padded, sizes_alone, toy_corpus

from marn import Coder, MarnError, build
from marn.models.descriptions import mean_vectors
from marn.nn.layers import LabelAttention, length_mask
from marn.reconstructions import hypercore
from marn.reconstructions.attentive_lstm import SpelledEmbedding, last_states
from marn.reconstructions.c_memnn import CondensedMemory, condensed_sizes
from marn.reconstructions.dlac import DescriptionAttention
from marn.reconstructions.gatedcnn_nci import GatedPropagation, NoteCodeInteraction
from marn.reconstructions.hypercore import CodeGraph, ancestry, company, distance, embed_tree
from marn.saving import load_model, save_model

TASKS = {"icd": 5, "ccs": 3}
LENGTHS = torch.tensor([7, 4, 1])
REBUILT = ["attentive_lstm", "c_memnn", "dlac", "gatedcnn_nci", "hypercore"]


def small(name, tasks=TASKS, **options):
    sizes = {"embedding_size": 12} | SYSTEM_SIZES[name] | options
    return build(name, vocabulary_size=40, tasks=tasks, **sizes).eval()


def notes(features=6, seed=0):
    torch.manual_seed(seed)
    mask = length_mask(LENGTHS, 7)
    return torch.randn(3, 7, features, dtype=torch.float64) * mask[..., None], mask


def softmax(scores):
    weights = [math.exp(score) for score in scores]
    return [weight / sum(weights) for weight in weights]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# All of them


@pytest.mark.parametrize("name", REBUILT)
def test_what_a_corpus_tells_is_saved_with_the_model(name, tmp_path):
    corpus = toy_corpus(tmp_path / "corpus", codes=6)
    model = build(name, corpus, embedding_size=12, **sizes_alone(name)).eval()
    tokens, lengths = padded([9, 4], len(corpus.vocabulary))
    save_model(tmp_path / "model", model, corpus)
    loaded = load_model(tmp_path / "model").model
    for task, logits in model(tokens, lengths).items():
        assert torch.equal(loaded(tokens, lengths)[task], logits)


def test_loading_does_not_embed_the_tree_again(tmp_path, monkeypatch):
    corpus = toy_corpus(tmp_path / "corpus")
    model = build("hypercore", corpus, embedding_size=12, filters=8, kernel_size=4, ball_size=3)
    save_model(tmp_path / "model", model, corpus)
    monkeypatch.setattr(hypercore, "embed_tree", None)
    loaded = load_model(tmp_path / "model").model
    assert loaded.options["tree"] == {"icd": None, "ccs": None}
    places = model.head.get_buffer("places_icd")
    assert places.abs().min() > 0
    assert torch.equal(loaded.head.get_buffer("places_icd"), places)


@pytest.mark.parametrize("name", REBUILT)
def test_half_precision_is_safe(name):
    model = small(name, recalibrate="multiply")
    tokens, lengths = padded([9, 4])
    expected = model(tokens, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(tokens, lengths)
    for task in TASKS:
        assert torch.allclose(found[task].float(), expected[task], atol=0.1)


@pytest.mark.parametrize("name", REBUILT)
def test_frozen_vectors_stay_and_all_else_learns(name):
    model = small(name, tune_embeddings=False)
    tokens, lengths = padded([9, 4])
    sum(logits.sum() for logits in model(tokens, lengths).values()).backward()
    frozen = [key for key, parameter in model.named_parameters() if not parameter.requires_grad]
    words = ["embedding.table.weight"]
    assert sorted(frozen) == sorted(
        words + ["head.words.table.weight"] * (name == "attentive_lstm")
    )
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dlac", {"descriptions": None}, "dlac needs descriptions .* every one of its tasks"),
        ("dlac", {"descriptions": {"icd": TITLES["icd"]}}, r"none for \['ccs'\]"),
        ("dlac", {"descriptions": {**TITLES, "icd": [[1]]}}, "5 codes, but 1 descriptions"),
        ("c_memnn", {"descriptions": None}, "c_memnn needs descriptions .* one of its tasks"),
        ("c_memnn", {"hops": 0}, "hops must be at least 1"),
        ("attentive_lstm", {"descriptions": {}}, "attentive_lstm needs descriptions"),
        ("attentive_lstm", {"spelling": ["a"]}, "spelling must give the 38 words"),
        ("attentive_lstm", {"segment_size": 0}, "segment_size must be"),
        ("gatedcnn_nci", {"levels": 0}, "levels must be at least 1"),
        ("gatedcnn_nci", {"rounds": -1}, "rounds must be at least 0"),
        ("hypercore", {"tree": None}, r"needs tree of the codes of \['icd', 'ccs'\].*hyperbolic=F"),
        (
            "hypercore",
            {"edges": {"icd": []}},
            r"needs edges of the codes of \['ccs'\].*graph=False",
        ),
        ("hypercore", {"descriptions": None}, "hypercore needs descriptions"),
        ("hypercore", {"tree": {"icd": [["a"]], "ccs": []}}, "each of the 5 codes of task 'icd'"),
        ("hypercore", {"tree": {"icd": [["a"]] * 5, "ccs": []}}, "its own name"),
        ("hypercore", {"edges": {"icd": [[0, 5, 1.0]], "ccs": []}}, "two columns below 5"),
        ("hypercore", {"edges": {"icd": [[0, 1, 0.0]], "ccs": []}}, "weight above 0"),
    ],
)
def test_bad_input(name, change, message):
    with pytest.raises(MarnError, match=message):
        small(name, **change)


def test_mean_vectors_by_hand():
    table = torch.tensor([[0.0, 0], [1, 2], [3, 4], [5, 8]])
    assert mean_vectors([[1, 2], [3]], table).tolist() == [[2, 3], [5, 8]]


# GatedCNN-NCI


def test_gated_propagation_by_hand():
    # One feature, kernel 1: no position sees another but through its cell.
    encoder = GatedPropagation(1, 1, 1, levels=2)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.weight[2, 0, 0] = 1.0  # g is the word; all gates are half open
    found = encoder(torch.tensor([[[1.0], [2.0], [3.0]]]))[0, :, 0].tolist()
    # The second level looks back two tokens, so that the third word keeps half of the first
    # one's cell, which is tanh(1) / 2 after the first level; the others have nothing to keep.
    cells = [math.tanh(1) / 2, math.tanh(2) / 2, math.tanh(1) / 4 + math.tanh(3) / 2]
    assert found == pytest.approx([math.tanh(cell) / 2 for cell in cells])


def test_gated_propagation_equals_a_loop():
    torch.manual_seed(0)
    encoder = GatedPropagation(3, 2, 2, levels=3).double()
    nn.init.normal_(encoder.weight, std=0.5)
    nn.init.normal_(encoder.bias, std=0.5)
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    weight, bias = encoder.weight.detach().numpy(), encoder.bias.detach().numpy()
    for note, found in zip(x.numpy(), encoder(x).detach().numpy(), strict=True):
        cell, state = np.zeros((9, 2)), np.zeros((9, 2))
        for level in range(3):
            step = 2**level
            new_cell, new_state = np.zeros((9, 2)), np.zeros((9, 2))
            for t in range(9):
                gates = bias.copy()
                for tap, place in enumerate((t - step, t)):
                    if place >= 0:
                        seen = np.concatenate([note[place], state[place]])
                        gates = gates + weight[:, :, tap] @ seen
                i, o, g, f = np.split(gates, 4)
                before = cell[t - step] if t >= step else 0
                new_cell[t] = sigmoid(f) * before + sigmoid(i) * np.tanh(g)
                new_state[t] = sigmoid(o) * np.tanh(new_cell[t])
            cell, state = new_cell, new_state
        assert np.allclose(found, state, atol=1e-12)


def test_a_gated_position_sees_the_past_alone_and_just_so_far():
    torch.manual_seed(0)
    encoder = GatedPropagation(3, 4, 2, levels=3).double()
    nn.init.normal_(encoder.weight)
    x = torch.randn(1, 20, 3, dtype=torch.float64, requires_grad=True)
    encoder(x)[0, 12].sum().backward()
    seen = x.grad[0].abs().sum(dim=1).nonzero()[:, 0].tolist()
    assert seen == list(range(12 - 7, 13))


def interaction_by_loops(head, features, length):
    """Codes and positions of one note after all rounds, as lists of numpy vectors."""
    codes = [row.detach().numpy() for task in head.tasks for row in head.query[task]]
    places = [features[t].detach().numpy() for t in range(length)]
    size = head.told
    for _ in range(head.rounds):
        weights = [softmax([code @ place for place in places]) for code in codes]
        told = []
        for code, weight in zip(codes, weights, strict=True):
            heard = sum(w * place[:size] for w, place in zip(weight, places, strict=True))
            out = head.to_codes.weight.detach().numpy() @ np.concatenate([code[:size], heard])
            out = np.maximum(out + head.to_codes.bias.detach().numpy(), 0)
            told.append(np.concatenate([out, code[size:]]))
        moved = []
        for t, place in enumerate(places):
            total = sum(weight[t] for weight in weights)
            heard = sum(w[t] / total * code[:size] for w, code in zip(weights, told, strict=True))
            out = head.to_positions.weight.detach().numpy() @ heard
            out = place[:size] + out + head.to_positions.bias.detach().numpy()
            moved.append(np.concatenate([out, place[size:]]))
        codes, places = told, moved
    return codes, places


@pytest.mark.parametrize(("rounds", "told"), [(1, None), (2, None), (2, 4)])
def test_notes_and_codes_talk_as_in_a_loop(rounds, told):
    features, mask = notes()
    head = NoteCodeInteraction(6, TASKS, rounds=rounds, told=told).double()
    assert head.told == (told or 6)
    logits = head(features, mask)
    weights = head.attention(features, mask, "ccs")
    for row, length in enumerate(LENGTHS.tolist()):
        codes, places = interaction_by_loops(head, features[row], length)
        for place, (task, column) in enumerate([("icd", k) for k in range(5)] + [("ccs", 0)]):
            weight = softmax([codes[place] @ h for h in places])
            view = sum(w * h for w, h in zip(weight, places, strict=True))
            classifier = head.weight[task][column].detach().numpy()
            expected = classifier @ view + head.bias[task][column].item()
            assert logits[task][row, column].item() == pytest.approx(expected, abs=1e-9)
        assert weights[row, 0, :length].tolist() == pytest.approx(weight, abs=1e-9)


def test_without_messages_it_is_label_attention():
    features, mask = notes()
    head = NoteCodeInteraction(6, TASKS, rounds=0).double()
    plain = LabelAttention(6, TASKS).double()
    plain.load_state_dict(head.state_dict())
    assert torch.equal(head(features, mask)["icd"], plain(features, mask)["icd"])
    assert torch.allclose(
        head.attention(features, mask, "ccs"), plain.attention(features, mask, "ccs")
    )


# HyperCore


def points(count, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(count, size, generator=generator, dtype=torch.float64)
    radius = torch.rand(count, 1, generator=generator, dtype=torch.float64) * 0.99
    return radius * direction / direction.norm(dim=1, keepdim=True)


def test_distance_by_hand():
    origin, half = torch.zeros(2, dtype=torch.float64), torch.tensor([0.5, 0.0]).double()
    # From the origin it is 2 artanh of the radius, so ln 3 for a half; lines through it add up.
    assert distance(origin, half).item() == pytest.approx(math.log(3))
    assert distance(-half, half).item() == pytest.approx(2 * math.log(3))
    assert distance(half, torch.tensor([0.0, 0.5])).item() == pytest.approx(
        math.acosh(1 + 2 * 0.5 / 0.75**2)
    )


def test_distance_equals_the_one_by_moebius_addition():
    u, v = points(50, seed=1), points(50, seed=2)
    dot = (u * v).sum(1, keepdim=True)
    uu, vv = u.square().sum(1, keepdim=True), v.square().sum(1, keepdim=True)
    added = ((1 - 2 * dot + vv) * -u + (1 - uu) * v) / (1 - 2 * dot + uu * vv)
    assert torch.allclose(distance(u, v), 2 * torch.atanh(added.norm(dim=1)), rtol=1e-9)


def test_distance_is_a_metric_and_the_edge_is_far_away():
    x = points(12)
    table = distance(x[:, None], x[None])
    assert torch.allclose(table, table.T)
    assert float(table.diagonal().max()) < 1e-5
    assert float((table + torch.eye(12)).min()) > 0
    roundabout = (table[:, :, None] + table[None]).amin(dim=1)  # over one stop
    assert bool((table <= roundabout + 1e-5).all())
    turned = x[:, [2, 0, 3, 1]] * torch.tensor([1, -1, 1, -1])
    assert torch.allclose(distance(turned[:, None], turned[None]), table)
    radii = [1 - 10.0**-k for k in range(1, 6)]
    steps = [distance(torch.zeros(1), torch.tensor([r])).item() for r in radii]
    # A tenth of the way to the edge adds about ln 10 each time.
    assert [b - a for a, b in pairwise(steps)] == pytest.approx([math.log(10)] * 4, rel=0.03)


def test_distance_of_a_point_from_itself_has_a_gradient():
    x = points(1)[0].requires_grad_()
    distance(x, x.detach().clone()).backward()
    assert torch.isfinite(x.grad).all()


CHAINS = [ancestry("dx", code) for code in ("427.31", "427.32", "427.5", "038.9", "401.9")]


def test_one_step_into_the_ball_equals_numerical_gradients():
    torch.manual_seed(3)
    found = embed_tree(CHAINS, 2, steps=1, learning_rate=0.5, negatives=3)
    torch.manual_seed(3)
    names = list(dict.fromkeys(name for chain in CHAINS for name in [*chain, ""]))
    above = {name: set() for name in names}
    for chain in CHAINS:
        path = [*chain, ""]
        for place, name in enumerate(path):
            above[name] |= set(path[place + 1 :])
    theta = torch.empty(len(names), 2, dtype=torch.float64).uniform_(-1e-3, 1e-3).numpy()
    pairs = sorted((names.index(u), names.index(v)) for u in names for v in above[u])
    drawn = torch.randint(len(names), (len(pairs), 3)).tolist()
    terms = np.zeros(len(names))

    def apart(u, v):
        inside = (1 - u @ u) * (1 - v @ v)
        return math.acosh(1 + 2 * ((u - v) @ (u - v)) / inside)

    def loss(theta):
        total = 0.0
        for (u, v), others in zip(pairs, drawn, strict=True):
            strangers = [
                n
                for n in others
                if n != u and names[n] not in above[names[u]] and names[u] not in above[names[n]]
            ]
            scores = [-apart(theta[u], theta[n]) for n in [v, *strangers]]
            total -= math.log(softmax(scores)[0])
        return total

    for (u, v), others in zip(pairs, drawn, strict=True):
        for node in (u, v, *others):
            terms[node] += 1
    for chain, place in zip(CHAINS, found, strict=True):
        node = names.index(chain[0])
        gradient = np.zeros(2)
        for k in range(2):
            nudge = np.zeros_like(theta)
            nudge[node, k] = 1e-7
            gradient[k] = (loss(theta + nudge) - loss(theta - nudge)) / 2e-7
        scale = (1 - theta[node] @ theta[node]) ** 2 / 4
        expected = theta[node] - 0.5 * scale * gradient / terms[node]
        assert place.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("at_once", [4096, 20])
def test_relatives_are_near_in_the_ball(at_once):
    codes = [f"{category}.{k}" for category in (250, 401, 427, 38) for k in range(4)]
    torch.manual_seed(0)
    places = embed_tree([ancestry("dx", code) for code in codes], 5, at_once=at_once)
    assert float(places.norm(dim=1).max()) < 1
    table = distance(places[:, None], places[None]) + 99 * torch.eye(16)
    assert (table.argmin(dim=1) // 4).tolist() == [code // 4 for code in range(16)]
    shared = torch.eye(4).repeat_interleave(4, 0).repeat_interleave(4, 1).bool()
    near = table[shared & (table < 99)].mean()
    assert float(near) < float(table[~shared].mean()) / 2


def test_the_ball_is_laid_out_by_the_seed():
    torch.manual_seed(0)
    places = embed_tree(CHAINS, 5, steps=3)
    torch.manual_seed(0)
    assert torch.equal(embed_tree(CHAINS, 5, steps=3), places)
    assert not torch.equal(embed_tree(CHAINS, 5, steps=3), places)


def test_a_tree_of_one_code_has_nothing_to_learn():
    places = embed_tree([["dx 1", "dx"]], 3)
    assert float(places.abs().max()) < 2e-3


def test_ancestry_by_hand():
    assert CHAINS[0] == ["dx 427.31", "dx 427.3", "dx 427", "dx"]
    assert ancestry("pr", "38.9") == ["pr 38.9", "pr 38", "pr"]
    assert ancestry("dx", "I10") == ["dx I10", "dx"]


def test_code_graph_by_hand():
    graph = CodeGraph(torch.tensor([[2.0], [4.0], [8.0]]), [[0, 1, 1.0]], 1)
    with torch.no_grad():
        graph.first.weight.fill_(1.0)
        graph.second.weight.fill_(10.0)
    # Codes 0 and 1 have degree 2 with themselves, so both become their mean; 2 keeps its own.
    assert graph()[:, 0].tolist() == pytest.approx([30, 30, 80])


def test_code_graph_equals_matrices():
    torch.manual_seed(0)
    features = torch.randn(6, 4, dtype=torch.float64)
    edges = [[0, 1, 0.5], [1, 2, 0.1], [0, 5, 0.9], [3, 2, 0.3]]
    graph = CodeGraph(features, edges, 3).double()
    linked = np.eye(6)
    for i, j, weight in edges:
        linked[i, j] = linked[j, i] = weight
    root = np.diag(linked.sum(1) ** -0.5)
    spread = root @ linked @ root
    first, second = (m.weight.detach().numpy().T for m in (graph.first, graph.second))
    expected = spread @ np.maximum(spread @ features.numpy() @ first, 0) @ second
    assert np.allclose(graph().detach().numpy(), expected, atol=1e-12)


class Company:
    """As much of a corpus as `company` looks at."""

    def __init__(self, present):
        self.present = np.array(present)
        self.tasks = {"icd": self.present.shape[1]}

    def __getitem__(self, split):
        assert split == "train"
        return self

    def __len__(self):
        return len(self.present)

    def code_indices(self, task, note):
        return self.present[note].nonzero()[0]


def test_company_by_hand():
    notes = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
    assert company(Company(notes), "icd") == [
        [0, 1, pytest.approx(2 / math.sqrt(6), abs=1e-4)],
        [0, 2, pytest.approx(1 / math.sqrt(3), abs=1e-4)],
    ]


def test_codes_without_company():
    assert company(Company(np.zeros((0, 3))), "icd") == []
    assert company(Company([[1, 0, 0], [0, 1, 0]]), "icd") == []


def test_company_keeps_the_nearest_and_equals_a_loop(monkeypatch):
    monkeypatch.setattr(hypercore, "COMPANIONS", 2)
    present = (np.random.default_rng(0).random((60, 7)) < 0.4).astype(int)
    cosine = {}
    for i in range(7):
        for j in range(7):
            both = int((present[:, i] & present[:, j]).sum())
            cosine[i, j] = both / math.sqrt(present[:, i].sum() * present[:, j].sum())
    kept = set()
    for i in range(7):
        nearest = sorted((j for j in range(7) if j != i), key=lambda j: (-cosine[i, j], j))[:2]
        kept |= {(min(i, j), max(i, j)) for j in nearest}
    assert company(Company(present), "icd") == [
        [i, j, round(cosine[i, j], 4)] for i, j in sorted(kept)
    ]
    assert len(kept) < 7 * 6 / 2


@pytest.mark.parametrize(
    ("hyperbolic", "graph", "width"),
    [(True, True, 17), (True, False, 9), (False, True, 16), (False, False, 8)],
)
def test_each_part_of_hypercore_can_be_left_out(hyperbolic, graph, width):
    model = small("hypercore", hyperbolic=hyperbolic, graph=graph).double()
    tokens, lengths = padded([9, 4])
    features, _ = model.features(tokens, lengths)
    views = model.code_features(tokens, lengths)["icd"]
    assert views.shape == (2, 5, width)
    h = features[1].detach().numpy()[: 4 + 1]  # a kernel of 4 gives a note of 4 five positions
    places = model.head.get_buffer("places_icd").numpy() if hyperbolic else None
    attention = model.attention(tokens, lengths, "icd")
    for code in range(5):
        queries = [model.head.query["icd"][code].detach().numpy()]
        if graph:
            queries.append(model.head.graphs["icd"]()[code].detach().numpy())
        weights = [softmax(h @ query) for query in queries]
        expected = [np.array(weight) @ h for weight in weights]
        if hyperbolic:
            layer = model.head.to_ball["icd"]
            moved = layer.weight.detach().numpy() @ expected[0] + layer.bias.detach().numpy()
            place = sigmoid(moved[-1]) * (1 - 1e-5) * moved[:-1] / np.linalg.norm(moved[:-1])
            gap = 2 * ((place - places[code]) ** 2).sum()
            inside = (1 - (place**2).sum()) * (1 - (places[code] ** 2).sum())
            expected.append(np.array([-math.acosh(1 + gap / inside)]))
        assert np.allclose(views[1, code].detach().numpy(), np.concatenate(expected), atol=1e-6)
        mean = np.mean(weights, axis=0)
        mean[3] += mean[4]  # the surplus position counts for the last token
        assert np.allclose(attention[1, code, :4].detach().numpy(), mean[:4], atol=1e-9)


def test_hypercore_without_both_parts_is_caml():
    model = small("hypercore", hyperbolic=False, graph=False)
    caml = small("caml", seed=4)
    caml.load_state_dict(model.state_dict())
    tokens, lengths = padded([9, 4])
    assert torch.equal(model(tokens, lengths)["ccs"], caml(tokens, lengths)["ccs"])


# DLAC


def test_description_attention_equals_a_loop():
    features, mask = notes()
    described = {task: torch.randn(codes, 4).double() for task, codes in TASKS.items()}
    head = DescriptionAttention(6, TASKS, described=described).double()
    logits, weights = head(features, mask), head.attention(features, mask, "icd")
    projection, shift = (x.detach().numpy() for x in (head.projection.weight, head.projection.bias))
    for row, length in enumerate(LENGTHS.tolist()):
        h = features[row, :length].numpy()
        for code in range(5):
            query = projection @ described["icd"][code].numpy() + shift
            weight = np.array(softmax(h @ query / math.sqrt(6)))
            expected = head.weight["icd"][code].detach().numpy() @ (weight @ h)
            expected += head.bias["icd"][code].item()
            assert logits["icd"][row, code].item() == pytest.approx(expected, abs=1e-9)
            assert weights[row, code, :length].tolist() == pytest.approx(weight.tolist(), abs=1e-9)


def test_codes_with_one_description_look_at_the_same_words():
    titles = {"icd": [[3, 4], [5], [4, 3], [6, 7], [5, 5]], "ccs": [[5], [1], [2]]}
    model = small("dlac", descriptions=titles)
    tokens, lengths = padded([9, 4])
    weights = model.attention(tokens, lengths, "icd")
    assert torch.allclose(weights[:, 0], weights[:, 2], atol=1e-6)
    assert torch.allclose(weights[:, 1], weights[:, 4], atol=1e-6)
    assert not torch.allclose(weights[:, 0], weights[:, 1], atol=1e-4)
    assert torch.allclose(weights[:, 1], model.attention(tokens, lengths, "ccs")[:, 0], atol=1e-6)


def test_the_head_of_dlac_goes_on_any_encoder():
    class Words(Coder):
        def __init__(self, **shared):
            described = {task: torch.randn(codes, 4) for task, codes in TASKS.items()}
            head = partial(DescriptionAttention, described=described)
            super().__init__(feature_size=12, head=head, **shared)

        def encode(self, x, mask):
            return x if mask is None else x * mask[..., None]

    model = Words(vocabulary_size=40, tasks=TASKS, embedding_size=12, recalibrate="add").eval()
    tokens, lengths = padded([9, 4])
    assert model(tokens, lengths)["ccs"].shape == (2, 3)
    assert torch.allclose(model.attention(tokens, lengths, "icd").sum(2), torch.ones(2, 5))


# C-MemNN


def test_memory_by_hand():
    head = CondensedMemory(2, {"icd": 1}, memory=torch.eye(2), hops=2)
    with torch.no_grad():
        head.keys.weight.copy_(torch.eye(2) * math.log(3))
        head.values.weight.copy_(torch.eye(2))
        head.condense[0].weight.copy_(torch.tensor([[1.0, 0.0]]))
        head.condense[1].weight.copy_(torch.tensor([[0.0, 0.0, 1.0]]))
    state, looks = head.recall(torch.tensor([[1.0, 0.0]]))
    # Hop 1: scores ln 3 and 0, so 3/4 and 1/4; the answer is that, and s_1 = [3/4, 1/4, 1].
    assert looks[0, 0].tolist() == pytest.approx([0.75, 0.25])
    # Hop 2: u is (1.75, 0.25), scores differ by 1.5 ln 3; s_2 keeps the third place of s_1.
    share = 3**1.5 / (3**1.5 + 1)
    assert looks[0, 1].tolist() == pytest.approx([share, 1 - share])
    assert state[0].tolist() == pytest.approx([share, 1 - share, 1])


def test_memory_equals_a_loop():
    torch.manual_seed(0)
    head = CondensedMemory(5, {"icd": 3}, memory=torch.randn(4, 6), hops=3).double()
    features, mask = torch.randn(2, 7, 5).double(), length_mask(torch.tensor([7, 3]), 7)
    keys, values = (
        [m.weight.detach().numpy() @ text for text in head.memory.numpy()]
        for m in (head.keys, head.values)
    )
    for row, length in enumerate([7, 3]):
        asked = sum(features[row, t].numpy() for t in range(length)) / length
        state = asked
        for hop in range(3):
            weights = softmax([asked @ key for key in keys])
            answer = sum(w * value for w, value in zip(weights, values, strict=True))
            asked = asked + answer
            state = np.concatenate([answer, head.condense[hop].weight.detach().numpy() @ state])
        expected = head.weight["icd"].detach().numpy() @ state + head.bias["icd"].detach().numpy()
        found = head(features, mask)["icd"][row].tolist()
        assert found == pytest.approx(expected.tolist(), abs=1e-9)


def test_the_condensed_state_stays_below_twice_the_width():
    assert condensed_sizes(100, 5) == [100, 150, 175, 187, 193, 196]
    assert max(condensed_sizes(64, 20)) < 128


def test_neither_the_order_of_words_nor_of_the_memory_counts():
    model = small("c_memnn").double()
    tokens, lengths = padded([9])
    expected = model(tokens, lengths)["icd"]
    assert torch.allclose(model(tokens.flip(1), lengths)["icd"], expected, atol=1e-9)
    model.head.memory = model.head.memory.flip(0)
    assert torch.allclose(model(tokens, lengths)["icd"], expected, atol=1e-9)


def test_the_memory_is_of_the_tasks_that_have_descriptions():
    assert len(small("c_memnn").head.memory) == 8
    assert len(small("c_memnn", descriptions={"ccs": TITLES["ccs"]}).head.memory) == 3


# Attentive LSTM


def test_last_states_equal_a_packed_sequence():
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4, batch_first=True)
    x, sizes = torch.randn(4, 6, 3), torch.tensor([6, 1, 3, 0])
    found = last_states(lstm, x, sizes)
    packed = nn.utils.rnn.pack_padded_sequence(
        x[:3], sizes[:3], batch_first=True, enforce_sorted=False
    )
    assert torch.allclose(found[:3], lstm(packed)[1][0][0], atol=1e-6)
    assert not found[3].any()


def test_words_that_are_spelled_alike_share_their_letters():
    torch.manual_seed(0)
    letters = torch.tensor([[0, 0, 0], [1, 2, 0], [1, 2, 0], [1, 2, 3], [4, 0, 0]])
    embedding = SpelledEmbedding(
        torch.randn(5, 6), letters, alphabet=5, size=4, tune=True, dropout=0.0
    )
    x = embedding(torch.tensor([[1, 2, 3], [4, 1, 0]]))
    assert x.shape == (2, 3, 10)
    assert torch.equal(x[0, 0, 6:], x[0, 1, 6:])
    assert not torch.allclose(x[0, 0, 6:], x[0, 2, 6:])
    assert not torch.equal(x[0, 0, :6], x[0, 1, :6])
    assert torch.equal(x[0, 0], x[1, 1])
    assert not x[1, 2, 6:].any()  # padding is not spelled
    alone = embedding.speller(embedding.alphabet(torch.tensor([[1, 2]])))[1][0][0, 0]
    assert torch.allclose(x[0, 0, 6:], alone, atol=1e-6)


def test_spelling_numbers_letters_and_has_one_for_the_unknown_word():
    words = ["ab", "b"] + [f"x{k:02}" for k in range(36)]
    letters = small("attentive_lstm", spelling=words).embedding.letters
    alphabet = sorted(set("".join(words)))  # 0 to 9, a, b, x
    numbers = {letter: place + 1 for place, letter in enumerate(alphabet)}
    assert letters.shape == (40, 3)
    assert letters[1].tolist() == [numbers["a"], numbers["b"], 0]
    assert letters[2].tolist() == [numbers["b"], 0, 0]
    assert letters[0].tolist() == [0, 0, 0]
    assert letters[39].tolist() == [len(alphabet) + 1, 0, 0]
    long = small("attentive_lstm", spelling=["a" * 50] + ["b"] * 37).embedding.letters
    assert long.shape == (40, 20)


@pytest.mark.parametrize("spelling", [None, SYSTEM_SIZES["attentive_lstm"]["spelling"]])
def test_attentive_lstm_equals_a_loop_over_segments(spelling):
    model = small("attentive_lstm", spelling=spelling).double()
    tokens, lengths = padded([10, 3])
    logits, attention = model(tokens, lengths), model.attention(tokens, lengths, "icd")
    for row, length in enumerate([10, 3]):
        x = model.embedding(tokens[row : row + 1, :length])
        diagnoses = [model.reader(x[:, at : at + 4])[1][0][0, 0] for at in range(0, length, 4)]
        for code in range(5):
            places = model.head.titles_icd[code][None]
            title = model.head.words(places[places > 0][None])
            about = model.head.reader(title)[1][0][0, 0]
            weights = softmax([(about @ diagnosis).item() for diagnosis in diagnoses])
            found = sum(w * diagnosis for w, diagnosis in zip(weights, diagnoses, strict=True))
            classifier, bias = model.head.weight["icd"][code], model.head.bias["icd"][code]
            expected = classifier @ torch.cat([found, about]) + bias
            assert logits["icd"][row, code].item() == pytest.approx(expected.item(), abs=1e-9)
            sizes = [min(4, length - at) for at in range(0, length, 4)]
            over = [w / n for w, n in zip(weights, sizes, strict=True) for _ in range(n)]
            assert attention[row, code, :length].tolist() == pytest.approx(over, abs=1e-9)


def test_titles_have_a_vocabulary_of_their_own():
    head = small("attentive_lstm").head
    used = {word for task in TASKS for title in TITLES[task] for word in title} | {39}
    assert len(head.words.table.weight) == 1 + len(used)
    rows = small("attentive_lstm").embedding.table.weight[sorted(used)]
    assert torch.equal(head.words.table.weight[1:], rows)
