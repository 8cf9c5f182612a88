"""A run, read from its folder: its numbers, its files, the tuned model, and how they are shown."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aprnb.display.bundle import Displayed
from aprnb.display.curve import training_curve
from aprnb.display.document import Document
from aprnb.errors import FileMissing, Interrupted, UsageProblem
from aprnb.formats.sidecar_files import safe_path
from aprnb.tuning.planning.plan import Plan
from aprnb.tuning.planning.plan_document import SavedPlan, read_plan
from aprnb.tuning.results.event_log import EventReader
from aprnb.tuning.results.history import History
from aprnb.tuning.results.places import Places, places_of, removed, without_plan
from aprnb.tuning.results.run_document import run_document, run_json
from aprnb.tuning.results.steps_table import rows_frame
from aprnb.tuning.training.events import Listener, Planned

if TYPE_CHECKING:
    import pandas
    import torch
    from matplotlib.figure import Figure

    from aprnb.conversion.plan import ConversionPlan
    from aprnb.model.answer import Generation
    from aprnb.phases import OnPhase
    from aprnb.tuning.results.merged import Merged

Status = Literal["running", "finished", "interrupted", "failed", "killed"]


class Run(Displayed):
    """A run that is going on or has ended; the last expression of a cell shows a card.

    Everything is read from the run's folder, so that any process may watch it. Where the run was executed by this
    process, the tuned model is in memory until `release`.

    Attributes:
        where: paths of the run's files.
        plan: the `Plan` of the run.
    """

    def __init__(self, where: Places, plan: Plan | SavedPlan) -> None:
        self.where, self.plan = where, plan
        self._reader, self._history = EventReader(where.events), History()
        self._model: Any = None
        self._tokenizer: Any = None

    @property
    def history(self) -> History:
        """What has happened so far."""
        for record in self._reader.new():
            self._history.take(record)
        return self._history

    @property
    def status(self) -> Status:
        """Running, finished, interrupted (the state is saved), failed, or killed: it ended without a word."""
        if self.where.is_running:  # also before its first event, where the log may still end with an earlier process
            return "running"
        end = self.history.end
        if end is None:
            return "killed"
        return end["status"] if end.get("status") in ("finished", "interrupted") else "failed"

    @property
    def peak_memory_bytes(self) -> int:
        """The most memory that the run held so far: of the GPU, or of the process."""
        return int(self.to_json()["peak_memory_bytes"])

    @property
    def base(self) -> Path:
        """The checkpoint that was tuned."""
        return Path(str(self.history.start.get("base", "")))

    @property
    def metrics(self) -> pandas.DataFrame:
        """One row per optimizer step; losses are means over labelled tokens, in nats."""
        return rows_frame(self.history.steps)

    @property
    def evaluations(self) -> pandas.DataFrame:
        """One row per evaluation, `step` and `eval_loss`; the first is that of the base."""
        return rows_frame(self.history.evaluations)

    @property
    def output(self) -> Path | None:
        """The tuned model; None where none was written."""
        return self.where.output if (self.history.end or {}).get("output") else None

    @property
    def adapter(self) -> Path | None:
        """The PEFT adapter; None for the method "full" and where none was written."""
        return self.where.adapter if (self.history.end or {}).get("adapter") else None

    @property
    def exit_code(self) -> int:
        """0 for a run that goes on or has finished, 130 for an interrupted one, else 1."""
        return {"running": 0, "finished": 0, "interrupted": Interrupted.exit_code}.get(self.status, 1)

    def stop(self) -> None:
        """Asks the run to save its state and end after the current micro-batch, from whatever process."""
        if self.status == "running":
            self.where.stop.touch()

    def follow(self, listener: Listener, pause_s: float = 0.3) -> None:
        """Tells `listener` the plan and all events, looking for new ones every `pause_s` seconds until the run ends.

        Raises FileMissing where the run's folder is removed or renamed meanwhile.
        """
        listener(Planned(self.plan, self.where.run))
        reader, history = EventReader(self.where.events), History()
        while True:
            is_live = self.status == "running"
            for record in reader.new():
                event = history.take(record)
                if event is not None:
                    listener(event)
            if not self.where.run.is_dir():
                raise removed(self.where.run)
            if not is_live:
                return
            time.sleep(pause_s)

    def hold(self, model: Any, tokenizer: Any) -> None:
        """Keeps the trained module for `generate`, until `release`."""
        self._model, self._tokenizer = model, tokenizer

    def release(self) -> None:
        """Free the model's memory; the files stay."""
        self._model = None

    def generate(
        self,
        prompt: str,
        *,
        raw: bool = False,
        system: str | None = None,
        max_new_tokens: int | None = None,
        stop: str | Iterable[str] = (),
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        on_text: Callable[[str], object] | None = None,
        on_phase: OnPhase | None = None,
    ) -> Generation:
        """Answer `prompt` with the tuned model; arguments and errors are those of `aprnb.generate`.

        A model that is not in memory is loaded from the run's output, and kept until `release`. Raises UsageProblem
        where the run wrote no model.

            run.generate("What does the cow say?").text
        """
        if self._model is None:
            if self.output is None:
                raise UsageProblem("this run has no model in memory and wrote none", action="merge it with run.merge")
            from aprnb.model import load

            self.hold(*load(self.output))
        from aprnb.model.generation import generate

        return generate(
            self._model, self._tokenizer, prompt, raw=raw, system=system, max_new_tokens=max_new_tokens, stop=stop,
            temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, repetition_penalty=repetition_penalty,
            seed=seed, on_text=on_text, on_phase=on_phase,
        )  # fmt: skip

    def merge(
        self,
        output: str | os.PathLike[str],
        *,
        output_dtype: str | torch.dtype | None = None,
        force: bool = False,
        config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
        other_base: bool = False,
        on_phase: OnPhase | None = None,
        on_plan: Callable[[ConversionPlan], object] | None = None,
    ) -> Merged:
        """Merge the run's adapter into its base again, to another file or in another dtype.

        The arguments are those of `aprnb.merge`; `config`, `overrides` and `chat_template` are those of the run unless
        given. Raises UsageProblem for a run without an adapter, and what `aprnb.merge` raises.

            run.merge("tuned-f32.apr", output_dtype="F32")
        """
        if self.adapter is None:
            raise UsageProblem("this run has no adapter to merge")
        from aprnb.tuning.results.merge import merge
        from aprnb.tuning.results.request import read_request

        asked = read_request(self.where.run)
        given: dict[str, Any] = {"config": config, "overrides": overrides, "chat_template": chat_template}
        given = {name: asked.get(name) if value is None else value for name, value in given.items()}
        return merge(
            self.base, self.adapter, output, output_dtype=output_dtype, force=force, other_base=other_base, **given,
            on_phase=on_phase, on_plan=on_plan,
        )  # fmt: skip

    def plot(self) -> Figure:
        """Loss and held-out loss by step, as a matplotlib figure."""
        return training_curve(self.history.steps, self.history.evaluations)

    def to_json(self) -> dict[str, Any]:
        """The document of `aprnb finetune --json`."""
        return run_json(self.where, self.status, self.history)

    def document(self) -> Document:
        """The card: outcome, files, curve, steps and plan."""
        return run_document(self.where, self.status, self.history, self.plan)

    def after_plan(self) -> Document:
        """The card without the plan, for a reader who has seen that."""
        return run_document(self.where, self.status, self.history, self.plan, plan_shown=True)


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Open a run by its folder: going on, interrupted or finished, of this process, of another, or of another machine.

    Args:
        folder: NAME.run, which stands next to the run's output.

    Returns:
        The `Run`. Its status, metrics and card are those of the folder at the time when they are asked for.

    Raises:
        UsageProblem: a folder with another name.
        FileMissing: no such folder, or no plan in it.
        CheckpointError: the plan is damaged.

    Example:
        >>> run = aprnb.finetune("pocket-qwen3.apr", data="rows.jsonl", rank=4, max_steps=2, adapter_only=True)
        >>> aprnb.open_run("pocket-qwen3-finetuned.run").status
        'finished'
    """
    where = places_of(Path(folder))
    try:
        return Run(where, read_plan(safe_path(where.run, where.plan.name)))
    except FileMissing:
        raise without_plan(where) from None
