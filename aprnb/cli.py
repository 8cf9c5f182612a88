"""The command line: the commands of the notebook without a notebook.

The result goes to standard output, progress and warnings go to standard error. With `--json` standard output is one
document, also for an error. The exit code is the verdict: 0 good, 1 failed, 2 usage, 3 file missing, 4 not a readable
checkpoint, 5 contract or validation failed, 130 interrupted.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from types import FrameType

from aprnb.arguments import help_text, parse, with_recipe
from aprnb.commands import COMMANDS, command_named
from aprnb.errors import AprnbError, Interrupted
from aprnb.printable import json_text
from aprnb.terminal import Terminal, TerminalView


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
    """Handles SIGTERM, which containers and batch queues send before SIGKILL, as Ctrl-C."""
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
    command, prog = command_named(words[0]), f"aprnb {words[0]}"
    given = parse(words[0], words[1:], prog=prog, surface="shell")
    if given.get("help"):
        print(help_text(words[0], prog=prog, surface="shell"))
        return 0
    options = with_recipe(given)
    view = TerminalView(every_step=bool(options.get("verbose")))
    ours = [option.name for option in command.options if option.only == "shell"]
    # Libraries may print: that must not break the document.
    with redirect_stdout(sys.stderr):
        answer = command.run({name: value for name, value in options.items() if name not in ours}, view)
    print(json_text(answer.to_json()) if as_json else str(answer))
    return answer.exit_code


def _report(error: AprnbError, as_json: bool) -> int:
    print("\n".join(error._render_traceback_()), file=sys.stderr)
    if as_json:
        print(json_text({"error": error.to_json()}))
    return error.exit_code


def _overview() -> str:
    commands = "\n".join(f"  {name:<10}{command.summary}" for name, command in COMMANDS.items())
    codes = "0 good, 1 failed, 2 usage, 3 file missing, 4 not a readable checkpoint, 5 contract or validation failed,"
    return (
        f"usage: aprnb COMMAND ...\n\n{commands}\n\naprnb COMMAND --help shows its options; each takes --json.\n"
        f"exit codes: {codes}\n130 interrupted with the state saved"
    )
