"""The numbers of a run for TensorBoard, trackio, Weights & Biases or MLflow: small adapters over the run's events.

Off unless asked for, and nothing else is reported to anyone. Each tracker keeps its own settings and its own place
(`WANDB_MODE=offline`, `MLFLOW_TRACKING_URI`, `TRACKIO_DIR`); TensorBoard's files are in the run's folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aprnb.errors import UsageProblem
from aprnb.tuning.training.events import EvalEvent, Event, Listener, Notice, StepEvent

_PROJECT = "aprnb"
_STEP_NUMBERS = ("loss", "learning_rate", "grad_norm", "tokens_per_s")
Log = Callable[[int, Mapping[str, float]], object]


@dataclass(frozen=True)
class Tracked:
    """What a tracker is told of a run: its name, its folder, its options as text or numbers."""

    name: str
    folder: Path
    options: Mapping[str, Any]


def require_tracker(name: str | None) -> None:
    """Raises UsageProblem where the tracker's package is not installed; call before work."""
    if name is not None and find_spec(name) is None:
        raise UsageProblem(f"--track {name}: it is not installed", action=f"pip install {name}")


@contextmanager
def tracked(name: str | None, run: Tracked, tell: Listener) -> Iterator[Listener]:
    """A listener that passes the numbers of steps and evaluations to the tracker `name`; None tracks nothing.

    A tracker that fails, for want of a network or a login, ends with a warning told to `tell`; the run goes on.
    """
    if name is None:
        yield lambda _: None
        return
    numbers = _Numbers(_TRACKERS[name](run), lambda error: tell(Notice("warning", _failed(name, error))))
    try:
        yield numbers
    finally:
        numbers.end()


class _Numbers:
    """Opens the tracker at the first number, and leaves it alone after its first failure."""

    def __init__(self, tracker: AbstractContextManager[Log], failed: Callable[[Exception], object]) -> None:
        self._tracker, self._failed = tracker, failed
        self._log: Log | None = None
        self._is_over = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepEvent):
            self._pass_on(event.step, {f"train/{name}": getattr(event, name) for name in _STEP_NUMBERS})
        elif isinstance(event, EvalEvent):
            self._pass_on(event.step, {"eval/loss": event.eval_loss})

    def end(self) -> None:
        if self._log is not None and not self._is_over:
            self._attempt(lambda: self._tracker.__exit__(None, None, None))

    def _pass_on(self, step: int, numbers: Mapping[str, float]) -> None:
        def work() -> None:
            if self._log is None:
                self._log = self._tracker.__enter__()
            self._log(step, numbers)

        if not self._is_over:
            self._attempt(work)

    def _attempt(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # whatever the package raises, the training is worth more
            self._is_over = True
            self._failed(error)


@contextmanager
def _tensorboard(run: Tracked) -> Iterator[Log]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(run.folder / "tensorboard") as writer:
        writer.add_text("options", f"```json\n{json.dumps(dict(run.options), indent=1)}\n```")

        def log(step: int, numbers: Mapping[str, float]) -> None:
            for name, value in numbers.items():
                writer.add_scalar(name, value, step)

        yield log


@contextmanager
def _trackio(run: Tracked) -> Iterator[Log]:
    import trackio

    opened = trackio.init(project=_PROJECT, name=run.name, config=dict(run.options), embed=False)
    try:
        yield lambda step, numbers: opened.log(dict(numbers), step=step)
    finally:
        trackio.finish()


@contextmanager
def _wandb(run: Tracked) -> Iterator[Log]:
    import wandb

    quiet = wandb.Settings(console="off")
    with wandb.init(project=_PROJECT, name=run.name, config=dict(run.options), settings=quiet) as opened:
        yield lambda step, numbers: opened.log(dict(numbers), step=step)


@contextmanager
def _mlflow(run: Tracked) -> Iterator[Log]:
    import mlflow

    mlflow.set_experiment(_PROJECT)
    with mlflow.start_run(run_name=run.name):
        mlflow.log_params(dict(run.options))
        yield lambda step, numbers: mlflow.log_metrics(dict(numbers), step=step)


_TRACKERS: Mapping[str, Callable[[Tracked], AbstractContextManager[Log]]] = {
    "tensorboard": _tensorboard, "trackio": _trackio, "wandb": _wandb, "mlflow": _mlflow,
}  # fmt: skip


def _failed(name: str, error: Exception) -> str:
    said = " ".join(str(error).split())[:300]
    return (
        f"{name} takes no more numbers ({type(error).__name__}: {said}); the run goes on, its events.jsonl has them all"
    )
