"""What may be in a file's place, and what may happen to it between two steps."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))  # S_IFCHR; 1, 5 is /dev/zero
    except OSError:
        pytest.skip("devices cannot be made here")


def folder_(path: Path) -> None:
    path.mkdir()


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def dangling_link(path: Path) -> None:
    path.symlink_to("/nowhere")


def sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(300 << 20)


def changing_rename(monkeypatch: pytest.MonkeyPatch, change: Callable[[Path, Path], None]) -> None:
    """Calls `change` with source and target before each rename."""
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        change(self, target)
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
