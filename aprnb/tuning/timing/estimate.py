"""How long a prepared run will take, from a short measurement on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

from aprnb.architecture import expected_tensors
from aprnb.formats.dtypes import DType
from aprnb.model.memory import release_freed
from aprnb.phases import OnPhase, Phase
from aprnb.tuning.planning.memory import PROBE_TOKENS, PROBES
from aprnb.tuning.planning.saving import evaluation_steps, read_save_rule
from aprnb.tuning.planning.seconds import Forecast, SecondsPlan
from aprnb.tuning.preparation import Preparation
from aprnb.tuning.timing.rates import Rates, measure_rates
from aprnb.tuning.timing.speed import Costs, measure
from aprnb.tuning.written_files import model_bytes, output_path, state_bytes, written_dtype

_START_TOKENS = 64
_STARTING_S, _SAVING_S, _FINISHING_S = 0.25, 0.02, 0.3
"""What a run takes however small its model is, by measurement: folders, synchronised files, collected garbage."""
_TOKEN_S = 3e-5
"""Seconds that reading and writing the tokenizer takes for each token of its vocabulary, by measurement."""


def with_seconds(preparation: Preparation, on_phase: OnPhase) -> Preparation:
    """The preparation whose plan says how long the run takes; `on_phase` hears that this is measured."""
    on_phase(Phase("measuring this machine"))
    report, placement, options = preparation.report, preparation.placement, preparation.options
    parts = _micro_batches(preparation)
    tokens = sorted(size for _, size in parts)
    rows = sorted(preparation.examples.lengths)
    typical = tokens[len(tokens) // 2], rows[len(rows) // 2]
    costs = measure(report.architecture, preparation.recipe, placement, *typical)
    folder = output_path(options.output, report.path).absolute().parent
    rates = measure_rates(preparation.checkpoint, report, placement.dtype, folder)
    release_freed(placement.device)
    estimate = _Estimate(preparation, costs, rates, parts)
    plan = replace(preparation.plan, seconds=estimate.seconds, forecast=estimate.forecast())
    return replace(preparation, plan=plan)


def _micro_batches(preparation: Preparation) -> list[tuple[int, int]]:
    """Of each one its labelled tokens, as part of its step's, and all its tokens."""
    lengths, found = preparation.examples.lengths, list[tuple[int, int]]()
    for step in preparation.schedule.steps:
        labelled = step.labelled_tokens // len(step.micro_batches)
        found += [(labelled, sum(lengths[index] for index in part)) for part in step.micro_batches]
    return found


@dataclass(frozen=True)
class _Estimate:
    """Seconds by phase, from the costs of passes and the rates of files."""

    preparation: Preparation
    costs: Costs
    rates: Rates
    parts: list[tuple[int, int]]

    @cached_property
    def seconds(self) -> SecondsPlan:
        steps, merges = self.preparation.plan.total_steps, not self.preparation.options.adapter_only
        evaluation = self._evaluation_s()
        trained = sum(self.costs.train.seconds(self._layers, size, labelled) for labelled, size in self.parts)
        start = evaluation if self.preparation.held_out else trained / steps / 2
        return SecondsPlan(
            load=_STARTING_S
            + self._load_s(self._stored)
            + self.costs.build
            + self._neutral_s()
            + start
            + self.costs.read,
            steps=trained + self.costs.optimize * steps,
            evaluations=evaluation * len(self._evaluated),
            saves=len(self._saved) * (_SAVING_S + self._write_s(self._state_bytes)),
            merge=self._merge_s() if merges else 0.0,
            check=_FINISHING_S + self.costs.read + (self._check_s() if merges else 0.0),
        )

    def forecast(self) -> Forecast:
        """The same for one step, one evaluation, one saved state."""
        plan = self.seconds

        def each(seconds: float, count: int) -> float:
            return seconds / max(1, count)

        return Forecast(
            step=each(plan.steps, self.preparation.plan.total_steps),
            evaluation=each(plan.evaluations, len(self._evaluated)),
            save=each(plan.saves, len(self._saved)),
            results=plan.merge + plan.check,
            evaluated=self._evaluated,
            saved=self._saved,
        )

    @property
    def _layers(self) -> int:
        return self.preparation.report.architecture.num_hidden_layers

    @property
    def _state_bytes(self) -> int:
        return state_bytes(self.preparation.plan.parameters_trainable, self.preparation.recipe.optimizer)

    @cached_property
    def _evaluated(self) -> frozenset[int]:
        steps, every = self.preparation.plan.total_steps, self.preparation.options.eval_every
        return evaluation_steps(steps, every) if self.preparation.held_out else frozenset()

    @cached_property
    def _saved(self) -> frozenset[int]:
        """The steps with a state: by the rule, and after each evaluation, as if each were the best so far."""
        steps = self.preparation.plan.total_steps
        rule = read_save_rule(self.preparation.options.save_every, steps)
        by_rule = range(rule.steps, steps + 1, rule.steps) if rule.steps else ()
        return frozenset((*by_rule, *self._evaluated, steps))

    @cached_property
    def _stored(self) -> Counter[str]:
        """Elements by their dtype in the base."""
        return self._elements(lambda stored, _: stored)

    @cached_property
    def _written(self) -> Counter[str]:
        """Elements by their dtype in the tuned model."""
        wanted = self.preparation.options.output_dtype
        return self._elements(lambda stored, dimensions: written_dtype(stored, dimensions, wanted))

    def _elements(self, dtype_of: Callable[[DType, int], DType]) -> Counter[str]:
        report, tensors, found = self.preparation.report, self.preparation.checkpoint.tensors, Counter[str]()
        shapes = {name: tensor.shape for name, tensor in expected_tensors(report.architecture).items()}
        for name, file_name in report.weights.items():
            found[dtype_of(tensors[file_name].dtype, len(shapes[name])).name] += prod(shapes[name])
        return found

    def _load_s(self, elements: Counter[str]) -> float:
        return sum(count * self.rates.decode[name] for name, count in elements.items())

    def _write_s(self, size_bytes: int) -> float:
        return size_bytes / self.rates.bytes_per_s

    def _evaluation_s(self) -> float:
        """One look at all held-out rows."""
        held_out = self.preparation.held_out
        return self.costs.forward.seconds(self._layers, held_out.tokens, held_out.labelled_tokens) if held_out else 0.0

    def _neutral_s(self) -> float:
        """A fresh adapter is compared with the base in two passes."""
        passes = 2 if self.preparation.recipe.trains_adapter else 0
        return passes * self.costs.forward.seconds(self._layers, _START_TOKENS, _START_TOKENS)

    def _merge_s(self) -> float:
        preparation = self.preparation
        size = model_bytes(preparation.report, preparation.checkpoint.tensors, preparation.options.output_dtype)
        encoded = sum(count * self.rates.encode[name] for name, count in self._written.items())
        tokenizer = _TOKEN_S * preparation.report.architecture.vocab_size
        return tokenizer + self._load_s(self._stored) + encoded + self._write_s(size)

    def _check_s(self) -> float:
        """The written model is loaded and compared, weight by weight and in its logits, with base + adapter."""
        adapter, held_out = self.preparation.recipe.trains_adapter, self.preparation.held_out
        probed = (held_out or self.preparation.examples).lengths[:PROBES]
        tokens = sum(min(length, PROBE_TOKENS) for length in probed)
        passes = (4 if adapter else 3) * self.costs.forward.seconds(self._layers, tokens, tokens)
        written = 2 * self._load_s(self._written) + self.rates.compare * self._written.total()
        base = 2 * self._load_s(self._stored) + self.costs.build if adapter else 0.0
        return passes + written + base + self.costs.build
