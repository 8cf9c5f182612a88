"""Completion after a magic: options, their choices, file names. One matcher of version 2 of IPython's API.

File names are untrusted: they are inserted so that nothing in them is expanded, read as an option or read as data.
IPython's matchers insert file names unquoted, so they are suppressed, except for Python names after `$` and `{`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, context_matcher

from aprnb.arguments import option_choices, option_flags
from aprnb.commands import COMMANDS
from aprnb.printable import is_visible

# After an assignment (`report = %apr_inspect `), after another magic (`%time %apr_inspect `), and without `%`.
_MAGIC = re.compile(
    r"^(?:(?:[^%]*=|(?P<outer>\s*%%?\w+\s[^%]*))?\s*%%?|\s*)"
    rf"apr_(?P<command>{'|'.join(name for name, command in COMMANDS.items() if command.magics)})[ \t](?P<rest>.*)$",
    re.DOTALL,
)
# The pieces of `aprnb.notebook.arguments.split`, except that the last one may be an open quote.
_PIECE = re.compile(
    r"""(?P<quoted>'[^']*'|"[^"]*") | (?P<blank>\s+) | (?P<bare>\{[^{}]*\}|[^\s'"{]+|\{) | (?P<open>['"].*)""",
    re.VERBOSE | re.DOTALL,
)
_OPTION = re.compile(r"--[\w-]+=")
_PLACEHOLDER = re.compile(r"(?:\$\w*|\{[^{}'\"]*)$")
# Python closes these quotes elsewhere than `split`: Jedi may see a string at the cursor and offer file names in it.
_QUOTES_OF_PYTHON = re.compile(r"""\\['"]|'''|\"{3}""")
# With and without Jedi; IPython 8 has `python_matches`.
_PYTHON_NAMES = {"IPCompleter.jedi_matcher", "IPCompleter.python_matcher", "IPCompleter.python_matches"}

_ENDINGS = {
    "": (".apr", ".gguf", ".safetensors"),
    "--base": (".apr", ".gguf", ".safetensors"),
    "--data": (".jsonl", ".json"),
    "--eval-data": (".jsonl", ".json"),
    "--config": (".json",),
    "--recipe": (".toml",),
    "--output": (".apr",),
    "--chat-template": (".jinja", ".j2", ".txt"),
}
_USUAL = {"--device": ("auto", "cpu", "cuda")}
_MOST = 200

_UNQUOTED = frozenset("_./+@,:~%-")
_EXPANDED = frozenset('"$`{}')


@dataclass(frozen=True, slots=True)
class _Typed:
    """The arguments up to the cursor: tokens, then the fragment that a completion replaces and its unquoted value.

    `quote` is the quote that is open at the cursor, `following` the rest of the line after the cursor.
    """

    before: tuple[str, ...]
    fragment: str
    value: str
    quote: str
    following: str
    in_expression: bool
    behind_magic: bool
    """After another magic, which may expand names whatever their quotes."""


class _NoCompletions(list[SimpleCompletion]):
    """Empty, but its length is 1: IPython ignores `suppress` in a result without completions."""

    def __len__(self) -> int:
        return 1


@context_matcher()
def magic_matcher(context: CompletionContext) -> dict[str, Any]:
    """Completions for the token at the cursor of one of our magics."""
    found = _MAGIC.match(_logical_line(context))
    if found is None:
        return {"completions": [], "suppress": False}
    typed = _typed(found["rest"], context.line_with_cursor[context.cursor_position :], bool(found["outer"]))
    if len(typed.fragment) > len(context.text_until_cursor):  # begins on an earlier line
        return {"completions": _NoCompletions(), "suppress": True, "matched_fragment": ""}
    offered = islice(_offers(found["command"], typed), _MOST)
    return {
        "completions": [SimpleCompletion(text, type=kind) for text, kind in offered] or _NoCompletions(),
        "suppress": True,
        "do_not_suppress": _PYTHON_NAMES if _takes_python(found["rest"], typed) else set(),
        "matched_fragment": typed.fragment,
        "ordered": True,
    }


def _logical_line(context: CompletionContext) -> str:
    """The text up to the cursor, from the first of the lines that backslashes join."""
    lines = context.full_text.split("\n")[: context.cursor_line]
    line = context.line_with_cursor[: context.cursor_position]
    while lines and lines[-1].rstrip().endswith("\\"):
        line = f"{lines.pop().rstrip()[:-1]} {line}"
    return line


def _typed(rest: str, following: str, behind_magic: bool) -> _Typed:
    before: list[str] = []
    start, value, quote, brace = 0, "", "", -1
    for piece in _PIECE.finditer(rest):
        kind, text = piece.lastgroup, piece.group()
        if kind == "blank":
            before += [value] if piece.start() > start else []
            start, value = piece.end(), ""
        elif kind == "bare":
            brace = piece.start() if text == "{" else brace
            value += text
        else:
            value += text[1:-1] if kind == "quoted" else text[1:]
            quote = text[0] if kind == "open" else ""
    in_expression = 0 <= brace < start and not {"{", "}"} & set(rest[brace + 1 : start])
    option = _OPTION.match(rest, start)
    if option:
        before.append(option.group()[:-1])
        start, value = option.end(), value[len(option.group()) :]
    return _Typed(tuple(before), rest[start:], value, quote, following, in_expression, behind_magic)


def _takes_python(rest: str, typed: _Typed) -> bool:
    """Whether the cursor is at a Python name: after `$` or `{`, but not in quotes."""
    return not typed.quote and bool(_PLACEHOLDER.search(rest)) and not _QUOTES_OF_PYTHON.search(rest)


def _offers(command: str, typed: _Typed) -> Iterator[tuple[str, str]]:
    flag = _pending(command, typed.before)
    choices = option_choices(command, flag) or _USUAL.get(flag, ())
    yield from ((choice, "value") for choice in choices if choice.startswith(typed.fragment))
    if not flag and typed.fragment.startswith("-"):
        flags = (known for known in option_flags(command, surface="notebook") if known not in typed.before)
        yield from ((known, "option") for known in flags if known.startswith(typed.fragment))
    # A `}` in the name would close the expression, and the expression would contain a part of the name.
    if flag in _ENDINGS and not typed.in_expression:
        yield from _paths(flag, typed)


def _pending(command: str, before: tuple[str, ...]) -> str:
    """The option whose value is at the cursor; empty where an option or a positional argument is."""
    last = before[-1] if before else ""
    for option in COMMANDS[command].options:
        if last in option.flags:
            return "" if option.kind == "flag" else option.flag
    return last if last.startswith("-") else ""


def _paths(flag: str, typed: _Typed) -> Iterator[tuple[str, str]]:
    """Folders, and files with the endings that `flag` takes."""
    head, slash, stem = typed.value.rpartition("/")
    try:
        folder = Path(head + slash)
        if head.startswith("~"):
            folder = folder.expanduser()
            head = str(folder).rstrip("/")
        entries = sorted(folder.iterdir())
    except (OSError, RuntimeError, ValueError):  # no such folder, unknown user, a character that no path has
        return
    for entry in entries:
        if not entry.name.startswith(stem) or (entry.name.startswith(".") and not stem):
            continue
        is_folder = _is_folder(entry)
        if is_folder or entry.suffix in _ENDINGS[flag]:
            path = _as_path(f"{head}{slash}{entry.name}{'/' if is_folder else ''}", flag)
            if path is not None and (text := _quoted(path, typed)) is not None:
                yield text, "path"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _as_path(path: str, flag: str) -> str | None:
    """The path as a value that is not read as an option, home folder, JSON or template; None if that is impossible."""
    from aprnb.tuning.data.sources.several import is_rows

    is_data = flag in ("--data", "--eval-data")
    # Reading rows expands a leading `~` also after `./`, which pathlib removes.
    if is_data and Path(path).parts[0].startswith("~"):
        return None
    if flag == "--chat-template" and ("{{" in path or "{%" in path):
        return None
    is_text = is_data and is_rows(path)
    return f"./{path}" if is_text or path.startswith(("-", "~")) else path


def _quoted(path: str, typed: _Typed) -> str | None:
    """The path in quotes that prevent its expansion; None if there are no such quotes."""
    is_literal = _EXPANDED.isdisjoint(path)
    if "'" in path or not is_visible(path) or (typed.behind_magic and not is_literal):
        return None
    quote = typed.quote or ("" if all(map(_is_plain, path)) else "'")
    if quote == '"' and not is_literal:
        quote = "'"
    is_closed = quote != "" and quote == typed.quote == typed.following[:1]
    # After a folder's closing quote, the next completion would not work.
    text = f"{quote}{path}{'' if is_closed or path.endswith('/') else quote}"
    return text if is_literal or _survives_misplacement(text, typed) else None


def _survives_misplacement(text: str, typed: _Typed) -> bool:
    """Whether the path in `text` is not expanded even if a client keeps a part of the fragment in front of it.

    JupyterLab does that if its own completions start later in the line and `text` does not begin with that part.
    """
    if text.startswith(typed.fragment) or not {"'", '"'} & set(typed.fragment):
        return True
    # After one open quote, `text` at the end of the line leaves a quote open: running the line is an error.
    is_last = typed.fragment == typed.quote + typed.value and not typed.following.strip()
    return is_last and (text.endswith("'") or (typed.quote == '"' and '"' not in text))


def _is_plain(character: str) -> bool:
    """Whether the character needs no quotes: visible letters and digits, and a few punctuation characters."""
    return character in _UNQUOTED or (character.isalnum() and character.isprintable())
