"""A run that fails: the state after its last complete step is saved, and the error names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

import torch

from aprnb.errors import NoSpace, OutOfMemory, OutputError, TrainingError, out_of_memory_in
from aprnb.model.memory import release_freed
from aprnb.tuning.planning.recipe import SettledRecipe
from aprnb.tuning.training.events import Event


class Failing(Protocol):
    """What `keeping_state` needs of a run; `kept` says what is saved, `between_steps` whether a save would be whole."""

    model: Any
    device: torch.device
    between_steps: bool

    @property
    def kept(self) -> str: ...

    def save(self) -> Iterator[Event]: ...


def keeping_state(run: Failing, events: Iterator[Event]) -> Iterator[Event]:
    """`events`; a TrainingError or a lack of memory among them is raised after the state was saved, if it is whole."""
    try:
        with memory_for("during training"):
            yield from events
        return
    except TrainingError as error:
        failure = error.with_traceback(None)
    # The error's frames are released here, and with them the memory that saving needs.
    run.model.zero_grad(set_to_none=True)
    release_freed(run.device)
    if run.between_steps:
        with suppress(TrainingError, OutputError):
            yield from run.save()
    action = "; ".join(filter(None, (run.kept, failure.action)))
    raise type(failure)(failure.found, expected=failure.expected, where=failure.where, action=action)


def memory_for(phase: str) -> AbstractContextManager[None]:
    """Around what cannot be halved: a lack of memory is OutOfMemory that names the phase."""
    action = "end other programs, or start again with --quantize-nf4 or a smaller --rank"
    return out_of_memory_in(phase, action)


@contextmanager
def room_for_results(recipe: SettledRecipe) -> Iterator[None]:
    """Around what follows the last step: a lack of memory or of space on the disk loses none of the training."""
    action = "every step is done and saved: run it again with --resume when more memory is free"
    if recipe.trains_adapter:
        action = "every step is done and saved: run it again with --resume, or also --adapter-only"
    try:
        with out_of_memory_in("while the results were written", action):
            yield
    except OutOfMemory as error:
        raise OutOfMemory(error.found, action=action) from None
    except NoSpace as error:
        action = f"every step is done and saved: {error.action}, then run it again with --resume"
        raise NoSpace(error.found, action=action) from error
