"""Any checkpoint as a Hugging Face folder that `transformers` loads, or as one safetensors file.

Tensors have the model's Hugging Face names and row order. Block formats are decoded: safetensors has none.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from aprnb.architecture import ContractReport, Family, expected_tensors
from aprnb.conversion.apr_metadata import SPECIAL_IDS
from aprnb.conversion.folder_texts import write_folder_texts
from aprnb.conversion.plan import Prepared, TensorSize, Written, left_out_head, rounding_notes, tensor_size
from aprnb.conversion.target import MODEL_FILES, require_place
from aprnb.conversion.tensors import Counter, stored_size, weight_bytes
from aprnb.dtype_names import FLOATS, TORCH_NAMES
from aprnb.errors import UsageProblem
from aprnb.formats import Checkpoint
from aprnb.formats.atomic import atomic_file, atomic_folder, write_json, write_text
from aprnb.formats.contents import Progress
from aprnb.formats.dtypes import BF16, BY_NAME, F16, F32, DType
from aprnb.tokenizer.end_tokens import checkpoint_end_ids, config_end_ids

_Writer = Callable[[Path, Checkpoint, ContractReport, "str | None", bool, Progress], Written]
MAX_SHARD_BYTES = 5_000_000_000
_FLOATS = {dtype.short: dtype.name for dtype in FLOATS}
_NOT_KEPT = ("torch_dtype", "quantization_config", "auto_map")
"""Keys of the source's config that are not true of what is written, or name code to run."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor to write under its Hugging Face name."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return self.dtype.sizes_bytes(self.shape)[0]


class _Weights:
    """The model's weights in the target's dtypes, each read when it is written."""

    def __init__(self, checkpoint: Checkpoint, report: ContractReport, dtype: str | None) -> None:
        if dtype is not None and dtype not in _FLOATS:
            raise UsageProblem(f"--dtype {dtype}: safetensors hold floats only", expected=", ".join(_FLOATS))
        self._checkpoint, self._report = checkpoint, report
        expected = expected_tensors(report.architecture)
        self.tensors = [_Tensor(name, self._dtype(name, dtype), expected[name].shape) for name in sorted(expected)]

    @property
    def size_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)

    def parts(self, tensor: _Tensor) -> Iterable[bytes | bytearray]:
        return weight_bytes(self._checkpoint, self._report, tensor.name, tensor.dtype)

    def _dtype(self, name: str, wanted: str | None) -> DType:
        if wanted is not None:
            return BY_NAME[_FLOATS[wanted]]
        stored = self._stored(name)
        return stored if stored.name in _FLOATS.values() else F32 if stored.name == "F64" else self._for_blocks

    def _stored(self, name: str) -> DType:
        return self._checkpoint.tensors[self._report.weights[name]].dtype

    @cached_property
    def _for_blocks(self) -> DType:
        """The 16-bit type of the source's config, in which the model was trained; else F16, which rounds less.

        BF16 where activations exceed float16: `transformers` would round F16 to it when it loads the folder.
        """
        if self._report.architecture.family.exceeds_float16:
            return BF16
        config = self._checkpoint.metadata.get("hf_config")
        stated = [config.get(key) for key in ("dtype", "torch_dtype")] if isinstance(config, Mapping) else []
        return BF16 if "bfloat16" in stated else F16

    def sizes(self) -> tuple[TensorSize, ...]:
        """What becomes what; a tied head has no tensor."""
        family = self._report.architecture.family
        return (
            *(
                tensor_size(
                    family, tensor.name, self._stored(tensor.name),
                    stored_size(self._checkpoint, self._report, tensor.name), tensor.dtype, tensor.size_bytes,
                )
                for tensor in self.tensors
            ),
            *left_out_head(self._checkpoint, self._report),
        )  # fmt: skip


def prepare_file(checkpoint: Checkpoint, report: ContractReport, dtype: str | None) -> Prepared:
    """For targets that end in .safetensors."""
    return _prepared(write_file, checkpoint, report, dtype)


def prepare_folder(checkpoint: Checkpoint, report: ContractReport, dtype: str | None) -> Prepared:
    """For Hugging Face folders."""
    prepared = _prepared(write_folder, checkpoint, report, dtype)
    note = _load_note(_Weights(checkpoint, report, dtype), report.architecture.family)
    return replace(prepared, notes=(*prepared.notes, *note))


def _prepared(write: _Writer, checkpoint: Checkpoint, report: ContractReport, dtype: str | None) -> Prepared:
    sizes = _Weights(checkpoint, report, dtype).sizes()

    def written(path: Path, force: bool, progress: Progress) -> Written:
        return write(path, checkpoint, report, dtype, force, progress)

    return Prepared(sizes, rounding_notes(sizes) if dtype is None else (), written)


def write_file(
    path: Path, checkpoint: Checkpoint, report: ContractReport, dtype: str | None, force: bool, progress: Progress
) -> Written:
    """One safetensors file with only the weights."""
    weights = _Weights(checkpoint, report, dtype)
    _write_shard(path, weights, weights.tensors, Counter(weights.size_bytes, progress), force)
    return Written(
        len(weights.tensors), ("only the weights are written; convert to a folder to keep config and tokenizer",)
    )


def write_folder(
    path: Path, checkpoint: Checkpoint, report: ContractReport, dtype: str | None, force: bool, progress: Progress
) -> Written:
    """config.json, weights (in shards with an index above 5 GB), tokenizer, chat template, generation_config.json."""
    weights = _Weights(checkpoint, report, dtype)
    require_place(path, "huggingface", force)
    with atomic_folder(path, force, MODEL_FILES) as temporary:
        _write_weights(temporary, weights, Counter(weights.size_bytes, progress))
        notes, ids = _write_tokenizer(temporary, checkpoint, report)
        kept = checkpoint.metadata.get("hf_config")
        config = _config(report, kept, _common_dtype(weights, report.architecture.family), ids)
        write_json(temporary / "config.json", config)
        special = {key: config[key] for key in SPECIAL_IDS if config.get(key) is not None}
        vocab_size = report.architecture.vocab_size
        ends = dict.fromkeys([*config_end_ids(special, vocab_size), *checkpoint_end_ids(checkpoint, vocab_size)])
        notes += write_folder_texts(temporary, checkpoint.metadata, special, ends)
    return Written(len(weights.tensors), notes)


def _write_weights(folder: Path, weights: _Weights, count: Counter) -> None:
    shards: list[list[_Tensor]] = [[]]
    for tensor in weights.tensors:
        if shards[-1] and sum(t.size_bytes for t in shards[-1]) + tensor.size_bytes > MAX_SHARD_BYTES:
            shards.append([])
        shards[-1].append(tensor)
    if len(shards) == 1:
        _write_shard(folder / "model.safetensors", weights, shards[0], count, False)
        return
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write_shard(folder / name, weights, shard, count, False)
    weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    index = {"metadata": {"total_size": weights.size_bytes}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)


def _write_shard(path: Path, weights: _Weights, tensors: list[_Tensor], count: Counter, force: bool) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.size_bytes
        header[tensor.name] = {
            "dtype": tensor.dtype.name, "shape": list(tensor.shape), "data_offsets": [offset, end]
        }  # fmt: skip
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)  # data starts on a multiple of 8, as the format recommends
    with atomic_file(path, force) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            file.writelines(count.over(weights.parts(tensor)))


def _common_dtype(weights: _Weights, family: Family) -> str:
    """The float type in which `transformers` builds the model by default: the one that holds most bytes.

    Where activations exceed float16, BF16 in place of an F16 that was asked for or is the source's.
    """
    largest = _largest_dtype(weights)
    return TORCH_NAMES["BF16" if largest == "F16" and family.exceeds_float16 else largest]


def _largest_dtype(weights: _Weights) -> str:
    sizes: dict[str, int] = {}
    for tensor in weights.tensors:
        sizes[tensor.dtype.name] = sizes.get(tensor.dtype.name, 0) + tensor.size_bytes
    return max(sizes, key=lambda name: sizes[name])


def _load_note(weights: _Weights, family: Family) -> tuple[str, ...]:
    """The warning about a folder that `transformers` loads in another dtype than that of its file."""
    if not (family.exceeds_float16 and _largest_dtype(weights) == "F16"):
        return ()
    return (
        "the folder holds F16 and its config.json says bfloat16, as activations of this family exceed float16: "
        "transformers rounds the weights once more, by at most 0.4 %, unless it loads them with dtype=torch.float32",
    )


def _config(report: ContractReport, kept: Any, dtype: str, ids: dict[str, Any]) -> dict[str, Any]:
    """The architecture as its class writes it; the other keys of the source's config are kept."""
    from aprnb.model.build import model_config

    config = model_config(report.architecture).to_dict()
    fields = report.architecture.fields()
    stated = {key: fields.get(key, value) for key, value in kept.items()} if isinstance(kept, dict) else {}
    for name in _NOT_KEPT:
        stated.pop(name, None)
    special = {key: stated[key] for key in SPECIAL_IDS if stated.get(key) is not None}
    settled = {"architectures": [report.architecture.family.class_name], "dtype": dtype, **ids, **special}
    return {**stated, **config, **settled}


def _write_tokenizer(
    folder: Path, checkpoint: Checkpoint, report: ContractReport
) -> tuple[tuple[str, ...], dict[str, Any]]:
    from aprnb.tokenizer.choose import choose_tokenizer, defines_tokenizer

    if not defines_tokenizer(checkpoint.metadata, checkpoint.path):
        return ("the source has no tokenizer: none is written",), {}
    choice = choose_tokenizer(checkpoint, report.architecture)
    tokenizer = choice.tokenizer
    tokenizer.save_pretrained(folder)
    if choice.document is not None:  # as it was: the library writes default values and other forms of merges
        write_text(folder / "tokenizer.json", json.dumps(choice.document, ensure_ascii=False), force=True)
    ids = {name: getattr(tokenizer, name) for name in SPECIAL_IDS}
    return (*choice.warnings, *choice.assumptions), {key: value for key, value in ids.items() if value is not None}
