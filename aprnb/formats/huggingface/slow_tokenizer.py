"""A folder's slow tokenizer, `vocab.json` with `merges.txt` or `tokenizer.model`, as the tokenizer.json that equals it.

The steps around the merges follow from the class that tokenizer_config.json or the model's type names, as in
`transformers`. Classes and kinds that are not listed here raise CheckpointError.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError
from aprnb.formats.huggingface.folder_files import ADDED_TOKENS, TOKENIZER_CONFIG
from aprnb.formats.huggingface.sentencepiece import CONTROL, USER_DEFINED, SentencePieceModel, read_sentencepiece
from aprnb.formats.json_files import MAX_TOKENIZER_VALUES, read_object, read_text
from aprnb.formats.sidecar_files import find_sidecar
from aprnb.formats.source import is_file

VOCAB, MERGES, PIECES = "vocab.json", "merges.txt", "tokenizer.model"
_UNREAD = ("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json", "tiktoken.model", VOCAB, MERGES)
_CLASSES = {
    "qwen2": "Qwen2", "qwen3": "Qwen2", "qwen3_moe": "Qwen2", "gpt2": "GPT2", "starcoder2": "GPT2", "granite": "GPT2",
}  # fmt: skip
"""Model type → the class of its tokenizer, where tokenizer_config.json names none."""
_WORDS = {
    "Qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "GPT2": None,
}
"""Class → the expression that splits text into words; None for the one that is built into byte-level splitting."""
_TOKEN_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

Ids = dict[str, int]


def read_slow_tokenizer(folder: Path, config: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any] | None:
    """The tokenizer.json for a folder without one; None where it has no tokenizer at all.

    `kept` are the folder's other files, as `.apr` metadata. Raises CheckpointError for a tokenizer that is not
    supported, with the name of its file.
    """
    settings: Mapping[str, Any] = kept.get(TOKENIZER_CONFIG, {})
    vocab, merges, pieces = (find_sidecar(folder, name) for name in (VOCAB, MERGES, PIECES))
    if vocab is not None and merges is not None:
        ids = _checked_ids(read_object(vocab, most=MAX_TOKENIZER_VALUES), vocab)
        document = _byte_level(_class(settings, config, VOCAB), ids, _merges(merges), settings)
    elif pieces is not None:
        model = read_sentencepiece(pieces)
        ids = {piece.text: number for number, piece in enumerate(model.pieces)}
        ids = _renamed(ids, settings)
        settings = {**_class_defaults(model), **settings}
        document = _sentencepiece(model, ids, settings)
    else:
        unread = next((name for name in _UNREAD if is_file(folder / name)), None)
        if unread is None:
            return None
        raise CheckpointError(
            f"{unread} alone is not supported: the tokenizer is lost", expected=f"{VOCAB} with {MERGES}, or {PIECES}",
            action="save the tokenizer as tokenizer.json: `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(…)`",
        )  # fmt: skip
    document["added_tokens"] = _added_tokens(
        document.pop("added_tokens", []), ids, settings, kept.get(ADDED_TOKENS, {})
    )
    document["post_processor"] = _post_processor(document, settings)
    return document


def _class(settings: Mapping[str, Any], config: Mapping[str, Any], file: str) -> str:
    stated = settings.get("tokenizer_class") or config.get("tokenizer_class")
    name = stated.removesuffix("Fast").removesuffix("Tokenizer") if isinstance(stated, str) else None
    name = name or _CLASSES.get(str(config.get("model_type")))
    if name not in _WORDS:
        raise CheckpointError(
            f"{file} belongs to the class {str(stated)[:60]!r}, which is not supported: the tokenizer is lost",
            expected=", ".join(f"{name}Tokenizer" for name in _WORDS),
        )
    return name


def _checked_ids(parsed: Mapping[str, Any], where: object) -> Ids:
    for text, number in parsed.items():
        if type(number) is not int or not 0 <= number < 1 << 20:
            raise CheckpointError(f"{where} gives token {text[:60]!r} the id {str(number)[:40]}")
    return dict(parsed)


def _merges(path: Path) -> list[str]:
    """The merges of a file with one in each line, after a comment with the version."""
    lines = read_text(path).split("\n")
    found = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
    wrong = next((line for line in found if line.count(" ") != 1), None)
    if wrong is not None:
        raise CheckpointError(f"{path} holds the merge {wrong[:60]!r}", expected="two parts with one space between")
    return found


def _byte_level(name: str, ids: Ids, merges: list[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    words = _WORDS[name]
    front = bool(settings.get("add_prefix_space"))
    split = {"type": "ByteLevel", "add_prefix_space": front, "trim_offsets": True, "use_regex": words is None}
    if words is not None:
        by_words = {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": False}
        split = {"type": "Sequence", "pretokenizers": [by_words, split]}
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    normalizer = {"type": "NFC"} if name == "Qwen2" else None
    return _document(_bpe(ids, merges), normalizer, split, decoder)


def _class_defaults(model: SentencePieceModel) -> dict[str, Any]:
    """What Llama's and Gemma's tokenizer classes do where tokenizer_config.json does not say."""
    controls = [piece.text for piece in model.pieces if piece.kind == CONTROL]
    bos = next((text for text in ("<s>", "<bos>") if text in controls), None)
    return {"add_bos_token": True, "bos_token": bos}


def _sentencepiece(model: SentencePieceModel, ids: Ids, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Text is split as SentencePiece itself splits it; see `build_tokenizer_from_spm_proto` of `transformers`."""
    steps: list[dict[str, Any]] = []
    legacy = settings.get("legacy") is not False
    front = model.add_space and settings.get("add_prefix_space") is not False
    if front and legacy:
        steps.append({"type": "Prepend", "prepend": "▁"})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    first = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]  # fmt: skip
    if front:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    options = {"unk_token": model.unknown, "fuse_unk": True, "byte_fallback": model.byte_fallback}
    texts = {number: text for text, number in ids.items()}
    document = _document(
        {**_bpe(ids, [" ".join(merge) for merge in model.merges()]), **options},
        {"type": "Sequence", "normalizers": steps},
        first if front and not legacy else None,
        {"type": "Sequence", "decoders": decoders},
    )
    document["added_tokens"] = [
        _token(number, texts[number], special=piece.kind != USER_DEFINED)
        for number, piece in enumerate(model.pieces)
        if piece.kind in (CONTROL, USER_DEFINED) and number in texts
    ]
    return document


def _bpe(ids: Ids, merges: list[str]) -> dict[str, Any]:
    return {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": ids,
        "merges": merges,
    }  # fmt: skip


def _document(model: Any, normalizer: Any, pre_tokenizer: Any, decoder: Any) -> dict[str, Any]:
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "decoder": decoder, "model": model,
    }  # fmt: skip


def _renamed(ids: Ids, settings: Mapping[str, Any]) -> Ids:
    """The pieces under the texts that tokenizer_config.json gives their ids: placeholders are named there."""
    names = {number: token["content"] for number, token in _decoder(settings)}
    kept = {text for text, number in ids.items() if number not in names}
    return {
        names[number] if number in names and names[number] not in kept else text: number
        for text, number in ids.items()
    }  # fmt: skip


def _decoder(settings: Mapping[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """Id and flags of each token that `added_tokens_decoder` lists."""
    stated = settings.get("added_tokens_decoder")
    pairs = stated.items() if isinstance(stated, Mapping) else ()
    found = [(number, token) for number, token in pairs if isinstance(token, Mapping)]
    return sorted(
        (int(number), dict(token))
        for number, token in found
        if number.isascii() and number.isdigit() and len(number) < 8 and isinstance(token.get("content"), str)
    )


def _token(number: int, text: str, **flags: bool) -> dict[str, Any]:
    return {"id": number, "content": text, **_TOKEN_FLAGS, **flags}


def _added_tokens(
    of_model: list[dict[str, Any]], ids: Ids, settings: Mapping[str, Any], file: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The tokens outside the merges: of the model's file, of tokenizer_config.json or added_tokens.json, and the named
    ones."""
    found = {token["content"]: token for token in of_model}
    special = _named_texts(settings)
    for number, token in _decoder(settings):
        flags = {flag: bool(token.get(flag, False)) for flag in _TOKEN_FLAGS}
        found[token["content"]] = _token(number, token["content"], **flags)
    if not _decoder(settings):
        for text, number in sorted(_checked_ids(file, "added_tokens.json").items(), key=lambda pair: pair[1]):
            found[text] = _token(number, text, special=text in special, normalized=text not in special)
    highest = max([*ids.values(), *(token["id"] for token in found.values())], default=-1)
    for text in special:
        if text not in found:
            number = ids.get(text, highest + 1)
            highest = max(highest, number)
            found[text] = _token(number, text)
    return sorted(found.values(), key=lambda token: int(token["id"]))


def _named_texts(settings: Mapping[str, Any]) -> list[str]:
    """bos, eos and the like, then the extra special tokens."""
    extra = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or ()
    listed = [settings.get(name) for name in _NAMES]
    listed += list(extra.values()) if isinstance(extra, Mapping) else list(extra) if isinstance(extra, list) else []
    texts = [each.get("content") if isinstance(each, Mapping) else each for each in listed]
    return list(dict.fromkeys(text for text in texts if isinstance(text, str) and text))


def _post_processor(document: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Adds bos and eos to a text where the settings say so."""
    ids = {token["content"]: token["id"] for token in document["added_tokens"]}
    named = {}
    for name in ("bos", "eos"):
        stated = settings.get(f"{name}_token")
        text = stated.get("content") if isinstance(stated, Mapping) else stated
        if settings.get(f"add_{name}_token") is True and text in ids:
            named[name] = text
    if not named:
        return None

    def pieces(sequence: str, kind: int) -> list[dict[str, Any]]:
        bos, eos = (
            [{"SpecialToken": {"id": named[name], "type_id": kind}}] if name in named else [] for name in ("bos", "eos")
        )
        return [*bos, {"Sequence": {"id": sequence, "type_id": kind}}, *eos]

    return {
        "type": "TemplateProcessing",
        "single": pieces("A", 0),
        "pair": [*pieces("A", 0), *pieces("B", 1)],
        "special_tokens": {text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in named.values()},
    }
