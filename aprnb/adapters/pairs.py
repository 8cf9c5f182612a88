"""Pairs of A and B: which weights they change, and by what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from aprnb.adapters.changes import LowRank
from aprnb.adapters.config import MERGE_UNTIED, MERGE_WITH_PEFT
from aprnb.adapters.files import AdapterFiles
from aprnb.adapters.names import RENAME, Key, Part, is_renamed
from aprnb.architecture import ExpectedTensor
from aprnb.architecture.experts import rows_of, stacked_name
from aprnb.errors import UsageProblem
from aprnb.formats.codecs.arrays import Floats
from aprnb.printable import shown_name

_LINEAR = ("linear", "conv1d", "head", "router", "expert")
_STACKS = ("gate_up_proj", "down_proj")
_OTHER_BASE = "merge it into the base that it was trained on"
Changes = dict[str, tuple[str, LowRank]]


def low_rank_changes(adapter: AdapterFiles, weights: Mapping[str, ExpectedTensor]) -> Changes:
    """Weight → the module that carries its matrices, and the change; `weights` are under the names of modules.

    Raises UsageProblem for a matrix without its partner, and for one that fits no weight.
    """
    found: Changes = {}
    for module, a, b, embedding in pairs_of(adapter):
        new = _changes(adapter, weights, module, a, b, embedding)
        twice = next((name for name in new if name in found), None)
        if twice:
            raise adapter.misfit(f"changes {twice} twice", "one pair of matrices for each weight")
        found |= new
    return found


def _changes(
    adapter: AdapterFiles, weights: Mapping[str, ExpectedTensor], module: str, a: Floats, b: Floats, embedding: bool
) -> Changes:
    if module.endswith((".mlp.experts", ".mlp.experts.base_layer")):
        return _experts(adapter, weights, module, a, b)
    name = f"{module}.weight"
    tensor = weights.get(name)
    if tensor is None or (tensor.rule.role not in (("embedding",) if embedding else _LINEAR)):
        action = RENAME if tensor is None and is_renamed(name, weights) else _OTHER_BASE
        action = MERGE_UNTIED if tensor is None and name == "lm_head.weight" else action  # it is the embedding
        raise adapter.misfit(f"changes {name}", "layers of the base that take LoRA matrices", action)
    return {tensor.name: (module, _one(adapter, tensor, module, a, b))}


def pairs_of(adapter: AdapterFiles) -> Iterator[tuple[str, Floats, Floats, bool]]:
    """Module, A [r, in], B [out, r], and whether they are of an embedding."""
    kinds: tuple[tuple[Part, Part], ...] = (("A", "B"), ("embedding A", "embedding B"))
    tensors = adapter.tensors
    paired: set[str] = set()
    for first, second in kinds:
        modules = sorted({key.module for key in tensors if key.part in (first, second)})
        for module in modules:
            a, b = tensors.get(Key(module, first)), tensors.get(Key(module, second))
            if a is None or b is None or module in paired:
                raise _no_pair(adapter, module, a is None, b is None)
            paired.add(module)
            yield module, a, b, first == "embedding A"
    alone = next((key for key in tensors if key.part in ("magnitude", "B.bias") and key.module not in paired), None)
    if alone:
        raise adapter.misfit(f"contains tensors that are not pairs: {alone.module}", "lora_A and lora_B for each")


def _no_pair(adapter: AdapterFiles, module: str, no_a: bool, no_b: bool) -> UsageProblem:
    """The error of a module with one matrix, or with a second pair, of an embedding."""
    lacks = "lora_A" if no_a else "lora_B" if no_b else ""
    why = f"has no {lacks}" if lacks else "has two pairs"
    return adapter.misfit(
        f"contains tensors that are not pairs: {shown_name(module)} {why}", "lora_A and lora_B for each weight"
    )


def _one(adapter: AdapterFiles, tensor: ExpectedTensor, module: str, a: Floats, b: Floats) -> LowRank:
    turned = tensor.rule.role in ("conv1d", "embedding")
    rows, columns = tensor.shape[::-1] if turned else tensor.shape
    config, name = adapter.config, tensor.name
    rank = config.rank_of(module)
    if a.ndim != 2 or b.ndim != 2 or (a.shape[0], b.shape[1]) != (rank, rank):
        raise adapter.misfit(f"has {name} as {list(b.shape)} · {list(a.shape)}", f"[out, {rank}] · [{rank}, in]")
    if (a.shape[1], b.shape[0]) != (columns, rows):
        raise adapter.misfit(
            f"has {name} as {list(b.shape)} · {list(a.shape)}", f"[{rows}, r] · [r, {columns}]", _OTHER_BASE
        )
    if config.is_set("fan_in_fan_out") and tensor.rule.role not in ("conv1d", "embedding"):
        raise adapter.misfit("sets fan_in_fan_out", "false: this model's layers are [out, in]")
    if config.is_set("use_rslora") and tensor.rule.per_expert:
        raise adapter.misfit(f"has {name} with use_rslora", "one without", MERGE_WITH_PEFT)
    left, right = (a.T, b.T) if turned else (b, a)
    return LowRank(np.ascontiguousarray(left), np.ascontiguousarray(right), config.scale_of(module))


def _experts(
    adapter: AdapterFiles, weights: Mapping[str, ExpectedTensor], module: str, a: Floats, b: Floats
) -> Changes:
    """The experts of one layer: PEFT puts the matrices of all of them into one pair, for each stacked parameter.

    A is [experts · r, in] by expert, B [out, r · experts] with the expert last (`ParamWrapper.get_delta_weight`). Of
    two parameters the first is wrapped inside the second.
    """
    outer = module.removesuffix(".base_layer")
    targeted = {name.rpartition(".")[2] for name in adapter.config.parameters}
    stacks = [stack for stack in _STACKS if stack in targeted]
    inner = module != outer
    if not stacks or (inner and len(stacks) < 2):
        raise adapter.misfit(f"changes {module}", "its parameters in target_parameters", MERGE_WITH_PEFT)
    stack = f"{outer}.{stacks[0] if inner else stacks[-1]}"
    experts = {name: tensor for name, tensor in weights.items() if stacked_name(name) == stack}
    if not experts:
        raise adapter.misfit(f"changes {module}", "layers of the base that take LoRA matrices", _OTHER_BASE)
    count = 1 + max(tensor.expert or 0 for tensor in experts.values())
    rows, columns = next(iter(experts.values())).shape
    rows *= len(experts) // count
    rank = adapter.config.rank_of(stack)
    if a.shape != (count * rank, columns) or b.shape != (rows, rank * count):
        expected = f"[{rows}, {rank}·{count}] · [{count}·{rank}, {columns}]"
        raise adapter.misfit(f"has {stack} as {list(b.shape)} · {list(a.shape)}", expected, _OTHER_BASE)
    scale, first, second = adapter.config.scale_of(stack), a.reshape(count, rank, columns), b.reshape(rows, rank, count)
    return {
        name: (module, LowRank(rows_of(second[:, :, tensor.expert], name).copy(), first[tensor.expert], scale))
        for name, tensor in experts.items()
        if tensor.expert is not None
    }
