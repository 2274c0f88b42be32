"""Define settings as typed classes: pydantic checks them, `marn.command_line` makes them options.

The annotation of a field says what is valid, the docstring below it is its `--help`, and a bad
value is reported in one line:

    >>> @settings
    ... class Diet:
    ...     meals: Count = 3
    ...     '''Meals per day.'''
    >>> Diet(meals=0)
    Traceback (most recent call last):
    marn.errors.MarnError: meals must be at least 1, but got 0; the default is 3
"""

import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from os.path import expanduser
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
)

from pydantic import AfterValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from marn.errors import MarnError

T = TypeVar("T")

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""A seed that both torch and numpy accept."""


def _known(encoding: str) -> str:
    try:
        "".encode(encoding)
    except (LookupError, UnicodeError):
        raise ValueError("an encoding that Python knows, such as cp850 or mac-roman") from None
    return encoding


Encoding = Annotated[str, AfterValidator(_known)]
Location = Annotated[Path, Strict(False), AfterValidator(lambda path: Path(expanduser(path)))]
"""A path, or its text; ~ is the home directory, as in --out=~/mine."""

_VALUES = 1 << 24  # of JSON
_LARGEST = 1 << 26  # bytes of a card; that of a model with 10,000 codes has a few million
_CONFIG = ConfigDict(strict=True, allow_inf_nan=False, use_attribute_docstrings=True)
_WORDS = {
    "Input should be ": "must be ",
    "Value error, ": "must be ",
    "'str' instances are not allowed as a Sequence value": "must be a list",
    "an instance of Sequence": "a list",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "above",
    "less than": "below",
    "a valid integer": "a whole number",
    "a valid ": "a ",
}
"""Replaces pydantic's wording. The ValueError of a validator says what a value must be."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def settings(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass that checks its fields.

    Values must be of a field's type: `epochs="3"` is refused. Numbers of numpy and torch count as
    Python's, and become them.

    Args:
        cls: annotated fields with their defaults, and docstrings below them.

    Returns:
        The dataclass, which raises a one-line `MarnError` where a value is wrong.
    """
    made: Any = dataclass(frozen=True, kw_only=True, config=_CONFIG)(cls)
    fields, validate = made.__pydantic_fields__, made.__init__
    for base in cls.__mro__[1:]:  # pydantic reads the docstrings of the class's own fields only
        for name, field in getattr(base, "__pydantic_fields__", {}).items():
            fields[name].description = fields[name].description or field.description

    @functools.wraps(validate)
    def __init__(self: Any, **values: Any) -> None:  # noqa: N807
        for name in values:
            if name not in fields:
                raise unknown(f"{cls.__name__} has no setting", name, fields)
        try:
            validate(self, **_to_python(values))
        except ValidationError as error:
            optional = {name: field for name, field in fields.items() if not field.is_required()}
            defaults = {k: f.get_default(call_default_factory=True) for k, f in optional.items()}
            raise _explained(error, defaults) from None

    made.__init__ = __init__
    return made


def check(
    name: str, annotation: Any, value: Any, default: Any = None, *, as_text: bool = False
) -> Any:
    """Check one value as `settings` checks a field.

    Args:
        name: what the message calls it.
        annotation: the type, perhaps with constraints, as `Count`.
        value: what was given.
        default: what the message recommends; None for nothing.
        as_text: whether text may stand for the value, as on a command line.

    Returns:
        The value, as a Python number where it was numpy's.

    Raises:
        MarnError: the value is of another type or out of range.
    """
    adapter = TypeAdapter(annotation, config=_CONFIG)
    try:
        return adapter.validate_python(_to_python(value), strict=False if as_text else None)
    except ValidationError as error:
        defaults = {} if default is None else {name: default}
        raise _explained(error, defaults, name) from None


def unknown(what: str, name: str, known: Iterable[str]) -> MarnError:
    """Make the error for an unknown name, which suggests the most similar known one."""
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(sorted(known))}"
    return MarnError(f"{what} {name!r}; {hint}")


def read_json(written: str) -> Any:
    """Read JSON, refusing objects with a key twice, of which json would keep the last.

    Raises:
        MarnError: a key occurs twice, or there are so many values that they would take a GB.
        ValueError: it is not JSON.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise MarnError("an object of the JSON has the same key twice; keep one of them")
        return found

    if sum(map(written.count, "[{,")) > _VALUES:
        raise MarnError(f"the JSON has more than {_VALUES:,} values; split it, or get it again")
    try:
        return json.loads(written, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_json_file(path: Path) -> Any:
    """Read the JSON in which a folder, perhaps a stranger's, says what it holds.

    Raises:
        MarnError: as `read_json`, or it is larger than any such file.
        OSError: it cannot be read.
        ValueError: it is not JSON in UTF-8.
    """
    with path.open("rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise MarnError(f"it is larger than {_LARGEST:,} bytes; get it again")
    return read_json(data.decode())


def kinds(annotation: Any) -> set[Any]:
    """Return the types and literal values that an annotation allows.

    >>> kinds(Mapping[str, int] | None) == {Mapping, type(None)}
    True
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        return kinds(annotation.__origin__)
    if origin in (Union, UnionType, Literal):
        return {kind for part in get_args(annotation) for kind in kinds(part)}
    return {origin or annotation}


def _to_python(value: Any) -> Any:
    """Turn the numbers of numpy and torch into Python's, also within dictionaries and lists."""
    if isinstance(value, Mapping):
        return {key: _to_python(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_to_python(item) for item in value]
    return value.item() if getattr(value, "shape", None) == () else value


def _explained(error: ValidationError, defaults: Mapping[str, Any], *name: str) -> MarnError:
    """Describe the first fault that pydantic found, in one line."""
    fault = error.errors()[0]
    place = [*name, *map(str, fault["loc"])]
    if not place:  # a rule over several fields, which is a sentence of its own
        return MarnError(str(fault["ctx"]["error"]))
    if fault["type"].startswith("missing"):
        return MarnError(f"{place[0]} is missing; give a value")
    said = place[0] + "".join(f"[{key}]" for key in place[1:])
    rule = fault["msg"].partition(", unable to parse")[0]
    for theirs, ours in _WORDS.items():
        rule = rule.replace(theirs, ours)
    remedy = f"; the default is {defaults[place[0]]!r}" if place[0] in defaults else ""
    return MarnError(f"{said} {rule}, but got {fault['input']!r:.80}{remedy}")
