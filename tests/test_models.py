"""The contract that every system keeps; a system is found by being in `marn.available()`.

A model of a notebook cell keeps it too: one is made here, and leaves when the tests are done.
"""

import math
import sys
from collections.abc import Iterator

import pytest
import torch
from toys import SYSTEM_SIZES, padded, sizes_alone, toy_corpus

from marn import Coder, MarnError, TrainConfig, available, build, evaluate, fit, load_model
from marn.losses import bce_loss
from marn.nn.layers import LabelAttention
from marn.saving import save_model

TASKS = {"icd": 5, "ccs": 3}
THREE = {"icd": 5, "ccs": 3, "chapter": 2}
LENGTHS = [20, 11, 1]


CELL = """
class Bag(Coder):
    name = "bag_of_a_cell"
    def __init__(self, **shared):
        super().__init__(feature_size=12, **shared)
    def encode(self, x, mask):
        return x if mask is None else x * mask[..., None]
"""
BAG = "bag_of_a_cell"


@pytest.fixture(scope="module", autouse=True)
def cell() -> Iterator[None]:
    exec(CELL, {"Coder": Coder, "__name__": "__main__"})
    yield
    del Coder.registry[BAG]


def small(name, tasks=TASKS, **options):
    sizes = SYSTEM_SIZES.get(name, {})
    return build(name, vocabulary_size=40, tasks=tasks, embedding_size=12, **sizes, **options)


systems = pytest.mark.parametrize("name", [*available(), BAG])
paddings = pytest.mark.parametrize("padding", ["masked", "released"])


@pytest.mark.parametrize("name", available())
def test_is_documented(name):
    text = Coder.registry[name].__doc__
    assert "References:" in text
    assert Coder.registry[name].training_defaults


@systems
@pytest.mark.parametrize("tasks", [{"icd": 5}, TASKS, THREE], ids=["one", "two", "three"])
@paddings
def test_shapes_and_gradients(name, tasks, padding):
    model = small(name, tasks, padding=padding)
    tokens, lengths = padded(LENGTHS)
    logits = model(tokens, lengths)
    assert {task: tuple(x.shape) for task, x in logits.items()} == {
        task: (3, codes) for task, codes in tasks.items()
    }
    targets = {task: torch.ones_like(x) for task, x in logits.items()}
    loss = torch.stack([bce_loss(x, targets[task]) for task, x in logits.items()]).sum()
    (loss + model.penalty(targets)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.any(), key


LOSSES = [{"loss": "bce"}, {"reading": "released"}, {"reading": "paper"}]  # focal otherwise


@systems
@pytest.mark.parametrize("recalibrate", ["multiply", "add"])
def test_every_block_goes_on_every_encoder(name, recalibrate):
    model = small(name, THREE, recalibrate=recalibrate)
    tokens, lengths = padded(LENGTHS)
    generator = torch.Generator().manual_seed(2)
    targets = {
        task: (torch.rand(3, codes, generator=generator) < 0.4).float()
        for task, codes in THREE.items()
    }
    for loss in LOSSES:
        config = TrainConfig(**loss, task_weights={"icd": 0.5, "ccs": 0.3, "chapter": 0.2})
        model.zero_grad()
        total = config.loss_of(model(tokens, lengths), targets) + model.penalty(targets)
        total.backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
        assert all(parameter.grad.any() for parameter in model.ram.parameters())
    if model.has_attention:
        for task, codes in THREE.items():
            weights = model.eval().attention(tokens, lengths, task)
            assert torch.allclose(weights.sum(2), torch.ones(3, codes), atol=1e-5)


def test_three_tasks_are_trained_scored_and_saved(tmp_path):
    corpus = toy_corpus(tmp_path / "toy", tasks=("icd", "ccs", "odd"))
    assert corpus.tasks == {"icd": 4, "ccs": 2, "odd": 2}
    model = build("marn", corpus, hidden_size=8)
    weights = {"icd": 0.5, "ccs": 0.3, "odd": 0.2}
    config = TrainConfig.of(
        model, epochs=12, batch_size=4, learning_rate=0.02, task_weights=weights
    )
    run = fit(model, corpus, config, run_dir=tmp_path / "run", quiet=True)
    assert run.history["loss"].iloc[-1] < run.history["loss"].iloc[0]
    scores = evaluate(load_model(tmp_path / "run", corpus).model, corpus, "dev")
    assert scores == evaluate(model, corpus, "dev")
    assert all(figures["micro_auc"] > 0.6 for figures in scores.values()), scores


def test_a_system_knows_its_tasks_by_name_alone():
    tasks = {"codes of a ward": 3, "b": 2, "icd": 4, "ccs": 1}
    scores = small("marn", tasks)(*padded(LENGTHS))
    assert {task: x.shape[1] for task, x in scores.items()} == tasks


@systems
@pytest.mark.parametrize("recalibrate", [None, "multiply", "add"])
def test_a_note_does_not_depend_on_its_batch(name, recalibrate):
    model = small(name, recalibrate=recalibrate).eval()
    tokens, lengths = padded(LENGTHS)
    wide = torch.cat([tokens, torch.zeros(3, 9, dtype=torch.int64)], dim=1)
    together = model(wide, lengths)
    for row, length in enumerate(LENGTHS):
        alone = model(tokens[row : row + 1, :length], lengths[row : row + 1])
        for task in TASKS:
            assert torch.allclose(alone[task][0], together[task][row], atol=1e-5)


@systems
def test_a_note_does_not_depend_on_the_vector_of_padding(name):
    model = small(name).eval()
    model.embedding.table.weight.data[0] = 3.0  # no model is built so, but masks must hide it
    tokens, lengths = padded(LENGTHS)
    together = model(tokens, lengths)["icd"]
    for row, length in enumerate(LENGTHS):
        alone = model(tokens[row : row + 1, :length], lengths[row : row + 1])["icd"]
        assert torch.allclose(alone[0], together[row], atol=1e-5)


@systems
def test_released_padding_is_seen(name):
    model = small(name, padding="released").eval()
    tokens, lengths = padded([20, 11])
    alone = model(tokens[1:, :11], lengths[1:])
    together = model(tokens, lengths)
    seen = not torch.allclose(alone["icd"][0], together["icd"][1], atol=1e-6)
    # A system whose released code masks padding everywhere sets itself to "masked".
    assert seen == (model.padding == "released")


@systems
@pytest.mark.parametrize("length", [1, 3, 12])
def test_without_padding_both_treatments_agree(name, length):
    tokens, lengths = padded([length])
    masked, released = (
        small(name, padding=padding, recalibrate="multiply").eval()
        for padding in ("masked", "released")
    )
    expected = released(tokens, lengths)
    for task, logits in masked(tokens, lengths).items():
        assert torch.allclose(logits, expected[task], atol=1e-6)


@systems
def test_attention_sums_to_one_over_real_tokens(name):
    model = small(name).eval()
    tokens, lengths = padded(LENGTHS)
    if not model.has_attention:
        with pytest.raises(MarnError, match=f"{name} has no attention.*'marn'"):
            model.attention(tokens, lengths, "icd")
        return
    weights = model.attention(tokens, lengths, "icd")
    assert weights.shape == (3, 5, 20)
    assert float(weights.detach().min()) >= 0
    for row, length in enumerate(LENGTHS):
        assert torch.allclose(weights[row, :, :length].sum(1), torch.ones(5), atol=1e-5)
        assert not weights[row, :, length:].any()
    released = small(name, padding="released").eval().attention(tokens, lengths, "icd")
    assert torch.allclose(released.sum(2), torch.ones(3, 5), atol=1e-5)
    assert released[2, :, 1:].any()
    with pytest.raises(MarnError, match=r"\['ccs', 'icd'\]"):
        model.attention(tokens, lengths, "icd9")


@systems
def test_views_explain_the_logits(name):
    model = small(name).eval()
    tokens, lengths = padded(LENGTHS)
    views, logits = model.code_features(tokens, lengths), model(tokens, lengths)
    for task, view in views.items():
        by_hand = (view * model.head.weight[task]).sum(2) + model.head.bias[task]
        assert torch.allclose(by_hand, logits[task], atol=1e-6)


@systems
def test_every_system_starts_at_the_shares_of_its_codes(name, tmp_path):
    corpus = toy_corpus(tmp_path / "toy", notes=(7, 3, 3), codes=5)
    model = build(name, corpus, embedding_size=12, bias_start="prior", **sizes_alone(name))
    other = build(name, corpus, embedding_size=12, **sizes_alone(name))
    for task, bias in model.head.bias.items():
        have = corpus["train"].targets(task).sum(0)
        odds = [math.log((n + 0.5) / (7 - n + 0.5)) for n in have.tolist()]
        assert torch.allclose(bias, torch.tensor(odds))
    for key, weight in other.state_dict().items():  # nothing else differs
        assert key.startswith("head.bias") or torch.equal(weight, model.state_dict()[key])


def test_the_start_of_the_bias_by_hand_and_in_the_card(tmp_path):
    corpus = toy_corpus(tmp_path / "toy", notes=(3, 2, 2), codes=4)
    have = corpus.frequency("icd").tolist()
    model = build("marn", corpus, hidden_size=4, bias_start="prior", ram_start="identity")
    by_hand = {0: math.log(0.5 / 3.5), 1: math.log(1.5 / 2.5), 3: math.log(3.5 / 0.5)}
    by_hand[2] = -by_hand[1]
    assert model.head.bias["icd"].tolist() == pytest.approx([by_hand[n] for n in have])
    save_model(tmp_path / "model", model, corpus)
    saved = load_model(tmp_path / "model")
    assert saved.card["options"]["bias_start"] == saved.model.options["bias_start"] == "prior"
    assert saved.model.options["ram_start"] == "identity"
    assert torch.equal(saved.model.head.bias["icd"], model.head.bias["icd"])
    with pytest.raises(MarnError, match="tasks gives 3 icd codes, but the corpus has 4"):
        build("bigru_la", corpus, tasks={"icd": 3}, hidden_size=4, bias_start="prior")


def test_the_path_of_marn_is_three_files():
    model = small("marn", recalibrate="multiply").eval()
    tokens, lengths = padded(LENGTHS)
    files = set()

    def watch(frame, event, argument):
        name = frame.f_code.co_filename
        if event == "call" and "marn/" in name.replace("\\", "/") and "/torch/" not in name:
            files.add(name.replace("\\", "/").rpartition("marn/")[2])

    sys.setprofile(watch)
    try:
        model(tokens, lengths)
    finally:
        sys.setprofile(None)
    files -= {"test_models.py"}
    assert files == {"models/marn.py", "nn/layers.py", "nn/ram.py"}


@systems
def test_same_seed_same_weights_and_a_round_trip(name):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = small(name, seed=3), small(name, seed=3), small(name, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    weights, others = one.state_dict(), other.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in same.state_dict().items())
    assert any(not torch.equal(weights[key], value) for key, value in others.items())
    other.load_state_dict(weights)
    tokens, lengths = padded(LENGTHS)
    assert torch.equal(one.eval()(tokens, lengths)["icd"], other.eval()(tokens, lengths)["icd"])


@systems
@paddings
def test_hard_notes(name, padding):
    model = small(name, padding=padding, max_length=30)
    for lengths in ([1], [1, 1], [30], [45]):
        tokens, sizes = padded(lengths)
        assert torch.isfinite(model(tokens, sizes)["icd"]).all()
        only_unknown = torch.where(tokens > 0, 39, 0)
        assert torch.isfinite(model(only_unknown, sizes)["icd"]).all()
    tokens, sizes = padded([45])
    model.eval()
    cut = model(tokens[:, :30], torch.tensor([30]))
    assert torch.equal(model(tokens, sizes)["icd"], cut["icd"])
    if model.has_attention:
        assert model.attention(tokens, sizes, "icd").shape == (1, 5, 30)


@systems
def test_overfits_eight_notes(name):
    model = small(name, tasks={"icd": 5}, embedding_dropout=0.0, ram_dropout=0.0, seed=1)
    tokens, lengths = padded([8, 6, 10, 12, 5, 7, 11, 4], seed=1)
    targets = (torch.rand(8, 5, generator=torch.Generator().manual_seed(2)) < 0.4).float()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        loss = bce_loss(model(tokens, lengths)["icd"], targets)
        loss.backward()
        optimiser.step()
        if float(loss.detach()) < 0.02:
            return
    pytest.fail(f"the loss is still {float(loss.detach()):.3f}")


@systems
def test_a_misspelt_option_is_an_error(name):
    with pytest.raises(MarnError, match="did you mean 'padding'"):
        small(name, paddding="masked")


MIMIC = {"vocabulary_size": 51_919}
ROWS = 5_191_900  # the embedding's parameters
FULL, TOP = {"icd": 8921, "ccs": 295}, {"icd": 50, "ccs": 38}
ONE_WORD = {"descriptions": {"icd": [[1]] * 50}}


@pytest.mark.parametrize(
    ("name", "tasks", "options", "count"),
    [
        # Beside the embedding, unused query bias counted (the specification's table, section 3).
        ("caml", {"icd": 50}, {}, 55_150),
        ("caml", {"icd": 50}, {"recalibrate": "multiply"}, 77_492),
        ("caml", TOP, {"recalibrate": "multiply"}, 81_368),
        ("caml", FULL, {}, 990_082),
        ("bigru_la", {"icd": 50}, {}, 783_700),
        ("bigru_la", TOP, {}, 829_376),
        ("bigru_la", {"icd": 50}, {"recalibrate": "add"}, 3_962_200),
        ("marn", TOP, {}, 4_007_876),
        ("mt_ram", TOP, {}, 4_007_876),
        ("marn", FULL, {}, 14_979_732),
        ("multirescnn", {"icd": 50}, {}, 1_392_500),
        ("multirescnn", {"icd": 50}, {"recalibrate": "multiply"}, 2_188_625),
        ("multirescnn", TOP, {}, 1_415_376),
        ("multirescnn", {"icd": 8921}, {}, 11_924_742 - ROWS),  # 11.9M are published
        ("laat", {"icd": 8921}, {}, 16_750_809),
        ("laat", {"icd": 50}, {"hidden_size": 256, "attention_size": 256}, 902_706),
        # Each coarse code costs 1,665, each fine one 128, the coarse level's projection 524,288.
        ("joint_laat", FULL, {}, 16_750_809 + 524_288 + 1665 * 295 + 128 * 8921),
        ("joint_laat", {"icd": 8921}, {}, 16_750_809),
        # Sections 4, 5, 7, 11 and 12 give counts with the embedding.
        ("cnn", {"icd": 50}, {}, 5_417_450 - ROWS),
        ("cnn", {"icd": 8921}, {}, 9_861_821 - ROWS),
        ("bigru", {"icd": 50}, {}, 5_767_438 - ROWS),
        ("bigru", {"icd": 50}, {"hidden_size": 512, "bidirectional": False}, 6_160_654 - ROWS),
        ("bigru", {"icd": 8921}, {}, 10_318_261 - ROWS),
        ("dr_caml", {"icd": 50}, {"descriptions": {"icd": [[1]] * 50}}, 10_491_550 - ROWS),
        ("dr_caml", {"icd": 8921}, {"descriptions": {"icd": [[1]] * 8921}}, 11_396_392 - ROWS),
        ("fusion", {"icd": 50}, {}, 7_563_124 - ROWS),
        ("fusion", {"icd": 8921}, {}, 12_903_466 - ROWS),
        ("dcan", {"icd": 8921}, {}, 8_698_542 - ROWS),  # 8.7M are published; the sizes are assumed
        # 7.6M are published; the sizes are fitted to it, with messages and without.
        ("gatedcnn_nci", {"icd": 8921}, {}, 7_605_902 - ROWS),
        ("gatedcnn_nci", {"icd": 8921}, {"rounds": 0}, 7_562_462 - ROWS),
        # Reconstructions without a published count.
        ("dlac", {"icd": 50}, ONE_WORD, 814_250),
        ("c_memnn", {"icd": 50}, ONE_WORD, 107_344),
        ("attentive_lstm", {"icd": 50}, ONE_WORD, 171_650 + 200),
        (
            "attentive_lstm",
            {"icd": 50},
            {**ONE_WORD, "spelling": ["ab"] * 51_917},
            171_650 + 200 + 81_000 + 200,
        ),
        (
            "hypercore",
            {"icd": 50},
            {**ONE_WORD, "tree": {"icd": [[str(k)] for k in range(50)]}, "edges": {"icd": []}},
            65_711,
        ),
        ("hypercore", {"icd": 50}, {"hyperbolic": False, "graph": False}, 55_100),  # CAML
    ],
)
def test_parameter_counts(name, tasks, options, count):
    model = build(name, tasks=tasks, **MIMIC, **options)
    assert model.count_parameters(embeddings=False, unused=True) == count
    assert model.count_parameters(unused=True) == count + ROWS
    has_biases = isinstance(model.head, LabelAttention) and name != "hypercore"  # no release
    queries = sum(tasks.values()) if has_biases else 0
    keys = 300 if name == "fusion" else 0
    assert model.count_parameters(embeddings=False) == count - queries - keys


def test_caml_is_the_published_6_2_million():
    model = build("caml", tasks={"icd": 8921}, **MIMIC)
    assert model.count_parameters(unused=True) == 6_151_892
    assert model.count_parameters() == 6_142_971


def test_a_cell_can_be_run_again_but_takes_nobodys_name():
    before = Coder.registry[BAG]
    exec(CELL, {"Coder": Coder, "__name__": "__main__"})
    assert Coder.registry[BAG] is not before
    with pytest.raises(MarnError, match="already exists in __main__"):
        exec(CELL, {"Coder": Coder, "__name__": "elsewhere"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "mran"}, "did you mean 'marn'"),
        ({"tasks": {}}, "at least one code"),
        ({"tasks": {"icd": 0}}, "at least one code"),
        ({"vocabulary_size": 2}, "vocabulary_size"),
        ({"padding": "none"}, "padding must be '"),
        ({"recalibrate": "mul"}, "recalibrate must be 'multiply'"),
        ({"max_length": 0}, "max_length"),
        ({"ram_start": "zero"}, "ram_start must be 'released'"),
        ({"bias_start": "zero"}, "bias_start must be 'released'"),
        ({"bias_start": "prior"}, "bias_start='prior' needs a corpus"),
        ({"vectors": torch.zeros(3, 4)}, "3 rows"),
        ({"tasks": None}, "needs a corpus"),
    ],
)
def test_bad_input(change, message):
    arguments = {"name": "caml", "vocabulary_size": 40, "tasks": TASKS} | change
    with pytest.raises(MarnError, match=message):
        build(**arguments)
