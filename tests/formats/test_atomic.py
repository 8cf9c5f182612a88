"""Files and folders are written completely or not at all; only files that a run wrote are replaced."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, chdir
from pathlib import Path
from typing import Any

import pytest

from aprnb.errors import AprnbError, FileMissing, NoSpace, OutputError, OutputExists
from aprnb.formats import atomic
from aprnb.formats.atomic import atomic_file, atomic_folder, remove_folder, staged

OURS = ("weights", "state/step-*/state.json")
NOBODY = 65534


def ours(folder: Path, text: str = "former") -> Path:
    """A folder that holds only what OURS lists."""
    (folder / "state" / "step-1").mkdir(parents=True)
    (folder / "weights").write_text(text)
    (folder / "state" / "step-1" / "state.json").write_text(text)
    return folder


def contents(folder: Path) -> dict[str, str | None]:
    """Every path below the folder with its text; None for what is not a file."""
    found = sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_text() if path.is_file() else None for path in found}


def write_folder(target: Path, force: bool = True) -> None:
    with atomic_folder(target, force, OURS) as written:
        (written / "weights").write_text("new")


def write_file(target: Path, force: bool = True) -> None:
    with atomic_file(target, force) as file:
        file.write(b"new")


def write_staged(target: Path, force: bool = True) -> None:
    with staged(target, force) as staging:
        staging.write_text("new")


def remove(target: Path) -> None:
    remove_folder(target, OURS)


WRITERS = [write_folder, write_file, write_staged]
REPLACERS = [write_folder, remove]


@pytest.mark.parametrize("write", WRITERS)
def test_the_target_appears_and_nothing_else(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt(), OutputError("full")])
@pytest.mark.parametrize("context", [atomic_folder, atomic_file, staged])
def test_a_block_that_fails_leaves_no_files(
    tmp_path: Path, context: Callable[..., AbstractContextManager[Any]], error: BaseException
) -> None:
    with pytest.raises((OutputError, KeyboardInterrupt)), context(tmp_path / "x"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_former_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = ours(tmp_path / "x")
    write_folder(target)
    assert contents(tmp_path) == {"x": None, "x/weights": "new"}


def test_a_removed_folder_is_gone_and_leaves_nothing(tmp_path: Path) -> None:
    remove(ours(tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []


# Renames that fail


def fail_at(
    monkeypatch: pytest.MonkeyPatch, numbers: set[int], error: BaseException, after: bool = False
) -> list[Path]:
    """Lets the renames of these numbers fail, from 1, before or after they were made; returns their sources."""
    real, seen = Path.rename, []

    def rename(self: Path, target: Path) -> Path:
        seen.append(self)
        if len(seen) in numbers and not after:
            raise error
        moved = real(self, target)
        if len(seen) in numbers:
            raise error
        return moved

    monkeypatch.setattr(Path, "rename", rename)
    return seen


BROKEN = OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("error", [BROKEN, KeyboardInterrupt()])
def test_a_rename_that_fails_restores_the_former_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, number: int
) -> None:
    target = ours(tmp_path / "x")
    before = contents(tmp_path)
    fail_at(monkeypatch, {number}, error)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        write_folder(target)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("replace", REPLACERS)
def test_an_interrupt_after_the_first_rename_restores_the_former_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: Callable[[Path], None]
) -> None:
    target = ours(tmp_path / "x")
    before = contents(tmp_path)
    fail_at(monkeypatch, {1}, KeyboardInterrupt(), after=True)
    with pytest.raises(KeyboardInterrupt):
        replace(target)
    assert contents(tmp_path) == before


def test_an_interrupt_after_the_second_rename_leaves_the_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = ours(tmp_path / "x")
    fail_at(monkeypatch, {2}, KeyboardInterrupt(), after=True)
    with pytest.raises(KeyboardInterrupt):
        write_folder(target)
    assert (target / "weights").read_text() == "new"


def test_a_rename_back_that_fails_keeps_the_former_folder_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = ours(tmp_path / "x")
    fail_at(monkeypatch, {2, 3}, BROKEN)
    with pytest.raises(OutputError, match="cannot be moved back") as caught:
        write_folder(target)
    [kept] = tmp_path.glob(".aprnb-*/former")
    assert str(kept) in str(caught.value)
    assert (kept / "weights").read_text() == "former"


def test_a_folder_made_between_the_renames_loses_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, real = ours(tmp_path / "x"), Path.rename

    def rename(self: Path, to: Path) -> Path:
        if self.name == "new":
            target.mkdir()
            (target / "theirs").write_text("theirs")
        return real(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OutputError, match="cannot be moved back"):
        write_folder(target)
    [kept] = tmp_path.glob(".aprnb-*/former")
    assert (kept / "weights").read_text() == "former"
    assert (target / "theirs").read_text() == "theirs"


# Planted names


@pytest.mark.parametrize("fails", [True, False])
def test_no_planted_name_becomes_the_target_or_is_removed(tmp_path: Path, fails: bool) -> None:
    def plant(name: str) -> None:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "weights").write_text("planted")

    target = tmp_path / "x"
    for name in (".x.old", ".x.part", "x.old", "x.part", "x.tmp", f".x.{os.getpid()}.old", ".aprnb-.former", "former"):
        plant(name)
    try:
        with atomic_folder(target, True, OURS) as written:
            for work in list(tmp_path.glob(".aprnb-*.part")):
                for ending in (".former", ".old", ".tmp", ""):
                    plant(f"{work.stem}{ending}")
            (written / "weights").write_text("new")
            if fails:
                raise OutputError("full")
    except OutputError:
        pass
    planted = [path for path in tmp_path.iterdir() if path != target]
    assert len(planted) == 12
    assert {(path / "weights").read_text() for path in planted} == {"planted"}
    assert (target / "weights").read_text() == "new" if not fails else not target.exists()


@pytest.mark.parametrize("context", [atomic_folder, atomic_file, staged])
def test_temporary_names_are_random_and_others_may_not_read_them(
    tmp_path: Path, context: Callable[..., AbstractContextManager[Any]]
) -> None:
    names, modes = set(), set()
    for _ in range(3):
        with context(tmp_path / "secret") as written:
            [temporary] = tmp_path.iterdir()
            names.add(temporary.name)
            modes.add(temporary.stat().st_mode & 0o077)
            if context is staged:
                written.write_text("new")
        written = tmp_path / "secret"
        written.rmdir() if written.is_dir() else written.unlink()
    assert len(names) == 3
    assert modes == {0}
    assert not any("secret" in name or str(os.getpid()) in name for name in names)


# Names and targets


@pytest.mark.parametrize("write", WRITERS)
def test_a_name_of_250_characters_works_twice(tmp_path: Path, write: Callable[..., None]) -> None:
    target = tmp_path / ("n" * 250)
    write(target)
    write(target)
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 250]


@pytest.mark.parametrize("name", ["n" * 256, "n" * 300, "é" * 150, "a\0b", "a\ud800b"], ids=ascii)
@pytest.mark.parametrize("context", [atomic_folder, atomic_file, staged])
def test_a_name_that_cannot_exist_is_an_error_before_any_work(
    tmp_path: Path, context: Callable[..., AbstractContextManager[Any]], name: str
) -> None:
    with pytest.raises(OutputError, match="cannot be written"), context(tmp_path / name):
        pytest.fail("work began")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["missing", "n" * 300, "a\0b", "file"], ids=ascii)
@pytest.mark.parametrize("context", [atomic_folder, atomic_file, staged])
def test_a_folder_that_is_not_there_is_named_before_any_work(
    tmp_path: Path, context: Callable[..., AbstractContextManager[Any]], folder: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileMissing, match="no folder"), context(tmp_path / folder / "x"):
        pytest.fail("work began")


def test_a_target_without_a_folder_is_written_into_the_current_one(tmp_path: Path) -> None:
    with chdir(tmp_path):
        write_folder(Path("x"))
        write_file(Path("y"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "y"]


def a_file(path: Path) -> None:
    path.write_text("theirs")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with chdir(path.parent), socket.socket(socket.AF_UNIX) as one:  # a socket's path has at most 107 bytes
        one.bind(path.name)


def a_link_to_a_file(path: Path) -> None:
    victim = path.absolute().parent / "victim"
    victim.write_text("theirs")
    path.symlink_to(victim)


def a_link_to_a_folder(path: Path) -> None:
    victim = path.absolute().parent / "victims"
    victim.mkdir()
    (victim / "weights").write_text("theirs")
    path.symlink_to(victim)


def a_dangling_link(path: Path) -> None:
    path.symlink_to(path.absolute().parent / "nowhere")


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def an_empty_folder(path: Path) -> None:
    path.mkdir()


def a_folder_of_files(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("theirs")


LINKS = [a_link_to_a_file, a_link_to_a_folder, a_dangling_link, a_link_to_itself]
NO_FOLDERS = [a_file, a_pipe, a_socket, *LINKS]


@pytest.fixture
def taken(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A target where the parameter's file exists; what its link leads to must not change."""
    request.param(tmp_path / "x")
    before = contents(tmp_path)
    before.pop("x"), before.pop("x/weights", None), before.pop("x/mine", None)
    yield tmp_path / "x"
    after = contents(tmp_path)
    assert before.items() <= after.items()
    assert not (tmp_path / "nowhere").exists()
    assert not list(tmp_path.glob(".aprnb-*"))


@pytest.mark.parametrize("taken", [*NO_FOLDERS, a_folder_of_files], indirect=True)
@pytest.mark.parametrize("write", WRITERS)
def test_what_exists_stays_without_force(taken: Path, write: Callable[..., None]) -> None:
    before = os.lstat(taken)
    with pytest.raises(OutputExists):
        write(taken, False)
    assert os.lstat(taken) == before


@pytest.mark.parametrize("taken", NO_FOLDERS, indirect=True)
@pytest.mark.parametrize("replace", REPLACERS)
def test_a_folder_replaces_only_a_folder_even_with_force(taken: Path, replace: Callable[[Path], None]) -> None:
    before = os.lstat(taken)
    with pytest.raises(OutputExists, match="it is not replaced"):
        replace(taken)
    assert os.lstat(taken) == before


@pytest.mark.parametrize("taken", [an_empty_folder, a_folder_of_files], indirect=True)
@pytest.mark.parametrize("write", [write_file, write_staged])
def test_a_file_replaces_no_folder_even_with_force(taken: Path, write: Callable[..., None]) -> None:
    with pytest.raises(OutputExists, match="is a folder; it is not replaced"):
        write(taken)
    assert taken.is_dir()


@pytest.mark.parametrize("taken", NO_FOLDERS, indirect=True)
@pytest.mark.parametrize("write", [write_file, write_staged])
def test_a_forced_file_takes_the_place_of_a_link_or_pipe_and_never_writes_through_it(
    taken: Path, write: Callable[..., None]
) -> None:
    write(taken)
    assert not taken.is_symlink()
    assert taken.read_text() == "new"


@pytest.mark.parametrize("write", [write_file, write_staged])
def test_what_appears_at_the_target_in_between_is_kept(tmp_path: Path, write: Callable[..., None]) -> None:
    context = atomic_file if write is write_file else staged
    with pytest.raises(AprnbError, match="exists"), context(tmp_path / "x") as written:
        if isinstance(written, Path):
            written.write_text("new")
        (tmp_path / "x").write_text("theirs")
    assert contents(tmp_path) == {"x": "theirs"}


def test_an_empty_folder_may_be_filled_without_force(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    write_folder(tmp_path / "x", False)
    assert contents(tmp_path / "x") == {"weights": "new"}


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder of a user without privileges; the test runs as that user."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        if os.geteuid() == 0:
            os.chown(name, NOBODY, NOBODY)
            os.seteuid(NOBODY)
            yield Path(name)
            os.seteuid(0)
        else:
            yield Path(name)


@pytest.mark.parametrize("write", WRITERS)
def test_a_folder_that_may_not_be_written_is_an_aprnb_error(as_nobody: Path, write: Callable[..., None]) -> None:
    as_nobody.chmod(0o555)
    with pytest.raises(OutputError, match="Permission denied"):
        write(as_nobody / "x")
    as_nobody.chmod(0o755)
    assert list(as_nobody.iterdir()) == []


@pytest.mark.parametrize("replace", REPLACERS)
@pytest.mark.parametrize("mode", [0o000, 0o300, 0o555])
def test_a_former_folder_that_may_not_be_read_or_moved_stays(
    as_nobody: Path, replace: Callable[[Path], None], mode: int
) -> None:
    target = ours(as_nobody / "x")
    before = contents(as_nobody)
    target.chmod(mode)
    with pytest.raises(OutputError, match="Permission denied"):
        replace(target)
    target.chmod(0o755)
    assert contents(as_nobody) == before


@pytest.mark.parametrize("replace", REPLACERS)
def test_a_folder_inside_that_may_not_be_read_stays(as_nobody: Path, replace: Callable[[Path], None]) -> None:
    target = ours(as_nobody / "x")
    (target / "state").chmod(0)
    with pytest.raises(OutputError, match="cannot be read: Permission denied"):
        replace(target)
    (target / "state").chmod(0o755)
    assert (target / "state" / "step-1" / "state.json").exists()


# Files that are not ours


def deep(path: Path) -> None:
    path.joinpath(*["deep"] * 40).mkdir(parents=True)
    path.joinpath(*["deep"] * 40, "mine").write_text("theirs")


FOREIGN: dict[str, Callable[[Path], None]] = {
    "notes.txt": a_file,
    ".hidden": a_file,
    "weights.bak": a_file,
    "Weights": a_file,
    "state/notes.txt": a_file,
    "state/step-1/state.json.bak": a_file,
    "state/step-1/more/state.json": a_file,
    "state/state.json": a_file,
    "line\nbreak": a_file,
    "[abc]": a_file,
    "empty/": an_empty_folder,
    "state/step-1/empty/": an_empty_folder,
    "thesis/": deep,
    "pipe": a_pipe,
    "state/step-2/state.json": a_pipe,
    "state/socket": a_socket,
    "link": a_link_to_itself,
    "state/step-3": a_dangling_link,
    "state/step-3/state.json": a_link_to_itself,
}
"""Path in the folder → what lies there."""


@pytest.mark.parametrize("name", FOREIGN, ids=ascii)
@pytest.mark.parametrize("replace", REPLACERS)
def test_what_is_not_ours_is_named_and_nothing_is_removed(
    tmp_path: Path, replace: Callable[[Path], None], name: str
) -> None:
    target = ours(tmp_path / "x")
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    FOREIGN[name](target / name)
    before = contents(tmp_path)
    with pytest.raises(OutputExists, match="not written by aprnb; nothing is removed") as caught:
        replace(target)
    assert name.rstrip("/") in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("make", LINKS)
@pytest.mark.parametrize("replace", REPLACERS)
def test_a_link_with_the_name_of_a_written_file_does_not_count_as_one(
    tmp_path: Path, replace: Callable[[Path], None], make: Callable[[Path], None]
) -> None:
    target = ours(tmp_path / "x")
    (target / "weights").unlink()
    make(tmp_path / "link")
    (tmp_path / "link").rename(target / "weights")
    with pytest.raises(OutputExists, match="holds weights, not written"):
        replace(target)
    assert (target / "weights").is_symlink()


def test_of_thousands_of_other_files_a_few_are_named(tmp_path: Path) -> None:
    target = ours(tmp_path / "x")
    for number in range(3_000):
        (target / f"mine-{number:04d}").touch()
    with pytest.raises(OutputExists, match="mine-0000, .*mine-0004 and more, not written") as caught:
        remove(target)
    assert len(str(caught.value)) < 500
    assert len(list(target.iterdir())) == 3_002


@pytest.mark.parametrize("moment", ["before the folder is moved", "after the folder is moved"])
@pytest.mark.parametrize("replace", REPLACERS)
def test_a_file_added_after_the_check_stays_and_so_does_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: Callable[[Path], None], moment: str
) -> None:
    target, real = ours(tmp_path / "x"), Path.rename
    before = contents(tmp_path)

    def rename(self: Path, to: Path) -> Path:
        if self == target and moment.startswith("before"):
            (self / "mine").write_text("theirs")
        moved = real(self, to)
        if self == target and moment.startswith("after"):
            (moved / "mine").write_text("theirs")
        return moved

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OutputExists, match=f"{target} holds mine, not written by aprnb"):
        replace(target)
    assert contents(tmp_path) == {**before, "x/mine": "theirs"}


@pytest.mark.parametrize("make", [a_file, a_pipe, *LINKS])
@pytest.mark.parametrize("replace", REPLACERS)
def test_what_takes_the_folders_place_after_the_check_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: Callable[[Path], None], make: Callable[[Path], None]
) -> None:
    target, real, swapped = ours(tmp_path / "x"), Path.rename, []

    def rename(self: Path, to: Path) -> Path:
        if self == target and not swapped:
            real(self, tmp_path / "moved")
            make(target)
            swapped.append(os.lstat(target).st_ino)
        return real(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OutputExists, match="it is not replaced"):
        replace(target)
    assert os.lstat(target).st_ino == swapped[0]
    assert (tmp_path / "moved" / "weights").read_text() == "former"


def test_a_folder_that_is_not_there_is_removed_already(tmp_path: Path) -> None:
    remove(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_files_are_synced_before_they_take_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, synced = tmp_path / "x", []
    real = atomic.sync

    def sync(path: Path) -> None:
        synced.append((path.name, target.exists()))
        real(path)

    monkeypatch.setattr(atomic, "sync", sync)
    write_folder(target)
    assert synced == [("weights", False), ("new", False), (tmp_path.name, True)]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "no space left to write {}"),
        (errno.EFBIG, "the size of a file is limited here: no space left to write {}"),
    ],
)
def test_a_file_of_a_folder_that_does_not_fit_is_named_where_it_was_to_be(
    tmp_path: Path, number: int, said: str
) -> None:
    """And not in the hidden folder, which is gone when the message is read."""
    target = tmp_path / "model"
    with pytest.raises(NoSpace) as caught, atomic_folder(target) as new, atomic_file(new / "model.safetensors"):
        raise OSError(number, os.strerror(number))
    assert caught.value.found == said.format(target / "model.safetensors")
    assert not list(tmp_path.iterdir())
