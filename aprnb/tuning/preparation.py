"""From a path and options to everything a run needs except the weights: contract, tokenizer, rows, schedule, plan."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from aprnb.architecture import ContractReport, check_contract, parameter_count, resolve
from aprnb.errors import DataError, UsageProblem
from aprnb.formats import Checkpoint, open_checkpoint
from aprnb.model.device import Placement, place
from aprnb.phases import OnPhase, Phase, silent
from aprnb.tokenizer.choose import TokenizerChoice, choose_tokenizer
from aprnb.tokenizer.sandbox.tokenizer_process import row_encoder
from aprnb.tuning.data.example import Examples
from aprnb.tuning.data.examples import encode_rows
from aprnb.tuning.data.health import look_at
from aprnb.tuning.data.packing import Schedule, build_schedule
from aprnb.tuning.data.row import AnyRow
from aprnb.tuning.data.rows import RowSet, read_rows, split_rows
from aprnb.tuning.planning.device import device_facts
from aprnb.tuning.planning.identity import Identity
from aprnb.tuning.planning.make_plan import make_plan
from aprnb.tuning.planning.model_size import check_model_size
from aprnb.tuning.planning.plan import Plan
from aprnb.tuning.planning.recipe import Recipe, RunOptions, SettledRecipe
from aprnb.tuning.planning.settle import settle
from aprnb.tuning.start_adapter import recipe_of_adapter
from aprnb.tuning.written_files import planned_files

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Preparation:
    """A run that is ready to start; `asked` is the recipe as it was given, `rows` are the sets by their option."""

    checkpoint: Checkpoint
    report: ContractReport
    choice: TokenizerChoice
    examples: Examples
    held_out: Examples | None
    schedule: Schedule
    placement: Placement
    plan: Plan
    identity: Identity
    rows: Mapping[str, RowSet]
    asked: Recipe

    @property
    def recipe(self) -> SettledRecipe:
        return self.plan.recipe

    @property
    def options(self) -> RunOptions:
        return self.plan.options


def prepare(
    model: str | os.PathLike[str], recipe: Recipe, options: RunOptions, on_phase: OnPhase = silent
) -> Preparation:
    """Everything up to the plan; nothing is written and no weight is loaded.

    Raises the error of the first part that fails: the file, its architecture, its contract, its tokenizer, the rows.
    """
    on_phase(Phase("reading the checkpoint"))
    checkpoint, report = _checked(model, options)
    placement = place(options.device, recipe.dtype)
    facts = device_facts(placement)
    started_from = ""
    if options.start_adapter:
        recipe, started_from = recipe_of_adapter(recipe, Path(options.start_adapter))
    settled, notes = settle(recipe, options.gradient_checkpointing, report.architecture, facts)
    choice = choose_tokenizer(checkpoint, report.architecture, settled.chat_template)
    rows, train, held_out = _read(settled, options)
    on_phase(Phase(f"encoding {len(train):,} rows"))
    examples, evaluated = _encoded(train, held_out, choice, settled)
    schedule = _schedule(examples, settled)
    named = [checkpoint.warnings, report.architecture.warnings, choice.warnings, examples.warnings]
    warnings = list(chain(*named, *(one.warnings for one in rows.values())))
    notes, tokenizer = (*notes, *choice.assumptions), (choice.source, choice.vocabulary_note)
    plan = make_plan(report, settled, options, examples, evaluated, schedule, facts, notes, warnings, tokenizer)
    writes = planned_files(report, checkpoint.tensors, settled, options, plan.parameters_trainable)
    health = look_at(train, held_out, examples.lengths)
    plan = replace(plan, writes=writes, rows_from=rows["data"].description).with_health(health)
    placement = placement_of(placement.device, settled)
    fingerprint = _data_fingerprint(rows, choice, (examples, evaluated))
    identity = Identity(
        {**settled.identity(), "start_adapter": started_from}, fingerprint, base="", total_steps=len(schedule.steps)
    )
    return Preparation(
        checkpoint, report, choice, examples, evaluated, schedule, placement, plan, identity, rows, recipe
    )


def _checked(model: str | os.PathLike[str], options: RunOptions) -> tuple[Checkpoint, ContractReport]:
    checkpoint = open_checkpoint(model)
    report = check_contract(checkpoint, resolve(checkpoint, config=options.config, overrides=options.overrides))
    report.raise_for_violations()
    _check_size(options.model_size, report)
    if options.data is None:
        raise UsageProblem("no training rows are given", action="give --data FILE.jsonl, or rows as the cell's body")
    return checkpoint, report


def _encoded(
    train: Sequence[AnyRow], held_out: Sequence[AnyRow], choice: TokenizerChoice, recipe: SettledRecipe
) -> tuple[Examples, Examples | None]:
    """The rows to train on and those to evaluate on, if there are any."""
    tokenizer, longest = choice.checkpoint_tokenizer, recipe.max_seq_len
    how = {"train_on": recipe.train_on, "too_long": recipe.too_long}
    with row_encoder(tokenizer) as encode:
        examples = encode_rows(train, tokenizer, longest, encode, **how)
        return examples, encode_rows(held_out, tokenizer, longest, encode, **how) if held_out else None


def placement_of(device: torch.device, recipe: SettledRecipe) -> Placement:
    """How the base is loaded: full training changes float32 weights, whatever the dtype that they are computed in."""
    dtype = recipe.dtype if recipe.trains_adapter else "float32"
    return place(str(device), dtype, "nf4" if recipe.quantize_nf4 else None)


def resumed(preparation: Preparation, step: int, step_s: float | None = None) -> Preparation:
    """The preparation whose plan counts the seconds after `step` alone; a step takes `step_s`, if some were timed."""
    plan = preparation.plan
    if plan.seconds is None:
        return preparation
    rest, forecast = plan.seconds.rest(1 - step / plan.total_steps), plan.forecast
    if step_s is not None and forecast is not None:
        rest = replace(rest, steps=step_s * (plan.total_steps - step))
        forecast = replace(forecast, step=step_s)
    return replace(preparation, plan=replace(plan, seconds=rest, forecast=forecast))


def _check_size(model_size: str | None, report: ContractReport) -> None:
    architecture = report.architecture
    unique = parameter_count(architecture)
    head = architecture.vocab_size * architecture.hidden_size if architecture.tie_word_embeddings else 0
    check_model_size(model_size, unique, unique + head)


def _read(
    recipe: SettledRecipe, options: RunOptions
) -> tuple[dict[str, RowSet], tuple[AnyRow, ...], tuple[AnyRow, ...]]:
    """The sets read by their option, the rows to train on and those to evaluate on."""
    rows = read_rows(options.data, columns=options.columns)
    if options.eval_data is not None:
        other = read_rows(options.eval_data, columns=options.columns)
        return {"data": rows, "eval_data": other}, rows.rows, _not_among(other.rows, rows.rows)
    train, held_out = split_rows(rows.rows, recipe.val_split, recipe.seed)
    if options.write_best and not held_out:
        raise UsageProblem("--write-best without held-out rows", expected="--eval-data, or --val-split above 0")
    return {"data": rows}, train, held_out


def _not_among(held_out: tuple[AnyRow, ...], train: tuple[AnyRow, ...]) -> tuple[AnyRow, ...]:
    """The rows to evaluate on; raises DataError where one is also a training row."""
    trained = {row.key for row in train}
    shared = [row.origin for row in held_out if row.key in trained]
    if shared:
        raise DataError(
            f"{len(shared)} of {len(held_out)} evaluation rows are also training rows, first {shared[0]}",
            action="remove them from --eval-data, or use --val-split in its place",
        )
    return held_out


def _schedule(examples: Examples, recipe: SettledRecipe) -> Schedule:
    return build_schedule(
        examples.lengths,
        examples.labelled,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        micro_batch_tokens=recipe.micro_batch_tokens,
        max_steps=recipe.max_steps,
        seed=recipe.seed,
    )


def _data_fingerprint(rows: Mapping[str, RowSet], choice: TokenizerChoice, encoded: tuple[Examples | None, ...]) -> str:
    """Of the rows, the chat template and the tokens that the tokenizer made of them: `Identity.data`."""
    texts = ["\n".join(one.sha256 for one in rows.values()), str(choice.checkpoint_tokenizer.chat_template)]
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")) for text in texts]
    tokens = hashlib.sha256()
    for example in (example for examples in encoded if examples for example in examples.examples):
        tokens.update(example.input_ids.tobytes() + example.labels_mask.tobytes())
    return ":".join(digest.hexdigest() for digest in (*digests, tokens))
