"""The plan of a settled recipe over encoded rows (no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from aprnb.architecture import Architecture, ContractReport, parameter_count
from aprnb.tuning.planning.device import DeviceFacts
from aprnb.tuning.planning.memory import ATTENTION_MODULES, PROBE_TOKENS, PROBES, expert_parameters
from aprnb.tuning.planning.plan import Plan
from aprnb.tuning.planning.recipe import RunOptions, SettledRecipe
from aprnb.tuning.planning.settle import estimate, trainable_parameters
from aprnb.units import bytes_text

FEW_STEPS, ENOUGH_STEPS = 30, 100
"""A run of fewer steps hardly leaves its warm-up; what is suggested in its place."""

if TYPE_CHECKING:
    from aprnb.tuning.data.example import Examples
    from aprnb.tuning.data.packing import Schedule


def make_plan(
    report: ContractReport,
    recipe: SettledRecipe,
    options: RunOptions,
    examples: Examples,
    held_out: Examples | None,
    schedule: Schedule,
    facts: DeviceFacts,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
    tokenizer: tuple[str, str] = ("", ""),
) -> Plan:
    """The plan of a settled recipe over encoded rows; `warnings` are those of file and data."""
    architecture = report.architecture
    tokens = _micro_batches(examples, schedule)
    largest = max(tokens)
    counts = {"lengths": len(set(tokens)), "probe_tokens": _probe_tokens(held_out or examples, options)}
    plan = Plan(
        base=report.path,
        architecture=architecture,
        recipe=recipe,
        options=options,
        facts=facts,
        parameters_total=parameter_count(architecture),
        parameters_trainable=trainable_parameters(recipe, architecture),
        rows=examples.rows,
        rows_without_labels=examples.rows_without_labels,
        rows_truncated=examples.truncated,
        tokens=examples.tokens,
        labelled_tokens=examples.labelled_tokens,
        held_out_rows=len(held_out.examples) if held_out else 0,
        held_out_labelled_tokens=held_out.labelled_tokens if held_out else 0,
        total_steps=len(schedule.steps),
        largest_micro_batch=largest,
        memory=estimate(recipe, architecture, largest, facts.kind, **counts),
        assumptions=(*architecture.assumptions, *notes),
        warnings=(),
        tokenizer=tokenizer,
    )
    return replace(plan, warnings=(*warnings, *_expert_warnings(recipe, architecture), *_warnings(plan)))


def _micro_batches(examples: Examples, schedule: Schedule) -> list[int]:
    """Tokens of each packed row."""
    lengths = examples.lengths
    return [sum(lengths[index] for index in part) for step in schedule.steps for part in step.micro_batches]


def _probe_tokens(probed: Examples, options: RunOptions) -> int:
    """Of the rows with which the written model is compared; 0 where none is written."""
    return 0 if options.adapter_only else sum(min(length, PROBE_TOKENS) for length in probed.lengths[:PROBES])


def _expert_warnings(recipe: SettledRecipe, architecture: Architecture) -> list[str]:
    """What LoRA and NF4 do not change in a model whose experts are stacked in one tensor."""
    experts = expert_parameters(architecture)
    if not experts or not recipe.trains_adapter:
        return []
    left = f"{experts:,} of {parameter_count(architecture):,} parameters"
    found = [f"experts and routers get no adapter: {left} are not trained, {', '.join(ATTENTION_MODULES)} are"]
    if recipe.method == "qlora":
        found.append(f"NF4 applies to attention only: the experts, {left}, stay in {recipe.dtype}")
    return found


def _few_steps(plan: Plan) -> list[str]:
    """What gives enough steps to learn from, where --max-steps does not say that few are wanted."""
    recipe, rows = plan.recipe, plan.rows - plan.rows_without_labels
    whole = recipe.epochs * -(-rows // recipe.batch_size)
    if plan.total_steps >= FEW_STEPS or plan.total_steps < whole:
        return []
    smaller = [size for size in (1, 2, 4, 8, 16, 32) if recipe.epochs * -(-rows // size) >= ENOUGH_STEPS]
    changes = [f"--batch-size {max(smaller)}"] if smaller else []
    changes.append(f"--epochs {-(-ENOUGH_STEPS * recipe.epochs // whole)}")
    return [f"{whole} steps in all: use {' or '.join(changes)} for at least {ENOUGH_STEPS}"]


def _warnings(plan: Plan) -> list[str]:
    found = []
    if plan.rows_truncated:
        what = "split" if plan.recipe.too_long == "split" else "cut at the head"
        longer = f"{plan.rows_truncated} rows have more than {plan.recipe.max_seq_len} tokens"
        found.append(f"{longer} and are {what} (--max-seq-len, --too-long)")
    if plan.rows_without_labels:
        found.append(f"{plan.rows_without_labels} rows have nothing to train on and are not used")
    if not plan.held_out_rows:
        found.append("no rows are held out, so overfitting will not be visible")
    found += _few_steps(plan)
    if plan.memory.total > plan.facts.available_bytes:
        needed, free = bytes_text(plan.memory.total), bytes_text(plan.facts.available_bytes)
        action = "try --quantize-nf4 or a smaller --micro-batch-tokens"
        found.append(f"the run needs about {needed} of memory, {free} is free: {action}")
    if plan.facts.is_emulated:
        found.append(f"{plan.facts.device} has no bf16 instructions and computes it more slowly than --dtype f32")
    limit = plan.recipe.micro_batch_tokens
    if plan.largest_micro_batch > limit:
        found.append(f"a row of {plan.largest_micro_batch} tokens exceeds --micro-batch-tokens {limit} and runs alone")
    return found
