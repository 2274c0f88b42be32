"""CodiEsp: its files to a corpus, on a folder of invented cases and on the real one."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from data_prep import coded_abstracts
from data_prep.code_systems.ccs import Ccsr
from data_prep.prepare import quiet
from data_prep.sources import codiesp
from marn import command_line
from marn.corpus import Corpus
from marn.errors import MarnError

SPANISH = {
    "train": {
        "c1": "Mujer con fiebre y tos.\r\nAño 2001: hipertensión arterial.",
        "c2": "Varón, tos seca; fiebre alta — sin dolor.",
        "c3": "Niña con hipertensión y herida en el muslo derecho.",
    },
    "dev": {"c4": "Tos, fiebre. Diarrea.", "c5": "Diarrea."},
}
ENGLISH = {
    "train": {
        "c1": "Woman with fever and cough. Arterial hypertension in 2001.",
        "c2": "Man, dry cough and high fever, without pain.",
        "c3": "Girl with hypertension and a wound of the right thigh.",
    },
    "dev": {"c4": "Cough, fever and diarrhea.", "c5": "Diarrhea."},
}
DIAGNOSES = {
    "train": "c1\tr50.9\nc1\tr05\nc1\ti10\nc2\tr50.9\nc2\tr05\nc3\ti10\nc3\ts71.101\n",
    "dev": "c4\tr05\nc4\tr50.9\nc4\tr19.7\nc5\tr19.7\n",
}
EVIDENCE = {
    "train": "c1\tDIAGNOSTICO\tr50.9\tfiebre\t10 16\n"
    "c1\tDIAGNOSTICO\tr05\ttos\t19 22\n"
    "c1\tDIAGNOSTICO\ti10\thipertensión arterial\t35 56\n"
    "c1\tPROCEDIMIENTO\tbw03zzz\tfiebre\t10 16\n"
    "c2\tDIAGNOSTICO\tr05\ttos seca;\t7 15\n"  # the mark at its end is not in the offsets
    "c2\tDIAGNOSTICO\tr50.9\talta fiebre\t24 28;17 23;30 30\n"
    "c3\tDIAGNOSTICO\ti10\thipertensión\t9 21\n"
    "c3\tDIAGNOSTICO\ts71.101\therida muslo\t24 30;37 42\n",
    "dev": "c4\tDIAGNOSTICO\tr05\tTos\t0 3\nc4\tDIAGNOSTICO\tr50.9\tfiebre\t5 11\n",
}

Make = Callable[..., Corpus]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    for split in ("train", "dev"):
        for name, texts in (("text_files", SPANISH), ("text_files_en", ENGLISH)):
            (folder / split / name).mkdir(parents=True)
            for case, text in texts[split].items():
                (folder / split / name / f"{case}.txt").write_bytes(text.encode())
        write(folder, split, "D", DIAGNOSES[split])
        write(folder, split, "P", "c1\tbw03zzz\n")
        write(folder, split, "X", EVIDENCE[split])
    return folder


def write(raw: Path, split: str, table: str, text: str) -> None:
    (raw / split / f"{split}{table}.tsv").write_bytes(text.encode())


@pytest.fixture
def make(raw: Path, tmp_path: Path) -> Make:
    def run(*options: str, raw: Path = raw) -> Corpus:
        def prepare(given: dict[str, Any]) -> Path:
            return codiesp.run(codiesp.Config(**given), quiet)

        app = command_line.new("CodiEsp.")
        command_line.add(app, prepare, codiesp.Config)
        line = ["prepare", "--raw", str(raw), "--out", str(tmp_path / "out"), "--min-count", "1"]
        line += ["--vectors", "none", *options]
        return Corpus.load(app(line, standalone_mode=False))

    return run


def codes_of(corpus: Corpus, split: str, task: str = "icd") -> dict[str, list[str]]:
    names = [entry.code for entry in corpus.codes[task]]
    return {
        str(case): [names[column] for column in corpus[split].code_indices(task, note)]
        for note, case in enumerate(corpus[split].ids)
    }


def test_english(make: Make) -> None:
    corpus = make()
    assert corpus.splits == ("train", "dev")
    assert corpus.is_open
    assert corpus.card["language"] == "en"
    assert [entry.code for entry in corpus.codes["icd"]] == ["I10", "R05", "R50.9", "S71.101"]
    assert {entry.kind for entry in corpus.codes["icd"] + corpus.codes["ccs"]} == {"dx"}
    assert codes_of(corpus, "train") == {
        "c1": ["I10", "R05", "R50.9"],
        "c2": ["R05", "R50.9"],
        "c3": ["I10", "S71.101"],
    }
    assert codes_of(corpus, "dev") == {"c4": ["R05", "R50.9"]}  # R19.7 has no training case
    assert corpus["train"].text(1) == ENGLISH["train"]["c2"]
    assert corpus["train"].evidence(0) == []  # the offsets belong to the Spanish text
    assert corpus.card["dropped"]["codes of fewer than 1 training cases"] == 1
    assert corpus.card["dropped"]["codings with such a code"] == 2


def test_titles_and_categories(make: Make) -> None:
    corpus = make()
    titles = {entry.code: entry.title for entry in corpus.codes["icd"]}
    assert titles["I10"] == "Essential (primary) hypertension"
    assert titles["S71.101"] == "Unspecified open wound, right thigh"
    categories = {entry.code: entry.title for entry in corpus.codes["ccs"]}
    assert categories["CIR007"] == "Circulatory system: Essential (primary) hypertension"
    ccsr = Ccsr.load()
    for column, entry in enumerate(corpus.codes["icd"]):
        assert corpus.codes["ccs"][corpus.parent[column]].code == ccsr.category(entry.code)
    assert codes_of(corpus, "train", "ccs")["c3"] == ["CIR007", "INJ012"]
    assert corpus.card["ccs_key"] == "ccsr"
    assert corpus.card["settings"]["rolled_up"] == ["S71.101"]
    assert corpus.card["settings"]["without_category"] == []


def test_spanish_keeps_the_evidence_to_the_character(make: Make) -> None:
    corpus = make("--language", "es")
    assert corpus.card["language"] == "es"
    train = corpus["train"]
    assert train.text(0) == SPANISH["train"]["c1"]
    found = {
        (str(case), corpus.codes["icd"][one.code].code, train.text(note)[one.begin : one.end])
        for note, case in enumerate(train.ids)
        for one in train.evidence(note)
    }
    assert found == {
        ("c1", "R50.9", "fiebre"),
        ("c1", "R05", "tos"),
        ("c1", "I10", "hipertensión arterial"),
        ("c2", "R05", "tos seca"),
        ("c2", "R50.9", "fiebre"),
        ("c2", "R50.9", "alta"),
        ("c3", "I10", "hipertensión"),
        ("c3", "S71.101", "herida"),
        ("c3", "S71.101", "muslo"),
    }
    assert {one.role for note in range(3) for one in train.evidence(note)} == {"evidence"}


def test_the_card_carries_licence_and_citation(make: Make) -> None:
    settings = make("--min-train", "2").card["settings"]
    assert settings["licence"] == "CC BY 4.0"
    assert "Miranda-Escalada" in settings["citation"]
    assert "10.5281/zenodo.3837305" in settings["citation"]
    assert settings["splits"] == "official, test not given"
    assert settings["min_train"] == 2


@pytest.mark.parametrize(
    ("least", "expected"),
    [
        ("0", ["I10", "R05", "R19.7", "R50.9", "S71.101"]),
        ("1", ["I10", "R05", "R50.9", "S71.101"]),
        ("2", ["I10", "R05", "R50.9"]),
    ],
)
def test_min_train_counts_training_cases_alone(make: Make, least: str, expected: list[str]) -> None:
    assert [entry.code for entry in make("--min-train", least).codes["icd"]] == expected


def test_a_repeated_row_is_no_second_training_case(make: Make, raw: Path) -> None:
    write(raw, "train", "D", DIAGNOSES["train"] + "c3\tS71.101\n")
    assert "S71.101" not in [entry.code for entry in make("--min-train", "2").codes["icd"]]


def test_a_test_split_is_taken_where_there_is_one(make: Make, raw: Path) -> None:
    (raw / "test" / "text_files_en").mkdir(parents=True)
    (raw / "test" / "text_files_en" / "c6.txt").write_text("Cough.")
    write(raw, "test", "D", "c6\tr05\n")
    corpus = make()
    assert corpus.splits == ("train", "dev", "test")
    assert codes_of(corpus, "test") == {"c6": ["R05"]}
    halves = make("--halve-dev", "--min-train", "0")  # without the official test cases
    assert (codes_of(halves, "dev").keys(), codes_of(halves, "test").keys()) == ({"c4"}, {"c5"})
    assert halves.card["settings"]["splits"] == "official, half of dev as test"
    with pytest.raises(MarnError, match="--halve-dev halves the official dev cases"):
        make("--halve-dev", "--splits", "0.8,0.1,0.1")
    assert corpus.card["settings"]["splits"] == "official"


def test_what_cannot_be_used_is_counted(make: Make, raw: Path) -> None:
    write(raw, "train", "D", DIAGNOSES["train"] + "c9\ti10\nc4\ti10\nc1\t427.31\n\nc1\tw99.9\r\n")
    write(
        raw,
        "train",
        "X",
        EVIDENCE["train"]
        + "c9\tDIAGNOSTICO\ti10\ttos\t0 3\nc1\tDIAGNOSTICO\tr05\ttos\t18 21\n"
        + "c1\tDIAGNOSTICO\tr05\ttos\t900 903\n",
    )
    corpus = make("--language", "es")
    dropped = corpus.card["dropped"]
    assert dropped["codings of a case without a text"] == 2
    assert dropped["codings whose code is not ICD-10-CM"] == 1
    assert dropped["passages of a case without a text"] == 1
    assert dropped["passages that do not lie where they should"] == 2
    assert dropped["codes kept without a category"] == 1
    assert corpus.card["settings"]["without_category"] == ["W99.9"]
    column = [entry.code for entry in corpus.codes["icd"]].index("W99.9")
    assert corpus.parent[column] == -1


def test_a_folder_that_is_not_codiesp_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(MarnError, match=r"is not CodiEsp: train/trainD\.tsv is missing.*zenodo"):
        make(raw=tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train/trainD.tsv", b"c1\tr05\nc1 r05\n", r"trainD\.tsv, line 2: 1 columns instead of 2"),
        ("dev/devX.tsv", b"c4\tDIAGNOSTICO\tr05\ttos\n", r"devX\.tsv, line 1: 4 columns"),
        ("dev/devX.tsv", b"c4\tDIAGNOSTICO\tr05\ttos\t0-3\n", r"cannot read the offsets '0-3'"),
        ("dev/devX.tsv", b"c4\tDIAGNOSTICO\tr05\ttos\t0 3 5\n", r"offsets '0 3 5'"),
        (
            "train/trainD.tsv",
            b"c1\tr05\xff\n",
            r"trainD\.tsv, row at line 1: byte 0xff",
        ),
        (
            "train/text_files/c1.txt",
            b"fiebre\xff",
            r"c1\.txt, row at line 1: byte 0xff",
        ),
        ("dev/text_files/c1.txt", b"fiebre", "case c1 is both in train and in dev"),
    ],
)
def test_damaged_files_are_named(
    make: Make, raw: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (raw / name).write_bytes(content)
    with pytest.raises(MarnError, match=message):
        make("--language", "es")
    assert not (tmp_path / "out").exists()


def test_missing_parts_are_named(make: Make, raw: Path) -> None:
    (raw / "dev" / "devX.tsv").unlink()
    make()  # English needs no offsets
    with pytest.raises(MarnError, match=r"devX\.tsv is missing"):
        make("--language", "es")
    for text in (raw / "dev" / "text_files_en").iterdir():
        text.unlink()
    (raw / "dev" / "text_files_en").rmdir()
    with pytest.raises(MarnError, match="dev/text_files_en is missing"):
        make()


def test_bad_options_are_refused(make: Make, raw: Path) -> None:
    with pytest.raises(
        MarnError, match="min_train must be at least 0, but got -1; the default is 1"
    ):
        make("--min-train", "-1")
    with pytest.raises(MarnError, match="no admission has both a note and a code"):
        make("--min-train", "99")
    with pytest.raises(MarnError, match="contains the raw files"):
        make("--out", str(raw))


def test_the_real_corpus_in_spanish(make: Make, shared_data: Path) -> None:
    corpus = make("--language", "es", raw=shared_data / "codiesp")
    assert {name: len(corpus[name]) for name in corpus.splits} == {"train": 500, "dev": 243}
    assert corpus.tasks == {"icd": 1_767, "ccs": 336}
    assert corpus.frequency("icd").sum() == 5_639
    assert corpus.card["dropped"].get("passages that do not lie where they should") is None
    assert len(corpus.card["settings"]["rolled_up"]) == 179
    assert corpus.card["settings"]["without_category"] == []
    marked = {
        (note, one.code)
        for note in range(len(corpus["train"]))
        for one in corpus["train"].evidence(note)
    }
    assert len(marked) == 5_639, "every coding of a training case has its passage"


def test_the_real_codes_map_as_stated(make: Make, shared_data: Path) -> None:
    corpus = make("--min-train", "0", raw=shared_data / "codiesp")
    assert {name: len(corpus[name]) for name in corpus.splits} == {"train": 500, "dev": 250}
    ccsr = Ccsr.load()
    codes = [entry.code for entry in corpus.codes["icd"]]
    uses = corpus.frequency("icd") + corpus.frequency("icd", "dev")
    listed = [ccsr.has(code) for code in codes]
    assert (len(codes), sum(listed)) == (2_194, 1_944)  # 89 % of the codes
    assert (uses.sum(), uses[listed].sum()) == (8_316, 7_987)  # 96 % of their uses
    assert all(entry.title for task in corpus.tasks for entry in corpus.codes[task])


ARTICLES = [
    {
        "title": "Fiebre",
        "pmid": "lil-1",
        "abstractText": "Tos y fiebre é.",
        "Mesh": [{"Code": "D1", "Word": "Tos", "CIE": ["R05", "r05", "I10"]}],
    },
    {"title": "Sin código", "pmid": 2, "abstractText": "Nada.", "Mesh": [{"Code": "D2"}]},
    {
        "title": None,
        "pmid": "3",
        "abstractText": "a\ud800",
        "Mesh": [{"CIE": ["BW03ZZZ", "Z99.9"]}],
    },
    {"title": "Otra vez", "pmid": "lil-1", "abstractText": "", "Mesh": []},
]


@pytest.fixture
def additional(tmp_path: Path) -> Path:
    path = tmp_path / "abstracts.json"
    path.write_text(json.dumps({"articles": ARTICLES}, indent=1))
    return path


@pytest.mark.parametrize("piece", [20, 21, 33, 1 << 20])
def test_the_additional_abstracts_are_training_notes(
    make: Make, additional: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(coded_abstracts, "_PIECE", piece)
    corpus = make("--language", "es", "--additional", str(additional))
    assert codes_of(corpus, "train") == {
        "c1": ["I10", "R05", "R50.9"],
        "c2": ["R05", "R50.9"],
        "c3": ["I10", "S71.101"],
        "abstract-3": ["Z99.9"],
        "abstract-lil-1": ["I10", "R05"],
    }
    train = corpus["train"]
    texts = {str(case): train.text(note) for note, case in enumerate(train.ids)}
    assert texts["abstract-lil-1"] == "Fiebre\nTos y fiebre é."
    assert texts["abstract-3"] == "\na?"
    assert corpus["dev"].ids.tolist() == ["c4"]
    assert corpus.card["settings"]["additional_notes"] == 2
    dropped = corpus.card["dropped"]
    assert dropped["abstracts without a code"] == 1
    assert dropped["abstracts with a pmid seen before"] == 1
    assert dropped["codes of abstracts that are not ICD-10-CM"] == 1
    plain = corpus.hash
    with zipfile.ZipFile(tmp_path / "abstracts.zip", "w") as archive:
        archive.write(additional, "abstracts/a.json")
        archive.writestr("abstracts/text/1.txt", "x")
    assert make("--language", "es", "--additional", str(tmp_path / "abstracts.zip")).hash == plain


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin with"),
        (b"[]", "does not begin with"),
        (b'{"articles": [{"pmid": "1"}', "cut off or damaged"),
        (b'{"articles": [{"pmid": "1"} {"pmid": "2"}]}', "cut off or damaged"),
        (b'{"articles": [' + b"[" * 100_000, "cut off or damaged"),
        (b'{"articles": [7]}', "other than articles"),
        (b'{"articles": [{"title": "x"}]}', "without pmid"),
        (b'{"articles": [{"pmid": "1", "Mesh": {"a": 1}}]}', "not a list"),
        (b'{"articles": [{"pmid": "1", "Mesh": ["a"]}]}', "not a list"),
        (b'{"articles": [{"pmid": "\xff"}]}', r"cannot be read \(UnicodeDecodeError\)"),
    ],
)
def test_damaged_abstracts_are_named(
    make: Make, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(MarnError, match=message):
        make("--language", "es", "--additional", str(tmp_path / "bad.json"))
    assert not (tmp_path / "out").exists()


def test_abstracts_that_will_not_do(make: Make, additional: Path, tmp_path: Path) -> None:
    with pytest.raises(MarnError, match="--additional needs --language es"):
        make("--additional", str(additional))
    with pytest.raises(MarnError, match="cannot be read"):
        make("--language", "es", "--additional", str(tmp_path))
    additional.rename(tmp_path / "abstracts.zip")
    with pytest.raises(MarnError, match="cannot be unpacked"):
        make("--language", "es", "--additional", str(tmp_path / "abstracts.zip"))
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(MarnError, match="holds 0 JSON files"):
        make("--language", "es", "--additional", str(tmp_path / "empty.zip"))


@pytest.fixture
def network(
    raw: Path, additional: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Stands for the network: the addresses that were asked for."""
    asked: list[str] = []

    def retrieve(url: str, *, known_hash: None, fname: str, path: Path) -> None:
        asked.append(url)
        path.mkdir(exist_ok=True)
        with zipfile.ZipFile(path / fname, "w") as archive:
            if fname == "codiesp.zip":
                for file in sorted(raw.rglob("*.*")):
                    archive.write(file, f"final_dataset_v4_to_publish/{file.relative_to(raw)}")
            else:
                archive.write(additional, "abstracts.json")

    monkeypatch.setattr("pooch.retrieve", retrieve)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    return asked


def test_both_are_fetched_once_and_their_sums_recorded(
    make: Make, network: list[str], tmp_path: Path
) -> None:
    here = make("--language", "es", "--additional", str(tmp_path / "abstracts.json"))
    options = ("--language", "es", "--additional", "fetch")
    fetched = make(*options, raw=Path("fetch"))
    assert fetched.hash == here.hash
    assert network == [codiesp.ARCHIVE_URL, coded_abstracts.ADDITIONAL_URL]
    settings = fetched.card["settings"]
    for key, name in (("archive", "codiesp.zip"), ("additional", "abstractsWithCIE10_v2.zip")):
        data = (tmp_path / "cache" / name).read_bytes()
        assert settings[f"{key}_sha256"] == hashlib.sha256(data).hexdigest()
    sums = [settings["archive_sha256"], settings["additional_sha256"].upper()]
    assert make(*options, *(f"--sha256={one}" for one in sums), raw=Path("fetch")).hash == here.hash
    assert len(network) == 2
    with pytest.raises(MarnError, match="which --sha256 does not name"):
        make(*options, "--sha256", sums[0], raw=Path("fetch"))


def test_what_cannot_be_fetched_has_a_remedy(
    make: Make, network: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise OSError("no network in this test")

    monkeypatch.setattr("pooch.retrieve", refuse)
    with pytest.raises(MarnError, match=r"codiesp\.zip cannot be fetched; download it yourself"):
        make(raw=Path("fetch"))
