"""Personal data by pattern, each proved as far as its own check digits allow; masked in what is reported."""

from __future__ import annotations

import re
from collections.abc import Iterator

_EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@((?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,})\b")
# Reserved for documentation: RFC 2606 and RFC 6761.
_NOT_REAL = re.compile(r"(?:^|\.)(?:example\.(?:com|org|net)|example|test|invalid|localhost|local)$", re.IGNORECASE)
_PHONE = re.compile(
    r"(?<![\w+.,/-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"
    r"|\(\d{3}\) ?\d{3}[-. ]\d{4}|\d{3}[-.]\d{3}[-.]\d{4})(?![\w-]|\.\d)"
)
_FICTITIOUS_PHONE = re.compile(r"555[ .-]?01\d\d$")
_CARD = re.compile(r"(?<![\w.,-])(?:\d[ -]?){12,18}\d(?![\w-]|[.,]\d)")
# Brands by their first digits and lengths (ISO/IEC 7812): Visa, Mastercard, American Express, Discover, JCB, Diners.
_BRANDS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|6(?:011|5\d\d)\d{12}|35\d{14}|3(?:0[0-5]|[68]\d)\d{11}"
)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_SOCIAL_SECURITY = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-])")
_OPERATOR_NEAR = re.compile(r"[-+*/=×÷−^%<>]\s*$")
_OPERATOR_NEXT = re.compile(r"\s*[-+*/=×÷−^%<>]")
_WORTH_A_LOOK = re.compile(r"\d[\d .()-]{7,}\d|[A-Z]{2}\d\d[ A-Z0-9]")


def personal_data(text: str) -> Iterator[tuple[str, str]]:
    """Yield (what it is, the thing masked) for each e-mail address, phone, card, IBAN and US social security number.

    Addresses and numbers that are reserved for examples are passed over, and so are numbers that are calculated with.
    """
    if "@" in text:
        for found in _EMAIL.finditer(text):
            if not _NOT_REAL.search(found[1]):
                yield "an e-mail address", masked(found[0])
    if _WORTH_A_LOOK.search(text):
        yield from _numbers(text)


def _numbers(text: str) -> Iterator[tuple[str, str]]:
    for found in _IBAN.finditer(text):
        if is_iban(found[0]):
            yield "a bank account (IBAN)", masked(found[0])
    for found in _CARD.finditer(text):
        digits = re.sub(r"\D", "", found[0])
        if _BRANDS.fullmatch(digits) and passes_luhn(digits) and not _is_calculated(text, found):
            yield "a card number", masked(found[0])
    for found in _SOCIAL_SECURITY.finditer(text):
        yield "a social security number", masked(found[0])
    for found in _PHONE.finditer(text):
        digits = re.sub(r"\D", "", found[0])
        fictitious = _FICTITIOUS_PHONE.search(found[0]) is not None
        if 9 <= len(digits) <= 15 and not fictitious and not _is_calculated(text, found):
            yield "a phone number", masked(found[0])


def passes_luhn(digits: str) -> bool:
    """Check a number's last digit (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def is_iban(text: str) -> bool:
    """Check an account number's two check digits (ISO 13616, ISO 7064 MOD 97-10)."""
    compact = text.replace(" ", "")
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(letter, 36)) for letter in compact[4:] + compact[:4])) % 97 == 1


def masked(text: str) -> str:
    """Return the beginning of a text that must not be printed whole."""
    return f"{text[:4]}…({len(text)} characters)"


def _is_calculated(text: str, found: re.Match[str]) -> bool:
    """Say whether an operator or an equals sign stands before or behind a number: `4111… + 5` is a sum, no card."""
    before = _OPERATOR_NEAR.search(text, max(0, found.start() - 4), found.start())
    return before is not None or _OPERATOR_NEXT.match(text, found.end()) is not None
