"""The command line: the commands of the notebook without a notebook.

The result goes to standard output, progress and warnings go to standard error. With `--json` standard output is one
document, also for an error. The exit code is the verdict: 0 good, 1 failed, 2 usage, 3 file missing, 4 not a readable
checkpoint, 5 contract or validation failed, 130 interrupted.

When the reader closes the output, as in `aprnb inspect FILE | head -1`, the command ends silently with 141 (128 +
SIGPIPE). Shells report this code for programs that SIGPIPE ended, such as `git log | head -1`, and scripts with `set -o
pipefail` know it; 1 would mean that the command failed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from aprnb.arguments import help_text, parse, with_recipe
from aprnb.commands import COMMANDS, REQUEST, Command, command_named, serve_request
from aprnb.errors import AprnbError, InternalError, Interrupted, OutputError, out_of_memory_in
from aprnb.printable import json_text
from aprnb.terminal import OutputLost, Terminal
from aprnb.terminal_views import TerminalView

CLOSED_PIPE = 141
_HELP = frozenset(("-h", "--help"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == [REQUEST]:
        return _serve()
    if threading.current_thread() is threading.main_thread():
        _handle_endings()
    with redirect_stdout(_terminal(sys.stdout)), redirect_stderr(_terminal(sys.stderr)):
        try:
            return _verdict(arguments, as_json="--json" in arguments, verbose="--verbose" in arguments)
        except OutputLost as lost:
            return _without_output(lost)


def _serve() -> int:
    """Executes the run that a notebook asks for; what libraries print goes to standard error."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        return serve_request(sys.stdin.fileno(), answers)


def _handle_endings() -> None:
    """SIGTERM, which containers and batch queues send before SIGKILL, and the SIGHUP of a closed terminal are Ctrl-C.

    What a process ignores, as under `nohup`, it still ignores.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _terminate)


def _terminate(_number: int, frame: FrameType | None) -> None:
    interrupt = signal.getsignal(signal.SIGINT)
    if callable(interrupt):
        interrupt(signal.SIGINT, frame)
    else:
        raise KeyboardInterrupt


def _terminal(stream: TextIO | None) -> Terminal:
    """For a descriptor that was closed Python has no stream; the null device replaces it, and takes its number."""
    return Terminal(stream or Path(os.devnull).open("w", encoding="utf-8"))


def _verdict(arguments: Sequence[str], *, as_json: bool, verbose: bool) -> int:
    try:
        text = _information(arguments)
        if text is not None:
            _say(text)
            return 0 if arguments else 2
        options = with_recipe(parse(arguments[0], arguments[1:], prog=f"aprnb {arguments[0]}", surface="shell"))
        verbose = bool(options.get("verbose"))
        return _run(command_named(arguments[0]), options, as_json)
    except AprnbError as error:
        return _report(error, as_json)
    except KeyboardInterrupt:
        return _report(Interrupted("stopped", action="no incomplete file is left: run the command again"), as_json)
    except OutputLost:
        raise
    except BaseException as error:  # SystemExit of a library, and the panics of those written in Rust
        if verbose:
            traceback.print_exception(error)
        return _report(InternalError(error, traceback_shown=verbose), as_json)


def _information(arguments: Sequence[str]) -> str | None:
    """The help or the version, if that was asked for."""
    if not arguments or arguments[0] in _HELP:
        return _overview()
    if arguments[0] == "--version":
        from aprnb import __version__

        return __version__
    if not _HELP.isdisjoint(arguments):
        return help_text(arguments[0], prog=f"aprnb {arguments[0]}", surface="shell")
    return None


def _run(command: Command, options: Mapping[str, Any], as_json: bool) -> int:
    view = TerminalView(every_step=bool(options.get("verbose")), output=None if as_json else sys.stdout)
    ours = [option.name for option in command.options if option.only == "shell"]
    enough = out_of_memory_in("in this command", "end other programs, or use a machine with more memory")
    # Libraries may print: that must not break the document.
    with redirect_stdout(sys.stderr), enough:
        answer = command.run({name: value for name, value in options.items() if name not in ours}, view)
    if not view.has_answered:
        _say(json_text(answer.to_json()) if as_json else view.text(answer))
    return answer.exit_code


def _report(error: AprnbError, as_json: bool) -> int:
    print("\n".join(error._render_traceback_()), file=sys.stderr)
    if as_json:
        _say(json_text({"error": error.to_json()}))
    return error.exit_code


def _say(text: str) -> None:
    """Flushes, so that an error of writing is raised here and not when the interpreter ends."""
    print(text, flush=True)


def _without_output(lost: OutputLost) -> int:
    lost.discard()
    if isinstance(lost.reason, BrokenPipeError):
        return CLOSED_PIPE
    with suppress(OutputLost):
        _report(OutputError(f"the output cannot be written: {lost.reason.strerror}"), as_json=False)
    return OutputError.exit_code


def _overview() -> str:
    commands = "\n".join(f"  {name:<10}{command.summary}" for name, command in COMMANDS.items())
    codes = "0 good, 1 failed, 2 usage, 3 file missing, 4 not a readable checkpoint, 5 contract or validation failed,"
    return (
        f"usage: aprnb COMMAND ...\n\n{commands}\n\n"
        "aprnb COMMAND --help shows the options of a command; every command takes --json.\n"
        f"exit codes: {codes}\n130 interrupted (once training runs, its state is saved), "
        f"{CLOSED_PIPE} the reader closed the output"
    )
