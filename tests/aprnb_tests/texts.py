"""60 texts on which tokenizers with different rules differ, and some on which llama.cpp is known to differ."""

from __future__ import annotations

SCRIPTS = (
    "Hello world, it's 12345 o'clock; DON'T we'LL",
    "über façade Straße naïveté coöperation",
    "Ελληνικά γράμματα και τόνοι",
    "Привет, мир! Ёлка — 2024 года",
    "مرحبا بالعالم ١٢٣٤٥",
    "שלום עולם, מה שלומך?",
    "नमस्ते दुनिया, आप कैसे हैं?",
    "สวัสดีชาวโลก ๑๒๓",
    "你好，世界。今天天气很好！",
    "こんにちは世界、カタカナと漢字",
    "안녕하세요 세계, 반갑습니다",
    "Բարեւ աշխարհ, გამარჯობა მსოფლიო",
    "Xin chào thế giới, tiếng Việt có dấu",
    "வணக்கம் உலகம், నమస్కారం",
)
SIGNS = (
    "🎉",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 flag 🇩🇪",
    "☃ ☕ ♥ → ≠ ∑ √",
    "“curly” ‘quotes’ … – — «guillemets»",
    "€100, £5.99, ¥1,000; 50 %",
    "½ ² ³ ① Ⅷ ﬁ ﬂ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𒀀",
    "\x00\x01\x02",
    "\x1b[31mred\x1b[0m\x07",
    "zero\u200bwidth\u200djoiner\ufeff",
    "\u202eright to left\u202c",
    "null\x00inside and \x7f at the end",
    "\ufffd replacement \ue000 private use",
)
SPACES = (
    "",
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n\n",
    "\t",
    " leading",
    "trailing ",
    "   three in front",
    "two behind  ",
    "many" + " " * 37 + "inside",
    "a\nb\r\nc\n\n\td \n e",
    " \n \t \n ",
    "no-break\u00a0space and\u3000ideographic\u2009thin",
    "tab\tseparated\t\tvalues\t",
    "\n" * 40 + "x",
)
CODE = (
    'def f(x: int) -> str:\n    return f"{x!r}"  # ok\n\n\nprint(f(3))\n',
    "for (int i = 0; i < n; ++i) { a[i] += b[i] << 2; }\n",
    "SELECT * FROM t WHERE a >= 1.5e-3 AND b != 'x''y';",
    '{"key": [1, 2, {"x": null}], "s": "a\\nb"}',
    "https://example.org/a_b?c=d&e=%20#f user@example.org",
    "\tif x:\n\t\t\ty = [0]*10\n",
    "<div class='a'>&nbsp;<br/></div>",
    "camelCaseHTTPServer snake_case_name SCREAMING_CASE",
    "0x1F 1_000_000 3.14159 1e10 007 2024-11-30",
    "C:\\path\\to\\file.txt ../up //comment /* block */",
)
ODD = (
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "!!!???...,,,;;;:::",
    "<unk> [PAD] <0x0A> [PAD151670] ▁ Ġ Ċ ▁▁",
    "a'b''c'S'T'RE",
    "word" * 20,
    "1234567890" * 3,
)

TEXTS = (*SCRIPTS, *SIGNS, *SPACES, *CODE, *ODD)
"""llama.cpp gives the tokenizer's ids on each of these, where it knows how the tokenizer splits."""
DECOMPOSED = ("e\u0301 caf\u0065\u0301 A\u030a", "\u1112\u1161\u11ab\u1100\u1173\u11af")
"""Not in NFC."""


def with_special(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Texts that contain these special tokens: alone, in a row, inside words, beside spaces and line ends."""
    first, last = tokens[0], tokens[-1]
    return (
        first,
        f"{first}{last}",
        f"{first}Hello{last}",
        f"a {first} b  {last}  c",
        f"{first}\nuser\n{last}\n",
        f" {first} {last} ",
        f"word{first}word{last[:-1]}",
        " ".join(tokens),
    )
