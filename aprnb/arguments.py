"""Reading what was typed after a command: one parser behind the magics and the command line.

What was not typed is absent from the result, so that no default overwrites what a recipe says.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from aprnb.commands import SUMMARIES, Argument, Surface, arguments_of
from aprnb.errors import UsageProblem, closest
from aprnb.options import Option, read_value


def parse(command: str, tokens: Sequence[object], *, prog: str, surface: Surface) -> dict[str, Any]:
    """What `tokens` give, by name with underscores: positional arguments and options, checked and converted.

    A token may be a Python object (a DataFrame after `--data`): it arrives untouched. Where `help` is among the
    result, nothing required was looked for. Raises UsageProblem for whatever the command does not take.
    """
    texts, objects = _stand_ins(tokens)
    if any(text in ("-h", "--help") for text in texts):
        return {"help": True}
    arguments = {argument.option.name: argument for argument in _taken(command, surface)}
    parser = _parser(command, prog, surface)
    known, rest = parser.parse_known_args(texts)
    if rest:
        raise _unknown(prog, objects.get(rest[0], rest[0]), [flag for a in arguments.values() for flag in a.flags])
    given = {name: _restored(value, objects) for name, value in vars(known).items()}
    return {name: read_value(arguments[name].option, value, prog) for name, value in given.items()}


def with_recipe(given: Mapping[str, Any], between: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`given` over `between` over the options of the file that `recipe` names, where it names one.

    Raises FileMissing for a recipe that is not there, UsageProblem for one that cannot be read.
    """
    options = dict(given)
    path = options.pop("recipe", None)
    if path is None:
        return {**(between or {}), **options}
    from aprnb.tuning.planning.recipe_file import read_recipe_file  # reading files brings numpy along

    return {**read_recipe_file(Path(path)), **(between or {}), **options}


def help_text(command: str, *, prog: str, surface: Surface) -> str:
    """Usage and options of one command."""
    return _parser(command, prog, surface).format_help()


def option_flags(command: str, *, surface: Surface) -> tuple[str, ...]:
    """Every long option, for completion."""
    return tuple(argument.option.flag for argument in _taken(command, surface) if argument.place is None)


def option_choices(command: str, flag: str) -> tuple[str, ...]:
    """The values an option takes, where they are a fixed set."""
    return next((argument.option.choices for argument in arguments_of(command) if flag in argument.flags), ())


class _Parser(argparse.ArgumentParser):
    """argparse prints and leaves the process; this raises."""

    def error(self, message: str) -> NoReturn:
        raise UsageProblem(f"{self.prog}: {message}", action=f"see {self.prog} --help")


def _taken(command: str, surface: Surface) -> list[Argument]:
    return [argument for argument in arguments_of(command) if argument.only in (None, surface)]


def _parser(command: str, prog: str, surface: Surface) -> _Parser:
    parser = _Parser(
        prog=prog,
        description=SUMMARIES[command],
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    for argument in _taken(command, surface):
        _add(parser, argument)
    return parser


def _add(parser: argparse.ArgumentParser, argument: Argument) -> None:
    option = argument.option
    text = _help_line(option).replace("%", "%%")
    if argument.place:
        parser.add_argument(option.name, help=text, metavar=argument.place, nargs=None if argument.required else "?")
    elif option.kind == "flag":
        parser.add_argument(*argument.flags, dest=option.name, help=text, action="store_true")
    else:
        parser.add_argument(
            *argument.flags,
            dest=option.name,
            help=text,
            required=argument.required,
            metavar="|".join(option.choices) or option.kind.upper(),
            action="append" if option.kind == "pairs" else "store",
        )


def _help_line(option: Option) -> str:
    """What the option is for, with its default where it has one to speak of."""
    spoken = isinstance(option.default, str | int | float) and not isinstance(option.default, bool)
    return f"{option.help} (default {option.default})" if spoken else option.help


def _stand_ins(tokens: Sequence[object]) -> tuple[list[str], dict[str, object]]:
    """argparse reads text only; an object travels as a text that nobody can type."""
    texts: list[str] = []
    objects: dict[str, object] = {}
    for number, token in enumerate(tokens):
        if isinstance(token, str | int | float) or hasattr(token, "__fspath__"):
            texts.append(str(token))
        else:
            texts.append(f"\0{number}")
            objects[texts[-1]] = token
    return texts, objects


def _restored(value: Any, objects: Mapping[str, object]) -> Any:
    return objects.get(value, value) if isinstance(value, str) else value


def _unknown(prog: str, token: object, flags: Sequence[str]) -> UsageProblem:
    if not isinstance(token, str):
        return UsageProblem(f"{prog}: a {type(token).__name__} stands where no value is taken")
    kind, near = ("option", closest(token.split("=")[0], flags)) if token.startswith("-") else ("argument", "")
    return UsageProblem(f"{prog}: unknown {kind} {token}{near}", action=f"see {prog} --help")
