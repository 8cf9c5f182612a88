"""Every error that aprnb raises on purpose.

    AprnbError                 exit code 1
    ├── UsageProblem           2    an option or argument that cannot be honoured
    │   └── MissingExtra       2    an optional dependency that is not installed
    ├── OutputExists           2    refusing to overwrite
    ├── FileMissing            3    a path that leads nowhere
    ├── CheckpointError        4    the file is not a readable checkpoint
    │   ├── ForeignFormat      4    it is something else, recognised by name
    │   └── TruncatedFile      4    it ends before its own index says
    ├── ArchitectureError      5    the file does not settle which model it is
    │   └── UnsupportedFamily  5    it does, and nobody here can build that model
    ├── ContractError          5    its tensors are not those of the model it names
    ├── TokenizerError         5
    │   └── ChatTemplateError  5
    ├── DataError              5    training rows that cannot be used
    ├── GateError              5    a check around training failed
    ├── TrainingError          1    training could not go on
    ├── OutputError            1    a file could not be written
    └── Interrupted            130  stopped by a person, state saved

An error says what was found, what was expected, where, and what to do next, in one or two lines. Notebooks show just
those lines (`_render_traceback_`), and since these are ordinary exceptions, notebook tests see them fail.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from aprnb.printable import message


class AprnbError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns.

    Its parts may hold text from files: control characters are made visible, and long names and messages are cut.
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
        """Kind, message with its parts, and exit code."""
        named = {"found": self.found, "expected": self.expected, "where": self.where, "action": self.action}
        return {"kind": type(self).__name__, "message": str(self), "exit_code": self.exit_code, **named}

    def _render_traceback_(self) -> list[str]:
        """What IPython prints in place of a traceback."""
        return [f"{type(self).__name__}: {line}" if i == 0 else line for i, line in enumerate(str(self).split("\n"))]


class UsageProblem(AprnbError):
    exit_code = 2


class MissingExtra(UsageProblem):
    """A part of aprnb that needs packages which are not installed."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(f"{package} is not installed", action=f'pip install "aprnb[{extra}]"')


class OutputExists(AprnbError):
    exit_code = 2


class FileMissing(AprnbError):
    exit_code = 3


class CheckpointError(AprnbError):
    exit_code = 4


class ForeignFormat(CheckpointError):
    """Another kind of file; `facts` is what its header says, name → value, where the layout is known."""

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
    pass


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


class OutputError(AprnbError):
    exit_code = 1


class Interrupted(AprnbError):
    exit_code = 130


def closest(word: str, choices: Iterable[str]) -> str:
    """` (did you mean X?)` for the choice nearest to `word`, or an empty string where none is near."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""
