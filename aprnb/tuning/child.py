"""A run in a process of its own, which the notebook starts: the kernel keeps its memory and survives it (no torch).

The child is a fresh `python -m aprnb`, never a fork, for CUDA's sake. It gets one request, a line of JSON on standard
input, and answers with records of events on standard output: `planned`, then those of `events.jsonl`, at the end
`result` or `error`. A later line `stop` asks it to save and stop, a second one to stop at once. Where standard input
ends, because the kernel died, it saves and stops; in the background it goes on.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from aprnb.errors import AprnbError, InternalError, TrainingError, error_from_json
from aprnb.tuning.data.rows import portable_rows
from aprnb.tuning.planning.plan_document import SavedPlan
from aprnb.tuning.results.places import places_of
from aprnb.tuning.results.run import Run, open_run
from aprnb.tuning.training.events import STOPPING, Event, Listener, Notice, Phase, Planned, from_record, to_record

_COMMAND = (sys.executable, "-m", "aprnb", "execute-request")


def finetune_in_child(base: Any, given: Mapping[str, Any], listener: Listener, *, background: bool = False) -> Run:
    """`aprnb.finetune(base, **given)` in a new process; `listener` hears its events, the plan first.

    In the background it returns the run as soon as it is planned, else when it has ended. KeyboardInterrupt asks the
    child to save and stop. Raises what the child raised; TrainingError where the child was killed.
    """
    listener(Phase("starting"))
    child = _Child(_request(base, given, background), background)
    with _interrupts(child.stop):
        run = _follow(child, listener, until_planned=background)
    if background:
        assert run
        return run
    child.raise_unless_ended_well(run)
    assert run
    return run


def _request(base: Any, given: Mapping[str, Any], background: bool) -> str:
    found = {name: value for name, value in given.items() if value is not None}
    rows: dict[str, Any] = {name: found[name] for name in ("data", "eval_data") if name in found}
    found |= portable_rows(rows, found.get("columns"))
    return json.dumps({"base": base, "given": found, "background": background, "time": time.time()}, default=str)


def _follow(child: _Child, listener: Listener, *, until_planned: bool) -> Run | None:
    """Tells the child's events until it ends, or has planned; returns its run, None where it did not come so far."""
    run, planned = None, None
    for record in child.records():
        if run is None and planned:
            run = _begun(planned)
        if record["event"] == "planned":
            planned = Planned(SavedPlan(record["plan"]), Path(str(record["run"])))
            listener(planned)
        elif record["event"] == "result" and run is None:
            run = open_run(record["run"])
        elif (event := from_record(record)) is not None:
            listener(event)
        if until_planned and run is not None:
            break
    return run


def _begun(planned: Planned) -> Run | None:
    """The run, once its folder has this plan and not that of an earlier run."""
    if planned.run is None or not places_of(planned.run).plan.exists():
        return None
    run = open_run(planned.run)
    return run if run.plan.to_json() == planned.plan.to_json() else None


@contextlib.contextmanager
def _interrupts(call: Callable[[], None]) -> Iterator[None]:
    """SIGINT calls `call` during the block. Only the main thread can own a signal handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, lambda *_: call())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if previous is None else previous)


class _Child:
    """The process, its records, and what it said besides."""

    def __init__(self, request: str, background: bool) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # no pipe: the child may outlive its reader
        paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # the kernel's interrupt reaches the kernel alone, which passes it on
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )  # fmt: skip
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._answer: dict[str, Any] = {}
        threading.Thread(target=self._read_lines, daemon=True).start()
        self._tell(request)
        if background:
            self._stdin.close()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin
        return self._process.stdin

    def records(self) -> Iterator[dict[str, Any]]:
        """The records, until the process ends."""
        while (line := self._lines.get()) is not None:
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if record["event"] in ("error", "result"):
                    self._answer = record
                yield record

    def stop(self) -> None:
        """Asks the process to save and stop; called again, to stop at once."""
        self._tell("stop")
        # Through the queue: the listener may be at work where the signal came in.
        self._lines.put(json.dumps(to_record(Notice("info", STOPPING), time.time())).encode())

    def raise_unless_ended_well(self, run: Run | None) -> None:
        """Raises the child's error, or TrainingError where it ended without one."""
        code = self._process.wait()
        if self._answer.get("event") == "error":
            raise error_from_json(self._answer["error"])
        if code < 0 or not self._answer:
            self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - 4_000))
            raise _killed(code, self._said.read(), run)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._stdin.write(line.encode("utf-8", "surrogatepass") + b"\n")
            self._stdin.flush()

    def _read_lines(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)


def _killed(code: int, said: bytes, run: Run | None) -> TrainingError:
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    last = said.decode("utf-8", "replace").strip().splitlines()[-1:]
    often = "; the system does that when memory runs out" if code == -9 else ""
    saved = run.history.saved if run is not None else None
    action = "no state was saved: run it again"
    if saved:
        action = f"run it again with --resume, or --resume auto: step {saved.step} is saved"
    return TrainingError(
        f"the process of the run was ended {how}{often}{''.join(f': {line}' for line in last)}", action=action
    )


def serve(requests: int, answers: IO[bytes]) -> int:
    """Executes the request on the descriptor `requests` and answers on `answers`; returns the exit code."""
    from aprnb.tuning.finetune import finetune

    lines = _lines(requests)
    request = json.loads(next(lines))
    emit = _Emitter(answers)
    started_s = time.time() - request["time"]
    emit(Notice("info", f"process {os.getpid()} started in {started_s:.1f} s"))
    if not request["background"]:
        threading.Thread(target=_obey, args=(lines, emit), daemon=True).start()
    try:
        run = finetune(request["base"], **request["given"], listener=emit)
    except KeyboardInterrupt:
        return emit.error(_stopped())
    except AprnbError as error:
        return emit.error(error)
    except Exception as error:
        return emit.error(InternalError(error, traceback_shown=False))
    emit.record({"event": "result", "run": str(run.where.run)})
    return run.exit_code


def _stopped() -> AprnbError:
    from aprnb.errors import Interrupted

    return Interrupted("stopped before the run began", action="nothing was written: run the cell again")


class _Emitter:
    """Writes records to a stream, until its reader has gone."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream: IO[bytes] | None = stream
        self.run: Path | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Planned):
            self.run = event.run
            self.record({"event": "planned", "run": str(event.run), "plan": event.plan.to_json()})
        else:
            self.record(to_record(event, time.time()))

    def record(self, record: Mapping[str, Any]) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(json.dumps(record, default=str).encode() + b"\n")
            self._stream.flush()
        except OSError:
            self._stream = None

    def error(self, error: AprnbError) -> int:
        self.record({"event": "error", "error": error.to_json()})
        return error.exit_code


def _lines(descriptor: int) -> Iterator[bytes]:
    """The lines of a descriptor, without a stream: Python aborts at its end where a thread still reads from one."""
    rest = bytearray()
    while part := os.read(descriptor, 1 << 16):
        rest += part
        *whole, last = rest.split(b"\n")
        yield from map(bytes, whole)
        rest = bytearray(last)


def _obey(lines: Iterator[bytes], emit: _Emitter) -> None:
    """Interrupts the main thread for each line `stop`; at the end of the input, asks the run to save and stop."""
    for line in lines:
        if line.strip() == b"stop":
            _thread.interrupt_main()
    if emit.run is not None and emit.run.is_dir():
        places_of(emit.run).stop.touch()
    else:
        _thread.interrupt_main()
