"""Merging: base + adapter, or fully trained weights, into a complete `.apr` that stands on its own.

Tensors stream from the base to the output one at a time. W' = W + (alpha / rank) · B·A (Hu et al. 2021, section 4.1).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aprnb.architecture import (
    ContractReport,
    ExpectedTensor,
    check,
    check_contract,
    expected_tensors,
    resolve,
)
from aprnb.architecture.apr_names import written_names
from aprnb.architecture.weights import read_weight
from aprnb.errors import GateError, OutputError, UsageProblem
from aprnb.formats import Checkpoint, TensorSource, open, write_apr
from aprnb.formats.atomic import staged
from aprnb.formats.codecs import encode
from aprnb.formats.contents import HEAD_NAME
from aprnb.formats.dtypes import BY_NAME, LARGEST, DType
from aprnb.model.experts import from_module
from aprnb.tokenizer.choose import choose_tokenizer
from aprnb.tuning.results.adapter_files import Delta
from aprnb.tuning.results.base_content import require_same_model, require_same_tensors
from aprnb.tuning.results.merge_check import MergeCheck
from aprnb.tuning.results.merged_metadata import merged_metadata

Verify = Callable[[Path], MergeCheck | None]
_MOST_BYTES, _MOST_BYTES_PER_PARAMETER = 16 << 20, 8
"""Of an adapter's file: a pair of float32 matrices of the largest useful rank is twice as large as the weight."""
_OTHER_BASE = "the adapter was trained on another base"
_MERGE_ANYWAY = "merge it into the base that it was trained on, or add --other-base"


@dataclass(frozen=True)
class Merged:
    """The written file and how many of its tensors differ from the base's."""

    path: Path
    tensors: int
    changed: int
    check: MergeCheck | None = None


def merge(
    base: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    output_dtype: str | None = None,
    force: bool = False,
    config: str | Path | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    chat_template: str | None = None,
    other_base: bool = False,
    verify: Verify | None = None,
) -> Merged:
    """Writes base + PEFT adapter as one `.apr`; float bases keep their dtype, quantised ones become F16.

    The output is re-opened, passes the contract and `verify` before it takes its name. An adapter that records its base
    merges only into a base with the same architecture and the same bytes, unless `other_base`. Raises UsageProblem for
    an adapter that does not fit the base, GateError where the merge changed nothing, OutputExists unless `force`.
    """
    with open(base) as checkpoint:
        report = check_contract(
            checkpoint, resolve(checkpoint, config=config, overrides=overrides)
        ).raise_for_violations()
        delta = Delta(Path(adapter), _MOST_BYTES + _MOST_BYTES_PER_PARAMETER * report.parameters)
        delta.fit(report)
        _require_apart(Path(output), Path(base), Path(adapter))
        recorded = None if other_base else delta.base
        if recorded is not None:
            require_same_model(recorded, report, _OTHER_BASE, _MERGE_ANYWAY)
        choice = choose_tokenizer(checkpoint, report.architecture, chat_template)
        checkpoint.keep_hashes()

        def tuned(name: str) -> np.ndarray:
            with np.errstate(over="ignore", invalid="ignore"):  # refused when it is encoded
                return read_weight(checkpoint, report, name) + delta(name)

        def verified(path: Path) -> MergeCheck | None:
            if recorded is not None:
                present = checkpoint.content_hashes(recorded.tensors)
                require_same_tensors(recorded, present, checkpoint.path, _OTHER_BASE, _MERGE_ANYWAY)
            return verify(path) if verify else None

        source = _Merging(checkpoint, report, delta.names, tuned)
        return source.write(Path(output), choice.tokenizer, output_dtype, force, verified)


def _require_apart(output: Path, base: Path, adapter: Path) -> None:
    """The output is neither the base nor a file in the adapter's folder, which are read."""
    target = output.absolute().parent.resolve() / output.name
    for read in (base.resolve(), adapter.resolve()):
        if target == read or read in target.parents:
            raise UsageProblem(f"{output} would be written over {read}, which is read", action="choose another name")


def write_trained(
    checkpoint: Checkpoint,
    report: ContractReport,
    weights: Mapping[str, Any],
    tokenizer: Any,
    output: Path,
    output_dtype: str | None,
    force: bool,
    verify: Verify,
) -> Merged:
    """Writes a fully trained module's `weights` (name → torch tensor) with everything else from the base."""
    names = frozenset(report.weights)
    source = _Merging(checkpoint, report, names, lambda name: from_module(weights, name).detach().float().cpu().numpy())
    return source.write(output, tokenizer, output_dtype, force, verify)


class _Merging:
    """One base, the names that change, and how a changed weight is computed."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        report: ContractReport,
        changing: frozenset[str],
        compute: Callable[[str], np.ndarray],
    ) -> None:
        self.checkpoint, self.report, self.changing, self.compute = checkpoint, report, changing, compute
        self.changed: set[str] = set()

    def write(self, output: Path, tokenizer: Any, output_dtype: str | None, force: bool, verify: Verify) -> Merged:
        """Writes beside `output`, checks what was written, and only then lets it take its name."""
        architecture = self.report.architecture
        tensors = expected_tensors(architecture).values()
        sources = [source for tensor in tensors for source in self._sources(tensor, output_dtype)]
        if architecture.tie_word_embeddings:
            embedding = sources[0]  # every family's table begins with it
            sources.append(TensorSource(HEAD_NAME, embedding.dtype, embedding.shape, embedding.load))
        elements = sum(int(np.prod(source.shape)) for source in sources)
        metadata = merged_metadata(self.checkpoint.metadata, architecture, tokenizer, elements)
        with staged(output, force) as beside:
            write_apr(beside, metadata, sources, force=True)
            if not self.changed:
                raise GateError(
                    "the merge changed no tensor: the adapter's part is smaller than the dtype can hold",
                    action="train longer, or give --output-dtype F32",
                )
            check(beside).raise_for_violations()
            found = verify(beside)
        return Merged(output, len(sources), len(self.changed), found)

    def _sources(self, tensor: ExpectedTensor, output_dtype: str | None) -> list[TensorSource]:
        """The tensor under the name that readers of the format know, or the parts that they know."""
        entry = self.checkpoint.tensors[self.report.weights[tensor.name]]
        dtype = _output_dtype(entry.dtype, tensor, output_dtype)
        names = written_names(tensor.name, self.report.architecture.family)
        *rows, columns = tensor.shape
        width = columns // len(names)

        def part(number: int) -> bytes:
            data = self._bytes(tensor.name, entry.dtype, dtype)
            if len(names) == 1:
                return data
            elements = np.frombuffer(data, f"V{dtype.block_bytes}").reshape(tensor.shape)
            return elements[..., number * width : (number + 1) * width].tobytes()

        return [
            TensorSource(name, dtype, (*rows, width), lambda number=number: part(number))  # type: ignore[misc]
            for number, name in enumerate(names)
        ]

    def _bytes(self, name: str, stored: DType, dtype: DType) -> bytes:
        untouched = stored == dtype and name not in self.report.readings
        if name not in self.changing:
            file_name = self.report.weights[name]
            return self.checkpoint.raw(file_name) if untouched else self._encoded(name, self._base(name), dtype)
        data = self._encoded(name, self.compute(name), dtype)
        if data != self._encoded(name, self._base(name), dtype):
            self.changed.add(name)
        return data

    def _base(self, name: str) -> np.ndarray:
        return read_weight(self.checkpoint, self.report, name)

    def _encoded(self, name: str, values: np.ndarray, dtype: DType) -> bytes:
        peak = float(max(values.max(initial=0), -values.min(initial=0)))  # without a copy; NaN comes through
        if not peak < np.inf:
            raise OutputError(f"{name} would hold NaN or infinity", action="the adapter or the base is damaged")
        if peak > LARGEST.get(dtype.name, np.inf):
            wider = "BF16 or F32" if dtype.name == "F16" else "F32"
            raise OutputError(f"{name} holds values beyond {dtype.name}", action=f"give --output-dtype {wider}")
        return encode(values, dtype)


def _output_dtype(stored: DType, tensor: ExpectedTensor, wanted: str | None) -> DType:
    """What was asked for, for matrices; else the stored float type, F16 in place of block quantisation."""
    if wanted:
        return BY_NAME[wanted] if len(tensor.shape) == 2 else BY_NAME["F32"]
    return stored if stored.is_float and stored.name != "F64" else BY_NAME["F16"]
