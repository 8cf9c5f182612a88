"""Completion of what follows a magic: options, their choices, file names. One matcher of IPython's second API."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, context_matcher

# Also after an assignment: `report = %apr_inspect `.
_MAGIC = re.compile(r"^\s*(?:[\w.\[\]\"', ]+=\s*)?%%?apr_(?P<command>\w+)[ \t](?P<rest>.*)$", re.DOTALL)
_LAST = re.compile(r"""(?:"[^"]*|'[^']*|[^\s"']*)$""")
_ENDINGS = {
    "": (".apr", ".gguf", ".safetensors"),
    "--data": (".jsonl", ".json"),
    "--eval-data": (".jsonl", ".json"),
    "--config": (".json",),
    "--recipe": (".toml",),
    "--output": (".apr",),
    "--chat-template": (".jinja", ".j2", ".txt"),
}
_USUAL = {"--device": ("auto", "cpu", "cuda")}
_MOST = 200


@context_matcher()
def magic_matcher(context: CompletionContext) -> dict[str, Any]:
    """Completions for the token at the cursor of one of our magics; Python's own are kept out."""
    found = _MAGIC.match(_logical_line(context))
    if found is None or found["command"] not in ("inspect", "check", "convert", "finetune"):
        return {"completions": [], "suppress": False}
    last = _LAST.search(found["rest"])
    fragment = last.group() if last else ""
    before = found["rest"][: len(found["rest"]) - len(fragment)].split()
    if fragment.startswith("--") and "=" in fragment:
        flag, _, fragment = fragment.partition("=")
        before.append(flag)
    offered = list(_offers(found["command"], before, fragment))[:_MOST]
    return {
        "completions": [SimpleCompletion(text, type=kind) for text, kind in offered],
        # Python's own words are no use in a magic line, but for a variable or an expression.
        "suppress": not fragment.startswith(("$", "{")),
        "matched_fragment": fragment,
        "ordered": True,
    }


def _logical_line(context: CompletionContext) -> str:
    """The text up to the cursor, from the first of the lines that backslashes join."""
    lines = context.full_text.split("\n")[: context.cursor_line]
    line = context.line_with_cursor[: context.cursor_position]
    while lines and lines[-1].rstrip().endswith("\\"):
        line = f"{lines.pop().rstrip()[:-1]} {line}"
    return line


def _offers(command: str, before: list[str], fragment: str) -> Iterator[tuple[str, str]]:
    from aprnb.arguments import option_choices, option_flags

    flag = before[-1] if before and before[-1].startswith("--") else ""
    if flag and (choices := option_choices(command, flag) or _USUAL.get(flag, ())):
        return ((choice, "value") for choice in choices if choice.startswith(fragment))
    if fragment.startswith("-"):
        flags = (known for known in option_flags(command, surface="notebook") if known not in before)
        return ((known, "option") for known in flags if known.startswith(fragment))
    # After a switch such as `--verify` a positional argument may come.
    if flag not in _ENDINGS and not _is_switch(command, flag):
        return iter(())
    return _paths(fragment, _ENDINGS.get(flag, _ENDINGS[""]))


def _is_switch(command: str, flag: str) -> bool:
    from aprnb.commands import arguments_of

    return any(flag in argument.flags and argument.option.kind == "flag" for argument in arguments_of(command))


def _paths(fragment: str, endings: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Folders and files with these endings; names with blanks get quotes."""
    typed = fragment.lstrip("\"'")
    head, slash, stem = typed.rpartition("/")
    folder = Path(head + slash).expanduser() if slash else Path()
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(stem) or (entry.name.startswith(".") and not stem):
            continue
        is_folder = entry.is_dir()
        if is_folder or entry.suffix in endings:
            yield _quoted(f"{head}{slash}{entry.name}{'/' if is_folder else ''}", fragment), "path"


def _quoted(path: str, fragment: str) -> str:
    quote = fragment[:1] if fragment[:1] in ("'", '"') else '"' if " " in path else ""
    # The closing quote of a folder would stand in the way of the next completion.
    return f"{quote}{path}{'' if path.endswith('/') else quote}"
