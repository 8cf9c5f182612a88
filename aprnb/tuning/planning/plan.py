"""The plan of a run: what it will train, on what, with how much memory, before any weight is read (no torch).

facts = device.device_facts(placement)
recipe, notes = settle(recipe, architecture, facts)     every open choice made, each said in a note
plan = make_plan(report, recipe, examples, held_out, schedule, facts, notes)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aprnb.architecture import Architecture, ContractReport, parameter_count
from aprnb.display.bundle import Displayed
from aprnb.errors import UsageProblem
from aprnb.tuning.planning.memory import (
    ATTENTION_MODULES,
    MemoryPlan,
    adapter_parameters,
    expert_parameters,
    plan_memory,
)
from aprnb.tuning.planning.recipe import Recipe
from aprnb.units import bytes_text

if TYPE_CHECKING:
    from aprnb.display.document import Document
    from aprnb.tuning.data.examples import Examples
    from aprnb.tuning.data.packing import Schedule

# Attention over a packed row is dense: long rows cost a CPU more than the calls they save, a GPU wants much at once.
MICRO_BATCH_TOKENS = {"cpu": 512, "cuda": 8192}
LEARNING_RATES = {"lora": 2e-4, "qlora": 2e-4, "full": 2e-5}
_LONGEST = 1024
# The estimate leaves out the allocator's gaps and what other programs take meanwhile.
_USABLE = 0.9


@dataclasses.dataclass(frozen=True)
class DeviceFacts:
    """Where the run takes place; `available_bytes` is free memory now, `dtype` that of the computation."""

    device: str
    name: str
    dtype: str
    available_bytes: int

    @property
    def kind(self) -> str:
        """`cuda` of `cuda:0`."""
        return self.device.partition(":")[0]


@dataclasses.dataclass(frozen=True)
class Plan(Displayed):
    """Everything that is known before the run; `recipe` is settled."""

    base: Path
    architecture: Architecture
    recipe: Recipe
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
    steps: int
    largest_micro_batch: int
    memory: MemoryPlan
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    tokenizer: tuple[str, str] = ("", "")
    """Where it comes from, and how it compares with the embedding."""

    def to_json(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture.to_json(),
            "method": self.recipe.method,
            "parameters": {"total": self.parameters_total, "trainable": self.parameters_trainable},
            "data": {
                "rows": self.rows,
                "rows_without_labels": self.rows_without_labels,
                "rows_truncated": self.rows_truncated,
                "tokens": self.tokens,
                "labelled_tokens": self.labelled_tokens,
                "held_out_rows": self.held_out_rows,
                "held_out_labelled_tokens": self.held_out_labelled_tokens,
            },
            "steps": self.steps,
            "memory_bytes": self.memory.to_json(),
            "memory_available_bytes": self.facts.available_bytes,
            "device": self.facts.device,
            "device_name": self.facts.name,
            "dtype": self.facts.dtype,
            "attention": self.architecture.attention,
            "recipe": self.recipe.to_json(),
            "assumptions": list(self.assumptions),
            "warnings": list(self.warnings),
        }

    def document(self) -> Document:
        from aprnb.tuning.planning.plan_document import plan_document

        return plan_document(self)


def settle(recipe: Recipe, architecture: Architecture, facts: DeviceFacts) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe with every open choice made, and a sentence for each that the person did not make.

    Raises UsageProblem for what the model or the device cannot do.
    """
    notes: list[str] = []
    positions = architecture.max_position_embeddings
    if recipe.max_seq_len and recipe.max_seq_len > positions:
        found = f"--max-seq-len {recipe.max_seq_len}"
        raise UsageProblem(found, expected=f"at most {positions}, the model's positions")
    if facts.kind not in MICRO_BATCH_TOKENS:
        raise UsageProblem(f"--device {facts.device}", expected="cpu or cuda")
    if recipe.optimizer.endswith("8bit") and facts.kind != "cuda":
        raise UsageProblem(f"--optimizer {recipe.optimizer} on {facts.device}", expected="a CUDA device, or adamw")
    length = recipe.max_seq_len or min(_LONGEST, positions)
    recipe = dataclasses.replace(
        recipe,
        max_seq_len=length,
        alpha=recipe.scale,
        micro_batch_tokens=recipe.micro_batch_tokens or max(MICRO_BATCH_TOKENS[facts.kind], length),
        optimizer="adamw" if recipe.optimizer == "auto" else recipe.optimizer,
        dtype=facts.dtype,
    )
    recipe = _settle_method(recipe, architecture, facts, notes)
    rate = LEARNING_RATES[recipe.method] if recipe.learning_rate is None else recipe.learning_rate
    recipe = dataclasses.replace(recipe, learning_rate=rate, quantize_nf4=recipe.method == "qlora")
    return _settle_checkpointing(recipe, architecture, facts, notes), tuple(notes)


def make_plan(
    report: ContractReport,
    recipe: Recipe,
    examples: Examples,
    held_out: Examples | None,
    schedule: Schedule,
    facts: DeviceFacts,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
    tokenizer: tuple[str, str] = ("", ""),
) -> Plan:
    """The plan of a settled recipe over encoded rows; `warnings` come from file and data and are added to."""
    architecture = report.architecture
    lengths = examples.lengths
    largest = max(sum(lengths[index] for index in part) for step in schedule.steps for part in step.micro_batches)
    total = parameter_count(architecture)
    memory = estimate(recipe, architecture, largest)
    return Plan(
        base=report.path,
        architecture=architecture,
        recipe=recipe,
        facts=facts,
        parameters_total=total,
        parameters_trainable=trainable_parameters(recipe, architecture),
        rows=examples.rows,
        rows_without_labels=examples.rows_without_labels,
        rows_truncated=examples.truncated,
        tokens=examples.tokens,
        labelled_tokens=examples.labelled_tokens,
        held_out_rows=len(held_out.examples) if held_out else 0,
        held_out_labelled_tokens=held_out.labelled_tokens if held_out else 0,
        steps=len(schedule.steps),
        largest_micro_batch=largest,
        memory=memory,
        assumptions=(*architecture.assumptions, *notes),
        warnings=(
            *warnings,
            *_beside_experts(recipe, architecture),
            *_warnings(recipe, examples, held_out, facts, memory, largest),
        ),
        tokenizer=tokenizer,
    )


def trainable_parameters(recipe: Recipe, architecture: Architecture) -> int:
    """How many parameters the recipe's method trains."""
    if not recipe.trains_adapter:
        return parameter_count(architecture)
    return adapter_parameters(architecture, recipe.rank, recipe.target_modules)


def estimate(recipe: Recipe, architecture: Architecture, micro_batch_tokens: int) -> MemoryPlan:
    """Memory by term for a recipe whose method, dtype and optimizer are settled."""
    return plan_memory(
        architecture,
        parameter_count(architecture),
        trainable_parameters(recipe, architecture),
        method=recipe.method,
        dtype=recipe.dtype,
        optimizer=recipe.optimizer,
        checkpointing=recipe.gradient_checkpointing == "on",
        micro_batch_tokens=micro_batch_tokens,
    )


def _settle_method(recipe: Recipe, architecture: Architecture, facts: DeviceFacts, notes: list[str]) -> Recipe:
    """`auto` is lora where the float base fits into memory, else qlora; full is never chosen for a person."""
    if recipe.method != "auto":
        return recipe
    lean = dataclasses.replace(recipe, method="lora", gradient_checkpointing="on")
    needed = estimate(lean, architecture, recipe.micro_batch_tokens or 0).total
    fits = needed <= _USABLE * facts.available_bytes
    chosen = "lora" if fits else "qlora"
    room = f"{bytes_text(needed)} of {bytes_text(facts.available_bytes)}"
    size = f"with the base in {facts.dtype} and full micro-batches a run needs {room}"
    notes.append(f"method {chosen}: {size}")
    return dataclasses.replace(recipe, method=chosen)


def _settle_checkpointing(recipe: Recipe, architecture: Architecture, facts: DeviceFacts, notes: list[str]) -> Recipe:
    """`auto` recomputes activations only where keeping them does not fit: it costs about a third of the speed."""
    if recipe.gradient_checkpointing != "auto":
        return recipe
    kept = dataclasses.replace(recipe, gradient_checkpointing="off")
    needed = estimate(kept, architecture, recipe.micro_batch_tokens or 0).total
    if needed <= _USABLE * facts.available_bytes:
        return kept
    notes.append(f"gradient checkpointing on: without it {bytes_text(needed)} of {bytes_text(facts.available_bytes)}")
    return dataclasses.replace(recipe, gradient_checkpointing="on")


def _beside_experts(recipe: Recipe, architecture: Architecture) -> list[str]:
    """What LoRA and NF4 leave as it is in a model whose experts are stacked in one tensor."""
    experts = expert_parameters(architecture)
    if not experts or not recipe.trains_adapter:
        return []
    left = f"{experts:,} of {parameter_count(architecture):,} parameters"
    found = [f"experts and routers get no adapter: {left} stay as they are; {', '.join(ATTENTION_MODULES)} are tuned"]
    if recipe.method == "qlora":
        found.append(f"NF4 takes the attention alone: the experts, {left}, stay in {recipe.dtype}")
    return found


def _warnings(
    recipe: Recipe, examples: Examples, held_out: Examples | None, facts: DeviceFacts, memory: MemoryPlan, largest: int
) -> list[str]:
    found = []
    if examples.truncated:
        found.append(f"{examples.truncated} rows are cut at {recipe.max_seq_len} tokens (--max-seq-len)")
    if examples.rows_without_labels:
        found.append(f"{examples.rows_without_labels} rows have no answer left to learn and are left out")
    if held_out is None:
        found.append("no rows are held out: nothing will show whether the model learns or memorises")
    if memory.total > facts.available_bytes:
        needed, free = bytes_text(memory.total), bytes_text(facts.available_bytes)
        way_out = "try --quantize-nf4 or a smaller --micro-batch-tokens"
        found.append(f"the run needs about {needed}, {free} are free: {way_out}")
    if largest > (recipe.micro_batch_tokens or largest):
        limit = recipe.micro_batch_tokens
        found.append(f"a row of {largest} tokens exceeds --micro-batch-tokens {limit} and runs alone")
    return found
