"""Which layers an adapter's config targets, as PEFT matches them, against those that its file contains."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from aprnb.adapters.config import AdapterConfig
from aprnb.adapters.files import AdapterFiles
from aprnb.adapters.patterns import simple_expression
from aprnb.architecture import ContractReport, ExpectedTensor, expected_tensors
from aprnb.architecture.experts import router_name, stacked_name
from aprnb.printable import shown_name

_ROLES = ("linear", "conv1d", "head", "router", "embedding", "expert")
_ALL_LINEAR = ("linear", "conv1d")
Matches = Callable[[str], bool]


def target_notes(adapter: AdapterFiles, report: ContractReport, changed: Collection[str]) -> tuple[str, ...]:
    """Warnings about targeted layers that the file lacks, and about layers in it that are not targeted.

    `changed` are the weights that the adapter changes. PEFT says nothing about either.
    """
    expected = expected_tensors(report.architecture)
    targeted = targeted_weights(adapter.config, expected, _has_single_experts(adapter, expected))
    if targeted is None:
        return ()
    notes = []
    modules = set(targeted.values())
    missing = list(dict.fromkeys(module for name, module in targeted.items() if name not in changed))
    if missing:
        notes.append(
            f"the adapter lacks {len(missing):,} of the {len(modules):,} layers that its config targets, first "
            f"{shown_name(missing[0])}: their weights stay as in the base"
        )
    pairs = sorted({key.module for key in adapter.tensors if key.part in ("A", "embedding A")} - modules)
    others = [module for module in pairs if ".mlp.experts" not in module]  # of stacked experts, in target_parameters
    if others:
        notes.append(
            f"the adapter contains {len(others):,} layers that its config does not target, first "
            f"{shown_name(others[0])}: PEFT ignores them, here they are used"
        )
    return tuple(notes)


def targeted_weights(
    config: AdapterConfig, expected: Mapping[str, ExpectedTensor], single_experts: bool = False
) -> dict[str, str] | None:
    """The weights that PEFT gives matrices for this config, each with the module or parameter that holds it.

    None where the config does not say, or has an expression that is not simple. The rules are those of PEFT 0.21
    (`check_target_module_exists`). Experts count as stacked parameters, or each by itself if `single_experts`.
    """
    included = _matcher(config.values.get("target_modules"))
    excluded = _matcher(config.values.get("exclude_modules") or [])
    if included is None or excluded is None:
        return None
    parameters = _endings(config.parameters)
    found = {}
    for name, tensor in expected.items():
        parameter = stacked_name(name) or router_name(name)
        module = router_name(name).removesuffix(".weight")
        if parameters(parameter):
            found[name] = parameter.removesuffix(".weight")
        elif tensor.rule.role not in _ROLES or (tensor.rule.role == "expert" and not single_experts):
            continue
        elif _is_targeted(config, module, tensor, included, excluded):
            found[name] = module
    return found


def _is_targeted(
    config: AdapterConfig, module: str, tensor: ExpectedTensor, included: Matches, excluded: Matches
) -> bool:
    if config.values.get("target_modules") == "all-linear":
        return tensor.rule.role in _ALL_LINEAR and not excluded(module)
    if excluded(module) or not included(module) or _is_saved(module, config):
        return False
    layers = config.values.get("layers_to_transform")
    if layers is None or layers == [] or isinstance(config.values["target_modules"], str):
        return True
    return tensor.layer in (layers if isinstance(layers, list) else [layers])


def _is_saved(module: str, config: AdapterConfig) -> bool:
    """Whether the module is, or is in, one that `modules_to_save` names."""
    return any(f".{name}." in f".{module}." for name in config.saved_modules)


def _matcher(stated: Any) -> Matches | None:
    """What `target_modules` or `exclude_modules` matches: a list of endings, or an expression for whole names."""
    if isinstance(stated, str):
        expression = simple_expression(stated)
        return None if expression is None else lambda module: expression.fullmatch(module) is not None
    if isinstance(stated, list) and all(isinstance(name, str) for name in stated):
        return _endings(stated)
    return None


def _endings(names: Iterable[str]) -> Matches:
    """Whether a name, or what follows one of its dots, is one of `names`."""
    known = frozenset(names)

    def matches(module: str) -> bool:
        parts = module.split(".")
        return any(".".join(parts[start:]) in known for start in range(len(parts)))

    return matches


def _has_single_experts(adapter: AdapterFiles, expected: Mapping[str, ExpectedTensor]) -> bool:
    """Whether the file has a pair for the matrix of one expert, as PEFT with transformers 4 wrote them."""
    return any(
        tensor.rule.role == "expert" for key in adapter.tensors if (tensor := expected.get(f"{key.module}.weight"))
    )
