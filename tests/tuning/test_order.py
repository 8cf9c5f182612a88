"""The parts of tuning import only the parts before them, inside functions and for type checkers too."""

from __future__ import annotations

import ast
from pathlib import Path

TUNING = Path(__file__).parents[2] / "aprnb" / "tuning"
ORDER = ("tensor_files", "data", "planning", "preparation", "training", "results", "execution", "finetune")


def part_of(name: str) -> int:
    return ORDER.index(name.split(".")[0])


def test_each_part_imports_only_the_parts_before_it() -> None:
    broken = []
    for path in TUNING.rglob("*.py"):
        name = ".".join(path.relative_to(TUNING).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("aprnb.tuning."):
                imported = str(node.module).removeprefix("aprnb.tuning.")
                if part_of(imported) > part_of(name):
                    broken.append(f"{name}:{node.lineno} imports {imported}")
    assert not broken, "\n".join(broken)
