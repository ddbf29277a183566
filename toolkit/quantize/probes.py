"""Texts and conversations that tell one tokenizer, template or model from another."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Mapping
from typing import Any

from toolkit.datasets.schema import Example, Message, ToolCall

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

TOOLS: tuple[Mapping[str, Any], ...] = (
    {
        "type": "function",
        "function": {
            "name": "read_sensor",
            "description": 'Reads a sensor: temperature in °C, <raw> & "calibrated".',
            "parameters": {
                "type": "object",
                "properties": {
                    "sensor": {"type": "string", "description": "Name, e.g. 'hall-2'"},
                    "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
                },
                "required": ["sensor"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "open_ticket",
            "description": "Opens a ticket.",
            "parameters": {
                "type": "object",
                "properties": {
                    "title": {"type": "string"},
                    "urgent": {"type": "boolean"},
                    "copies": {"type": "integer"},
                },
                "required": ["title"],
            },
        },
    },
)

# Offered and not used; a call and its result; two calls at once, results, an answer, a question after it.
TOOL_CONVERSATIONS: tuple[Example, ...] = tuple(
    Example(messages, tools=TOOLS)
    for messages in (
        (Message("system", "Be brief."), Message("user", "Hello."), Message("assistant", "Hello!")),
        (
            Message("user", "How warm is it in hall 2?"),
            Message("assistant", "", (ToolCall("read_sensor", {"sensor": "hall-2", "unit": "celsius"}, "call00001"),)),
            Message("tool", '{"value": 21.5}', name="read_sensor", tool_call_id="call00001"),
        ),
        (
            Message("system", "Use tools."),
            Message("user", "Read hall 1 & open a ticket <now>."),
            Message(
                "assistant",
                "",
                (
                    ToolCall("read_sensor", {"sensor": "hall-1"}, "call00001"),
                    ToolCall("open_ticket", {"title": 'Wärme "hall-1"', "urgent": True, "copies": 2}, "call00002"),
                ),
            ),
            Message("tool", "19 °C", name="read_sensor", tool_call_id="call00001"),
            Message("tool", "ticket 7", name="open_ticket", tool_call_id="call00002"),
            Message("assistant", "It is 19 °C; ticket 7 is open."),
            Message("user", "Thanks. And hall 3?"),
        ),
    )
)


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Draw texts of characters from all of Unicode, alone and among plain ones; those that have no meaning left out."""
    draw = random.Random(seed)
    ranges = ((0x20, 0x3000), (0x20, 0x10000), (0x10000, 0x20000), (0x20, 0x110000))
    texts = []
    while len(texts) < count:
        characters = [chr(draw.randrange(*draw.choice(ranges))) for _ in range(draw.randint(1, 12))]
        # Unassigned, private and surrogate code points: two libraries' tables may rightly differ on them.
        characters = [each for each in characters if unicodedata.category(each) not in ("Cn", "Co", "Cs")]
        plain = [draw.choice((" ", "a", "1", "'s", "\n", "!", "")) for _ in characters]
        texts.append("".join(one + other for one, other in zip(characters, plain, strict=True)))
    return texts
