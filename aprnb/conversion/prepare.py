"""From the arguments of a conversion to its plan and to what writes it; nothing is written here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from aprnb.adapters import is_adapter_folder
from aprnb.architecture import Architecture, ContractReport, check_contract, resolve
from aprnb.conversion.ollama import MODELFILE, require_free, require_possible, write_modelfile
from aprnb.conversion.plan import ConversionPlan, Kind, Prepared, Written, size_rows
from aprnb.conversion.target import require_apart, require_place, target_kind
from aprnb.errors import FileMissing, UsageProblem
from aprnb.formats import Checkpoint, open_checkpoint
from aprnb.formats.contents import Progress
from aprnb.formats.huggingface.unread_files import unread_files
from aprnb.formats.targets import require_name

Prepare = Callable[[Checkpoint, ContractReport, "str | None"], Prepared]
_SMALLER = {
    "apr": ("f16", "q8", "q4_k"), "gguf": ("f16", "q8", "q5_k_m", "q4_k_m"), "safetensors": ("f16",),
    "huggingface": ("f16",),
}  # fmt: skip
"""What is offered where it gives a smaller file, the largest first."""


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of `convert`, checked one by one; `dtype` is a choice of the option."""

    source: str | os.PathLike[str] | Checkpoint
    target: Path
    dtype: str | None
    base: str | os.PathLike[str] | None
    other_base: bool
    modelfile: bool
    config: str | os.PathLike[str] | Mapping[str, Any] | None
    overrides: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Ready:
    """A conversion that can begin: its plan, what writes it, warnings about the source, and what was assumed of it."""

    plan: ConversionPlan
    prepared: Prepared
    notes: tuple[str, ...]
    assumptions: tuple[str, ...]


@contextmanager
def planned(request: Request) -> Iterator[Ready]:
    """Everything up to the plan, of a target that may exist. The source is closed at the end unless given open."""
    require_name(request.target)
    with _opened(request) as (checkpoint, kind, adapter):
        yield _ready(request, checkpoint, kind, adapter)


@contextmanager
def startable(request: Request, force: bool) -> Iterator[Ready]:
    """`planned` for a target that can be written, which is found out before anything that takes time."""
    with _opened(request) as (checkpoint, kind, adapter):
        require_place(request.target, kind, force)
        if request.modelfile:
            require_free(request.target, force)
        yield _ready(request, checkpoint, kind, adapter)


@contextmanager
def _opened(request: Request) -> Iterator[tuple[Checkpoint, Kind, Path | None]]:
    """The checkpoint whose tensors are read, the target's kind, and the adapter's folder, if the source is one."""
    kind = target_kind(request.target)
    adapter = _adapter(request, kind)
    source = request.source if adapter is None or request.base is None else request.base
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    try:
        require_apart(request.target, checkpoint, *([adapter] if adapter else []))
        if request.modelfile:
            require_possible(request.target, adapter, checkpoint.path)
        yield checkpoint, kind, adapter
    finally:
        if not isinstance(source, Checkpoint):
            checkpoint.close()


def _ready(request: Request, checkpoint: Checkpoint, kind: Kind, adapter: Path | None) -> Ready:
    given = request.config is not None or request.overrides
    architecture = (
        resolve(checkpoint, config=request.config, overrides=request.overrides) if given else checkpoint.architecture
    )
    report = check_contract(checkpoint, architecture).raise_for_violations()
    prepare = _prepare(kind, adapter, request.other_base)
    prepared = prepare(checkpoint, report, request.dtype)
    prepared.require()
    others = {name: prepare(checkpoint, report, name) for name in (_SMALLER[kind] if adapter is None else ())}
    plan = ConversionPlan(
        adapter or checkpoint.path, request.target, kind, size_rows(prepared.sizes), _smaller(prepared, others),
        prepared.notes, request.target.with_name(MODELFILE) if request.modelfile else None,
    )  # fmt: skip
    if request.modelfile:
        prepared = _with_modelfile(prepared, checkpoint, architecture, adapter)
    left = unread_files(checkpoint.path) if checkpoint.format == "huggingface" else ()
    return Ready(
        plan,
        prepared,
        (*checkpoint.warnings, *architecture.warnings, *architecture.left_out, *left),
        architecture.assumptions,
    )


def _with_modelfile(
    prepared: Prepared, checkpoint: Checkpoint, architecture: Architecture, adapter: Path | None
) -> Prepared:
    """Also writes the Modelfile, after the model."""

    def write(path: Path, force: bool, progress: Progress) -> Written:
        written = prepared.write(path, force, progress)
        notes = write_modelfile(path, checkpoint, architecture, adapter, force)
        return Written(written.tensors, (*written.notes, *notes))

    return replace(prepared, write=write)


def _smaller(prepared: Prepared, others: Mapping[str, Prepared]) -> tuple[tuple[str, int], ...]:
    """Those of the other dtypes that give less, with the bytes of their tensors."""
    sizes = ((name, _planned_bytes(other)) for name, other in others.items())
    return tuple((name, size) for name, size in sizes if size < 0.9 * _planned_bytes(prepared))


def _planned_bytes(prepared: Prepared) -> int:
    return sum(size.written_bytes for size in prepared.sizes)


def _adapter(request: Request, kind: Kind) -> Path | None:
    """The adapter's folder where the source is one; raises UsageProblem without a base, or for a target but GGUF."""
    source, base = request.source, request.base
    if base is not None and not isinstance(source, Checkpoint) and not os.path.lexists(source):
        raise FileMissing(f"no adapter at {source}", expected="the folder of a PEFT adapter")
    if isinstance(source, Checkpoint) or not is_adapter_folder(Path(source)):
        if base is not None or request.other_base:
            given = "--other-base" if base is None else f"--base {base}"
            raise UsageProblem(f"{given}, and {source} is not an adapter", expected="the folder of a PEFT adapter")
        return None
    merge = "`aprnb merge BASE ADAPTER --output X.apr` makes a model of it"
    if base is None:
        raise UsageProblem(f"{source} is an adapter, not a model", expected="--base, its base", action=merge)
    if kind != "gguf":
        raise UsageProblem(
            f"an adapter cannot be converted to {kind}", expected="a target that ends in .gguf", action=merge
        )
    return Path(source)


def _prepare(kind: Kind, adapter: Path | None, other_base: bool) -> Prepare:
    """Imported here: some writers need packages that the others do without."""
    from aprnb.conversion import to_apr, to_huggingface
    from aprnb.conversion.gguf import adapter_to_gguf, to_gguf

    if adapter is not None:
        return partial(adapter_to_gguf.prepare_adapter, adapter, other_base)
    return {
        "apr": to_apr.prepare,
        "gguf": to_gguf.prepare,
        "safetensors": to_huggingface.prepare_file,
        "huggingface": to_huggingface.prepare_folder,
    }[kind]
