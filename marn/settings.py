"""Settings as typed classes: pydantic checks them, `marn.command_line` makes options of them.

The annotation of a field is what is checked, the docstring below it is what `--help` prints, and a
bad value is one line:

    >>> @settings
    ... class Diet:
    ...     meals: Count = 3
    ...     '''Meals per day.'''
    >>> Diet(meals=0)
    Traceback (most recent call last):
    marn.errors.MarnError: meals must be at least 1, but got 0; the default is 3
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
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

from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from marn.errors import MarnError

T = TypeVar("T")

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""What both torch and numpy take."""
Location = Annotated[Path, Strict(False)]
"""A path, or text that names one."""

_CONFIG = ConfigDict(strict=True, allow_inf_nan=False)
_RULES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
    "literal_error": "{expected}",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "dict_type": "a dictionary",
    "is_instance_of": "a list",
    "sequence_str": "a list",
    "value_error": "{error}",
}
"""What follows "must be", by pydantic's kinds of error; a validator's ValueError states it."""


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
    config = _CONFIG | ConfigDict(extra="forbid", use_attribute_docstrings=True)
    made: Any = dataclass(frozen=True, kw_only=True, config=config)(cls)
    for base in cls.__mro__[1:]:  # pydantic reads the docstrings of the class's own fields only
        for name, field in getattr(base, "__pydantic_fields__", {}).items():
            made.__pydantic_fields__[name].description = (
                made.__pydantic_fields__[name].description or field.description
            )
    validate = made.__init__

    @functools.wraps(validate)
    def __init__(self: Any, **values: Any) -> None:  # noqa: N807
        try:
            validate(self, **_to_python(values))
        except ValidationError as error:
            raise MarnError(_explain(error.errors()[0], made)) from None

    made.__init__ = __init__
    return made


def check(name: str, annotation: Any, value: Any, default: Any = None) -> Any:
    """Check one value as `settings` checks a field.

    Args:
        name: what the message calls it.
        annotation: the type, perhaps with constraints, as `Count`.
        value: what was given.
        default: what the message recommends; None for nothing.

    Returns:
        The value, as a Python number where it was numpy's.

    Raises:
        MarnError: the value is of another type or out of range.
    """
    try:
        return TypeAdapter(annotation, config=_CONFIG).validate_python(_to_python(value))
    except ValidationError as error:
        said = _explain_value(name, annotation, error.errors()[0])
        raise MarnError(
            said if default is None else f"{said}; the default is {default!r}"
        ) from None


def unknown(what: str, name: str, known: Iterable[str]) -> MarnError:
    """Make the error for a name that does not exist: it offers the nearest one that does."""
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(sorted(known))}"
    return MarnError(f"{what} {name!r}; {hint}")


def kinds(annotation: Any) -> set[Any]:
    """Return the alternatives of an annotation: types and literal values.

    >>> kinds(Mapping[str, int] | None) == {Mapping, NoneType}
    True
    """
    if hasattr(annotation, "__metadata__"):
        return kinds(annotation.__origin__)
    origin = get_origin(annotation)
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


def _explain(fault: Any, cls: Any) -> str:
    """Describe the fault of a field, or of several together, in one line."""
    if not fault["loc"]:  # a rule over several fields, which is a sentence of its own
        return str(fault["ctx"]["error"])
    name = str(fault["loc"][0])
    fields = cls.__pydantic_fields__
    if name not in fields:
        return str(unknown(f"{cls.__name__} has no setting", name, fields))
    field = fields[name]
    if fault["type"].startswith("missing"):
        return f"{name} is missing; give a value"
    said = _explain_value(name, field.annotation, fault)
    if field.is_required():
        return said
    return f"{said}; the default is {field.get_default(call_default_factory=True)!r}"


def _explain_value(name: str, annotation: Any, fault: Any) -> str:
    limits = {
        key: int(limit) if isinstance(limit, float) and limit.is_integer() else limit
        for key, limit in fault.get("ctx", {}).items()
    }
    rule = _RULES.get(fault["type"], fault["msg"]).format(**limits)
    rule += ", or None" if NoneType in kinds(annotation) else ""
    value = repr(fault["input"])
    name += "".join(f"[{key!r}]" for key in fault["loc"] if key != name)
    return f"{name} must be {rule}, but got {value if len(value) < 80 else value[:77] + '...'}"
