import json

import pytest
import torch
from toys import SYSTEM_SIZES, toy_corpus

from marn import MarnError, build, load_model
from marn.saving import provenance, replace, save_model


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return toy_corpus(tmp_path_factory.mktemp("toy") / "corpus")


@pytest.fixture
def folder(corpus, tmp_path):
    model = build("caml", corpus, embedding_size=12, recalibrate="add", **SYSTEM_SIZES["caml"])
    save_model(tmp_path / "model", model, corpus)
    return tmp_path / "model"


def test_round_trip(folder, corpus):
    saved = load_model(folder)
    assert saved.model.name == "caml"
    assert saved.model.ram.fusion == "add"
    assert not saved.model.training
    assert saved.card["corpus"]["hash"] == corpus.hash
    words = corpus["test"].text(0).split()
    assert saved.vocabulary.encode(words).tolist() == corpus["test"].note_tokens(0).tolist()


def test_thresholds_and_the_mark_of_a_credentialed_corpus(corpus, folder, tmp_path, caplog):
    assert load_model(folder).thresholds == {"icd": 0.5, "ccs": 0.5}
    save_model(tmp_path / "tuned", build("caml", corpus), corpus, {"icd": 0.25})
    assert load_model(tmp_path / "tuned").thresholds == {"icd": 0.25, "ccs": 0.5}
    assert not caplog.records
    card = json.loads((folder / "model.json").read_text())
    card["corpus"]["open"] = False
    (folder / "model.json").write_text(json.dumps(card))
    load_model(folder)
    assert corpus.hash[:12] in caplog.text


def test_the_card_tells_no_path_and_no_host(folder, tmp_path):
    import socket

    card = (folder / "model.json").read_text()
    assert str(tmp_path) not in card
    assert socket.gethostname() not in json.dumps(provenance())


def test_missing_damaged_and_foreign(folder, tmp_path):
    with pytest.raises(MarnError, match=r"model\.json is missing.*marn\.fit"):
        load_model(tmp_path / "nothing")
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | {"format": 9}))
    with pytest.raises(MarnError, match="format 9"):
        load_model(folder)
    (folder / "model.json").write_text(json.dumps(card | {"options": {"filters": 9}}))
    with pytest.raises(MarnError, match="not those of 'caml'"):
        load_model(folder)
    (folder / "model.json").write_text("{")
    with pytest.raises(MarnError, match="damaged"):
        load_model(folder)
    (folder / "model.json").write_text(json.dumps(card))
    (folder / "model.safetensors").write_bytes(b"\x00" * 9)
    with pytest.raises(MarnError, match="damaged"):
        load_model(folder)


def test_a_pickle_is_not_executed(folder):
    torch.save({"weights": 1}, folder / "model.safetensors")
    with pytest.raises(MarnError, match="damaged"):
        load_model(folder)


def test_replace_is_all_or_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")

    def half(aside):
        aside.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(MarnError, match="No space left"):
        replace(path, half)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
