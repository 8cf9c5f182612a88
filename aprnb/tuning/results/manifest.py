"""`manifest.json`: inputs, settings read back from the module, and outputs, with hashes."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from aprnb.formats.atomic import write_json
from aprnb.formats.source import file_sha256
from aprnb.tuning.results.places import Places

if TYPE_CHECKING:
    from aprnb.formats import Checkpoint
    from aprnb.tuning.preparation import Preparation

MANIFEST = "manifest.json"
_PACKAGES = ("aprnb", "torch", "transformers", "peft", "bitsandbytes", "tokenizers", "numpy")


def installed_version(package: str) -> str | None:
    """The version that the package's metadata state; None for a checkout that is on the path and not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _base_sha256(checkpoint: Checkpoint) -> str:
    """The file's SHA-256; for a base in several files, that of their concatenated digests."""
    digests = [file_sha256(file.source.path) for file in checkpoint.contents.files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def write_manifest(preparation: Preparation, where: Places, used: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Writes `manifest.json`: inputs, settings read back from the module, and outputs, with hashes."""
    template = preparation.choice.checkpoint_tokenizer.chat_template or ""
    files = [path for path in (where.output, *sorted(where.adapter.glob("*"))) if path.is_file()]
    document = {
        "base": {"path": str(preparation.checkpoint.path), "sha256": _base_sha256(preparation.checkpoint)},
        "data": {"fingerprint": preparation.identity.data},
        "chat_template": {
            "source": preparation.choice.template_source,
            "sha256": hashlib.sha256(template.encode()).hexdigest(),
        },
        "tokenizer": {"source": preparation.choice.source},
        "used": dict(used),
        "assumptions": list(preparation.plan.assumptions),
        "result": dict(result),
        "files": {path.relative_to(where.output.parent).as_posix(): file_sha256(path) for path in files},
        "versions": {"python": platform.python_version(), **{name: installed_version(name) for name in _PACKAGES}},
    }
    write_json(where.run / MANIFEST, document, force=True)
