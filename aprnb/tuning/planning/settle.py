"""Makes the open choices of a recipe: by model, device and memory, each with a note (no torch)."""

from __future__ import annotations

from typing import Any

from aprnb.architecture import Architecture, parameter_count
from aprnb.errors import UsageProblem
from aprnb.tuning.planning.device import DeviceFacts
from aprnb.tuning.planning.memory import MemoryPlan, adapter_parameters, plan_memory
from aprnb.tuning.planning.recipe import Recipe, SettledRecipe, Switch
from aprnb.units import bytes_text

# Attention over a packed row is dense: on a CPU long rows cost more than the calls they save, a GPU needs large ones.
MICRO_BATCH_TOKENS = {"cpu": 512, "cuda": 8192}
LEARNING_RATES = {"lora": 2e-4, "qlora": 2e-4, "full": 2e-5}
_RANK, _DROPOUT, _TARGETS, _VAL_SPLIT = 16, 0.0, "all-linear", 0.1
_LONGEST = 1024
# The estimate does not include the allocator's gaps and the memory of other programs.
_USABLE = 0.9


def settle(
    recipe: Recipe, checkpointing: Switch, architecture: Architecture, facts: DeviceFacts
) -> tuple[SettledRecipe, tuple[str, ...]]:
    """The recipe with every open choice made, and a note for each that depends on the free memory.

    Method `auto` is lora where the float base fits, else qlora; full is never chosen. `checkpointing` "auto" recomputes
    activations only where keeping them does not fit: it costs about a third of the speed.
    Raises UsageProblem for what the model or the device cannot do.
    """
    _require_possible(recipe, architecture, facts)

    def closed(method: str, checkpointing: str) -> SettledRecipe:
        return _closed(recipe, method, checkpointing, architecture, facts)

    def needed_bytes(candidate: SettledRecipe) -> int:
        return estimate(candidate, architecture, candidate.micro_batch_tokens, facts.kind).total

    notes: list[str] = []
    most_bytes, free = _USABLE * facts.available_bytes, f"{bytes_text(facts.available_bytes)} free"
    method = recipe.method
    if method == "auto":
        needed = needed_bytes(closed("lora", "on"))
        method = "lora" if needed <= most_bytes else "qlora"
        size = f"with it the run would need {bytes_text(needed)} of {free}"
        base = f"the base in {facts.dtype}"
        notes.append(f"method lora: {base} fits into memory" if method == "lora" else f"method qlora: {base}: {size}")
    if checkpointing == "auto":
        needed = needed_bytes(closed(method, "off"))
        checkpointing = "off" if needed <= most_bytes else "on"
        if checkpointing == "on":
            notes.append(f"gradient checkpointing on: without it the run would need {bytes_text(needed)} of {free}")
    return closed(method, checkpointing), tuple(notes)


def _require_possible(recipe: Recipe, architecture: Architecture, facts: DeviceFacts) -> None:
    positions = architecture.max_position_embeddings
    if recipe.max_seq_len and recipe.max_seq_len > positions:
        found = f"--max-seq-len {recipe.max_seq_len}"
        raise UsageProblem(found, expected=f"at most {positions}, the model's max_position_embeddings")
    if facts.kind not in MICRO_BATCH_TOKENS:
        raise UsageProblem(f"--device {facts.device}", expected="cpu or cuda")
    require_optimizer(recipe.optimizer, facts.device)


def require_optimizer(name: str, device: str) -> None:
    """Raises UsageProblem for an 8-bit optimizer on a device other than a CUDA GPU: bitsandbytes has no kernel."""
    if name.endswith("8bit") and not device.startswith("cuda"):
        raise UsageProblem(f"--optimizer {name} on {device}", expected="a CUDA device, or adamw")


def _closed(
    recipe: Recipe, method: str, checkpointing: str, architecture: Architecture, facts: DeviceFacts
) -> SettledRecipe:
    """The recipe with this method and checkpointing, and a value for every other open choice."""
    length = recipe.max_seq_len or min(_LONGEST, architecture.max_position_embeddings)
    rank = recipe.rank or _RANK
    closed = {
        "method": method,
        "rank": rank,
        "alpha": 2.0 * rank if recipe.alpha is None else recipe.alpha,
        "lora_dropout": _DROPOUT if recipe.lora_dropout is None else recipe.lora_dropout,
        "target_modules": recipe.target_modules or _TARGETS,
        "quantize_nf4": method == "qlora",
        "val_split": _VAL_SPLIT if recipe.val_split is None else recipe.val_split,
        "max_seq_len": length,
        "learning_rate": LEARNING_RATES[method] if recipe.learning_rate is None else recipe.learning_rate,
        "micro_batch_tokens": recipe.micro_batch_tokens or max(MICRO_BATCH_TOKENS[facts.kind], length),
        "optimizer": "adamw" if recipe.optimizer == "auto" else recipe.optimizer,
        "gradient_checkpointing": checkpointing,
        "dtype": facts.dtype,
    }
    return SettledRecipe(**{**vars(recipe), **closed})


def trainable_parameters(recipe: SettledRecipe, architecture: Architecture) -> int:
    """How many parameters the recipe's method trains."""
    if not recipe.trains_adapter:
        return parameter_count(architecture)
    return adapter_parameters(architecture, recipe.rank, recipe.target_modules)


def estimate(
    recipe: SettledRecipe, architecture: Architecture, micro_batch_tokens: int, device: str, **known: Any
) -> MemoryPlan:
    """Memory by term for micro-batches of that many tokens on a kind of device, "cpu" or "cuda".

    `known` is what `plan_memory` takes besides.
    """
    return plan_memory(
        architecture,
        parameter_count(architecture),
        trainable_parameters(recipe, architecture),
        method=recipe.method,
        dtype=recipe.dtype,
        optimizer=recipe.optimizer,
        checkpointing=recipe.gradient_checkpointing == "on",
        micro_batch_tokens=micro_batch_tokens,
        device=device,
        **known,
    )
