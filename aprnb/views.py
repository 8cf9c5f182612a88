"""What a command returns, and how a surface shows the progress of long work: one protocol for notebook and terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from aprnb.conversion import ConversionPlan, Converted
    from aprnb.model.answer import Generation
    from aprnb.phases import OnPhase, Phase
    from aprnb.tuning.results.run import Run
    from aprnb.tuning.training.events import Listener

ConvertedT = TypeVar("ConvertedT", bound="Converted")
RunT = TypeVar("RunT", bound="Run")
GenerationT = TypeVar("GenerationT", bound="Generation")
ResultT = TypeVar("ResultT")

TrainingKind = Literal["here", "background", "watched"]
"""Whether `work` lasts as long as the run, which a KeyboardInterrupt stops; ends before the run; or only watches it."""


class Answer(Protocol):
    """The result of a command; `str()` gives its text."""

    def to_json(self) -> dict[str, Any]: ...

    @property
    def exit_code(self) -> int: ...


class ConversionView(Protocol):
    """Shows one conversion: call it with the bytes done and the bytes in total."""

    def __call__(self, done: int, total: int) -> None: ...

    def plan(self, plan: ConversionPlan) -> None:
        """Shows what will be written; called before the first byte."""
        ...


class PhaseView(Protocol):
    """Shows phases: call it with each; and what will be written, once."""

    def __call__(self, phase: Phase) -> object: ...

    def plan(self, plan: ConversionPlan) -> None:
        """Shows what will be written; called before the first byte."""
        ...


class View(Protocol):
    """How a surface shows the progress of long work; each method calls `work` and returns its result.

    `starts_processes` says whether a run has a process of its own.
    """

    starts_processes: bool

    def conversion(self, work: Callable[[ConversionView], ConvertedT]) -> ConvertedT:
        """`work` takes what shows the plan and the progress."""
        ...

    def training(self, work: Callable[[Listener], RunT], kind: TrainingKind = "here", /) -> RunT:
        """`work` takes a listener, which is called with the plan and each event."""
        ...

    def generation(self, work: Callable[[Callable[[str], object], OnPhase], GenerationT]) -> GenerationT:
        """`work` takes two functions: one is called with each part of the text, one with each phase."""
        ...

    def phases(self, work: Callable[[PhaseView], ResultT]) -> ResultT:
        """`work` takes a function, which is called with each phase, and which shows a plan."""
        ...
