"""How an attack is registered: the function that makes the file, and the expected result."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from aprnb.errors import AprnbError
from aprnb_tests import apr_bytes as b


@dataclass(frozen=True)
class Attack:
    """`make` writes the file (or folder) into a folder and gives its path; `kind` is None where it opens, harmless."""

    way: str
    make: Callable[[Path], Path]
    kind: type[AprnbError] | None
    message: str = ""
    has_byte: bool = True


ATTACKS: list[Attack] = []
TESTED_WAYS: set[str] = set()
"""Ways that need more than a file to open, each with tests of its own."""

Test = TypeVar("Test", bound=Callable[..., None])


def way(text: str) -> Callable[[Test], Test]:
    """Marks a test with its row of docs/threats.md; several tests may have the same row."""

    def register(test: Test) -> Test:
        TESTED_WAYS.add(text)
        return test

    return register


def attack(
    way: str, kind: type[AprnbError] | None, message: str = "", *, name: str = "x.apr", has_byte: bool = True
) -> Callable[[Callable[[Path], bytes | Path]], Callable[[Path], bytes | Path]]:
    """Registers a function that gives the file's bytes, or writes it itself and gives its path."""

    def register(function: Callable[[Path], bytes | Path]) -> Callable[[Path], bytes | Path]:
        def make(folder: Path) -> Path:
            made = function(folder)
            if isinstance(made, Path):
                return made
            (folder / name).write_bytes(made)
            return folder / name

        ATTACKS.append(Attack(way, make, kind, message, has_byte))
        return function

    return register


FOUR = struct.pack("<4f", 1, 2, 3, 4)
ENTRY = b.entry("a", 0, (4,), 0, 16)


def file_of(*entries: bytes, metadata: object = None, data: bytes = b.pad(FOUR)) -> bytes:
    text = metadata if isinstance(metadata, bytes) else json.dumps(metadata or {"model_type": "test"}).encode()
    body = b.front(text, list(entries)) + data
    return body + struct.pack("<I", zlib.crc32(body))
