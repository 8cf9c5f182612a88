"""What `%load_ext aprnb` adds to a shell and `%unload_ext` removes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

_ATTRIBUTE = "_aprnb_extension"
# By name, so that loading does not import the display room.
_SHOWN_TYPE = ("aprnb.display.bundle", "Displayed")


@dataclass(frozen=True)
class Loaded:
    """What loading added: the magics that it replaced (None for none), by kind and name, and the matcher."""

    replaced: dict[tuple[str, str], Any]
    matcher: Callable[..., Any]


def without_empty_body(lines: list[str]) -> list[str]:
    """Turns `%%apr_… ` without a body into `%apr_…`: IPython prints a hint and does not fail."""
    first = next((index for index, line in enumerate(lines) if line.strip()), len(lines))
    alone = not any(line.strip() for line in lines[first + 1 :])
    if alone and first < len(lines) and lines[first].startswith("%%apr_"):
        return [*lines[:first], lines[first][1:], *lines[first + 1 :]]
    return lines


def load(shell: InteractiveShell) -> None:
    """Registers the magics, their completion and the display of our objects."""
    if hasattr(shell, _ATTRIBUTE):
        unload(shell)
    from aprnb.notebook.completion import magic_matcher
    from aprnb.notebook.magics import Session, magics_of

    session = Session(shell)
    replaced: dict[tuple[str, str], Any] = {}
    for magic in magics_of(session):
        for kind in magic.kinds:
            replaced[kind, magic.name] = shell.magics_manager.magics[kind].get(magic.name)
            shell.magics_manager.register_function(magic, kind, magic.name)
    if shell.Completer is not None:
        shell.Completer.custom_matchers.append(magic_matcher)
    shell.input_transformer_manager.cleanup_transforms.append(without_empty_body)
    if shell.display_formatter is not None:
        shell.display_formatter.mimebundle_formatter.for_type_by_name(*_SHOWN_TYPE, session.bundle)
    setattr(shell, _ATTRIBUTE, Loaded(replaced, magic_matcher))


def unload(shell: InteractiveShell) -> None:
    """Restores the shell as it was before loading."""
    loaded: Loaded | None = getattr(shell, _ATTRIBUTE, None)
    if loaded is None:
        return
    for (kind, name), former in loaded.replaced.items():
        table = shell.magics_manager.magics[kind]
        table.pop(name, None)
        if former is not None:
            table[name] = former
    if shell.Completer is not None and loaded.matcher in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(loaded.matcher)
    if without_empty_body in shell.input_transformer_manager.cleanup_transforms:
        shell.input_transformer_manager.cleanup_transforms.remove(without_empty_body)
    if shell.display_formatter is not None:
        shell.display_formatter.mimebundle_formatter.pop(".".join(_SHOWN_TYPE), None)
    delattr(shell, _ATTRIBUTE)
