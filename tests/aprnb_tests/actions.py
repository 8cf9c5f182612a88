"""What errors advise, read from the source: every text that can become an `action`, with {} for its values."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import aprnb

PACKAGE = Path(aprnb.__file__).parent
_NAMES_A_WAY = re.compile(r"(?<![\w-])--[a-z]|`aprnb |%apr_")
Functions = dict[str, list[ast.FunctionDef]]


def actions() -> set[str]:
    """The texts that name an option or a command."""
    trees = [ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))]
    functions: Functions = {}
    constants: dict[str, list[ast.expr]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                functions.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                constants.setdefault(node.targets[0].id, []).append(node.value)
    found = {
        text
        for tree in trees
        for value in _values(tree, functions)
        for text in _texts(value, functions, constants, frozenset())
    }
    return {text for text in found if _NAMES_A_WAY.search(text)}


def _values(tree: ast.Module, functions: Functions) -> Iterator[ast.expr]:
    """What is given as `action`: by name, by position, or as its default."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from (keyword.value for keyword in node.keywords if keyword.arg == "action")
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            for function in functions.get(name, ()):
                names = [argument.arg for argument in function.args.args]
                if "action" in names[: len(node.args)]:
                    yield node.args[names.index("action")]


def _texts(
    node: ast.expr, functions: Functions, constants: dict[str, list[ast.expr]], seen: frozenset[str]
) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body, functions, constants, seen)
        yield from _texts(node.orelse, functions, constants, seen)
    elif isinstance(node, ast.Name) and node.id not in seen:
        for value in constants.get(node.id, ()):
            yield from _texts(value, functions, constants, seen | {node.id})
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in seen:
        for function in functions.get(node.func.id, ()):
            for inner in ast.walk(function):  # all of its texts: it may join several
                if isinstance(inner, ast.JoinedStr | ast.Constant):
                    yield from _texts(inner, functions, constants, seen)
