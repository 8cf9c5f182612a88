"""The commands: what each takes and what it runs. The magics and the command line both read this one table.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from aprnb.errors import Interrupted, UsageProblem, closest
from aprnb.options import GROUPS, OPTIONS, Option
from aprnb.phases import IMPORTING, OnPhase
from aprnb.views import Answer, PhaseView, View

if TYPE_CHECKING:
    from aprnb.model.answer import Generation
    from aprnb.tuning.results.run import Run
    from aprnb.tuning.training.events import Listener

REQUEST = "execute-request"
"""In place of a command: executes one run for another process, which writes the request to standard input."""


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


def _inspect(given: dict[str, Any], view: View) -> Answer:
    if Path(given["checkpoint"]).suffix == ".run" and os.path.lexists(given["checkpoint"]):
        from aprnb.tuning.results.run import open_run

        return open_run(given["checkpoint"])
    from aprnb.inspection import inspect

    path = given.pop("checkpoint")
    return view.phases(lambda on_phase: inspect(path, on_phase=on_phase, **given))


def _check(given: dict[str, Any], _: View) -> Answer:
    from aprnb.architecture import check

    return check(given.pop("checkpoint"), **given)


def _plan(given: dict[str, Any], view: View) -> Answer:
    given.pop("plan", None)
    checkpoint, rows = given.pop("checkpoint", None), given.pop("preview", None)

    def work(on_phase: OnPhase) -> Answer:
        _require_usable(checkpoint, given)
        on_phase(IMPORTING)
        if rows is not None:
            from aprnb.tuning.preview import preview

            return preview(checkpoint, rows, on_phase=on_phase, **given)
        from aprnb.tuning.plan_run import plan

        return plan(checkpoint, on_phase=on_phase, **given)

    return view.phases(work)


def _finetune(given: dict[str, Any], view: View) -> Answer:
    if "sweep" in given:
        return _sweep(given, view)
    if given.pop("plan", False) or "preview" in given:
        return _plan(given, view)
    return _trained(given, view)


def _sweep(given: dict[str, Any], view: View) -> Answer:
    from aprnb.tuning.sweep import read_sweep, sweep

    varied = read_sweep(given.pop("sweep"))
    odd = next((name for name in ("plan", "preview", "background") if given.get(name)), None)
    if odd:
        raise UsageProblem(f"--sweep with --{odd}", expected="one of them: the runs follow one after the other")
    return sweep(given.get("checkpoint"), given, varied, lambda words, options: _trained(options, view, words))


def _trained(given: dict[str, Any], view: View, words: str = "") -> Run:
    """One run; `words` say which one of several."""
    checkpoint, background = given.pop("checkpoint", None), given.pop("background", False)
    in_child = background or (view.starts_processes and not given.pop("in_kernel", False))

    def work(listener: Listener) -> Run:
        from aprnb.tuning.training.events import Phase

        if words:
            listener(Phase(words))
        if in_child:
            from aprnb.tuning.child import finetune_in_child

            return finetune_in_child(checkpoint, given, listener, background=background)
        _require_usable(checkpoint, given)
        listener(IMPORTING)
        from aprnb.tuning.finetune import finetune

        return finetune(checkpoint, listener=listener, **given)

    return view.training(work, "background" if background else "here")


def _require_usable(checkpoint: Any, given: Mapping[str, Any]) -> None:
    """Raises what the options alone are wrong in, before torch is imported."""
    from aprnb.tuning.planning.model_size import require_named
    from aprnb.tuning.planning.recipe_reader import read_options

    _, options = read_options(given)
    require_named(checkpoint, options.model_size)


def _watch(given: dict[str, Any], view: View) -> Answer:
    from aprnb.tuning.results.run import open_run

    run = open_run(given["run_folder"])

    def work(listener: Listener) -> Run:
        with suppress(KeyboardInterrupt):  # ends the watching, not the run
            run.follow(listener)
        return run

    return view.training(work, "watched")


def _runs(given: dict[str, Any], _: View) -> Answer:
    from aprnb.tuning.runs import open_runs

    return open_runs(*given.get("run_folders", ()))


def serve_request(requests: int, answers: IO[bytes]) -> int:
    """Executes the run that another process asks for on the descriptor `requests`; returns the exit code."""
    from aprnb.tuning.child import serve

    return serve(requests, answers)


def _convert(given: dict[str, Any], view: View) -> Answer:
    from aprnb.conversion import convert, plan_conversion

    source, target, dtype = given.pop("checkpoint"), given.pop("target"), given.pop("target_dtype", None)
    if given.pop("plan", False):
        given.pop("force", None)
        return plan_conversion(source, target, dtype=dtype, **given)
    return view.conversion(
        lambda shown: convert(source, target, dtype=dtype, progress=shown, on_plan=shown.plan, **given)
    )


def _merge(given: dict[str, Any], view: View) -> Answer:
    from aprnb.conversion.merge_places import require_merge_places

    base, adapter, output = (given.pop(name) for name in ("checkpoint", "adapter", "output"))
    require_merge_places(base, adapter, output, given.get("force", False))

    def work(shown: PhaseView) -> Answer:
        shown(IMPORTING)
        from aprnb.tuning.results.merge import merge

        return merge(base, adapter, output, on_phase=shown, on_plan=shown.plan, **given)

    return view.phases(work)


def _generate(given: dict[str, Any], view: View) -> Answer:
    from aprnb.model.generate_file import generate_file
    from aprnb.model.sampling import choose_sampling

    prompts = [given.pop(name) for name in ("prompt", "prompt_text") if name in given]
    if len(prompts) != 1:
        raise UsageProblem(
            "two prompts" if prompts else "no prompt", expected="one prompt, in quotes if it contains spaces"
        )
    chances = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "sampling_seed")
    sampling = choose_sampling(*(given.pop(name, None) for name in chances))
    path, dtype = given.pop("checkpoint"), given.pop("load_dtype", OPTIONS["load_dtype"].default)

    def work(on_text: Callable[[str], object], on_phase: OnPhase) -> Generation:
        return generate_file(path, prompts[0], sampling, dtype=dtype, on_text=on_text, on_phase=on_phase, **given)

    try:
        return view.generation(work)
    except KeyboardInterrupt:  # from the first token on, the answer so far is returned
        raise Interrupted("stopped before the answer began", action="ask again") from None


def _options(*names: str) -> tuple[Option, ...]:
    return tuple(OPTIONS[name] for name in names)


_COMMON = _options("as", "json", "help")
_VERBOSE = replace(OPTIONS["verbose"], only="shell", help="show the traceback of an unexpected error")
_ANY_MODEL = (*_options("config", "overrides"), _VERBOSE, *_COMMON)
"""What every command but training adds; a notebook shows tracebacks by itself."""
_SOURCE = replace(OPTIONS["checkpoint"], place="SOURCE")
_OUTPUT = replace(OPTIONS["output"], required=True, help="the model to write, NAME.apr")
_GROUPS = ("what to train on", "method", "schedule", "output", "model", "device and memory", "run")
_CONVERTING = ("target_dtype", "base", "modelfile")
_TRAINING = (
    replace(OPTIONS["checkpoint"], required=False),
    *(option for group in _GROUPS for option in GROUPS[group] if option.name not in _CONVERTING),
    *_COMMON,
)
_PLANNING = tuple(option for option in _TRAINING if option.name != "plan")
_INSPECT = (*_options("checkpoint", "verify", "stats", "strict"), *_ANY_MODEL)
_CHECK = (*_options("checkpoint", "strict"), *_ANY_MODEL)
_CONVERT = (
    _SOURCE, *_options("target", "target_dtype", "base", "other_base", "modelfile", "force", "plan"), *_ANY_MODEL,
)  # fmt: skip
_MERGE = (
    *_options("checkpoint", "adapter", "output_dtype", "other_base", "force", "chat_template"), _OUTPUT, *_ANY_MODEL,
)  # fmt: skip
_ASK = tuple(option.name for option in GROUPS["generation"])
_GENERATE = (*_options("checkpoint", *_ASK, "device", "chat_template"), *_ANY_MODEL)

_WATCH = (*_options("run_folder"), _VERBOSE, *_COMMON)
_RUNS = (*_options("run_folders"), _VERBOSE, *_COMMON)

COMMANDS: Mapping[str, Command] = {
    "inspect": Command("Show what a checkpoint contains.", _inspect, _INSPECT, ("line",)),
    "check": Command("Check every tensor against the architecture of the file.", _check, _CHECK, ("line",)),
    "plan": Command("Show what fine-tuning would do; no weights are loaded.", _plan, _PLANNING),
    "finetune": Command(
        "Fine-tune a checkpoint; the tuned model is an .apr file.", _finetune, _TRAINING, ("line", "cell")
    ),
    "watch": Command("Show a run, live or ended; Ctrl-C ends the watching, not the run.", _watch, _WATCH, ("line",)),
    "runs": Command("Show several runs side by side.", _runs, _RUNS, ("line",)),
    "convert": Command("Convert a checkpoint to another format or dtype.", _convert, _CONVERT, ("line",)),
    "merge": Command("Merge a PEFT adapter into its base.", _merge, _MERGE, ("line",)),
    "generate": Command("Answer a prompt, shown as it is generated.", _generate, _GENERATE, ("line", "cell")),
}
