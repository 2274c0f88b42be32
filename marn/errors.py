"""The one error that the library raises for input it cannot use, and the two commonest checks."""

from __future__ import annotations

from typing import Any, get_args


class MarnError(ValueError):
    """Bad input met at a public boundary.

    The message is one line: what was wrong, by name, and what to do about it. The command line
    prints it without a traceback and exits with status 2.
    """


def check_choice(option: str, value: object, choices: Any) -> None:
    """Refuse a value that the `Literal` type `choices` does not list."""
    if value not in get_args(choices):
        raise MarnError(f"{option} must be one of {get_args(choices)}, but got {value!r}")


def check_at_least(least: int, **options: int) -> None:
    """Refuse options below `least`."""
    for option, value in options.items():
        if value < least:
            raise MarnError(f"{option} must be at least {least}, but got {value}")
