"""Build command lines from typed settings, with typer, for `marn` and `python -m data_prep`."""

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TextIO

import typer
from typer.exceptions import TyperException

from marn.errors import MarnError
from marn.settings import check, kinds, read_json

ARGUMENT = "argument"
"""Marks a field, in its annotation, as a positional argument instead of an option."""

_METAVARS = {int: "INTEGER", float: "NUMBER", Path: "PATH", Mapping: "JSON"}


def new(summary: str, *, completion: bool = False) -> typer.Typer:
    """Make a command line that has no commands yet.

    Args:
        summary: what `--help` prints first.
        completion: whether to offer completion to the shell, for a program that is installed.
    """
    app = typer.Typer(
        help=summary,
        add_completion=completion,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(lambda: None)  # so that a single command is named too
    return app


def add(
    app: typer.Typer, function: Callable[..., Any], settings: Any, *, default: str = "default"
) -> None:
    """Add a command whose options are the fields of `settings`, and which calls `function`.

    The function takes a dictionary of the settings given, then further options, written as typer's.
    The command has its name, and `--help` prints its docstring and the default of each field, which
    it calls `default`.
    """
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    fields = settings.__pydantic_fields__
    names = sorted(fields, key=lambda name: name not in settings.__annotations__)  # own ones first

    def run(**values: Any) -> Any:
        texts = {name: values.pop(name) for name in names}
        given = {
            name: check(
                name, fields[name].annotation, _read(text, fields[name].annotation), as_text=True
            )
            for name, text in texts.items()
            if text not in (None, [])
        }
        return function(given, **values)

    parameters = [*own, *(_parameter(name, fields[name], default) for name in names)]
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(function.__name__, help=inspect.getdoc(function))(run)


def run(
    app: typer.Typer,
    program: str,
    arguments: Sequence[str] | None,
    *,
    kept: str,
    silent: Sequence[type[BaseException]] = (),
) -> int:
    """Run a command line, and print an error as one line on standard error.

    Args:
        app: from `new`.
        program: its name in messages.
        arguments: by default those of the process.
        kept: what is left after Ctrl-C or on a full disk, for the message.
        silent: errors, or `KeyboardInterrupt`, that another process already prints.

    Returns:
        The exit status: 0, 2 for an error, 130 for Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the shell closed it
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  for as long as we run
    commands = {command.name for command in app.registered_commands}
    name = " ".join([program, *(text for text in arguments[:1] if text in commands)])
    status, said = 2, ""
    try:
        _refuse_empty(arguments)
        status = app(args=arguments, prog_name=program, standalone_mode=False) or 0
        if status == 130 and KeyboardInterrupt not in silent:
            said = f"interrupted; {kept}"
    except TyperException as error:  # the line itself is wrong
        said = error.format_message().rstrip(".")
        said = f"{said[:1].lower()}{said[1:]}; see {name} --help"
    except MarnError as error:
        said = "" if type(error) in silent else str(error)
    except OSError as error:  # what nothing foresaw, such as a full disk or a closed pipe
        place = f"{error.filename}: " if error.filename else ""
        said = f"{place}{error.strerror or error}; {kept}"
    except RuntimeError as error:
        if not str(error).startswith("Symlink loop"):  # as pathlib says
            raise
        said = f"{str(error).partition('from ')[2]} is a link to itself; give another path"
    if lost := _unwritten(sys.stdout):
        status, said = 2, said or f"{lost.strerror}; {kept}"
    if said:
        with suppress(OSError):  # full too: the status is left
            sys.stderr.write(f"{name}: {said}\n")
    _unwritten(sys.stderr)
    return status


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse an empty argument, such as an unset "$NAME": as a path it would be this folder."""
    for before, text in pairwise([sys.argv[0], *arguments]):
        if not text or (text.startswith("--") and text.endswith("=")):
            what = text[:-1] or (before if before.startswith("--") else f"what follows {before}")
            raise MarnError(f"{what} is empty; give a value, or leave the option out")


def _unwritten(stream: TextIO) -> OSError | None:
    """Flush a stream; if that fails, keep Python from trying again and exiting with status 120."""
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def json_or_text(text: str) -> Any:
    """Read JSON, such as 8, true or {"icd": 1}, or None; anything else is text."""
    try:
        return None if text == "None" else read_json(text)
    except MarnError:
        raise
    except ValueError:
        return text


def pairs(option: str, texts: Iterable[str]) -> dict[str, Any]:
    """Read KEY=VALUE, each key once; the values are JSON, or text.

    Raises:
        MarnError: a text does not have this form, or a key is given twice.

    Example:
        >>> pairs("--set", ["seeds=[0, 1]", "model=caml"])
        {'seeds': [0, 1], 'model': 'caml'}
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            example = "hidden_size=64" if option == "--model" else "seeds=[0]"
            raise MarnError(f"{option} must be KEY=VALUE, but got {text!r}; try {example}")
        if key in found:
            raise MarnError(f"{option} {key}=… is given twice; keep one of them")
        found[key] = json_or_text(value)
    return found


def _read(text: Any, annotation: Any) -> Any:
    """Read choices, in any case, None and dictionaries; pydantic reads the rest."""
    if not isinstance(text, str):
        return text
    choices = [kind for kind in kinds(annotation) if not isinstance(kind, type)]
    text = "None" if text.casefold() in ("none", "null") else text
    is_json = text == "None" or text.startswith("{")
    known = {str(choice).casefold(): choice for choice in choices}
    return known.get(text.casefold(), json_or_text(text) if is_json else text)


def _parameter(key: str, field: Any, label: str) -> inspect.Parameter:
    """Make typer's parameter for a field: a flag, a list or a text."""
    wanted = kinds(field.annotation) - {NoneType}
    choices = sorted(kind for kind in wanted if isinstance(kind, str))
    kind: Any = bool if bool in wanted else list[str] if tuple in wanted else str
    about = {"help": field.description, "autocompletion": (lambda: choices) if choices else None}
    default = field.get_default(call_default_factory=True)
    if kind is str and not field.is_required() and default is not None:
        shown = json.dumps(default) if isinstance(default, Mapping) else default
        about["help"] += f"  [{label}: {shown}]"
    if ARGUMENT in field.metadata:
        given = typer.Argument(metavar=key.upper(), **about)
    else:
        metavar = "|".join(choices) or _METAVARS.get(wanted.pop(), "TEXT")
        about["metavar"] = None if kind is bool else metavar
        given = typer.Option(f"--{key.replace('_', '-')}", **about)
    return inspect.Parameter(
        key,
        inspect.Parameter.KEYWORD_ONLY,
        default=... if field.is_required() else None,
        annotation=Annotated[kind, given],
    )
