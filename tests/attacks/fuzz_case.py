"""A case of the fuzzer: a folder of its own, files outside it that nothing may read or change, and kinds of files."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from judges import WrongVerdict

SECRET = "planted-3d9f61c07ab2"
"""Stands in every file outside the case's folder, and nowhere else."""
SECRET_NUMBER = 31337.25
"""The same for a place where a number stands."""
SPARSE_BYTES = 1 << 40
Listing = dict[str, tuple[Any, ...]]


class Target(Protocol):
    """Something that reads untrusted files; the constructor makes its bases in a folder."""

    def build(self, rng: random.Random, case: Case) -> None:
        """Writes the case's files, mutated."""

    def examine(self, rng: random.Random, case: Case) -> str:
        """Takes the files through everything; returns how far they came. Raises AprnbError where they are rejected."""


@dataclass
class Case:
    """`folder` belongs to the case; `outside` is next to it and contains a valid file for each name that is read."""

    folder: Path
    outside: Path
    planted: Mapping[str, bytes]
    note: Any = None
    """What the target's `build` tells its `examine`."""
    _files: Listing = field(default_factory=dict)
    _outside: Listing = field(default_factory=dict)

    @classmethod
    def next_to(cls, root: Path, planted: Mapping[str, bytes]) -> Case:
        """A case in `root` with the files `planted` outside."""
        (root / "case").mkdir()
        return cls(root / "case", root / "outside", planted)

    def clear(self) -> None:
        """Removes the last case's files, and restores what it changed outside."""
        if not self._outside or listing(self.outside) != self._outside:
            shutil.rmtree(self.outside, ignore_errors=True)
            self.outside.mkdir()
            _write(self.outside, self.planted)
            self._outside = listing(self.outside)
        for entry in os.scandir(self.folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)  # noqa: PTH108  no Path for each file of thousands of cases

    def write(self, files: Mapping[str, bytes]) -> None:
        _write(self.folder, files)

    def seal(self) -> None:
        """From now on the files may not change."""
        self._files = listing(self.folder)
        self.hold_outside()

    @property
    def size_bytes(self) -> int:
        """Bytes of the regular files in the folder, without sparse ones."""
        sizes = (facts[1] for facts in self._files.values() if stat.S_ISREG(facts[0]))
        return sum(size for size in sizes if size < SPARSE_BYTES)

    def hold_secret(self, *shown: object) -> None:
        """Raises WrongVerdict where the result contains a secret."""
        for value in shown:
            text = str(value)
            if SECRET in text or str(SECRET_NUMBER) in text:
                raise WrongVerdict("the contents of a file outside the folder came out")

    def hold_files(self) -> None:
        """Raises WrongVerdict where a file of the folder is not as it was when the case was sealed."""
        _hold(self._files, listing(self.folder), "in the folder")

    def hold_outside(self) -> None:
        """Raises WrongVerdict where anything outside is not as it was."""
        _hold(self._outside, listing(self.outside), "outside the folder")

    def hold_inside(self, *names: str) -> None:
        """Raises WrongVerdict unless each name that was read is a regular file in its folder.

        Links into a `blobs` folder next to `snapshots` are allowed, since the Hugging Face hub's cache has them.
        """
        for name in names:
            path = self.folder / name
            real, home = os.path.realpath(path), os.path.realpath(path.parent)
            below = os.path.dirname(real)  # noqa: PTH120  no code of pathlib, which the package uses
            in_cache = "/snapshots/" in home and below == home[: home.index("/snapshots/")] + "/blobs"
            if not stat.S_ISREG(os.lstat(real).st_mode) or not (
                (below == home or in_cache) and real.startswith(f"{os.path.realpath(self.folder)}/")
            ):
                raise WrongVerdict(f"{name} was read, which leads to {real}")


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        if "/" in name:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def listing(folder: Path) -> Listing:
    """Everything below `folder`: mode, size, time, number and where a link leads."""
    found: Listing = {}
    waiting = [str(folder)]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            facts = entry.stat(follow_symlinks=False)
            link = os.readlink(entry.path) if entry.is_symlink() else ""  # noqa: PTH115  no Path for each file of thousands of cases
            found[entry.path] = (facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_ino, link)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
    return found


def _hold(before: Listing, after: Listing, where: str) -> None:
    if before != after:
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        raise WrongVerdict(f"{', '.join(changed[:5])} {where} changed")


def _link_out(path: Path, outside: Path) -> None:
    planted = outside / path.name
    path.symlink_to(planted if planted.exists() else outside)


def _relative_link_out(path: Path, outside: Path) -> None:
    path.symlink_to(os.path.relpath(outside / path.name, path.parent))


def _link_inside(path: Path, outside: Path) -> None:
    """The name becomes a link to the file, which gets another name in the same folder."""
    path.symlink_to(f"real-{path.name}")


def _sparse(path: Path, outside: Path) -> None:
    path.touch()
    os.truncate(path, SPARSE_BYTES)


def _folder(path: Path, outside: Path) -> None:
    path.mkdir()
    (path / "x").write_bytes(b"{}")


KINDS: Mapping[str, Callable[[Path, Path], object]] = {
    "link out": _link_out,
    "relative link out": _relative_link_out,
    "link inside": _link_inside,
    "link to itself": lambda path, outside: path.symlink_to(path.name),
    "link to nothing": lambda path, outside: path.symlink_to("absent"),
    "link to a device": lambda path, outside: path.symlink_to("/dev/zero"),
    "link to the folder": lambda path, outside: path.symlink_to("."),
    "pipe": lambda path, outside: os.mkfifo(path),
    "folder": _folder,
    "empty folder": lambda path, outside: path.mkdir(),
    "empty": lambda path, outside: path.touch(),
    "missing": lambda path, outside: None,
    "sparse": _sparse,
}
"""What a name may become in place of the file that is read."""
NAMED_BY_A_PERSON = tuple(kind for kind in KINDS if "link out" not in kind)
"""Kinds for a file that the user names: its links are followed."""


def become(rng: random.Random, path: Path, outside: Path, kinds: tuple[str, ...] = tuple(KINDS)) -> None:
    """The file at `path` becomes something of another kind."""
    kind = "link out" if "link out" in kinds and rng.random() < 0.25 else rng.choice(kinds)
    if path.is_dir() and not path.is_symlink():
        if kind == "sparse":  # a file of the user in place of a folder, which is not read
            return
        path.rename(path.with_name(f"real-{path.name}"))
    elif kind == "link inside" and path.exists():
        path.rename(path.with_name(f"real-{path.name}"))
    else:
        path.unlink(missing_ok=True)
    KINDS[kind](path, outside)
