"""Builds the `transformers` module that an architecture describes and loads its weights from the file.

Tensors are decoded one at a time while the loader places them, so a file goes to NF4 with one full-precision tensor in
memory. A key that is missing, unexpected or mismatched is an error; transformers itself would use random values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from aprnb.architecture import Architecture, ContractReport, expected_tensors
from aprnb.architecture.experts import module_shapes
from aprnb.architecture.weights import read_weight
from aprnb.dtype_names import FLOATS
from aprnb.errors import ArchitectureError, ContractError, is_out_of_memory, out_of_memory_in
from aprnb.formats import Checkpoint
from aprnb.formats.codecs import decode
from aprnb.model.device import Placement
from aprnb.model.gpu_decode import can_decode, decode_on
from aprnb.model.heap import Heap
from aprnb.model.nf4 import quick_4bit
from aprnb.model.quiet import quiet_loading
from aprnb.phases import Counted, OnPhase, silent
from aprnb.tokenizer.end_tokens import checkpoint_end_ids

_IN_4_BITS = 'end other programs, or load it in 4 bits: quantize="nf4", in a run --quantize-nf4'
_MORE_MEMORY = "end other programs, or load it on a machine with more memory"
_DIRECT: dict[str, torch.dtype] = {dtype.name: getattr(torch, dtype.in_torch) for dtype in FLOATS}


def build_model(
    checkpoint: Checkpoint,
    report: ContractReport,
    placement: Placement,
    on_phase: OnPhase = silent,
    phase: str | None = None,
) -> PreTrainedModel:
    """The module with its weights on its device, in eval mode; `on_phase` hears how many of them are loaded.

    The phase is called `phase`, else "loading" or "quantising". Raises ContractError where a tensor does not match,
    OutOfMemory where the device has no room for the weights.
    """
    report.raise_for_violations()
    architecture = report.architecture
    compare_with_class(architecture)
    heap = Heap()
    count = Counted(on_phase, phase or ("quantising" if placement.quantize else "loading"), len(report.weights))
    weights = {name: _LazyWeight(checkpoint, report, name, placement, heap, count) for name in report.weights}
    action = _MORE_MEMORY if placement.quantize else _IN_4_BITS
    with out_of_memory_in(f"while {checkpoint.path} was loaded", action), _reported_errors():
        model, info = module_of(architecture, weights, placement)
    _require_all_loaded(info, model, report)
    disable_cpu_repacking(model)
    model.generation_config.eos_token_id = sorted(checkpoint_end_ids(checkpoint, architecture.vocab_size)) or None
    return model.eval()


def module_of(
    architecture: Architecture, weights: Mapping[str, Any], placement: Placement
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """The module of `weights` (name → tensor, or an object that gives one when indexed), and the loader's report."""
    options: dict[str, Any] = {"quantization_config": _quantization(placement)} if placement.quantize else {}
    with quick_4bit() if placement.quantize == "nf4" else nullcontext():
        loaded: Any = model_class(architecture).from_pretrained(
            None,
            config=model_config(architecture),
            state_dict=weights,
            dtype=placement.dtype,
            device_map={"": placement.device},
            attn_implementation=architecture.attention,
            output_loading_info=True,
            **options,
        )
    model, info = loaded
    return model, info


@contextmanager
def _reported_errors() -> Iterator[None]:
    """A quiet loader; where it caught that memory ran out, which only its report tells, the error says so."""
    with quiet_loading() as reports:
        try:
            yield
        except RuntimeError:
            report = RuntimeError("\n".join(reports))
            if is_out_of_memory(report):
                raise report from None
            raise


def model_class(architecture: Architecture) -> type[PreTrainedModel]:
    """The `transformers` class of the family."""
    return getattr(transformers, architecture.family.class_name)


def model_config(architecture: Architecture) -> transformers.PretrainedConfig:
    """The architecture as a `transformers` config, every field set and none left to the class's defaults."""
    family, fields = architecture.family, architecture.as_config()
    del fields["model_type"], fields["architectures"]
    if "rope_theta" in fields:
        fields["rope_parameters"] = _rope_parameters(fields)
    if fields.get("layer_types", "") is None:
        del fields["layer_types"]
    keyed = {family.config_keys.get(name, name): value for name, value in fields.items()}
    # The tokenizer has these; the classes' defaults are outside small vocabularies.
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    with _taken_by_the_class(architecture):
        config = getattr(transformers, family.config_name)(**keyed, **special, use_cache=True)
    for name in vars(config):
        if name.endswith(("dropout", "pdrop")):
            setattr(config, name, 0.0)  # no file states it; training has its own dropout (--lora-dropout)
    return config


def _rope_parameters(fields: dict[str, Any]) -> dict[str, Any]:
    """Remove the rotation's fields and return them in the config's form: one object, or one for each kind of layer."""
    rope = {"rope_type": "default", **(fields.pop("rope_scaling") or {}), "rope_theta": fields.pop("rope_theta")}
    partial, original = fields.pop("partial_rotary_factor", None), fields.get("original_max_position_embeddings")
    rope |= {} if partial is None else {"partial_rotary_factor": partial}
    if original is not None and rope["rope_type"] != "default":
        rope.setdefault("original_max_position_embeddings", original)
    local = fields.pop("rope_local_base_freq", None)
    if local is None:
        return rope
    return {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": local}}


@contextmanager
def _taken_by_the_class(architecture: Architecture) -> Iterator[None]:
    """Turns any exception of the class into ArchitectureError: each class raises others for unknown values."""
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ArchitectureError(
            f"{architecture.family.class_name} of transformers {transformers.__version__} does not take this "
            f"architecture: {lines[-1].strip()[:300]}",
            expected="values that the class supports, e.g. of hidden_act and rope_scaling",
        ) from None


def compare_with_class(architecture: Architecture) -> None:
    """Compare the family's table with the class, built on the meta device; raises ContractError on a difference."""
    config = model_config(architecture)
    with _taken_by_the_class(architecture), torch.device("meta"):
        skeleton = model_class(architecture)(config)
    built = {name: tuple(value.shape) for name, value in skeleton.named_parameters()}
    expected = module_shapes({name: tensor.shape for name, tensor in expected_tensors(architecture).items()})
    if built != expected:
        wrong = sorted(name for name in built.keys() | expected.keys() if built.get(name) != expected.get(name))
        first = wrong[0]
        raise ContractError(
            f"{architecture.family.class_name} of transformers {transformers.__version__} has {first} "
            f"{built.get(first, 'not at all')}; {len(wrong)} tensors differ",
            expected=str(expected.get(first, "no such tensor")),
        )


class _LazyWeight:
    """Decodes its tensor when the loader indexes it with `[...]`; keeps no data before or after."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        report: ContractReport,
        name: str,
        placement: Placement,
        heap: Heap,
        count: Callable[[], None],
    ) -> None:
        self._checkpoint, self._report, self._name, self._placement = checkpoint, report, name, placement
        self._heap, self._count = heap, count

    def __getitem__(self, _: Any) -> torch.Tensor:
        self._heap.read(self._checkpoint.tensors[self._report.weights[self._name]].size_bytes)
        tensor = read_tensor(self._checkpoint, self._report, self._name, self._placement)
        if not all(map(torch.isfinite, torch.aminmax(tensor))):  # both are NaN where an element is; waits for a GPU
            raise ContractError(
                f"tensor {self._report.weights[self._name]} holds NaN or infinity in {self._placement.dtype}",
                where=str(self._checkpoint.path),
                action="the weights are damaged; run `aprnb inspect` on the file; use an undamaged copy",
            )
        self._count()
        return tensor


def read_tensor(checkpoint: Checkpoint, report: ContractReport, name: str, placement: Placement) -> torch.Tensor:
    """The model's weight in the placement's dtype; what the file holds in another is rounded to nearest even.

    Blocks that a GPU can decode are returned on the GPU, all others on the CPU.
    """
    dtype, file_name = placement.dtype, report.weights[name]
    entry = checkpoint.tensors[file_name]
    if name in report.readings:
        return torch.from_numpy(read_weight(checkpoint, report, name)).to(dtype)
    raw = checkpoint.read_part(file_name, 0, entry.size_bytes)
    direct = _DIRECT.get(entry.dtype.name)
    if direct is not None:
        return torch.frombuffer(raw, dtype=direct).reshape(entry.shape).to(dtype)
    if placement.device.type == "cuda" and can_decode(entry.dtype, entry.shape, entry.size_bytes):
        return decode_on(placement.device, raw, entry.dtype, entry.shape, dtype)
    if dtype == torch.bfloat16:
        return torch.from_numpy(decode(raw, entry.dtype, entry.shape, to="BF16")).view(dtype)
    return torch.from_numpy(decode(raw, entry.dtype, entry.shape)).to(dtype)


def _quantization(placement: Placement) -> transformers.BitsAndBytesConfig:
    if placement.quantize == "int8":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=placement.dtype,
    )


def _require_all_loaded(info: Mapping[str, Any], model: PreTrainedModel, report: ContractReport) -> None:
    wrong = {
        key: sorted(map(str, info[key]))
        for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info.get(key)
    }
    left = [name for name, value in (*model.named_parameters(), *model.named_buffers()) if value.is_meta]
    if wrong or left or info.get("error_msgs"):
        raise ContractError(
            f"the loader left tensors unfilled: {wrong or left or info['error_msgs']}",
            where=str(report.path),
            action="this is a defect of aprnb or of the installed transformers; nothing was trained",
        )


def disable_cpu_repacking(model: torch.nn.Module) -> None:
    """bitsandbytes repacks 4-bit weights for inference on CPUs with AVX-512 BF16 and then loses their gradients."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  torch types attributes as tensors
