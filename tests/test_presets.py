"""Every reading is in the table, every option in it exists and takes its values."""

import dataclasses
import inspect
import json
from pathlib import Path

import pandas as pd
import pytest
from toys import SYSTEM_SIZES, toy_corpus

import marn
from data_prep.sources import mimic3
from marn import MarnError
from marn.experiments import presets
from marn.models import Coder

NAMES = ["paper", "released", "sound"]
ROWS = json.loads((Path(marn.__file__).parent / "experiments" / "presets.json").read_text())


def test_every_reading_is_in_the_table_or_said_to_be_no_setting():
    assert {row["row"] for row in ROWS} == set(range(1, 31))
    for row in ROWS:
        assert row["source"], row
        if row["option"] is None:
            assert row["note"], row
            assert not set(NAMES) & set(row), row
        else:
            assert set(NAMES) <= set(row), row
        assert set(row.get("cannot", {})) <= set(NAMES), row
    # one value for an option, wherever it is named
    for path in {row["option"] for row in ROWS if row["option"]}:
        assert len({json.dumps([r[n] for n in NAMES]) for r in ROWS if r["option"] == path}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_option_exists_and_takes_its_value(name, tmp_path):
    chosen = marn.preset(name)
    model = marn.build("marn", toy_corpus(tmp_path / "toy"), **chosen.model)
    assert model.options == chosen.model | {"seed": 0}
    config = marn.TrainConfig.of(model, **chosen.training)
    assert {key: getattr(config, key) for key in chosen.training} == chosen.training
    inspect.signature(marn.evaluate).bind(None, None, **chosen.evaluation)
    prepared = mimic3.Config(raw="raw", out="out", **chosen.data)
    assert {key: getattr(prepared, key) for key in chosen.data} == chosen.data
    report = {path for path in chosen.values if path.startswith("report.")}
    assert report == {"report.macro_f1", "report.seeds"}
    everything = {*chosen.model, *chosen.training, *chosen.evaluation, *chosen.data}
    assert len(everything) + len(report) == len(chosen.values)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_trains(name, tmp_path):
    corpus = toy_corpus(tmp_path / "toy", codes=10)
    chosen = marn.preset(name).changed({"training.epochs": 2, **SMALL})
    model = marn.build("marn", corpus, **chosen.model)
    run = marn.fit(model, corpus, marn.TrainConfig.of(model, **chosen.training), quiet=True)
    scores = marn.evaluate(model, corpus, **chosen.evaluation)
    assert chosen.values["report.macro_f1"] in scores["icd"]
    assert run.kept_epoch == (2 if name == "released" else run.best_epoch)


SMALL = {f"model.{key}": value for key, value in SYSTEM_SIZES["marn"].items()}


def test_the_defaults_are_sound_but_for_the_starts_and_marns_recipe(tmp_path):
    sound = marn.preset()
    assert sound == marn.preset("sound")
    corpus = toy_corpus(tmp_path / "toy")
    model = marn.build("marn", corpus)
    begun = marn.build("marn", corpus, **sound.model)
    assert begun.padding == model.padding
    # One start needs a corpus and the other is in no paper, so the library's defaults have neither.
    assert (begun.bias_start, model.bias_start) == ("prior", "released")
    weights = [one.ram.up2.second.norm.weight.unique().item() for one in (begun, model)]
    assert weights == pytest.approx([0.1, 1.0])
    recipe = marn.TrainConfig.of(model)
    other = {k: v for k, v in sound.training.items() if getattr(recipe, k) != v}
    # The default, that of the reading, by its name.
    assert (recipe.reading, recipe.reduction, other.pop("reduction")) == ("released", None, "mean")
    # Settings of MARN's paper that the library keeps until a preset is taken.
    assert other == {"alpha": 1.0, "weight_decay": 0.01, "warmup": 0.1, "schedule": "linear"}
    prepared = mimic3.Config(raw="raw", out="out")
    assert {key: getattr(prepared, key) for key in sound.data} == sound.data


def test_what_the_papers_say_by_hand():
    paper, released = marn.preset("paper"), marn.preset("released")
    assert paper.training["monitor"] == "precision_at_5"
    assert paper.training["clip_norm"] is None
    assert (paper.training["alpha"], paper.training["reading"]) == (0.999, "paper")
    assert paper.training["reduction"] == "sum_codes"  # Eq. 16
    assert released.training["reduction"] == marn.preset().training["reduction"] == "mean"
    assert released.model["padding"] == "released"
    assert released.model["tune_embeddings"] is False
    data = {"vectors": "all", "ccs_key": "number", "labels": "caml", "codes": "50"}
    assert released.data == data | {"vocabulary": "full", "ccs_lookup": "released"}
    assert released.training["keep"] == "last"


def test_a_preset_is_printed_and_compared():
    table = marn.preset("released").table()
    assert list(table) == ["row", "what", "option", "value", "source", "note"]
    assert dict(zip(table.option, table.value, strict=True))["training.clip_norm"] == "1.0"
    assert (table[table.option == ""].value == "").all()
    assert len(table) == len(ROWS)
    found = presets.compare(NAMES)
    assert list(found) == ["option", *NAMES]
    lines = {line.option: (line.paper, line.released, line.sound) for line in found.itertuples()}
    assert lines["training.clip_norm"] == ("None", "1.0", "1.0")
    assert "model.hidden_size" not in lines
    assert presets.compare(["paper", marn.preset("paper").changed({}, "mine")]).empty
    with pytest.raises(MarnError, match="different names"):
        presets.compare(["paper", "paper"])


def test_what_no_setting_brings_back_is_said():
    found = marn.preset("released").irreproducible()
    assert {15, 18, 20, 21, 25} <= set(found.row)
    assert found.why.str.len().min() > 20
    assert 3 in set(marn.preset("paper").irreproducible().row)
    mine = marn.preset("released").changed({"model.padding": "masked"})
    assert mine.irreproducible().equals(found)


def test_a_preset_of_ones_own():
    released = marn.preset("released")
    mine = released.changed({"model.padding": "masked", "model.embedding_size": 50}, "mine")
    assert mine.model == {**released.model, "padding": "masked", "embedding_size": 50}
    assert released.model["padding"] == "released"
    found = presets.compare([released, mine])
    assert found.option.tolist() == ["model.padding", "model.embedding_size"]
    assert found.released.tolist() == ["released", ""]
    with pytest.raises(MarnError, match=r"did you mean 'data.ccs_key'"):
        released.changed({"data.ccs_keys": "number"})
    with pytest.raises(MarnError, match="use one of"):
        released.changed({"learning": 1})
    with pytest.raises(MarnError, match="no preset is named 'code'; use one of paper, "):
        marn.preset("code")


@pytest.mark.parametrize("name", marn.available())
def test_every_system_says_how_its_source_trains(name):
    stated = presets.recipes().set_index("system").astype(object).loc[name]
    stated = {key: None if pd.isna(value) else value for key, value in stated.items()}
    assert stated["source"]
    assert stated["optimiser"] in (None, "Adam", "AdamW")
    if stated["monitor"]:
        marn.TrainConfig(monitor=stated["monitor"])  # refuses what is not a score
    assert stated["tune_embeddings"] in (None, True, False)
    model = marn.build(name, vocabulary_size=40, tasks={"icd": 5, "ccs": 3}, **SYSTEM_SIZES[name])
    if stated["embedding_dropout"] is not None:
        assert model.embedding.dropout.p == stated["embedding_dropout"]
    # MT-RAM read 2,500 words with it; as MARN's ablation it reads 4,000.
    if stated["max_length"] is not None and name != "bigru_la":
        assert model.max_length == stated["max_length"]


def test_recipes_are_settings_and_stated_ones_go_with_the_models():
    table = presets.recipes().set_index("system")
    assert set(table.index) == set(marn.available())
    known = {field.name for field in dataclasses.fields(marn.TrainConfig)}
    for name, system in Coder.registry.items():
        assert set(system.training_defaults) <= known, name
    assert table["source"].notna().all()
    # what a source does not say stays empty
    assert table.loc["hypercore", ["monitor", "tune_embeddings"]].isna().all()
    assert table.loc["laat", ["schedule", "patience", "monitor"]].tolist() == [
        "plateau",
        6,
        "micro_f1",
    ]
    assert table.loc["mt_ram", "learning_rate"] == 8e-3
    assert table.loc["mt_ram", "max_length"] == 2500

    class Extended(Coder.registry["caml"]):
        name = "extended caml"

    try:
        assert pd.isna(presets.recipes().set_index("system").loc["extended caml", "source"])
    finally:
        del Coder.registry["extended caml"]
    assert table.loc["caml", ["learning_rate", "epochs"]].tolist() == [1e-4, 200]
