"""How fast this machine trains a model: measured with one and two of its layers, before any weight is loaded.

The layers have the model's class, shapes, dtype and adapters, and random weights: with equal ones the gradients would
be so small that processors slow down. What a layer takes is the difference between two of them and one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch

from aprnb.architecture import Architecture, expected_tensors, parameter_count
from aprnb.model.build import disable_cpu_repacking, module_of
from aprnb.model.device import Placement
from aprnb.model.heap import return_large_blocks
from aprnb.model.quiet import quiet_loading
from aprnb.tuning.planning.memory import adapted_shapes
from aprnb.tuning.planning.recipe import SettledRecipe
from aprnb.tuning.planning.settle import trainable_parameters
from aprnb.tuning.training import gates
from aprnb.tuning.training.batches import Batches
from aprnb.tuning.training.checkpointing import set_checkpointing
from aprnb.tuning.training.lora import attach, prepare_full
from aprnb.tuning.training.loss import answer_loss
from aprnb.tuning.training.optimizer import build_optimizer

_WHOLE = 6_000_000
"""Parameters up to which a model is measured whole."""
_VOCABULARY = 24_000_000
"""Most parameters of a measured embedding; what a larger vocabulary takes is proportional to its rows."""
_FEWEST_ROWS = 1024
_PASS_S, _FEW_TOKENS = 0.2, 16
"""A measured pass takes about so long; few tokens, which are less efficient, say how many those are."""
_ENOUGH_S = 0.06
_RANDOM = 1_048_573
"""Different random numbers, a prime: no row of a matrix repeats the one before."""
_SHAPING = ("method", "rank", "target_modules", "lora_dropout", "gradient_checkpointing", "optimizer", "dtype")
_measured: dict[str, Costs] = {}


@dataclass(frozen=True)
class PassCost:
    """Seconds of a pass of `tokens` tokens: what is not a layer, one layer, and one labelled position in the head."""

    fixed: float
    layer: float
    position: float
    tokens: int

    def seconds(self, layers: int, tokens: int, labelled: int) -> float:
        """Of a pass of another number of tokens."""
        share = tokens / self.tokens
        return (self.fixed + self.layer * layers) * share + self.position * labelled


@dataclass(frozen=True)
class Costs:
    """A forward and backward pass, a forward pass; seconds of the whole model to be built, updated once, read once."""

    train: PassCost
    forward: PassCost
    build: float
    optimize: float
    read: float


def measure(
    architecture: Architecture, recipe: SettledRecipe, placement: Placement, tokens: int, row_tokens: int
) -> Costs:
    """The costs of micro-batches of about `tokens` tokens, in rows of `row_tokens`; a second of work.

    Once for each kind of run in a process. Leaves the random state as it was.
    """
    shaping = [getattr(recipe, name) for name in _SHAPING]
    key = repr((architecture.fields(), shaping, placement, tokens, row_tokens, torch.get_num_threads()))
    if key not in _measured:
        return_large_blocks()
        with torch.random.fork_rng(), quiet_loading():
            _measured[key] = _measure(architecture, recipe, placement, tokens, row_tokens)
    return _measured[key]


def _measure(
    architecture: Architecture, recipe: SettledRecipe, placement: Placement, tokens: int, row_tokens: int
) -> Costs:
    layers, parameters = architecture.num_hidden_layers, parameter_count(architecture)
    _Layers(_cut(architecture, 1, _FEWEST_ROWS), recipe, placement, row_tokens)  # imports what the classes need
    if parameters <= _WHOLE:
        whole = _Layers(architecture, recipe, placement, row_tokens)
        whole.pass_s(_FEW_TOKENS, 1, grad=True)  # the first pass of a process takes longer
        train, forward = (PassCost(whole.pass_s(tokens, tokens // 2, grad), 0.0, 0.0, tokens) for grad in (True, False))
        return Costs(train, forward, whole.build_s, whole.optimize_s(), whole.read_s())
    rows = min(architecture.vocab_size, max(_FEWEST_ROWS, _VOCABULARY // architecture.hidden_size))
    one, two = (_Layers(_cut(architecture, count, rows), recipe, placement, row_tokens) for count in (1, 2))
    per_token = one.pass_s(_FEW_TOKENS, 1, grad=True) / _FEW_TOKENS
    measured = min(tokens, max(_FEW_TOKENS, int(_PASS_S / per_token)))
    wider = architecture.vocab_size / rows
    train, forward = (_cost(one, two, measured, wider, grad) for grad in (True, False))
    of_two = trainable_parameters(recipe, architecture) / max(1, two.trainable)
    return Costs(
        train,
        forward,
        build=one.build_s + (layers - 1) * max(0.0, two.build_s - one.build_s),
        optimize=two.optimize_s() * of_two,
        read=two.read_s() * parameters / two.parameters,
    )


def _cost(one: _Layers, two: _Layers, tokens: int, wider: float, grad: bool) -> PassCost:
    """Of a model whose vocabulary is `wider` times that of the measured layers."""
    few = tokens // 8
    single, double, labelled = (
        one.pass_s(tokens, few, grad), two.pass_s(tokens, few, grad), one.pass_s(tokens, tokens, grad)
    )  # fmt: skip
    position = max(0.0, labelled - single) / max(1, tokens - few)
    layer = max(0.0, double - single)
    return PassCost(max(0.0, single - layer - position * few), layer, position * wider, tokens)


def _cut(architecture: Architecture, layers: int, rows: int) -> Architecture:
    """The architecture with fewer layers and a smaller vocabulary."""
    whole = architecture.num_hidden_layers

    def shorter(value: Any) -> Any:
        return value[:layers] if isinstance(value, list | tuple) and len(value) == whole else value

    extra = {name: shorter(value) for name, value in architecture.extra.items()}
    return replace(architecture, num_hidden_layers=layers, vocab_size=rows, extra=extra)


def _random_numbers(dtype: torch.dtype) -> torch.Tensor:
    return (0.02 * torch.randn(_RANDOM, generator=torch.Generator().manual_seed(0))).to(dtype)


def _weight(shape: tuple[int, ...], numbers: torch.Tensor) -> torch.Tensor:
    """A weight of usual size, of `numbers` again and again; ones for a norm."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=numbers.dtype)
    return numbers.repeat(-(-prod(shape) // _RANDOM))[: prod(shape)].reshape(shape)


class _Layers:
    """A module of random weights, prepared as a run prepares its own."""

    def __init__(
        self, architecture: Architecture, recipe: SettledRecipe, placement: Placement, row_tokens: int
    ) -> None:
        self._device, self._row_tokens = placement.device, row_tokens
        numbers = _random_numbers(placement.dtype)
        weights: Mapping[str, Any] = {
            name: _weight(tensor.shape, numbers) for name, tensor in expected_tensors(architecture).items()
        }
        begun = time.perf_counter()
        model, _ = module_of(architecture, weights, placement)
        if recipe.trains_adapter:
            model = attach(model, recipe, adapted_shapes(architecture, recipe.target_modules))
        else:
            prepare_full(model)
        self._wait()
        self.build_s = time.perf_counter() - begun
        disable_cpu_repacking(model)
        set_checkpointing(model, recipe.gradient_checkpointing)
        self._model, self._rows = model.train(), architecture.vocab_size
        self._batches = Batches(model, self._device, recipe.micro_batch_tokens, getattr(torch, recipe.dtype))
        self._optimizer = build_optimizer(model, recipe, self._device)
        self.parameters = parameter_count(architecture)
        self.trainable = sum(one.numel() for one in model.parameters() if one.requires_grad)

    def pass_s(self, tokens: int, labelled: int, grad: bool) -> float:
        """Seconds of a pass of so many tokens, of which so many are labelled, with the backward pass or without."""
        ids = torch.arange(tokens, device=self._device) % self._rows
        positions = torch.arange(tokens, device=self._device) % self._row_tokens
        chosen = torch.zeros(tokens, dtype=torch.bool)
        chosen[1 : labelled + 1] = True
        chosen = chosen.to(self._device)

        def work() -> None:
            with nullcontext() if grad else torch.no_grad(), self._batches.precision():
                loss, _ = answer_loss(self._model, ids, positions, chosen)
                if grad:
                    loss.backward()

        return self._timed(work)

    def optimize_s(self) -> float:
        """Seconds of one update; gradients are there after a pass."""
        weights = [one for one in self._model.parameters() if one.requires_grad]

        def work() -> None:
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            self._optimizer.step()

        return self._timed(work)

    def read_s(self) -> float:
        """Seconds that the fingerprint of the frozen weights takes."""
        return self._timed(lambda: gates.frozen_fingerprint(self._model))

    def _timed(self, work: Callable[[], object]) -> float:
        """The shortest of at most four times; short ones are repeated, since the first one warms up."""
        best, spent, tries = float("inf"), 0.0, 0
        while tries < 2 or (spent < _ENOUGH_S and tries < 4):
            begun = time.perf_counter()
            work()
            self._wait()
            seconds = time.perf_counter() - begun
            best, spent, tries = min(best, seconds), spent + seconds, tries + 1
            if seconds > _ENOUGH_S:
                break
        return best

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
