"""A LoRA adapter as GGUF, as llama.cpp's `convert_lora_to_gguf.py` lays it out and its loader reads it.

Each changed weight NAME has NAME.lora_a [r, in] and NAME.lora_b [out, r], in the row order of the base's GGUF file; of
the token embedding lora_a is [vocabulary, r]; experts are stacked. llama.cpp adds alpha / r · B·A with one alpha for
the whole file and r read from each lora_b: other scales go into B.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from aprnb.adapters import AdapterFiles, Change, LowRank, Normalised, Replaced, changes_of, read_adapter
from aprnb.adapters.base_content import expected_base, is_of_another_format, require_base
from aprnb.adapters.changes import Both, why_zero
from aprnb.adapters.fit import ReadWeight
from aprnb.adapters.other_files import other_files
from aprnb.adapters.targets import target_notes
from aprnb.architecture import ContractReport, ExpectedTensor, expected_tensors
from aprnb.architecture.weights import read_weight
from aprnb.conversion.gguf.tensors import permute
from aprnb.conversion.plan import Prepared, TensorSize, Written
from aprnb.conversion.tensors import checked
from aprnb.errors import AprnbError, OutputError, UsageProblem
from aprnb.formats import Checkpoint
from aprnb.formats.codecs import encode
from aprnb.formats.codecs.arrays import Floats
from aprnb.formats.contents import Progress
from aprnb.formats.dtypes import BY_NAME, DType
from aprnb.formats.gguf.values import GgufValue
from aprnb.formats.gguf.writer import GgufTensor, write_gguf_file
from aprnb.printable import shown_name, visible

DTYPES: Mapping[str, tuple[str, int]] = {"f32": ("F32", 0), "f16": ("F16", 1), "bf16": ("BF16", 32)}
"""The value of `--dtype` → the type of the matrices, and llama.cpp's number of such a file."""
_MERGE = "merge it instead: `aprnb merge BASE ADAPTER --output X.apr`, then `aprnb convert X.apr X.gguf`"
_MOST_BYTES, _MOST_BYTES_PER_PARAMETER = 16 << 20, 8


@dataclass(frozen=True)
class _Pair:
    """A and B of one GGUF tensor: [r, in] and [out, r], of experts with a dimension in front."""

    a: Floats
    b: Floats


def prepare_adapter(
    folder: Path, other_base: bool, base: Checkpoint, report: ContractReport, dtype: str | None
) -> Prepared:
    """The adapter in `folder`, which was trained on `base` (unless `other_base`), for use with the base as GGUF.

    Raises what reading the adapter raises, UsageProblem for one that records another base, and OutputError for what
    such a file cannot express.
    """
    family = report.architecture.family
    if family.gguf.slug is None:
        raise OutputError(f"GGUF does not support {family.model_type}")
    name = dtype or "f32"
    if name not in DTYPES:
        raise UsageProblem(f"--dtype {name} for an adapter", expected=", ".join(DTYPES))
    adapter = read_adapter(folder, _MOST_BYTES + _MOST_BYTES_PER_PARAMETER * report.parameters)
    read = partial(read_weight, base, report)
    every = changes_of(adapter, report, read)
    changes = _low_rank(adapter, every, read)
    unknown = not other_base and is_of_another_format(folder, report)
    recorded = expected_base(folder, report, other_base or unknown)
    notes = [_unknown_base(adapter, base.path)] if unknown else []
    notes += (*target_notes(adapter, report, every), *other_files(folder, base.metadata))
    notes += [f"the adapter is zero: it changes nothing ({zero})"] if (zero := why_zero(every)) else []
    stored, _ = DTYPES[name]
    alpha = _alpha(adapter)
    pairs = _pairs(report, changes, alpha)
    tensors = [tensor for weight, pair in pairs.items() for tensor in _tensors(weight, pair, stored)]
    values = _header(family.gguf.slug, folder.name, name, alpha)

    def write(path: Path, force: bool, progress: Progress) -> Written:
        require_base(recorded, base)
        write_gguf_file(path, values, tensors, force=force, progress=progress)
        return Written(len(tensors))

    sizes = (TensorSize("others", "F32", stored, 4 * prod(one.shape), one.size_bytes) for one in tensors)
    return Prepared(tuple(sizes), tuple(notes), write)


def _header(slug: str, name: str, dtype: str, alpha: float) -> dict[str, GgufValue]:
    return {
        "general.architecture": GgufValue("string", slug),
        "general.type": GgufValue("string", "adapter"),
        "adapter.type": GgufValue("string", "lora"),
        "general.name": GgufValue("string", visible(name)),
        "general.file_type": GgufValue("uint32", DTYPES[dtype][1]),
        "adapter.lora.alpha": GgufValue("float32", alpha),
    }


def _unknown_base(adapter: AdapterFiles, base: Path) -> str:
    trained = adapter.config.values.get("base_model_name_or_path")
    named = f" ({shown_name(trained)})" if isinstance(trained, str) else ""
    return (
        f"{base.name} names its tensors otherwise than the base of the training{named}: whether the contents are equal "
        "is not known, only shapes are compared"
    )


def _low_rank(adapter: AdapterFiles, changes: Mapping[str, Change], read: ReadWeight) -> dict[str, LowRank]:
    """The changes, if each is a product of matrices alone.

    With matrices of an embedding PEFT also saves the embedding itself, which is then that of the base.
    """
    found = {}
    for name, change in changes.items():
        if isinstance(change, Replaced) and np.array_equal(change.values, read(name).reshape(-1)):
            continue
        if isinstance(change, Both) and isinstance(change.first, Replaced):
            unchanged = np.array_equal(change.first.values, read(name).reshape(-1))
            change = change.second if unchanged else change
        if not isinstance(change, LowRank):
            what = "use_dora, for" if isinstance(change, Normalised) else "new values of"
            raise OutputError(
                f"an adapter as GGUF cannot express {what} {name} ({adapter.folder})",
                expected="pairs of lora_A and lora_B",
                action=_MERGE,
            )
        found[name] = change
    return found


def _alpha(adapter: AdapterFiles) -> float:
    """The file's alpha: the config's, in float32. llama.cpp reads 0 as a scale of 1."""
    alpha = float(np.float32(adapter.config.alpha))
    return alpha if abs(alpha) > 1e-30 else 1.0


def _pairs(report: ContractReport, changes: Mapping[str, LowRank], alpha: float) -> dict[str, _Pair]:
    """GGUF name of the weight → its matrices; experts without a change have zeros."""
    groups: dict[str, list[ExpectedTensor]] = {}
    for tensor in expected_tensors(report.architecture).values():
        groups.setdefault(tensor.rule.gguf.format(layer=tensor.layer), []).append(tensor)
    found = {}
    for name, group in groups.items():
        pairs = {one.name: _pair(report, one, changes[one.name], alpha) for one in group if one.name in changes}
        if pairs and group[0].rule.per_expert:
            rank = max(pair.a.shape[0] for pair in pairs.values())
            filled = [_filled(pairs.get(one.name), one.shape, rank) for one in group]
            found[name] = _Pair(np.stack([pair.a for pair in filled]), np.stack([pair.b for pair in filled]))
        elif pairs:
            (found[name],) = pairs.values()
    return found


def _filled(pair: _Pair | None, shape: tuple[int, ...], rank: int) -> _Pair:
    """The pair with zeros up to `rank`; B of a smaller rank is scaled, since llama.cpp divides by the larger one."""
    a, b = np.zeros((rank, shape[1]), np.float32), np.zeros((shape[0], rank), np.float32)
    if pair is not None:
        own = pair.a.shape[0]
        a[:own], b[:, :own] = pair.a, pair.b * np.float32(rank / own)
    return _Pair(a, b)


def _pair(report: ContractReport, tensor: ExpectedTensor, change: LowRank, alpha: float) -> _Pair:
    rule, graph = tensor.rule, report.architecture.family.gguf
    if rule.role == "embedding" and rule.gguf != "token_embd.weight":
        raise OutputError(f"llama.cpp adds no LoRA to {tensor.name} ({rule.gguf})", action=_MERGE)
    turned = rule.role in ("conv1d", "embedding")
    a, b = (change.left.T, change.right.T) if turned else (change.right, change.left)
    b = b * np.float32(change.scale * change.rank / alpha)
    if graph.permutes_rows and rule.rotated_heads:
        b = permute(b, report.architecture[rule.rotated_heads])
    return _Pair(a.T if rule.role == "embedding" else a, b)


def _tensors(name: str, pair: _Pair, stored: str) -> Iterator[GgufTensor]:
    dtype = BY_NAME[stored]
    for ending, values in (("lora_a", pair.a), ("lora_b", pair.b)):
        yield GgufTensor(f"{name}.{ending}", dtype, values.shape, partial(_bytes, f"{name}.{ending}", values, dtype))


def _bytes(name: str, values: Floats, dtype: DType) -> Iterator[bytes]:
    (found,) = checked((np.ascontiguousarray(values).reshape(-1),), name, dtype, _unstorable)
    yield encode(found, dtype)


def _unstorable(name: str, dtype: DType, peak: float) -> AprnbError:
    action = "give --dtype f32" if dtype.name == "F16" else None
    return OutputError(f"{name} has values beyond the range of {dtype.name} (up to {peak:.4g})", action=action)
