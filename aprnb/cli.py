"""The command line: the commands of the notebook without a notebook.

The result goes to standard output, progress and warnings go to standard error. With `--json` standard output holds one
document and nothing else, an error included. The exit code equals the verdict: 0 good, 1 failed, 2 usage, 3 file
missing, 4 not a readable checkpoint, 5 contract or validation failed, 130 interrupted.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

from aprnb.arguments import help_text, parse, with_recipe
from aprnb.commands import SUMMARIES, arguments_of
from aprnb.errors import AprnbError, Interrupted
from aprnb.printable import json_text
from aprnb.terminal import Bar, Progress, Terminal


class Answer(Protocol):
    """What a command found: one object gives the text and the document."""

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Outcome:
    """What a command prints, as text and as a document, and the exit code that goes with its verdict."""

    text: str
    document: Mapping[str, Any]
    exit_code: int = 0


def _said(answer: Answer, exit_code: int = 0) -> Outcome:
    return Outcome(str(answer), answer.to_json(), exit_code)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    with redirect_stdout(Terminal(sys.stdout)), redirect_stderr(Terminal(sys.stderr)):
        try:
            return _run(words, as_json)
        except AprnbError as error:
            return _report(error, as_json)
        except KeyboardInterrupt:
            return _report(Interrupted("stopped"), as_json)


def _terminate(_number: int, frame: FrameType | None) -> None:
    """What a container or a batch queue sends before it kills: means the same as Ctrl-C, at this place."""
    interrupt = signal.getsignal(signal.SIGINT)
    if callable(interrupt):
        interrupt(signal.SIGINT, frame)
    else:
        raise KeyboardInterrupt


def _run(words: Sequence[str], as_json: bool) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        from aprnb import __version__

        print(__version__)
        return 0
    command, prog = words[0], f"aprnb {words[0]}"
    arguments_of(command)
    given = parse(command, words[1:], prog=prog, surface="shell")
    if given.pop("help", False):
        print(help_text(command, prog=prog, surface="shell"))
        return 0
    given.pop("json", None)
    # Libraries print as they like; what they say must not break the document.
    with redirect_stdout(sys.stderr):
        outcome = _COMMANDS[command](given)
    print(json_text(outcome.document) if as_json else outcome.text)
    return outcome.exit_code


def _report(error: AprnbError, as_json: bool) -> int:
    print("\n".join(error._render_traceback_()), file=sys.stderr)
    if as_json:
        print(json_text({"error": error.to_json()}))
    return error.exit_code


def _overview() -> str:
    commands = "\n".join(f"  {name:<10}{summary}" for name, summary in SUMMARIES.items())
    codes = "0 good, 1 failed, 2 usage, 3 file missing, 4 not a readable checkpoint, 5 contract or validation failed,"
    return (
        f"usage: aprnb COMMAND ...\n\n{commands}\n\naprnb COMMAND --help shows its options; each takes --json.\n"
        f"exit codes: {codes}\n130 interrupted with the state saved"
    )


def _inspect(given: dict[str, Any]) -> Outcome:
    from aprnb.inspection import inspect

    report = inspect(given.pop("checkpoint"), **given)
    return _said(report, report.exit_code)


def _check(given: dict[str, Any]) -> Outcome:
    from aprnb.architecture import check

    report = check(given.pop("checkpoint"), **given)
    return _said(report, 0 if report.ok else 5)


def _plan(given: dict[str, Any]) -> Outcome:
    from aprnb.tuning.finetune import plan

    options = with_recipe(given)
    options.pop("plan", None)
    return _said(plan(options.pop("checkpoint", None), **options))


def _finetune(given: dict[str, Any]) -> Outcome:
    options = with_recipe(given)
    if options.pop("plan", False):
        return _plan(options)
    from aprnb.tuning.finetune import finetune

    progress = Progress(every_step=bool(options.get("verbose")))
    run = finetune(options.pop("checkpoint", None), listener=progress, **options)
    return _said(run, Interrupted.exit_code if run.status == "interrupted" else 0)


def _convert(given: dict[str, Any]) -> Outcome:
    from aprnb.conversion import convert

    bar = Bar()
    try:
        return _said(convert(given.pop("checkpoint"), given.pop("target"), progress=bar, **given))
    finally:
        bar.clear()


def _merge(given: dict[str, Any]) -> Outcome:
    from aprnb.tuning.results.merge import merge

    merged = merge(given.pop("checkpoint"), given.pop("adapter"), given.pop("output"), **given)
    document = {"output": str(merged.path), "tensors": merged.tensors, "changed": merged.changed}
    return Outcome(f"{merged.path}: {merged.changed} of {merged.tensors} tensors changed", document)


def _generate(given: dict[str, Any]) -> Outcome:
    from aprnb.model import generate, load

    asking = {name: given.pop(name) for name in ("raw", "max_new_tokens") if name in given}
    prompt = given.pop("prompt")
    model, tokenizer = load(given.pop("checkpoint"), **given)
    answer = generate(model, tokenizer, prompt, **asking)
    return Outcome(answer.text, answer.to_json())


_COMMANDS: Mapping[str, Callable[[dict[str, Any]], Outcome]] = {
    "inspect": _inspect,
    "check": _check,
    "plan": _plan,
    "finetune": _finetune,
    "convert": _convert,
    "merge": _merge,
    "generate": _generate,
}
