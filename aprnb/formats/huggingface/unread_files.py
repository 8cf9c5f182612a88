"""The files of a Hugging Face folder that are not read."""

from __future__ import annotations

from pathlib import Path

from aprnb.formats.huggingface.folder_files import KEPT_FILES, TEMPLATE_FOLDERS
from aprnb.formats.huggingface.model_card import FILE as CARD_FILE
from aprnb.formats.huggingface.slow_tokenizer import MERGES, PIECES, VOCAB
from aprnb.printable import first_names, visible

_READ = {*KEPT_FILES.values(), *TEMPLATE_FOLDERS, "config.json", "chat_template.jinja", "chat_template.json", CARD_FILE}
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".gguf", ".apr")


def unread_files(folder: Path) -> tuple[str, ...]:
    """A note that names the files of a folder that are not read, so that no conversion keeps them."""
    try:
        names = sorted(each.name for each in folder.iterdir())
    except OSError:
        return ()
    slow = {VOCAB, MERGES} if VOCAB in names and MERGES in names else {PIECES}
    read = _READ | ({"tokenizer.json"} if "tokenizer.json" in names else slow)
    left = [name for name in names if name not in read and not name.startswith(".") and not name.endswith(_WEIGHTS)]
    return (f"files of the folder that are not kept: {first_names([*map(visible, left)], 12)}",) if left else ()
