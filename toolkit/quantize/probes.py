"""Texts and conversations that tell one tokenizer, template or model from another."""

from __future__ import annotations

from toolkit.datasets.schema import Message

# Each line is a trap: contractions in either case, digits in groups, marks after letters, spaces of many kinds, line
# ends, scripts without spaces, emoji with joiners, right-to-left text, half-width forms, control characters, code,
# long runs.
TEXTS: tuple[str, ...] = (
    "Hello, world!",
    "I'm sure they'll say we've won; it's HERS, he'D GO, you'Re",
    "DON'TSTOP it'Sno I'MOK O'Really it'sno we'vegone they'LLsee",
    "don’t ‘quote’ “this” — or that… 'tis",
    "3.14159 1234567890 12,345 0x7fff 1e-9 ½ ² Ⅷ ٣٤٥ १२३",
    "a1b2c3 abc123def 99bottles x86_64",
    "  leading",
    "trailing  ",
    "in  the   middle    of",
    "\ttabs\t\there",
    "no\u00a0break\u2003em\u3000ideographic\u200bzero",
    "line\nbreaks\r\nand\n\n\nmore \n \n  indented\n\ttabbed\r\r",
    "def f(x):\n    return {'a': [x**2 for _ in range(10)]}  # done\n",
    '<div class="x">&amp;</div> /* c */ //\\n \\t $%^&*()_+-=[]{}|;:<>?,./~`',
    "https://example.org/a?b=c&d=%20e#f user@example.com",
    "naïve café Ångström Straße İstanbul œuvre ﬁne",
    "cafe\u0301 e\u0302\u0323 a\u0308 A\u030a",
    "Привет, мир! Ёлка ЁЖ",
    "Γειά σου Κόσμε",
    "שלום עולם",
    "مرحبا بالعالم",
    "नमस्ते दुनिया क्षत्रिय",
    "สวัสดีชาวโลก",
    "你好，世界！今天天气不错。",
    "こんにちは世界ﾊﾝｶｸ",
    "안녕하세요 세계 \u1100\u1161",
    "Tiếng Việt có dấu",
    "👍🏽 👨‍👩‍👧‍👦 🇩🇪 ☕️ ❤️‍🔥 🤷🏿‍♀️",
    "😀😀😀 text😀text",
    "𝒳𝔂𝟙𐍈𒀀",
    "\x00\x01\x1b[31mred\x7f",
    "\ufeffbom \u202eright\u202c \ufffd \ufffe",
    "a\u0300\u0301\u0302\u0303b",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "!!!!!!!!????....----____====",
    " " * 17,
    "\n" * 5,
    " \n" * 4,
    "ALLCAPS mixedCase snake_case kebab-case",
    "The quick brown fox jumps over the lazy dog. 12 + 34 = 46. What is 7 times 8?",
)

CONVERSATIONS: tuple[tuple[Message, ...], ...] = (
    (Message("user", "What is 12 + 30?"),),
    (Message("user", "Define entropy."), Message("assistant", "A measure of disorder.")),
    (
        Message("system", "Answer in one word."),
        Message("user", "Capital of France?"),
        Message("assistant", "Paris"),
        Message("user", "  And of Spain?\n"),
    ),
    (
        Message("user", "Grüße! 你好 👋🏽 don't\n\n```py\nx = 1\n```"),
        Message("assistant", "1. one\n2. two"),
        Message("user", "thanks"),
        Message("assistant", "You're welcome."),
    ),
)
