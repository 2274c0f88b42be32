"""The commit check passes what is known to be harmless, and nothing else."""

import base64
import codecs
import gzip
import html
import io
import itertools
import json
import logging
import os
import pickle
import re
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import yaml
from checkouts import NOTE, ROOT, make_checkout, notebook, written

import marn
from data_prep import commit_check
from data_prep.commit_check import examine
from marn.corpus import Corpus
from marn.saving import save_model


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that tests only read."""
    return make_checkout(tmp_path_factory.mktemp("shared") / "checkout")


@pytest.fixture(scope="module")
def secret(shared: Path) -> str:
    """The longest note of its credentialed corpus: two dozen words, and no sign of MIMIC."""
    split = Corpus.load(shared / "data" / "secret")["train"]
    return max((split.text(note) for note in range(len(split))), key=len)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "checkout")


# -- nothing harmless is refused -------------------------------------------------------------------


def test_the_project_passes() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]
    content = [(name, (ROOT / name).read_bytes()) for name in files]
    assert commit_check._examine_all(content, ROOT) == []


def _ordinary() -> Iterator[str]:
    """Yield notebooks as data scientists write them, no two alike."""
    rng = np.random.default_rng(0)
    picture = _b64(_png((b"tEXt", b"Software\0Matplotlib version 3.10")))
    sources = [
        'corpus = ["This is the first document.", "And this the second"]',
        "subject_id = 1\nprint(f'{subject_id:03d}')",
        "%matplotlib inline\n!pip install pandas",
        "def fill_in(x):\n    ___ = x\n    return ___",
        "plt.plot([1, 2, 3]);  # ünïcödé ✓",
    ]
    while True:
        frame = pd.DataFrame(rng.normal(size=(4, 2)), columns=["subject", "text"])
        outputs = [
            {"text/plain": str(frame), "text/html": frame.to_html()},
            {"text/plain": "<Figure size 640x480 with 1 Axes>", "image/png": picture},
            {"text/plain": str(rng.integers(10**5, 2 * 10**5, 40).tolist())},
            {"text/markdown": "see [**the docs**](https://x.org) and [**more**][1]"},
            {"text/latex": r"$\nu = \frac{\rho}{2}$", "text/plain": "x"},
            {"application/vnd.plotly.v1+json": {"data": [{"y": rng.normal(size=9).tolist()}]}},
            {"text/html": "<script>" + "a.b(c);" * 300 + "</script>"},
        ]
        cells = []
        for i in rng.integers(0, 35, 6).tolist():
            shown = {"output_type": "display_data", "metadata": {}, "data": outputs[i % 7]}
            written = f"## Part {i}\n\nThe mean is ___ of $x_{i}$.".splitlines(keepends=True)
            cells.append({"cell_type": "markdown", "metadata": {}, "source": written})
            cells.append({"cell_type": "code", "metadata": {}, "source": sources[i % 5]})
            cells[-1] |= {"execution_count": i, "outputs": [shown]}
        yield json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4})


def test_ordinary_notebooks_pass(shared: Path) -> None:
    books = [
        (f"book/{n}.ipynb", b.encode()) for n, b in enumerate(itertools.islice(_ordinary(), 300))
    ]
    assert len({content for _, content in books}) == 300
    assert commit_check._examine_all(books, shared) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("marn/new.py", "ids = [145834, 145835]\nhadm_id = 145834\n"),
        ("book/lexicon.md", f"Placeholders such as {NOTE} stay.\n"),
        ("tests/test_reader.py", f"NOTE = {NOTE!r}\n"),
        ("data_prep/hospital/language.txt", "seen at [" + "**Location 4711**]\n"),
        ("data_prep/hospital/ids.csv", "ROW_ID,HADM_ID\n145834,900001\n"),
        ("book/results/r.json", '{"corpus": {"name": "teaching", "text": "open"}, "words": ["a"]}'),
        (".git/COMMIT_EDITMSG", "Mend it\n"),
        ("empty.py", ""),
    ],
)
def test_what_the_project_is_made_of_passes(shared: Path, name: str, content: str) -> None:
    assert examine(Path(name), shared, content.encode()) == []


# -- kinds of files that cannot be known to be harmless --------------------------------------------

KINDS = (
    "txt log out csv tsv jsonl ndjson xml html rtf doc docx xlsx odt pdf epub tgz tar gz zip 7z xz "
    "bz2 zst rar arrow feather parquet orc npy npz pt ckpt bin safetensors pkl joblib h5 db sqlite "
    "mat rds eml png jpg gif webp tif wav mp4 tex rst org yaml json toml sh sql patch bak swp md~"
)


@pytest.mark.parametrize(
    "name",
    [
        *(f"book/note.{kind}" for kind in KINDS.split()),
        *("book/note", "note.csv", "marn/note.csv", "notes/new/note.csv"),
    ],
)
def test_a_file_of_any_other_kind_is_refused(shared: Path, name: str) -> None:
    (found,) = examine(Path(name), shared, b"harmless")
    assert "not of a kind that is known to be harmless; keep it below data/" in found


def test_a_run_or_a_corpus_is_refused_file_by_file(checkout: Path) -> None:
    corpus = Corpus.load(checkout / "data" / "secret")
    save_model(checkout / "book" / "results", marn.build("caml", corpus, filters=4), corpus)
    files = [*(checkout / "book" / "results").iterdir(), *(checkout / "data").rglob("*.*")]
    assert len(files) > 30
    for path in files:
        assert examine(path), path
    reasons = examine(checkout / "book" / "results" / "model.json")
    assert any("is not on the list of what may be published" in line for line in reasons)


# -- 119 ways to hide a note of a corpus that is on the machine ------------------------------------


def _png(*chunks: tuple[bytes, bytes], after: bytes = b"") -> bytes:
    header = (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    parts = [header, *chunks, (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body + after


def _zip(text: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", text)
    return file.getvalue()


def _b64(data: str | bytes) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def _book(**cell: Any) -> str:
    """A notebook whose one cell has these parts."""
    kind = cell.pop("cell_type", "code")
    parts = {"cell_type": kind, "metadata": {}, "source": "", **cell}
    if kind == "code":
        parts = {"outputs": [], "execution_count": None} | parts
    return json.dumps({"cells": [parts], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def _shows(**data: Any) -> str:
    named = {name.replace("_", "/", 1): value for name, value in data.items()}
    return _book(outputs=[{"output_type": "display_data", "metadata": {}, "data": named}])


def _every(text: str, before: str, after: str = "") -> str:
    return " ".join(f"{before}{word}{after}" for word in text.split())


TEXTS: dict[str, tuple[str, Callable[[str], str | bytes]]] = {
    "docstring": ("a.py", lambda t: f'"""Read.\n\n{t}\n"""\n'),
    "comment": ("a.py", lambda t: "# " + "\n# ".join(t.split(" "))),
    "list of words": ("a.py", lambda t: repr(t.split())),
    "words with weights": ("a.py", lambda t: repr([(w, 0.25) for w in t.split()])),
    "string in pieces": ("a.py", lambda t: "\n".join(f'"{word} "' for word in t.split())),
    "line ends": ("a.py", lambda t: repr(t.replace(" ", "\n"))),
    "tabs": ("a.py", lambda t: repr(t.replace(" ", "\t"))),
    "x escapes": ("a.py", lambda t: "b'" + "".join(f"\\x{ord(c):02x}" for c in t) + "'"),
    "u escapes": ("a.py", lambda t: "'" + "".join(f"\\u{ord(c):04x}" for c in t) + "'"),
    "base64": ("a.py", lambda t: repr(_b64(t))),
    "base64 in lines": ("a.py", lambda t: repr(base64.encodebytes((t * 3).encode()))),
    "base64 for addresses": ("a.py", lambda t: repr(base64.urlsafe_b64encode(b"~~ " + t.encode()))),
    "hexadecimal": ("a.py", lambda t: repr(t.encode().hex())),
    "upper case": ("a.md", str.upper),
    "title case": ("a.md", str.title),
    "one sentence": ("a.md", lambda t: " ".join(t.split()[:9])),
    "in the middle": ("a.md", lambda t: f"We read: {t}. So much for it."),
    "quoted": ("a.md", lambda t: "> " + t.replace(" ", "\n> ")),
    "bold words": ("a.md", lambda t: _every(t, "**", "**")),
    "emphasis": ("a.md", lambda t: _every(t, "_", "_")),
    "table": ("a.md", lambda t: "| " + " | ".join(t.split()) + " |"),
    "three words between": ("a.md", lambda t: _every(t, "", " one two six")),
    "numbers between": ("a.md", lambda t: _every(t, "", " 0.37")),
    "html comment": ("a.md", lambda t: f"<!-- {t} -->"),
    "marked words": ("a.md", lambda t: _every(t, '<mark title="0.1">', "</mark>")),
    "cells": ("a.md", lambda t: _every(t, "<td>", "</td>")),
    "marked letters": ("a.md", lambda t: " ".join(f"<b>{w[0]}</b>{w[1:]}" for w in t.split())),
    "entities": ("a.md", lambda t: "".join(f"&#{ord(c)};" for c in t)),
    "named entities": ("a.md", lambda t: t.replace(" ", "&nbsp;")),
    "per cent": ("a.md", lambda t: f"[x](http://x.org/?q={quote(t)})"),
    "soft hyphens": ("a.md", lambda t: "".join(f"{c}\u00ad" if c.isalpha() else c for c in t)),
    "zero width": ("a.md", lambda t: t.replace("o", "o\u200b")),
    "full width": ("a.md", lambda t: "".join(chr(ord(c) + 65248) if c > " " else c for c in t)),
    "curly quotes": ("a.md", lambda t: _every(t, "“", "”")),
    "dashes": ("a.md", lambda t: t.replace(" ", "—")),
    "data link": ("a.md", lambda t: f"[x](data:text/plain;base64,{_b64(t)})"),
    "archive in base64": ("a.md", lambda t: f"[x](data:application/zip;base64,{_b64(_zip(t))})"),
    "gzip in base64": ("a.py", lambda t: repr(_b64(gzip.compress(t.encode())))),
    "byte order mark": ("a.md", lambda t: codecs.BOM_UTF8 + t.encode()),
    "utf-16": ("a.md", lambda t: t.encode("utf-16")),
    "utf-16 without mark": ("a.md", lambda t: t.encode("utf-16-le")),
    "utf-32": ("a.md", lambda t: t.encode("utf-32")),
    "latin-1": ("a.md", lambda t: f"é {t}".encode("latin-1")),
    "gzip by another name": ("a.md", lambda t: gzip.compress(t.encode())),
    "zip by another name": ("a.py", _zip),
    "carriage returns": ("a.md", lambda t: t.replace(" ", "\r")),
    "form feeds": ("a.md", lambda t: t.replace(" ", "\f")),
    "makefile": ("Makefile", lambda t: f"# {t}\n"),
    "licence": ("LICENSE", str),
    "ignored": (".gitignore", lambda t: f"# {t}"),
    "workflow": (".github/ci.yml", lambda t: f"name: {t}"),
    "settings": ("pyproject.toml", lambda t: f'description = "{t}"'),
    "picture of vectors": ("book/a.svg", lambda t: f"<svg>{_every(t, '<tspan>', '</tspan>')}"),
    "style": ("book/_ext/static/book.css", lambda t: f"/* {t} */"),
    "script": ("book/_ext/static/book.js", lambda t: f"const x = {json.dumps(t.split())}"),
    "references": ("book/references.bib", lambda t: f"@misc{{a, abstract = {{{t}}}}}"),
    "result": ("book/results/r.json", lambda t: json.dumps({"scores": t})),
    "key of a result": ("book/results/r.json", lambda t: json.dumps({"notes": {t: 12}})),
    "same key twice": ("book/results/r.json", lambda t: f'{{"a": "{t}", "a": 1}}'),
    "experiment": ("book/experiments/a.yaml", lambda t: f"note: {t}"),
    "lexicon": ("data_prep/hospital/lexicon.txt", str),
    "table of codes": ("data_prep/audit/a.csv", lambda t: f"id,text\n1,{t}"),
    "message": (".git/COMMIT_EDITMSG", lambda t: f"Mend it\n\n{t}"),
    "code cell": ("a.ipynb", lambda t: _book(source=f"text = '{t}'")),
    "lines of a cell": ("a.ipynb", lambda t: _book(source=[f"{w}\n" for w in t.split()])),
    "markdown cell": ("a.ipynb", lambda t: _book(cell_type="markdown", source=t)),
    "raw cell": ("a.ipynb", lambda t: _book(cell_type="raw", source=t)),
    "capital suffix": ("A.IPYNB", lambda t: _book(cell_type="markdown", source=t)),
    "attachment": ("a.ipynb", lambda t: _book(
        cell_type="markdown", attachments={"a.txt": {"text/plain": _b64(t)}})),
    "attached document": ("a.ipynb", lambda t: _book(
        cell_type="markdown", attachments={"a.pdf": {"application/pdf": _b64(t)}})),
    "metadata": ("a.ipynb", lambda t: _book(metadata={"description": t})),
    "stream": ("a.ipynb", lambda t: _book(
        outputs=[{"output_type": "stream", "name": "stdout", "text": t}])),
    "traceback": ("a.ipynb", lambda t: _book(outputs=[
        {"output_type": "error", "ename": "E", "evalue": "x",
         "traceback": ["\x1b[31mKeyError\x1b[0m", f"'{t}'"]}])),
    "plain output": ("a.ipynb", lambda t: _shows(text_plain=repr(t))),
    "html output": ("a.ipynb", lambda t: _shows(text_html=_every(t, "<mark>", "</mark>"))),
    "escaped html": ("a.ipynb", lambda t: _shows(text_html=html.escape(f"<p>{t}</p>"))),
    "frame": ("a.ipynb", lambda t: _shows(
        text_html=pd.DataFrame({"TEXT": t.split()}).to_html(index=False))),
    "figure": ("a.ipynb", lambda t: _shows(**{
        "application_vnd.plotly.v1+json": {"data": [{"hovertext": t.split()}]}})),
    "keys of a figure": ("a.ipynb", lambda t: _shows(application_json={t: 1})),
    "widget": ("a.ipynb", lambda t: json.dumps(json.loads(_book()) | {"metadata": {"widgets": {
        "application/vnd.jupyter.widget-state+json": {"state": {"a": {"value": t}}}}}})),
    "picture with text": ("a.ipynb", lambda t: _shows(
        image_png=_b64(_png((b"tEXt", b"Comment\0" + t.encode()))))),
    "picture with packed text": ("a.ipynb", lambda t: _shows(
        image_png=_b64(_png((b"zTXt", b"Comment\0\0" + zlib.compress(t.encode())))))),
    "archive after a picture": ("a.ipynb", lambda t: _shows(image_png=_b64(_png(after=_zip(t))))),
    "no picture": ("a.ipynb", lambda t: _shows(image_png=_b64(t))),
    "sound": ("a.ipynb", lambda t: _shows(audio_wav=_b64(t))),
    "data link in a cell": ("a.ipynb", lambda t: _shows(
        text_html=f'<a download="a" href="data:text/csv;base64,{_b64(t)}">x</a>')),
    "script in an output": ("a.ipynb", lambda t: _shows(text_html=f"<script>x = '{t}'</script>")),
    "words and labels": ("tests/a.json", lambda t: json.dumps([[w, "O"] for w in t.split()])),
    "a word and a label a line": ("a.md", lambda t: _every(t, "", "\tB\n")),
    "a word in an object": ("tests/a.json", lambda t: json.dumps([{"w": w} for w in t.split()])),
    "links": ("a.md", lambda t: _every(t, "[", "](#x)")),
    "hovers": ("a.ipynb", lambda t: _shows(application_json=[f"{w}<br>p=.1" for w in t.split()])),
    "code points": ("a.py", lambda t: repr([ord(c) for c in t])),
    "calls of chr": ("a.py", lambda t: "+".join(f"chr({ord(c)})" for c in t)),
    "hexadecimal with blanks": ("a.py", lambda t: repr(t.encode().hex(" "))),
    "binary digits": ("a.py", lambda t: " ".join(f"{ord(c):08b}" for c in t)),
    "octal escapes": ("a.py", lambda t: "'" + "".join(f"\\{ord(c):03o}" for c in t) + "'"),
    "long escapes": ("a.py", lambda t: "'" + "".join(f"\\U{ord(c):08x}" for c in t) + "'"),
    "base32": ("a.py", lambda t: repr(base64.b32encode(t.encode()))),
    "base64 twice": ("a.py", lambda t: repr(_b64(_b64(t)))),
    "base64 of utf-16": ("a.py", lambda t: repr(_b64(t.encode("utf-16-le")))),
    "zlib in base64": ("a.py", lambda t: repr(_b64(zlib.compress(t.encode())))),
    "pickle in base64": ("a.py", lambda t: repr(_b64(pickle.dumps(t)))),
    "hyphens at line ends": ("a.md", lambda t: " ".join(f"{w[:2]}-\n{w[2:]}" for w in t.split())),
    "accents": ("a.md", lambda t: re.sub(r"(\w)", "\\1\u0301", t)),
    "cyrillic": ("a.md", lambda t: t.replace("o", "о").replace("e", "е")),
    "joined words": ("a.py", lambda t: "".join(w.title() for w in t.split() if len(w) > 1)),
    "a word in each cell": ("a.ipynb", lambda t: json.dumps(json.loads(_book()) | {
        "cells": [json.loads(_book(source=w))["cells"][0] for w in t.split()]})),
    "a word in each output": ("a.ipynb", lambda t: _book(outputs=[
        {"output_type": "stream", "name": "stdout", "text": f"{w}\n"} for w in t.split()])),
    "tokens": ("tests/a.json", lambda t: json.dumps(
        [{"token": w, "tag": "O", "begin": "1a", "end": "2a"} for w in t.split()])),
    "beside the cells": ("a.ipynb", lambda t: json.dumps(json.loads(_book()) | {"x": [t]})),
    "colours": ("a.ipynb", lambda t: _shows(text_plain=_every(t, "\x1b[1;31m", "\x1b[0m"))),
    "letters": ("a.py", lambda t: repr(list(t))),
    "a letter a line": ("a.md", lambda t: "\n".join(t)),
    "letters of a picture": ("book/a.svg", lambda t: "<svg>" + "".join(
        f"<tspan x='{i}'>{c}</tspan>" for i, c in enumerate(t))),
    "greek": ("a.md", lambda t: t.replace("o", "ο").replace("e", "ε")),
    "marks of direction": ("a.md", "\u2066".join),
    "picture with an unknown part": ("a.ipynb", lambda t: _shows(
        image_png=_b64(_png((b"teXt", zlib.compress(t.encode())))))),
    "same cells twice": ("a.ipynb", lambda t: '{"cells": "' + t + '",' + _book()[1:]),
}  # fmt: skip


@pytest.mark.parametrize("way", TEXTS)
def test_a_note_of_a_corpus_on_the_machine_is_found(shared: Path, secret: str, way: str) -> None:
    name, hidden = TEXTS[way]
    content = hidden(secret)
    found = examine(Path(name), shared, content.encode() if isinstance(content, str) else content)
    assert found
    assert all("; " in line and "\n" not in line for line in found)
    words = secret.split()
    assert not any(f"{a} {b}" in " ".join(found) for a, b in itertools.pairwise(words))


def test_the_name_of_a_file_is_text_too(shared: Path, secret: str) -> None:
    (found,) = examine(Path(f"book/{secret.replace(' ', '-')}.md"), shared, b"")
    assert "choose another name" in found or "runs of 8 words" in found


def test_words_that_are_in_a_hundred_notes_are_nobodys(shared: Path, secret: str) -> None:
    one = Path("a.md"), shared, " ".join(secret.split()[:7]).encode()
    assert examine(*one) == []  # too short
    runs = commit_check.runs_of(secret)
    corpus = shared / "data" / "secret"
    assert commit_check.shared_runs([runs], corpus) == [len(secret.split()) - 7]
    text = np.frombuffer((f"{secret}\n" * 100).encode(), np.uint8)
    forms = shared.parent / "forms"
    (forms / "train").mkdir(parents=True)
    np.save(forms / "train" / "text_offsets.npy", np.arange(101) * (len(secret) + 1))
    np.save(forms / "train" / "text.npy", text)
    assert commit_check.shared_runs([runs], forms) == [0]
    np.save(forms / "train" / "text.npy", text[: 99 * (len(secret) + 1)])
    assert commit_check.shared_runs([runs], forms) == [len(secret.split()) - 7]


# -- signs of MIMIC, whether a corpus is there or not ----------------------------------------------

BLANK = "_" * 3
OPEN, CLOSE = "[" + "**", "**" + "]"
HELD = f"{OPEN}Known lastname 12{CLOSE}"
SIGNS = {
    "placeholder": f"seen by {HELD}",
    "over lines": f"seen by {OPEN}Known\n# lastname 12{CLOSE}",
    "entities": "seen by " + "".join(f"&#{ord(c)};" for c in HELD),
    "escapes": "seen by " + "".join(f"\\u{ord(c):04x}" for c in HELD),
    "escaped for Markdown": "seen by " + "".join(c if c.isalnum() else f"\\{c}" for c in HELD),
    "per cent": f"seen by {quote(HELD)}",
    "in tokens": "seen by " + HELD.replace("[", "[ ").replace("*", "* ").replace("]", " ]"),
    "in words": repr(["seen", "[", *HELD[1:-1].split(), "]"]),
    "in tags": f"seen by <b>{OPEN}</b>Known lastname 12{CLOSE}",
    "a date": f"on {OPEN}2151-7-17{CLOSE}",
    "base64": _b64(f"seen by {HELD} " * 4),
    "blanks": f"Name:  {BLANK}    Unit No:   {BLANK}",
    "blanks over lines": f"Admission Date:\n{BLANK}\nDischarge Date:\n{BLANK}",
    "blanks in a sentence": f"Mr. {BLANK} is a {BLANK} year old man",
    "note id": "10000032" + "-DS-21",
    "list of admissions": str([str(145834 + i) for i in range(12)]),
    "mark": f"x [credentialed corpus {'0' * 12}]: its text",
    "corpus": f"Corpus('m': 8 train; 4 icd; text {'credentialed'})",
    "commas": "ROW_ID,SUBJECT_ID,HADM_ID,TEXT\n1,2,145834,fever",
    "semicolons": "HADM_ID;TEXT\n145834;fever",
    "tabs": "hadm_id\ticd_code\n20000019\t4019",
    "bars": "| HADM_ID | TEXT |\n|---|---|\n| 145834 | fever |",
    "drawn table": "│ HADM_ID ┆ TEXT │\n│ 145834 ┆ fever │",
    "text before the id": 'TEXT,HADM_ID\n"fever, chills",145834',
    "aligned": str(pd.DataFrame({"HADM_ID": [145834.0], "B": [1]})),
    "patients": "row_id,subject_id,gender\n9,249,F",
    "html": pd.DataFrame({"A": [1], "HADM_ID": [145834]}).to_html(),
    "two tables": pd.DataFrame({"HADM_ID": [900001], "A": [1]}).to_html()
    + pd.DataFrame({"A": [1], "HADM_ID": [145834]}).to_html(),
    "json": '{"HADM_ID": 145834, "TEXT": "fever"}',
    "quoted number": '{"hadm_id": "20000019"}',
    "by index": "{'HADM_ID': {0: 145834}}",
    "yaml": "hadm_id: 145834",
    "assignment": "subject_id = 10000032",
}


@pytest.mark.parametrize("sign", SIGNS)
def test_signs_of_mimic_are_found(shared: Path, sign: str) -> None:
    text = SIGNS[sign]
    for name, content in {
        "a.md": text,
        "shown.ipynb": _book(outputs=[{"output_type": "stream", "text": text.splitlines(True)}]),
        "html.ipynb": _shows(text_html=f"<pre>\n{text}</pre>"),
        "typed.ipynb": _book(cell_type="markdown", source=text),
    }.items():
        found = examine(Path(name), shared, content.encode())
        assert len(found) == 1, (name, found)
        assert "holds " in found[0] or "carries " in found[0]
        assert found[0].endswith(
            "clear its outputs, or keep it below runs/" if "ipynb" in name else "git ignores"
        )


def test_outputs_of_the_hospital_have_no_such_signs(shared: Path) -> None:
    table = pd.DataFrame({"ROW_ID": [145834], "HADM_ID": [900001], "TEXT": [f"by {HELD}"]})
    for data in ({"text/html": table.to_html()}, {"text/plain": str(table)}):
        path = notebook(shared / "book" / "n.ipynb", data, corpus="../data/teaching")
        assert examine(path) == []
    growth = {"text/plain": str([100_000 + 9_000 * i for i in range(11)])}
    assert examine(notebook(shared / "m.ipynb", growth)) == []


def test_loading_a_credentialed_corpus_leaves_a_mark(
    shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="marn.privacy"):
        Corpus.load(shared / "data" / "toy")
        assert caplog.text == ""
        corpus = Corpus.load(shared / "data" / "secret")
    (record,) = caplog.records
    for text in (record.getMessage(), repr(corpus)):
        assert examine(Path("a.md"), shared, text.encode()) == [
            "a.md: carries the mark of a credentialed corpus; keep it below data/ or runs/, which "
            "git ignores"
        ]
    plain = repr(Corpus.load(shared / "data" / "toy"))
    assert examine(Path("a.md"), shared, plain.encode()) == []
    found = examine(Path("a.md"), shared, f"corpus {corpus.hash}".encode())
    assert "carries the hash" in found[0]
    assert examine(Path("a.md"), shared, f"corpus {'0' * 64}".encode()) == []
    # a result that forgot to say whose it is
    forgot = json.dumps({"corpus": {"hash": corpus.hash}, "vocabulary": ["fever"]})
    found = examine(Path("book/results/r.json"), shared, forgot.encode())
    assert any("vocabulary is not on" in line for line in found)


# -- notebooks and their corpora -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('corpus = "../data/secret"', "a credentialed corpus"),
        ('corpus: str = "../data/secret"', "a credentialed corpus"),
        ('corpus = Path("../data/secret")', "a credentialed corpus"),
        ('corpus = Path("..") / "data" / "secret"', "a credentialed corpus"),
        ('marn.Corpus.load("/somewhere/secret")', "a credentialed corpus"),
        ('for name in ["secret"]:\n    data = marn.Corpus.load(f"../data/{name}")', "credentialed"),
        ('corpus = "../data/unheard_of"', "not known to be open"),
        ("marn.Corpus.load(sys.argv[1])", "not known to be open"),
        ('saved = marn.load_model("../runs/x")', "not known to be open"),
        ('corpus = "../data/toy"', ""),
        ('corpus: str = "../data/teaching"', ""),
    ],
)
def test_the_corpora_of_a_notebook_with_outputs_are_open(
    shared: Path, source: str, reason: str
) -> None:
    output = {"output_type": "stream", "name": "stdout", "text": "0.61"}
    with_output = _book(source=f"import marn\n{source}", outputs=[output])
    found = examine(Path("book/n.ipynb"), shared, with_output.encode())
    assert [reason in line for line in found] == [True] * bool(reason)
    without = _book(source=f"import marn\n{source}")
    assert examine(Path("book/n.ipynb"), shared, without.encode()) == []


def test_a_parameter_of_papermill_wins(shared: Path) -> None:
    output = {"output_type": "stream", "name": "stdout", "text": "0.61"}
    book = json.loads(_book(source='import marn\ncorpus = "../data/toy"', outputs=[output]))
    book["metadata"] = {"papermill": {"parameters": {"corpus": "../data/secret"}}}
    found = examine(Path("book/n.ipynb"), shared, json.dumps(book).encode())
    assert "credentialed" in found[0]


# -- what is hostile -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("book/results/deep.json", "[" * 100_000 + "]" * 100_000),
        ("book/results/deep.json", '{"text": "credentialed", "a":' * 900 + "1" + "}" * 900),
        ("book/results/digits.json", "9" * 5000),
        ("deep.ipynb", "[" * 100_000),
        ("cells.ipynb", '{"cells": [5], "metadata": {}}'),
        ("cells.ipynb", '{"cells": {"a": 1}, "metadata": {}}'),
        ("cells.ipynb", '{"cells": [{"cell_type": "code"}], "metadata": {}}'),
        ("cells.ipynb", '{"cells": [{"cell_type": "raw", "outputs": 5}], "metadata": {}}'),
        ("cells.ipynb", '{"metadata": [], "cells": []}'),
        ("cells.ipynb", '{"worksheets": []}'),
        ("cells.ipynb", _shows(image_png=5)),
        ("cells.ipynb", _book(source=5)),
        ("cells.ipynb", "5"),
        ("cells.ipynb", ""),
    ],
)
def test_what_cannot_be_read_is_refused(shared: Path, name: str, content: str) -> None:
    found = examine(Path(name), shared, content.encode())
    assert found
    assert "can be read" in found[0] or "data_prep" in found[0]


def test_a_file_that_is_too_large_is_not_read(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commit_check, "_LARGEST", 1000)
    monkeypatch.chdir(checkout)
    for name, size in {"a.md": 1000, "b.md": 1001, "c.md": 9000, "d.md": 3}.items():
        written(checkout / name, "x" * size)
    subprocess.run(["git", "add", "a.md", "b.md", "c.md", "d.md"], check=True)
    assert commit_check.main([]) == 1
    refused = [line[:4] for line in capsys.readouterr().err.splitlines()[:-1]]
    assert refused == ["b.md", "c.md"]


PIECES = [
    "Corpus('", "Corpus('a'; ", "'100001' ", OPEN, "Name: ", "<td>", "<!--", "HADM_ID <", "&#",
    "\\u005b", "corpus = (", "'", "QUJD", "<tr><td>HADM_ID", "HADM_ID,", "corpus: str ", "Mr. \"",
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_time_is_linear_in_the_length_of_a_line(shared: Path, piece: str) -> None:
    def seconds(size: int) -> float:
        text = ("import marn HADM_ID <t" + piece * (size // len(piece)))[:size]
        start = time.process_time()
        for name, content in {
            "n.ipynb": _book(source=text, outputs=[{"text": text}]),
            "a.md": text,
        }.items():
            examine(Path(name), shared, content.encode())
        return time.process_time() - start

    seconds(1000)
    assert seconds(80_000) < 40 * seconds(5_000) + 1  # 16 times as long


# -- the command -----------------------------------------------------------------------------------


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "data_prep.commit_check", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_command_line(checkout: Path, secret: str) -> None:
    written(checkout / "bad.md", secret)
    shown = _run(checkout, "--help")
    assert shown.returncode == 0
    assert "marn.corpora" in shown.stdout
    found = _run(checkout, "bad.md")
    assert found.returncode == 1
    assert found.stderr.startswith("bad.md: shares ")
    assert found.stderr.endswith("1 files examined, and compared with secret\n")
    wrong = _run(checkout, "bad.md", "gone.md")
    assert wrong.returncode == 2
    assert wrong.stderr == (
        "python -m data_prep.commit_check: gone.md is neither staged nor a file; name what is to "
        "be committed\n"
    )
    assert _run(checkout.parent).returncode == 2  # no checkout
    assert _run(checkout.parent, "checkout/bad.md").returncode == 0  # no corpus to compare with


def test_other_folders_are_compared_with(checkout: Path, secret: str) -> None:
    (checkout / "data" / "secret").rename(checkout.parent / "safe")
    (checkout / ".gitignore").unlink()
    written(checkout / "a.md", secret)
    assert examine(checkout / "a.md") == []
    command = ["git", "config", "--add", "marn.corpora"]
    subprocess.run([*command, str(checkout.parent / "safe")], cwd=checkout, check=True)
    assert "words with notes of safe" in examine(checkout / "a.md")[0]
    (checkout.parent / "safe" / "train" / "text.npy").write_bytes(b"cut")
    broken = _run(checkout, "a.md")
    assert broken.returncode == 2
    assert "safe cannot be read (ValueError), so nothing can be compared" in broken.stderr


def test_what_is_staged_counts_and_not_the_work_tree(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    for name in ("cleaned.md", "removed.md", "later.md", "book/in.md"):
        written(checkout / name, SIGNS["placeholder"] if name != "later.md" else "fine\n")
    subprocess.run(["git", "add", "."], check=True)
    for name in ("cleaned.md", "book/in.md"):
        written(checkout / name, "fine\n")
    (checkout / "removed.md").unlink()
    written(checkout / "later.md", SIGNS["placeholder"])

    def refused(*names: str) -> list[str]:
        assert commit_check.main(names) in (0, 1)
        return [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()[:-1]]

    assert refused() == ["book/in.md", "cleaned.md", "removed.md"]
    assert refused("cleaned.md", "removed.md", "later.md") == ["cleaned.md", "removed.md"]
    assert refused("book") == ["book/in.md"]
    monkeypatch.chdir(checkout / "book")  # names are relative to where the command runs
    assert refused("../cleaned.md") == ["cleaned.md"]
    assert refused("../later.md", str(checkout / "later.md")) == []
    assert len(refused(".")) == 1


def test_links_and_submodules(
    checkout: Path, secret: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    (checkout / "a.md").symlink_to(secret)
    subprocess.run(["git", "add", "a.md"], check=True)
    assert commit_check.main([]) == 1
    assert capsys.readouterr().err.startswith("a.md: shares")
    module = f"160000,{'1' * 40},module"
    subprocess.run(["git", "update-index", "--add", "--cacheinfo", module], check=True)
    assert commit_check.main([]) == 2
    assert "module is a submodule" in capsys.readouterr().err


def test_the_hooks_call_the_check(checkout: Path, secret: str) -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks if "data_prep.commit_check" in hook["entry"]} == {
        "privacy",
        "privacy-message",
    }
    (checkout / ".venv" / "bin").mkdir(parents=True)
    python = written(
        checkout / ".venv" / "bin" / "python",
        f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"\n',
    )
    python.chmod(0o755)

    def commit(message: str) -> int:
        command = ["git", "-c", "user.name=a", "-c", "user.email=b", "-c"]
        command += [f"core.hooksPath={ROOT / '.githooks'}", "commit", "--quiet", "-m", message]
        return subprocess.run(command, cwd=checkout, capture_output=True).returncode

    written(checkout / "a.md", secret)
    subprocess.run(["git", "add", "a.md"], cwd=checkout, check=True)
    assert commit("Mend it") == 1
    written(checkout / "a.md", "fine\n")
    subprocess.run(["git", "add", "a.md"], cwd=checkout, check=True)
    assert commit(f"Mend it\n\n{secret}") == 1
    assert commit("Mend it") == 0
