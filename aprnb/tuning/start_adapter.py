"""An adapter as the start of a run: what it settles of the recipe (no torch)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aprnb.adapters import read_adapter
from aprnb.adapters.config import PATTERNS
from aprnb.adapters.files import WEIGHTS_NAME, AdapterFiles, adapter_file
from aprnb.adapters.pairs import pairs_of
from aprnb.errors import UsageProblem
from aprnb.formats.source import file_sha256
from aprnb.tuning.planning.recipe import OPTIONS, Recipe


def recipe_of_adapter(recipe: Recipe, folder: Path) -> tuple[Recipe, str]:
    """`recipe` with the rank, alpha and target modules of the adapter in `folder`, and the SHA-256 of its weights.

    Raises what reading the adapter raises, and UsageProblem for a variant of LoRA, or an option that contradicts it.
    """
    adapter = read_adapter(folder)
    require_plain(adapter)
    if adapter.config.is_set("use_rslora"):
        raise adapter.misfit("has use_rslora", "a plain LoRA")
    names = sorted({module.rpartition(".")[2] for module, *_ in pairs_of(adapter)})
    found = {"rank": adapter.config.rank, "alpha": adapter.config.alpha, "target_modules": tuple(names)}
    for name, value in found.items():
        given = getattr(recipe, name)
        if given is not None and given != value:
            shown = ",".join(value) if isinstance(value, tuple) else f"{value:g}"
            raise UsageProblem(
                f"{OPTIONS[name].flag} {given} with --adapter, which has {shown}", expected="one of them"
            )
    if recipe.method == "full":
        raise UsageProblem("--adapter with --method full", expected="lora or qlora")
    return replace(recipe, **found), file_sha256(adapter_file(folder, WEIGHTS_NAME))  # type: ignore[arg-type]


def require_plain(adapter: AdapterFiles) -> None:
    """Raises UsageProblem for an adapter that is more than pairs of matrices A and B of one rank and alpha."""
    variants = [*(key for key in PATTERNS if adapter.config.values.get(key)), *(key.part for key in adapter.tensors)]
    variant = next((each for each in variants if each not in ("A", "B")), None)
    if variant:
        raise adapter.misfit(f"has {variant}", "a plain LoRA")
