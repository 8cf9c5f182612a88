"""Under which name each tensor of a GGUF file goes into an `.apr`: as `apr import` has it."""

from __future__ import annotations

from aprnb.architecture.contract import ContractReport
from aprnb.architecture.names import canonical_name
from aprnb.formats import Checkpoint


def apr_names(checkpoint: Checkpoint, report: ContractReport) -> dict[str, str]:
    """The checkpoint's tensor name → its name in an `.apr`; only names change, never shapes or bytes.

    Tensors that are the model's as they lie take their Hugging Face names. Where rows are permuted or norms carry the
    added 1, GGUF's names stay, since they tell readers so.
    """
    if checkpoint.format != "gguf" or report.readings:
        return {name: name for name in checkpoint.tensors}
    return {name: canonical_name(name, report.architecture.family) for name in checkpoint.tensors}
