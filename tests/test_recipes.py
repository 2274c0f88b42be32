"""Recipes for a laptop and for few notes."""

import math

import pytest

import marn
from marn import registry
from marn.errors import MarnError
from marn.models import Coder
from marn.train.recipes import few_notes, laptop, suits


@pytest.mark.parametrize("name", marn.available())
def test_every_system_has_a_laptop_recipe_that_builds(name):
    recipe = laptop(name, notes=1000)
    assert recipe.source
    assert recipe.model["bias_start"] == "prior"
    registry.check_options(name, recipe.model)
    config = marn.TrainConfig.of(Coder.registry[name], **recipe.training)
    steps_of_an_epoch = math.ceil(1000 / config.batch_size)
    assert (config.epochs - 1) * steps_of_an_epoch < 768 <= config.epochs * steps_of_an_epoch
    assert config.rate(1, 100) == config.learning_rate / 5  # it warms up
    assert config.patience == config.epochs


def test_a_laptop_recipe_takes_as_many_steps_whatever_the_notes():
    assert laptop("marn", 4092).training["epochs"] == 3
    assert laptop("marn", 4092, steps=1).training["epochs"] == 1
    assert laptop("marn", 10).training["epochs"] == 768
    with pytest.raises(MarnError, match="did you mean 'marn'"):
        laptop("mran", 10)


def test_the_recipe_for_few_notes_is_that_of_chapter_7():
    recipe = few_notes("bigru_la", notes=487)
    starts = {"word_path": True, "code_start": "titles", "bias_start": "prior"}
    assert recipe.model == {"max_length": 1000, "hidden_size": 64, **starts}
    wanted = {"epochs": 7, "batch_size": 8, "learning_rate": 8e-3, "loss": "bce"}
    assert wanted.items() <= recipe.training.items()
    assert [few_notes("marn", n).training["epochs"] for n in (80, 3000)] == [42, 7]
    assert few_notes("stack", 80).model == {}
    assert few_notes("bigru_la", 80, steps=100).training["epochs"] == 10
    with pytest.raises(MarnError, match="did you mean 'marn'"):
        few_notes("mran", 10)


def test_few_notes_suit_what_attends_to_words_and_is_not_pre_trained():
    unsuited = {"attentive_lstm", "bigru", "c_memnn", "cnn", "clinicalbert", "mdbert", "plm_icd"}
    assert {name for name in marn.available() if suits(name, 1000)} == {
        *marn.available()
    } - unsuited
    assert not any(suits(name, 1001) for name in marn.available())
    assert not suits("stack", 100)
