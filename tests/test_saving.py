import json
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from toys import SYSTEM_SIZES, rewrite, toy_corpus

from marn import MarnError, build, evaluate, load_model, settings
from marn.evaluation import tune_thresholds
from marn.saving import provenance, read_checkpoint, replace, save_model


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
    model = build("caml", corpus)
    own = tune_thresholds(model, corpus, per_code=True)
    save_model(tmp_path / "tuned", model, corpus, own)
    found = load_model(tmp_path / "tuned")
    assert {task: values.tolist() for task, values in found.thresholds.items()} == {
        task: values.tolist() for task, values in own.items()
    }
    assert evaluate(found.model, corpus, threshold=found.thresholds) == evaluate(
        model, corpus, threshold="dev_codes"
    )
    assert not caplog.records
    card = json.loads((folder / "model.json").read_text())
    card["corpus"]["open"] = False
    rewrite(folder, card)
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
    rewrite(folder, card | {"options": {"filters": 9}})
    with pytest.raises(MarnError, match=r"does not hold the weights of what model\.json describes"):
        load_model(folder)
    rewrite(folder, {key: value for key, value in card.items() if key != "weights_sha256"})
    (folder / "model.safetensors").write_bytes(b"\x00" * 9)
    with pytest.raises(MarnError, match=r"damaged \(model\.safetensors is not a safetensors file"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "carml"}, "did you mean 'caml'"),
        ({"format": 9}, "model.json has format 9, but this version of marn reads 2; train the"),
        ({"name": "cnn", "options": {}}, "is not the file that was written"),
        (
            {"corpus": {"name": "toy"}},
            r"damaged \(model.json: corpus.hash is missing or invalid\)",
        ),
        ({"options": {"filter": 8}}, r"written by marn .*, this is .*caml has no option 'filter'"),
        ({"options": {"pretrained": "a/b"}}, "a card must not name other files"),
        ({"options": []}, ": options is missing or invalid"),
        ({"codes": {"icd": [{"code": "401.9"}]}}, ": codes.icd.0 is missing or invalid"),
        ({"categories": [["1", "of one code"]]}, "does not have one category per code"),
        ({"codes": {}}, "at least one code"),
        ({"vocabulary": ["b", "a"]}, "sorted"),
        ({"provenance": None}, ": provenance is missing or invalid"),
        ({"thresholds": {"icd": [0.5] * 3, "ccs": 0.5}}, "damaged .*thresholds of task 'icd'"),
        ({"thresholds": {"icd": "x", "ccs": 0.5}}, ": thresholds.icd.float is missing or invalid"),
        ({"thresholds": {"ccs": 0.5}}, "damaged .*thresholds of task 'icd'"),
        ({"thresholds": {"icd": float("nan"), "ccs": 0.5}}, "damaged .*thresholds of task 'icd'"),
        ({"thresholds": {"icd": 0.51, "ccs": 0.5}}, "damaged .*is not the file that was written"),
    ],
)
def test_a_card_that_was_changed_is_one_line(folder, change, message):
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | change))
    with pytest.raises(MarnError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert "Error" not in str(caught.value)


@pytest.mark.parametrize(
    ("card", "says"),
    [
        *(
            ("[]", "not a card"),
            ("1", "not a card"),
            ("null", "not a card"),
            ("{}", ": name is missing or invalid"),
        ),
        *(("{", "not JSON"), ("\N{BYTE ORDER MARK}{}", "not JSON"), ("[" * 99_999, "not JSON")),
    ],
)
def test_a_card_that_is_none(folder, card, says):
    (folder / "model.json").write_text(card)
    with pytest.raises(MarnError, match=rf"the model in .* is damaged \(model.json.*{says}"):
        load_model(folder)


@pytest.mark.parametrize(("limit", "says"), [("_VALUES", "values"), ("_LARGEST", "bytes")])
def test_a_card_that_unfolds_or_is_too_large_is_refused(folder, monkeypatch, limit, says):
    monkeypatch.setattr(settings, limit, 59_999)
    card = (folder / "model.json").read_text()
    (folder / "model.json").write_text(
        card.replace("{", '{"recipe": [' + "[]," * 33_334 + "1],", 1)
    )
    with pytest.raises(MarnError, match=rf"\(model.json: .* 59,999 {says}\); train it again"):
        load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_numbers_are_refused(folder, corpus, value):
    model = load_model(folder).model
    with torch.no_grad():
        model.head.bias["ccs"][-1] = value
    save_model(folder, model, corpus)
    with pytest.raises(MarnError, match=r"its weight 'head\.bias\.ccs' is nan or infinite\); tr"):
        load_model(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_another_kind_are_refused(folder, dtype):
    weights = load_model(folder).model.state_dict()
    save_file({key: x.to(dtype) for key, x in weights.items()}, folder / "model.safetensors")
    card = json.loads((folder / "model.json").read_text())
    rewrite(folder, {key: value for key, value in card.items() if key != "weights_sha256"})
    with pytest.raises(MarnError, match=r"its weight '[\w.]+' is of type|does not hold"):
        load_model(folder)


def test_a_folder_that_may_not_be_read(folder, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(MarnError, match=r"model\.json cannot be read \(Permission denied\); allow"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_card_or_weights_without_end_are_not_read(folder, name):
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(MarnError, match=rf"{name} is not a file; copy the model anew"):
        load_model(folder)


def test_another_corpus_is_refused_by_what_differs(corpus, folder, tmp_path):
    assert load_model(folder, corpus).model.tasks == corpus.tasks
    # one task of it is enough
    alone = build("caml", corpus.only("icd"), **SYSTEM_SIZES["caml"])
    save_model(tmp_path / "alone", alone, corpus.only("icd"))
    load_model(tmp_path / "alone", corpus)
    more = toy_corpus(tmp_path / "more", codes=6)
    with pytest.raises(MarnError, match="the model's tasks are"):
        load_model(folder, more)
    with pytest.raises(MarnError, match="the model's tasks are"):
        load_model(folder, corpus.only("icd"))
    # as many codes of the same words, one of them another one
    card = json.loads((folder / "model.json").read_text())
    card["codes"]["icd"][2]["code"] = "999.9"
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(MarnError, match=r"model\.json is not the file that was written"):
        load_model(folder)
    rewrite(folder, card)
    with pytest.raises(MarnError, match="other codes of task 'icd'"):
        load_model(folder, corpus)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("marn", {"hidden_size": 20_000}),
        ("caml", {"filters": 900, "kernel_size": 60_000}),
    ],
)
def test_a_card_cannot_ask_for_memory_that_its_weights_do_not_justify(folder, name, options):
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | {"name": name, "options": options}))
    with pytest.raises(MarnError, match=r"damaged .*more memory than its weights justify"):
        load_model(folder)


def test_weights_are_checked_against_the_card(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(MarnError, match=r"is not the file that was written\); train it again"):
        load_model(folder)
    card = json.loads((folder / "model.json").read_text())
    del card["weights_sha256"]
    rewrite(folder, card)
    load_model(folder)


def test_a_checkpoint_that_unfolds_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "checkpoint.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(MarnError, match="is damaged or of another version"):
        read_checkpoint(tmp_path / "checkpoint.pt")


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_file_of_a_stranger_executes_nothing(folder, tmp_path):
    bomb = Bomb(tmp_path / "exploded")
    for write in (
        lambda path: torch.save({"weights": bomb}, path),
        lambda path: path.write_bytes(pickle.dumps(bomb)),
    ):
        write(folder / "model.safetensors")
        with pytest.raises(MarnError, match="damaged"):
            load_model(folder)
        assert not (tmp_path / "exploded").exists()
    pickle.loads(pickle.dumps(bomb))
    assert (tmp_path / "exploded").exists()  # it is one


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_parents_are_made_and_the_umask_decides_who_may_read(corpus, tmp_path, umask, mode):
    folder = tmp_path / "not" / "there" / "yet"
    before = os.umask(umask)
    try:
        save_model(folder, build("cnn", corpus, **SYSTEM_SIZES["cnn"]), corpus)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {mode}
    load_model(folder)


def test_a_folder_that_cannot_be_made_is_one_line(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        MarnError, match=r"file/model/model.safetensors could not be written .*another folder"
    ):
        save_model(tmp_path / "file" / "model", build("cnn", corpus), corpus)


def test_replace_writes_through_a_link(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("there/file")
    for text in ("missing", "there"):
        replace(link, lambda path, text=text: path.write_text(text))
        assert link.is_symlink()
        assert (tmp_path / "there" / "file").read_text() == text


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
