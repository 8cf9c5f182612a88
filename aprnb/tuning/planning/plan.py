"""The plan of a run: what it will train, on what, with how much memory, before any weight is loaded (no torch).

recipe, notes = settle.settle(recipe, checkpointing, architecture, facts)    every open choice made, each with a note
plan = make_plan.make_plan(report, recipe, options, examples, held_out, schedule, facts, notes)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aprnb.architecture import Architecture
from aprnb.display.bundle import Displayed
from aprnb.display.document import Document
from aprnb.tuning.data.health import DataHealth
from aprnb.tuning.planning.device import DeviceFacts
from aprnb.tuning.planning.memory import MemoryPlan, nf4_bytes, nf4_parameters
from aprnb.tuning.planning.plan_document import plan_document
from aprnb.tuning.planning.recipe import RunOptions, SettledRecipe, recipe_document
from aprnb.tuning.planning.seconds import Forecast, SecondsPlan


@dataclass(frozen=True)
class Plan(Displayed):
    """What a run will do; `print(plan)` shows it, and so does the last expression of a notebook cell.

    Attributes:
        base: the checkpoint to tune.
        architecture: its `Architecture`.
        recipe: the training options, without open choices.
        options: those of the call: rows, outputs, evaluation.
        facts: device, its name and free memory in bytes, dtype of the computation.
        parameters_total: of the model, a tied head counted once.
        parameters_trainable: of the adapter, or of the model for the method "full".
        rows: given for training, after the split.
        rows_without_labels: of them, left out since no answer remains to learn.
        rows_truncated: of them, longer than `recipe.max_seq_len` tokens, and cut or split.
        tokens: of the rows that remain, once.
        labelled_tokens: the answers' part of them, on which the loss is computed.
        held_out_rows: to evaluate on.
        held_out_labelled_tokens: of these rows.
        total_steps: optimizer steps of the whole run.
        largest_micro_batch: in tokens.
        memory: bytes at the peak of a step, by term.
        assumptions: architecture fields and choices that no one stated.
        warnings: about file, data and memory.
        tokenizer: where it comes from, and how it compares with the embedding.
        writes: path → bytes of what the run leaves, the tuned model first.
        rows_from: the forms of the rows and the name of their source.
        health: repeated rows, held-out rows that are like trained ones, and lengths.
        seconds: from here to the last file, by phase; None where it was not measured.
        forecast: what they are made of, for the time left of the run.
    """

    base: Path
    architecture: Architecture
    recipe: SettledRecipe
    options: RunOptions
    facts: DeviceFacts
    parameters_total: int
    parameters_trainable: int
    rows: int
    rows_without_labels: int
    rows_truncated: int
    tokens: int
    labelled_tokens: int
    held_out_rows: int
    held_out_labelled_tokens: int
    total_steps: int
    largest_micro_batch: int
    memory: MemoryPlan
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    tokenizer: tuple[str, str] = ("", "")
    writes: Mapping[str, int] = field(default_factory=dict)
    rows_from: str = ""
    health: DataHealth | None = None
    seconds: SecondsPlan | None = None
    forecast: Forecast | None = None

    def to_json(self) -> dict[str, Any]:
        """The document of `aprnb plan --json`."""
        return {
            "base": str(self.base),
            "architecture": self.architecture.to_json(),
            "method": self.recipe.method,
            "parameters": {"total": self.parameters_total, "trainable": self.parameters_trainable},
            "data": {
                "rows": self.rows,
                "rows_from": self.rows_from,
                "rows_without_labels": self.rows_without_labels,
                "rows_truncated": self.rows_truncated,
                "tokens": self.tokens,
                "labelled_tokens": self.labelled_tokens,
                "held_out_rows": self.held_out_rows,
                "held_out_labelled_tokens": self.held_out_labelled_tokens,
                **(self.health.to_json() if self.health else {}),
            },
            "tokenizer": {"source": self.tokenizer[0], "note": self.tokenizer[1]},
            "steps": self.total_steps,
            "largest_micro_batch_tokens": self.largest_micro_batch,
            "memory_bytes": self.memory.to_json(),
            "memory_available_bytes": self.facts.available_bytes,
            "nf4": self._nf4(),
            "writes": dict(self.writes),
            "seconds": self.seconds.to_json() if self.seconds else {},
            "device": self.facts.device,
            "device_name": self.facts.name,
            "dtype": self.facts.dtype,
            "dtype_reason": self.facts.dtype_reason,
            "attention": self.architecture.attention,
            "attention_reason": self.architecture.attention_reason,
            "recipe": recipe_document(self.recipe, self.options),
            "assumptions": list(self.assumptions),
            "warnings": list(self.warnings),
        }

    def with_health(self, health: DataHealth) -> Plan:
        """The plan with what was seen of the rows, and its warnings."""
        return replace(self, health=health, warnings=(*self.warnings, *health.warnings()))

    def _nf4(self) -> dict[str, int]:
        """Parameters and bytes of the base in NF4, and of what is not."""
        inside = nf4_parameters(self.architecture) if self.recipe.method == "qlora" else 0
        size = nf4_bytes(inside)
        return {
            "parameters": inside,
            "bytes": size,
            "other_parameters": self.parameters_total - inside,
            "other_bytes": self.memory.weights - size,
        }

    def document(self) -> Document:
        """The card: model, training, data, memory by term, architecture and recipe."""
        return plan_document(json.loads(json.dumps(self.to_json())))  # tuples become lists, as in a stored plan
