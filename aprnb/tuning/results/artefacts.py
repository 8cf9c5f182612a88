"""The paths and contents of a run's files; each is written to a temporary file and renamed."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aprnb.errors import FileMissing, OutputError, OutputExists, UsageProblem
from aprnb.formats.atomic import remove_folder, write_json, write_text
from aprnb.formats.source import open_regular
from aprnb.formats.targets import require_name, require_replaceable, require_writable
from aprnb.tuning.results.owned_files import listed_files, own_adapter_files
from aprnb.tuning.training import state_document

if TYPE_CHECKING:
    from aprnb.formats import Checkpoint
    from aprnb.tuning.preparation import Preparation
    from aprnb.tuning.results.base_content import BaseContent

_HASH_CHUNK_BYTES = 4 << 20
_PACKAGES = ("aprnb", "torch", "transformers", "peft", "bitsandbytes", "tokenizers", "numpy")


@dataclass(frozen=True)
class Places:
    """`out.apr`, `out.adapter/` and `out.run/`, side by side."""

    output: Path
    adapter: Path
    run: Path

    @property
    def state(self) -> Path:
        """The folder of resumable states."""
        return self.run / "state"

    @property
    def metrics(self) -> Path:
        """The rows of steps and evaluations, JSON Lines."""
        return self.run / "metrics.jsonl"


RUN_LIST = "files.json"
_HALF_WRITTEN = ".aprnb-????????.part"
_STATES = (*(f"step-{'[0-9]' * digits}" for digits in range(6, 10)), f"{_HALF_WRITTEN}/new", f"{_HALF_WRITTEN}/former")
RUN_FILES = (
    RUN_LIST, "recipe.json", "plan.json", "base.json", "metrics.jsonl", "manifest.json", _HALF_WRITTEN,
    *(f"state/{folder}/{name}" for folder in _STATES for name in state_document.FILES),
)  # fmt: skip
"""Everything that a run writes into its folder, and lists there when it begins. `.aprnb-*.part` is an incomplete file
of a killed process."""


def places(output: str | None, model: Path) -> Places:
    """The paths next to `output`, which is `MODEL-finetuned.apr` in the current folder unless given."""
    path = Path(output) if output else Path(f"{model.stem}-finetuned.apr")
    if path.suffix != ".apr":
        raise UsageProblem(f"--output {path}", expected="a name that ends in .apr")
    return Places(path, path.with_suffix(".adapter"), path.with_suffix(".run"))


def require_free(where: Places, *, writes_model: bool, writes_adapter: bool, force: bool, resume: bool) -> None:
    """Raises where an output exists and may not be replaced, or a run to resume does not exist; call before work."""
    for path in (where.output, where.run):
        require_name(path)
    if writes_model:
        if resume and where.output.exists() and not force:
            action = "add --force to overwrite it; with --resume the saved state of the run is kept"
            raise OutputExists(f"{where.output} exists, from an earlier run", action=action)
        require_writable(where.output, force)
    if writes_adapter:
        require_replaceable(where.adapter, force or resume, own_adapter_files(where.adapter))
    if where.run.is_symlink():
        raise OutputExists(f"{where.run} is a link and is not replaced", action="choose another --output")
    if resume:
        if not where.run.is_dir():
            raise FileMissing(f"no run to resume at {where.run}", action="start the run without --resume")
    elif where.run.exists() and not force:
        raise OutputExists(f"{where.run} exists", action="continue it with --resume, or replace it with --force")
    else:
        require_replaceable(where.run, force, own_run_files(where.run))


def own_run_files(folder: Path) -> tuple[str, ...]:
    """Paths of the files in a run's folder that a run wrote; none where its list is missing."""
    return listed_files(folder, RUN_LIST, RUN_FILES)


def begin(where: Places, preparation: Preparation, content: BaseContent, *, fresh: bool) -> None:
    """Writes list of files, recipe, plan and base into the run's folder; a fresh run first removes an earlier one.

    Raises OutputExists for a folder that was made since `require_free`, unless `force`.
    """
    if fresh:
        remove_folder(where.run, own_run_files(where.run), preparation.options.force)
    try:
        where.run.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{where.run} could not be created: {error.strerror}") from error
    plan = preparation.plan.to_json()
    write_json(where.run / RUN_LIST, {"files": list(RUN_FILES)}, force=True)
    write_json(where.run / "recipe.json", plan["recipe"], force=True)
    write_json(where.run / "plan.json", plan, force=True)
    write_json(where.run / "base.json", content.to_json(), force=True)


def write_metrics(where: Places, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes the whole of `metrics.jsonl`, so that a reader never sees half a line."""
    write_text(where.metrics, "".join(json.dumps(row) + "\n" for row in rows), force=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a regular file, in hexadecimal."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


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
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }
    write_json(where.run / "manifest.json", document, force=True)
