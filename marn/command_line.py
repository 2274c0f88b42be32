"""Command lines made of typed settings, by typer: `marn.cli` and `python -m data_prep`."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.exceptions import TyperException

from marn.errors import MarnError
from marn.settings import kinds

ARGUMENT = "argument"
"""In the annotation of a field: it is given by its place, not as an option."""


_METAVARS: dict[Any, str] = {
    int: "INTEGER", float: "NUMBER", Path: "PATH", str: "TEXT", tuple: "TEXT", Mapping: "JSON"
}  # fmt: skip


class _Command(TyperCommand):
    """A command whose list options take several values each: `--model a=1 b=2`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        lists = {
            flag for option in self.params if getattr(option, "multiple", False)
            for flag in option.opts
        }  # fmt: skip
        spread: list[str] = []
        last = ""
        for text in args:
            if text.startswith("-"):
                last = text
            elif last in lists and spread[-1] != last:
                spread.append(last)
            spread.append(text)
        return super().parse_args(ctx, spread)


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
    app: typer.Typer, function: Callable[..., Any], settings: Any, *, defaults: bool = True
) -> None:
    """Add a command whose options are the fields of `settings`.

    Args:
        app: from `new`.
        function: takes the settings that were given, as a dictionary, and then options of its
            own, written as typer's. Its name is the command's, its docstring what `--help` prints.
        settings: a class made by `marn.settings.settings`.
        defaults: whether the options have the defaults of the fields, and show them.
    """
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    first = inspect.get_annotations(settings)  # before what is inherited
    fields = settings.__pydantic_fields__
    fields = {key: fields[key] for key in sorted(fields, key=lambda key: key not in first)}

    def run(**values: Any) -> Any:
        texts = {key: values.pop(key) for key in fields}
        given = {key: text for key, text in texts.items() if text not in (None, [])}
        return function({k: _value(fields[k].annotation, x) for k, x in given.items()}, **values)

    parameters = [*own, *(_parameter(key, field, defaults) for key, field in fields.items())]
    parameters = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in parameters]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(function.__name__, cls=_Command, help=inspect.getdoc(function))(run)


def run(
    app: typer.Typer,
    program: str,
    arguments: Sequence[str] | None,
    *,
    kept: str,
    silent: Callable[[BaseException], bool] = lambda error: False,
) -> int:
    """Run a command line; what goes wrong is one line on standard error.

    Args:
        app: from `new`.
        program: its name in messages.
        arguments: None takes the process's.
        kept: what is left after Ctrl-C or on a full disk, for the message.
        silent: whether another process prints this error, or interruption, already.

    Returns:
        The exit status: 0, 2 for an error, 130 for Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name = " ".join([program, *[text for text in arguments[:1] if not text.startswith("-")]])
    status, said = 2, ""
    try:
        status = app(args=arguments, prog_name=program, standalone_mode=False) or 0
        if status == 130 and not silent(KeyboardInterrupt()):
            said = f"interrupted; {kept}"
    except TyperException as error:  # the line itself is wrong
        said = error.format_message().rstrip(".")
        path = getattr(getattr(error, "ctx", None), "command_path", name)
        said = f"{said[:1].lower()}{said[1:]}; {path} --help lists what there is"
    except MarnError as error:
        said = "" if silent(error) else str(error)
    except OSError as error:  # what nothing foresaw, such as a full disk or a closed pipe
        place = f"{error.filename}: " if error.filename else ""
        said = f"{place}{error.strerror or error}; {kept}"
    try:
        sys.stdout.flush()
    except OSError as error:  # what is buffered has nowhere to go; Python must not try again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status, said = 2, said or f"{error.strerror}; {kept}"
    if said:
        sys.stderr.write(f"{name}: {said}\n")
    return status


def json_or_text(text: str) -> Any:
    """Read JSON, such as 8, true or {"icd": 1}, or None; anything else is text."""
    try:
        return None if text == "None" else json.loads(text)
    except ValueError:
        return text


def _value(annotation: Any, given: Any) -> Any:
    """Read the text of an option by the type of its field."""
    wanted = kinds(annotation)
    if isinstance(given, list):
        return tuple(given)
    if given in ("None", "null") and NoneType in wanted:
        return None
    is_text = not isinstance(given, str) or any(k in (str, Path) or type(k) is str for k in wanted)
    return given if is_text else json_or_text(given)


def _parameter(key: str, field: Any, defaults: bool) -> inspect.Parameter:
    """Make typer's parameter of a field: a flag, a list or a text, which `_value` reads."""
    wanted = kinds(field.annotation) - {NoneType}
    literals = sorted(str(kind) for kind in wanted if not isinstance(kind, type))
    shown = [_METAVARS[kind] for kind in wanted if kind in _METAVARS]
    is_flag, is_list = bool in wanted, tuple in wanted
    kind: Any = bool if is_flag else list[str] if is_list else str
    default: Any = ... if field.is_required() else None
    value = field.get_default(call_default_factory=True) if defaults else None
    if value is not None and default is None and not is_list:
        default = value if is_flag else str(value)
    if ARGUMENT in field.metadata:
        about = typer.Argument(metavar=key.upper(), help=field.description)
    else:
        about = typer.Option(
            f"--{key.replace('_', '-')}",
            help=field.description,
            metavar="|".join(literals or shown) or None,
            autocompletion=(lambda: literals) if literals else None,
        )
    return inspect.Parameter(
        key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, about]
    )
