"""The errors that aprnb raises.

    AprnbError                 exit code 1
    ├── InternalError          1    an exception that aprnb does not expect
    ├── UsageProblem           2    an invalid option or argument
    │   └── MissingExtra       2    an optional dependency that is not installed
    ├── OutputExists           2    an output exists and is not overwritten
    ├── FileMissing            3    no file at a path
    ├── CheckpointError        4    the file is not a readable checkpoint
    │   ├── UnsupportedFormat  4    the file has another format
    │   └── TruncatedFile      4    the file is shorter than its index requires
    ├── ArchitectureError      5    the file does not determine the model's architecture
    │   └── UnsupportedFamily  5    aprnb does not support the model's family
    ├── ContractError          5    the tensors do not match the architecture
    ├── TokenizerError         5    the tokenizer is not determined, or fails
    │   └── ChatTemplateError  5    the chat template is missing, or fails
    ├── DataError              5    invalid training rows
    ├── GateError              5    a check before or after training failed
    ├── TrainingError          1    training cannot continue
    │   └── OutOfMemory        1    memory ran out, in a run or elsewhere
    ├── OutputError            1    a file could not be written
    │   └── NoSpace            1    the disk is full
    └── Interrupted            130  interrupted, state saved

An error says what was found, what was expected, where, and what to do next, in one or two lines. Notebooks show only
these lines (`_render_traceback_`). They are ordinary exceptions, so notebook test runners detect them.
"""

from __future__ import annotations

import difflib
import errno
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from aprnb.printable import message


class AprnbError(Exception):
    """Base class of all errors that aprnb raises; `str()` is the message, in one or two lines.

    The parts may contain text from files: control characters are escaped, long names and messages are cut.

    Attributes:
        found: what was found.
        expected: what was expected instead, or None.
        where: the file, byte offset, tensor or line, or None.
        action: what to do next, or None.
        exit_code: what the command line returns with this error.

    Example:
        >>> try:
        ...     aprnb.open("missing.apr")
        ... except aprnb.AprnbError as error:
        ...     print(type(error).__name__, error.exit_code, error.found)
        FileMissing 3 no file at missing.apr
    """

    exit_code = 1

    def __init__(
        self, found: str, *, expected: str | None = None, where: str | None = None, action: str | None = None
    ) -> None:
        self.found = message(found)
        self.expected, self.where, self.action = (part and message(part) for part in (expected, where, action))
        super().__init__(self._message())

    def _message(self) -> str:
        first = self.found
        if self.expected:
            first += f"; expected {self.expected}"
        if self.where:
            first += f" ({self.where})"
        return f"{first}\n→ {self.action}" if self.action else first

    def to_json(self) -> dict[str, str | int | None]:
        """Kind, message, exit code and the parts by name."""
        named = {"found": self.found, "expected": self.expected, "where": self.where, "action": self.action}
        return {"kind": type(self).__name__, "message": str(self), "exit_code": self.exit_code, **named}

    def _render_traceback_(self) -> list[str]:
        """What IPython prints in place of a traceback."""
        return [f"{type(self).__name__}: {line}" if i == 0 else line for i, line in enumerate(str(self).split("\n"))]


class InternalError(AprnbError):
    """Wraps an exception that is not an `AprnbError`, for the command line."""

    def __init__(self, error: BaseException, *, traceback_shown: bool) -> None:
        [*_, last] = traceback.extract_tb(error.__traceback__) or [None]
        lines = str(error).strip().splitlines()
        shown_by = "" if traceback_shown else " that --verbose shows"
        super().__init__(
            ": ".join([type(error).__name__, *lines[:1]]),
            where=f"{last.filename}, line {last.lineno}" if last else None,
            action=f"this is a bug in aprnb; please report it with the traceback{shown_by}",
        )


class UsageProblem(AprnbError):
    exit_code = 2


class MissingExtra(UsageProblem):
    """A feature needs a package that is not installed."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(f"{package} is not installed", action=f'pip install "aprnb[{extra}]"')


class OutputExists(AprnbError):
    exit_code = 2


class FileMissing(AprnbError):
    exit_code = 3


class CheckpointError(AprnbError):
    exit_code = 4


class UnsupportedFormat(CheckpointError):
    """A file of another format; `facts` maps names to values of its header, where the layout is known."""

    def __init__(
        self,
        found: str,
        *,
        expected: str | None = None,
        where: str | None = None,
        action: str | None = None,
        facts: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.facts = MappingProxyType(dict(facts))
        super().__init__(found, expected=expected, where=where, action=action)


class TruncatedFile(CheckpointError):
    def __init__(self, found: str, *, expected: str | None = None, where: str | None = None) -> None:
        super().__init__(found, expected=expected, where=where, action="copy or download the file again")


class ArchitectureError(AprnbError):
    exit_code = 5


class UnsupportedFamily(ArchitectureError):
    pass


class ContractError(AprnbError):
    exit_code = 5


class TokenizerError(AprnbError):
    exit_code = 5


class ChatTemplateError(TokenizerError):
    pass


class DataError(AprnbError):
    exit_code = 5


class GateError(AprnbError):
    exit_code = 5


class TrainingError(AprnbError):
    exit_code = 1


class OutOfMemory(TrainingError):
    pass


class OutputError(AprnbError):
    exit_code = 1


class NoSpace(OutputError):
    pass


class Interrupted(AprnbError):
    exit_code = 130


def error_from_json(document: Mapping[str, object]) -> AprnbError:
    """The error of which `to_json` made `document`; AprnbError itself for a kind that this version does not know."""
    named = globals().get(str(document.get("kind")))
    kind = named if isinstance(named, type) and issubclass(named, AprnbError) else AprnbError
    texts = {
        name: None if document.get(name) is None else str(document[name]) for name in ("expected", "where", "action")
    }
    error = kind.__new__(kind)
    AprnbError.__init__(error, str(document.get("found")), **texts)
    return error


def closest(name: str, choices: Iterable[str]) -> str:
    """` (did you mean X?)` for the choice closest to `name`, or an empty string."""
    near = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "_ALLOC_FAILED",
              "could not create a primitive")  # fmt: skip  # the last is oneDNN's
_AMOUNT = re.compile(r"allocate (\d[\d.]*) ?(bytes|[KMGT]i?B)", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, of the system or of a device.

    torch has a class for CUDA's allocator only: that of a CPU raises RuntimeError, a kernel that cannot start
    AcceleratorError, cuBLAS and cuDNN RuntimeError with the name of their status.
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)
    )


def missing_memory(error: BaseException) -> str:
    """`: 2.00 GiB could not be allocated` where the error states an amount, else an empty string."""
    amount = _AMOUNT.search(str(error))
    return f": {amount[1]} {amount[2]} could not be allocated" if amount else ""


@contextmanager
def out_of_memory_in(phase: str, action: str) -> Iterator[None]:
    """Turns a lack of memory inside the block into OutOfMemory that names the phase; other errors pass.

    The frames of what failed are cleared: an error that a notebook keeps would keep their tensors.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemory(f"out of memory {phase}{missing_memory(error)}", action=action) from None
