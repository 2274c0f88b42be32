"""A small grammar for sentences with random parts.

Notation of a template, as in `language.txt` and `lexicon.txt`:

* ``<a|b|c>`` is one of the alternatives, ``{rule}`` is one alternative of a rule or a value of
  the story,
* ``{5-20}`` is a whole number, ``{3.2-5.0}`` a decimal, ``{10,20,40}`` one of a list,
* ``[words]`` are the words that mention the code at hand, ``{M}`` one chosen by the caller,
* ``[**Hospital1 18**]`` is text, as in the records themselves, and ``~`` is a line break.
"""

import re
from functools import cache

from data_prep.hospital.data_files import blocks

Part = str | tuple
"""A literal, or ("one", alternatives), ("slot", name), ("int", low, high), ("float", low, high,
digits) or ("mention", parts)."""

Parts = tuple[Part, ...]

_NUMBER = re.compile(r"(\d+)(?:\.(\d+))?-(\d+)(?:\.(\d+))?")


@cache
def parse(template: str) -> Parts:
    """Return the parts of a template.

    Raises:
        ValueError: if a bracket is missing.

    Example:
        >>> parse("<no|mild> [fever] of {100-104}")
        (('one', (('no',), ('mild',))), ' ', ('mention', ('fever',)), ' of ', ('int', 100, 104))
    """
    parts, end = _parse(template, 0, "")
    if end != len(template):
        raise ValueError(f"unbalanced template: {template!r}")
    return parts


def _parse(text: str, at: int, stop: str) -> tuple[Parts, int]:
    """Parse from a place up to one of the characters in `stop`; return the parts and that place."""
    parts: list[Part] = []
    literal = ""

    def add(part: Part) -> None:
        nonlocal literal
        parts.extend([literal, part] if literal else [part])
        literal = ""

    while at < len(text) and text[at] not in stop:
        if text.startswith("[**", at):
            end = text.index("**]", at)
            if "{" in text[at:end]:
                parts += [literal + "[**", *_parse(text[at + 3 : end], 0, "")[0]]
                literal = "**]"
            else:
                literal += text[at : end + 3]
            at = end + 3
        elif text[at] == "<":
            options = []
            while text[at] != ">":
                option, at = _parse(text, at + 1, "|>")
                options.append(option)
            add(("one", tuple(options)))
            at += 1
        elif text[at] == "[":
            inside, at = _parse(text, at + 1, "]")
            add(("mention", inside))
            at += 1
        elif text[at] == "{":
            end = text.index("}", at)
            add(_slot(text[at + 1 : end]))
            at = end + 1
        else:
            literal += "\n" if text[at] == "~" else text[at]
            at += 1
    return (*parts, literal) if literal else tuple(parts), at


def _slot(name: str) -> Part:
    if number := _NUMBER.fullmatch(name):
        if digits := len(number[2] or ""):
            low, high = name.split("-")
            return ("float", float(low), float(high), digits)
        return ("int", int(number[1]), int(number[3]))
    if "," in name:
        return ("one", tuple((option.strip(),) for option in name.split(",")))
    return ("slot", name)


@cache
def rules() -> dict[str, tuple[Parts, ...]]:
    """Return the alternatives of every rule; a line that begins with ``3*`` counts three times."""
    read = {}
    for header, lines in blocks("language.txt"):
        alternatives: list[Parts] = []
        for line in lines:
            many = re.match(r"(\d+)\* ", line)
            alternative = parse(line[many.end() :] if many else line)
            alternatives += [alternative] * (int(many[1]) if many else 1)
        read[header] = tuple(alternatives)
    return read
