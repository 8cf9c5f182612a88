"""The names under which tensors of other formats are written to an `.apr`: the same as `apr import` writes."""

from __future__ import annotations

from aprnb.architecture.contract_report import ContractReport
from aprnb.architecture.families import Family
from aprnb.architecture.names import canonical_name, canonical_pattern, layer_of
from aprnb.formats import Checkpoint


def apr_names(checkpoint: Checkpoint, report: ContractReport) -> dict[str, tuple[str, ...]]:
    """The checkpoint's tensor name → its name in an `.apr`, or those of the parts that it is split into by columns.

    From a GGUF file only names change, never shapes or bytes: tensors that need no change take their Hugging Face
    names; where rows are permuted or 1 is added to norms, the names stay those of GGUF, by which readers know it.
    GPT-2's take Llama's names, with q, k and v split. An `.apr` keeps its names.
    """
    family = report.architecture.family
    if checkpoint.format == "gguf" and not report.readings:
        return {name: (canonical_name(name, family),) for name in checkpoint.tensors}
    if checkpoint.format not in ("huggingface", "safetensors"):
        return {name: (name,) for name in checkpoint.tensors}
    return {name: written_names(name, family) for name in checkpoint.tensors}


def written_names(name: str, family: Family) -> tuple[str, ...]:
    """Llama's names for a tensor of a family whose own names do not start with `model.`; other names are unchanged.

    Several names are those of its parts, side by side along the last axis.
    """
    pattern = canonical_pattern(name, family)
    rule = next((rule for rule in family.tensors if rule.name == pattern), None)
    if rule is None or rule.name.startswith("model."):
        return (name,)
    written = rule.parts or tuple(other for other in rule.other if other.startswith("model."))
    return tuple(part.format(layer=layer_of(name)) for part in written) or (name,)
