"""A small tokenizer for each family: trained on our texts, with the steps of the family's published tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from aprnb_tests.texts import TEXTS

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}"
    r"\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VOCABULARY = 900
"""Tokens at most; embeddings have more rows, so that there are holes."""
CHAT = ("<|im_start|>", "<|im_end|>")


def byte_level(
    pattern: str | None, special: Sequence[str], *, digits: bool = False, nfc: bool = False, bos: str | None = None,
    ignore_merges: bool = False, plain: Sequence[str] = (),
) -> Tokenizer:  # fmt: skip
    """Like GPT-2's: bytes as letters; `pattern` cuts text, else GPT-2's own does."""
    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    made.normalizer = normalizers.NFC() if nfc else None
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    steps = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    steps += [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    made.pre_tokenizer = pre_tokenizers.Sequence([*steps, own]) if steps else own
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet))
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    made.add_tokens([AddedToken(text, normalized=False) for text in plain])
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    if bos:
        made.post_processor = _template(bos, made)
    return made


def sentencepiece(
    special: Sequence[str], *, prepend: bool, bos: str, rstrip: Sequence[str] = (), plain: Sequence[str] = ()
) -> Tokenizer:
    """Like Llama 2's and Gemma's: spaces as ▁, unknown letters as bytes, every way to make a piece is a merge."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    texts = [f" {text}" for text in TEXTS if "\0" not in text] * 3  # llama.cpp ends a string at NUL; no model has it
    trained.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY - 300))
    letters = [piece for piece, _ in sorted(trained.get_vocab().items(), key=lambda item: item[1])]
    letters += [sign for sign in "▁ĠĊ" if sign not in letters]
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    vocabulary = {piece: at for at, piece in enumerate([*special, *plain, *bytes_, *letters])}
    merges = [
        (piece[:at], piece[at:])
        for piece in letters
        for at in range(len(piece) - 1, 0, -1)
        if piece[:at] in letters and piece[at:] in letters
    ]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    spaces = normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prepend else spaces
    made.pre_tokenizer = None if prepend else pre_tokenizers.Split(" ", "merged_with_previous")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prepend else steps)
    made.add_special_tokens([AddedToken(text, normalized=False, rstrip=text in rstrip) for text in special])
    made.add_tokens([AddedToken(text, normalized=False) for text in plain])
    made.post_processor = _template(bos, made)
    return made


def _template(bos: str, made: Tokenizer) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single=[bos, "$A"], pair=[bos, "$A", f"{bos}:1", "$B:1"], special_tokens=[(bos, made.token_to_id(bos))]
    )


def _qwen() -> Tokenizer:
    return byte_level(QWEN, ("<|endoftext|>", *CHAT), nfc=True, plain=("<think>", "</think>"))


def _llama3() -> Tokenizer:
    special = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
    return byte_level(LLAMA3, special, bos="<|begin_of_text|>", ignore_merges=True)


def _gemma() -> Tokenizer:
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
    return sentencepiece(special, prepend=False, bos="<bos>", plain=("<unused0>", "[multimodal]"))


LLAMA2 = ("<unk>", "<s>", "</s>")
PHI3 = ("<|assistant|>", "<|end|>", "<|user|>")
FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "llama": _llama3,
    "mistral": lambda: byte_level(TEKKEN, ("<unk>", "<s>", "</s>", "[INST]"), bos="<s>", ignore_merges=True),
    "qwen2": _qwen,
    "qwen3": _qwen,
    "qwen3_moe": _qwen,
    "gemma": _gemma,
    "gemma2": _gemma,
    "gemma3_text": _gemma,
    "phi3": lambda: sentencepiece((*LLAMA2, *PHI3), prepend=True, bos="<s>", rstrip=PHI3),
    "gpt2": lambda: byte_level(None, ("<|endoftext|>",)),
    "mixtral": lambda: sentencepiece(LLAMA2, prepend=True, bos="<s>"),
    "olmo2": lambda: byte_level(LLAMA3, ("<|endoftext|>", "<|pad|>")),
    "granite": lambda: byte_level(None, ("<|end_of_text|>", "<|start_of_role|>"), digits=True),
    "smollm3": lambda: byte_level(LLAMA3, ("<|end_of_text|>", *CHAT), ignore_merges=True, plain=("<think>",)),
    "starcoder2": lambda: byte_level(None, ("<|endoftext|>", "<fim_prefix>"), digits=True),
}
ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "</s>", "<|end_of_text|>", "<|endoftext|>")


def save(family: str, folder: Path) -> Tokenizer:
    """Writes the family's tokenizer.json and tokenizer_config.json; returns the tokenizer."""
    made = FAMILIES[family]()
    made.save(str(folder / "tokenizer.json"))
    bos = next((text for text in ("<|begin_of_text|>", "<s>", "<bos>") if made.token_to_id(text) is not None), None)
    eos = next(text for text in ENDS if made.token_to_id(text) is not None)
    named = [f'"eos_token": "{eos}"'] + ([f'"bos_token": "{bos}"'] if bos else [])
    (folder / "tokenizer_config.json").write_text("{" + ", ".join(named) + "}")
    return made
