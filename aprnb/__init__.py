"""aprnb opens, checks, converts and fine-tunes `.apr` model checkpoints in Jupyter.

The names below are imported on first use, so that `import aprnb` is fast and inspection works without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "open": "aprnb.formats",
    "Checkpoint": "aprnb.formats",
    "Architecture": "aprnb.architecture",
    "ContractReport": "aprnb.architecture",
    "check": "aprnb.architecture",
    "inspect": "aprnb.inspection",
    "load": "aprnb.model",
    "generate": "aprnb.model",
    "plan": "aprnb.tuning.plan_run",
    "preview": "aprnb.tuning.preview",
    "finetune": "aprnb.tuning.finetune",
    "open_run": "aprnb.tuning.results.run",
    "open_runs": "aprnb.tuning.runs",
    "merge": "aprnb.tuning.results.merge",
    "convert": "aprnb.conversion.convert",
    "plan_conversion": "aprnb.conversion.convert",
    "AprnbError": "aprnb.errors",
}
__all__ = [*_HOMES, "load_ipython_extension", "unload_ipython_extension"]

if TYPE_CHECKING:
    from aprnb.architecture import Architecture, ContractReport, check
    from aprnb.conversion.convert import convert, plan_conversion
    from aprnb.errors import AprnbError
    from aprnb.formats import Checkpoint, open
    from aprnb.inspection import inspect
    from aprnb.model import generate, load
    from aprnb.tuning.finetune import finetune
    from aprnb.tuning.plan_run import plan
    from aprnb.tuning.preview import preview
    from aprnb.tuning.results.merge import merge
    from aprnb.tuning.results.run import open_run
    from aprnb.tuning.runs import open_runs


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aprnb' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext aprnb`: registers the magics and their completion."""
    from aprnb.notebook import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext aprnb`: removes what loading added."""
    from aprnb.notebook import unload

    unload(shell)
