"""Checks before, during and after a run: a training that changes nothing must not look like success."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from aprnb.errors import GateError, TrainingError
from aprnb.printable import first_names
from aprnb.tuning.training.lora import adapted_layers

_LOWER_RATE = "start again with a lower --learning-rate (and --force)"
_SAMPLES = 65_536
_SUMMED_AT_ONCE = 1 << 20
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_adapter_is_neutral(model: Any, input_ids: Tensor, position_ids: Tensor) -> None:
    """With B = 0 the adapted model's logits [T, vocab] equal the base's bit for bit."""
    adapted = _logits(model, input_ids, position_ids)
    with model.disable_adapter():
        base = _logits(model, input_ids, position_ids)
    if not torch.equal(adapted, base):
        difference = (adapted.float() - base.float()).abs().max().item()
        raise GateError(
            f"the fresh adapter changes the model's logits by up to {difference:.3g}",
            expected="no change before the first step",
            action="please report this: a fresh adapter must have no effect",
        )


def _logits(model: Any, input_ids: Tensor, position_ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=input_ids[None], position_ids=position_ids[None], use_cache=False).logits[0]


def beats_guessing(loss: float, vocab_size: int) -> bool:
    """Guessing among V tokens gives ln V; a tenth more is allowed for chance."""
    return math.isfinite(loss) and loss <= 1.1 * math.log(vocab_size)


def check_base_loss(answers: float, prompts: float, vocab_size: int) -> str | None:
    """A warning where the base hardly beats guessing on the answers; GateError where it is broken.

    A small, over-confident model may find new answers less likely than chance, which is what training is for. A model
    that is worse than chance on the rows' prompts as well is not the model that its file says.
    """
    guessing = math.log(vocab_size)
    if not math.isfinite(answers) or not (beats_guessing(answers, vocab_size) or beats_guessing(prompts, vocab_size)):
        raise GateError(
            f"the base model's loss is {answers:.3f} on the answers and {prompts:.3f} on the prompts",
            expected=f"at most {1.1 * guessing:.3f} on one of them, 1.1 × that of guessing among {vocab_size:,} tokens",
            action="check the file (%apr_check), its tokenizer and its chat template",
        )
    if answers <= 0.8 * guessing:
        return None
    reason = "the answers are new to it, or the checkpoint is not trained"
    return f"the base model's loss on the answers is {answers:.3f}, guessing gives {guessing:.3f}: {reason}"


def check_labelled(step: int, trained: int, planned: int) -> None:
    """Raises GateError where the step trained another number of labelled tokens than planned."""
    if trained != planned or not planned:
        raise GateError(f"step {step} trained {trained} labelled tokens", expected=f"{planned}, as planned")


def check_finite(step: int, loss: float, grad_norm: float) -> None:
    """Raises TrainingError for a loss or gradient that is not finite; call before the optimizer step."""
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    raise TrainingError(
        f"step {step}: loss {loss:.4g}, gradient norm {grad_norm:.4g}",
        expected="finite numbers",
        action=_LOWER_RATE,
    )


def check_evaluation(step: int, loss: float) -> None:
    """Raises TrainingError for a loss on held-out rows that is not finite."""
    if not math.isfinite(loss):
        found = f"the loss on the held-out rows after step {step} is {loss:.4g}"
        raise TrainingError(found, expected="a finite number", action=_LOWER_RATE)


def check_savable(step: int, values: Any) -> None:
    """Raises TrainingError where weights or optimizer are not finite: no run could be resumed from them."""
    for name, tensor in _floats(values, ""):
        if not all(map(math.isfinite, torch.stack(torch.aminmax(tensor)).tolist())):
            found = f"NaN or infinity in {name} after step {step}, which is not saved"
            raise TrainingError(found, expected="finite numbers", action=_LOWER_RATE)


def _floats(values: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The floating point tensors of nested dicts, with the path of their keys."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _floats(value, f"{name}/{key}" if name else str(key))
    elif isinstance(values, Tensor) and values.is_floating_point():
        yield name, values


def watched_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """The tensors that the first step must move: each adapter's B, or every matrix where all weights are trained."""
    adapters = {
        f"{name}.lora_B.{key}": part.weight
        for name, layer in adapted_layers(model).items()
        for key, part in layer.lora_B.items()
    }
    if adapters:
        return adapters
    return {name: one for name, one in model.named_parameters() if one.requires_grad and one.ndim >= 2}


@contextmanager
def targets_must_move(model: nn.Module) -> Iterator[None]:
    """Around the first optimizer step: each watched tensor has a gradient and is changed afterwards."""
    watched = watched_tensors(model)
    if not watched:
        raise GateError("nothing is trainable", expected="adapters or weights that require a gradient")
    still = [name for name, tensor in watched.items() if tensor.grad is None or not tensor.grad.any()]
    if still:
        raise GateError(f"no gradient reaches {first_names(still, 3)}", expected="one in every target", where="step 1")
    before = _bit_sums(watched.values())
    yield
    after = _bit_sums(watched.values())
    still = [name for name, old, new in zip(watched, before, after, strict=True) if old == new]
    if still:
        raise GateError(
            f"step 1 did not change {first_names(still, 3)}", expected="every target to change", where="step 1"
        )


def frozen_fingerprint(model: nn.Module) -> str:
    """SHA-256 over everything that must not change: parameters without gradient and the scales of quantised ones.

    Of each tensor: name, dtype, shape, the sum of all its bit patterns as integers (any single change shows), and
    at least 65,536 of its elements, evenly spaced (small tensors whole). Weights are read once, where they are.
    """
    digest = hashlib.sha256()
    frozen = list(_frozen_tensors(model))
    sums = _bit_sums(tensor for _, tensor in frozen)
    for (name, tensor), total in zip(frozen, sums, strict=True):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} {total}\n".encode())
        flat = _bits(tensor)
        digest.update(flat[:: max(1, flat.numel() // _SAMPLES)].cpu().numpy().tobytes())
    return digest.hexdigest()


def check_frozen(before: str, after: str) -> None:
    """The fingerprints from before and after the run are equal."""
    if before != after:
        found = "the frozen base changed during the run"
        raise GateError(found, expected="only adapters to change", action="do not use this output")


def _frozen_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            continue
        yield name, parameter.detach()
        quantised = getattr(parameter, "quant_state", None)
        if quantised is not None:
            yield f"{name}.absmax", quantised.absmax


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(-1).view(_BITS[tensor.element_size()])


def _bit_sums(tensors: Iterable[Tensor]) -> list[int]:
    """The sum of each tensor's bit patterns, modulo 2^64."""
    sums = [_bit_sum(_bits(tensor)) for tensor in tensors]
    return [int(total) for total in torch.stack(sums).tolist()] if sums else []  # waits for a GPU once


def _bit_sum(bits: Tensor) -> Tensor:
    """In slices with one buffer: torch copies what it sums to 64 bits, and many copies leave gaps in memory."""
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    buffer = torch.empty(min(_SUMMED_AT_ONCE, bits.numel()), dtype=torch.int64, device=bits.device)
    for part in bits.split(_SUMMED_AT_ONCE):
        total += buffer[: part.numel()].copy_(part).sum()
    return total
