"""The commands: what each takes and what it runs. The magics and the command line both read this one table.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from aprnb.errors import UsageProblem, closest
from aprnb.options import GROUPS, OPTIONS, Option

if TYPE_CHECKING:
    from aprnb.display.bundle import Displayed
    from aprnb.tuning.training.events import Listener

T = TypeVar("T")
RunT = TypeVar("RunT", bound="Displayed")


class Answer(Protocol):
    """The result of a command; `str()` gives its text."""

    def to_json(self) -> dict[str, Any]: ...

    @property
    def exit_code(self) -> int: ...


class View(Protocol):
    """How a surface shows the progress of long work; both methods call `work` and return its result."""

    def conversion(self, work: Callable[[Callable[[int, int], None]], T]) -> T:
        """`work` takes a function that is called with the bytes done and the bytes in total."""
        ...

    def training(self, work: Callable[[Listener], RunT]) -> RunT:
        """`work` takes a listener, which is called with the plan and each event."""
        ...


@dataclass(frozen=True)
class Command:
    """`run` takes the options that were given and a view; `magics` says as which kinds of magic it exists."""

    summary: str
    run: Callable[[dict[str, Any], View], Answer]
    options: tuple[Option, ...]
    magics: tuple[Literal["line", "cell"], ...] = ()


def command_named(name: str) -> Command:
    """Raises UsageProblem for a command that does not exist."""
    if name not in COMMANDS:
        raise UsageProblem(f"unknown command {name!r}{closest(name, COMMANDS)}", expected=", ".join(COMMANDS))
    return COMMANDS[name]


def _inspect(given: dict[str, Any], _: View) -> Answer:
    from aprnb.inspection import inspect

    return inspect(given.pop("checkpoint"), **given)


def _check(given: dict[str, Any], _: View) -> Answer:
    from aprnb.architecture import check

    return check(given.pop("checkpoint"), **given)


def _plan(given: dict[str, Any], _: View) -> Answer:
    from aprnb.tuning.finetune import plan

    given.pop("plan", None)
    return plan(given.pop("checkpoint", None), **given)


def _finetune(given: dict[str, Any], view: View) -> Answer:
    if given.pop("plan", False):
        return _plan(given, view)
    from aprnb.tuning.finetune import finetune

    checkpoint = given.pop("checkpoint", None)
    return view.training(lambda listener: finetune(checkpoint, listener=listener, **given))


def _convert(given: dict[str, Any], view: View) -> Answer:
    from aprnb.conversion import convert

    source, target, dtype = given.pop("checkpoint"), given.pop("target"), given.pop("target_dtype", None)
    return view.conversion(lambda progress: convert(source, target, dtype=dtype, progress=progress, **given))


def _merge(given: dict[str, Any], _: View) -> Answer:
    from aprnb.tuning.results.merge import merge

    return merge(given.pop("checkpoint"), given.pop("adapter"), given.pop("output"), **given)


def _generate(given: dict[str, Any], _: View) -> Answer:
    from aprnb.model import generate, load

    asked = {name: given.pop(name) for name in ("raw", "max_new_tokens") if name in given}
    prompt, dtype = given.pop("prompt"), given.pop("load_dtype", OPTIONS["load_dtype"].default)
    model, tokenizer = load(given.pop("checkpoint"), dtype=dtype, **given)
    return generate(model, tokenizer, prompt, **asked)


def _options(*names: str) -> tuple[Option, ...]:
    return tuple(OPTIONS[name] for name in names)


_COMMON = _options("as", "json", "help")
_VERBOSE = replace(OPTIONS["verbose"], only="shell", help="show the traceback of an unexpected error")
_ANY_MODEL = (*_options("config", "overrides"), _VERBOSE, *_COMMON)
"""What every command but training adds; a notebook shows tracebacks by itself."""
_SOURCE = replace(OPTIONS["checkpoint"], place="SOURCE")
_OUTPUT = replace(OPTIONS["output"], required=True, help="the model to write, NAME.apr")
_GROUPS = ("what to train on", "method", "schedule", "output", "model", "device and memory", "run")
_TRAINING = (
    replace(OPTIONS["checkpoint"], required=False),
    *(option for group in _GROUPS for option in GROUPS[group] if option.name != "target_dtype"),
    *_COMMON,
)
_PLANNING = tuple(option for option in _TRAINING if option.name != "plan")
_INSPECT = (*_options("checkpoint", "verify", "stats", "strict"), *_ANY_MODEL)
_CHECK = (*_options("checkpoint", "strict"), *_ANY_MODEL)
_CONVERT = (_SOURCE, *_options("target", "target_dtype", "force"), *_ANY_MODEL)
_MERGE = (*_options("checkpoint", "adapter", "output_dtype", "other_base", "force"), _OUTPUT, *_ANY_MODEL)
_ASK = ("prompt", "raw", "max_new_tokens", "load_dtype", "device", "chat_template")
_GENERATE = (*_options("checkpoint", *_ASK), *_ANY_MODEL)

COMMANDS: Mapping[str, Command] = {
    "inspect": Command("Show what a checkpoint contains.", _inspect, _INSPECT, ("line",)),
    "check": Command("Check every tensor against the architecture of the file.", _check, _CHECK, ("line",)),
    "plan": Command("Show what fine-tuning would do; no weights are loaded.", _plan, _PLANNING),
    "finetune": Command(
        "Fine-tune a checkpoint; the tuned model is an .apr file.", _finetune, _TRAINING, ("line", "cell")
    ),
    "convert": Command("Convert a checkpoint to another format or dtype.", _convert, _CONVERT, ("line",)),
    "merge": Command("Merge a PEFT adapter into its base.", _merge, _MERGE),
    "generate": Command("Generate an answer to one prompt.", _generate, _GENERATE),
}
