"""The parser of the magics and of the command line.

Options that were not given are absent from the result, so that no default overrides a recipe.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from aprnb.commands import command_named
from aprnb.errors import UsageProblem, closest
from aprnb.option_values import for_target, read_value
from aprnb.options import GROUPS, Option, Surface


def parse(command: str, tokens: Sequence[object], *, prog: str, surface: Surface) -> dict[str, Any]:
    """The positional arguments and options in `tokens`, checked and converted, by name with underscores.

    A token may be a Python object (a DataFrame after `--data`), which is returned unchanged. For `--help` the result is
    `{"help": True}`, and required arguments may be missing. Raises UsageProblem for what the command does not take.
    """
    texts, objects = _placeholders(tokens)
    if any(text in ("-h", "--help") for text in texts):
        return {"help": True}
    options = {option.name: option for option in _taken(command, surface)}
    known, rest = _parser(command, prog, surface).parse_known_args(_with_values(texts, options.values()))
    if rest:
        raise _unknown(
            prog, objects.get(rest[0], rest[0]), [flag for option in options.values() for flag in option.flags]
        )
    given = {name: _restored(value, objects) for name, value in vars(known).items()}
    single = {name for name, value in given.items() if options[name].kind == "rows" and len(value) == 1}
    given |= {name: given[name][0] for name in single}
    if "target_dtype" in given:
        given["target_dtype"] = for_target(given["target_dtype"], given.get("target"))
    return {name: read_value(options[name], value, prog) for name, value in given.items()}


def with_recipe(given: Mapping[str, Any], between: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The options of the file that `given["recipe"]` names, if any, overridden by `between`, then by `given`.

    The model of a recipe becomes the argument `checkpoint`. Raises FileMissing for a missing recipe file, UsageProblem
    for one that cannot be read.
    """
    path = given.get("recipe")
    options = {**_with_checkpoint(between or {}), **{name: each for name, each in given.items() if name != "recipe"}}
    if path is None:
        return options
    from aprnb.tuning.planning.recipe_file import MODEL, read_recipe_file  # imports numpy

    known = [MODEL if name == "checkpoint" else name for name in options]
    return {**_with_checkpoint(read_recipe_file(Path(path), known)), **options}


def _with_checkpoint(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {"checkpoint" if name == "model" else name: value for name, value in recipe.items()}


def help_text(command: str, *, prog: str, surface: Surface) -> str:
    """Usage and options of one command, by group."""
    return _parser(command, prog, surface).format_help()


def option_flags(command: str, *, surface: Surface) -> tuple[str, ...]:
    """Every long option, for completion."""
    return tuple(option.flag for option in _taken(command, surface) if option.flags)


def option_choices(command: str, flag: str) -> tuple[str, ...]:
    """The values an option takes, where they are a fixed set."""
    return next((option.shown_choices for option in command_named(command).options if flag in option.flags), ())


class _Parser(argparse.ArgumentParser):
    """argparse prints and exits; this raises."""

    def error(self, message: str) -> NoReturn:
        raise UsageProblem(f"{self.prog}: {message}", action=f"see {self.prog} --help")


def _taken(command: str, surface: Surface) -> list[Option]:
    return [option for option in command_named(command).options if option.only in (None, surface)]


def _parser(command: str, prog: str, surface: Surface) -> _Parser:
    taken = {option.name: option for option in _taken(command, surface)}
    parser = _Parser(
        prog=prog,
        usage=_usage(list(taken.values())),
        description=command_named(command).summary,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options:
            if option.name in taken:
                _add(group, taken[option.name])
    return parser


def _usage(taken: Sequence[Option]) -> str:
    places = [option.place if option.required else f"[{option.place}]" for option in taken if option.place]
    required = [f"{option.flag} {option.value_name}" for option in taken if option.required and not option.place]
    return " ".join(["%(prog)s", *places, *required, "[options]"])


def _add(group: argparse._ArgumentGroup, option: Option) -> None:
    text = _help_line(option).replace("%", "%%")
    if option.place:
        count = "*" if option.kind == "texts" else None if option.required else "?"
        group.add_argument(option.name, help=text, metavar=option.place, nargs=count)
    elif option.kind == "flag" and option.choices:
        group.add_argument(*option.flags, dest=option.name, help=text, nargs="?", const=True, metavar=option.metavar)
    elif option.kind == "flag":
        group.add_argument(*option.flags, dest=option.name, help=text, action="store_true")
    else:
        action = "append" if option.kind in ("pairs", "texts", "rows") else "store"
        group.add_argument(
            *option.flags,
            dest=option.name,
            help=text,
            required=option.required,
            metavar=option.value_name,
            action=action,
        )


def _help_line(option: Option) -> str:
    """The option's help, with its default unless that is None or a flag's."""
    is_shown = option.default is not None and option.kind != "flag"
    return f"{option.help} (default {option.default})" if is_shown else option.help


def _with_values(texts: Sequence[str], options: Iterable[Option]) -> list[str]:
    """`--resume auto` as one text, and `--resume` in front of anything else as a flag, or it would take that."""
    choices = {flag: option.choices for option in options if option.kind == "flag" for flag in option.flags}
    found: list[str] = []
    for text in texts:
        if found and text in choices.get(found[-1], ()):
            found[-1] += f"={text}"
        else:
            found.append(text)
    return [f"{text}=true" if choices.get(text) else text for text in found]


def _placeholders(tokens: Sequence[object]) -> tuple[list[str], dict[str, object]]:
    """argparse reads text only: an object is replaced by a text with NUL, which a command line cannot contain."""
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
    if isinstance(value, list):
        return [_restored(each, objects) for each in value]
    return objects.get(value, value) if isinstance(value, str) else value


def _unknown(prog: str, token: object, flags: Sequence[str]) -> UsageProblem:
    if not isinstance(token, str):
        return UsageProblem(f"{prog}: unexpected value of type {type(token).__name__}")
    if not token.startswith("-"):
        return UsageProblem(f"{prog}: unknown argument {token}", action="put what contains spaces in quotes")
    name = token.split("=")[0]
    meant = next((flag for flag in flags if name == _initials(flag)), None)  # --lr
    near = f" (did you mean {meant}?)" if meant else closest(name, [flag for flag in flags if len(flag) > 2])
    return UsageProblem(f"{prog}: unknown option {token}{near}", action=f"see {prog} --help")


def _initials(flag: str) -> str:
    """`--lr` of `--learning-rate`."""
    return "--" + "".join(word[0] for word in flag[2:].split("-") if word)
