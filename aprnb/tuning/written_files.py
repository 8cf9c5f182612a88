"""What a run writes: its files with their sizes in bytes (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

from aprnb.architecture import ContractReport, expected_tensors
from aprnb.errors import UsageProblem
from aprnb.formats.contents import TensorEntry
from aprnb.formats.dtypes import BY_NAME, DType
from aprnb.tuning.planning.memory import OPTIMIZER_BYTES
from aprnb.tuning.planning.recipe import RunOptions, SettledRecipe


def output_path(output: str | None, model: Path) -> Path:
    """The model to write; `MODEL-finetuned.apr` in the current folder unless given. Raises UsageProblem."""
    path = Path(output) if output else Path(f"{model.stem}-finetuned.apr")
    if path.suffix != ".apr":
        raise UsageProblem(f"--output {path}", expected="a name that ends in .apr")
    return path


def written_dtype(stored: DType, dimensions: int, output_dtype: str | None) -> DType:
    """The wanted dtype for matrices, else F32; unless one is given the stored float type, F16 for a quantised one."""
    if output_dtype:
        return BY_NAME[output_dtype] if dimensions == 2 else BY_NAME["F32"]
    return stored if stored.name in ("F32", "F16", "BF16") else BY_NAME["F16"]


def planned_files(
    report: ContractReport,
    tensors: Mapping[str, TensorEntry],
    recipe: SettledRecipe,
    options: RunOptions,
    trainable: int,
) -> dict[str, int]:
    """Path → bytes of what a finished run leaves: the model first, the adapter, the run's folder with its states."""
    output = output_path(options.output, report.path)
    found = {} if options.adapter_only else {str(output): model_bytes(report, tensors, options.output_dtype)}
    if recipe.trains_adapter:
        found[str(output.with_suffix(".adapter"))] = 4 * trainable
    return {**found, str(output.with_suffix(".run")): (options.keep + 1) * state_bytes(trainable, recipe.optimizer)}


def model_bytes(report: ContractReport, tensors: Mapping[str, TensorEntry], output_dtype: str | None) -> int:
    """The weights of the written model; metadata and tokenizer come to some MB more."""
    shapes = {name: tensor.shape for name, tensor in expected_tensors(report.architecture).items()}
    dtypes = {name: tensors[file_name].dtype for name, file_name in report.weights.items()}
    return sum(
        prod(shape) * written_dtype(dtypes[name], len(shape), output_dtype).block_bytes
        for name, shape in shapes.items()
    )


def state_bytes(trainable: int, optimizer: str) -> int:
    """A saved state: the trained weights in float32, and the optimizer."""
    return round((4 + OPTIMIZER_BYTES[optimizer]) * trainable)
