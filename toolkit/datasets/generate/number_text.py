"""How numbers are written: thousands separators, negative numbers inside an expression, fractions, mixed numbers."""

from __future__ import annotations

from fractions import Fraction


def plain(number: int | Fraction) -> str:
    """Write an integer or a fraction in lowest terms: `-12`, `7/3`."""
    return str(number)


def inside(number: int | Fraction) -> str:
    """Write a number after an operator: a negative one in parentheses, `5 - (-3)`."""
    return f"({number})" if number < 0 else str(number)


def grouped(number: int) -> str:
    """Write an integer with commas: `1,234,567`."""
    return f"{number:,}"


def mixed(number: Fraction) -> str:
    """Write a fraction above one as a mixed number: `2 1/3`, `-2 1/3`; others as they are."""
    whole, rest = divmod(abs(number.numerator), number.denominator)
    if not whole or not rest:
        return str(number)
    return f"{'-' if number < 0 else ''}{whole} {rest}/{number.denominator}"


def capitalised(text: str) -> str:
    """Return the text with its first letter large; the rest stays as it is."""
    return text[:1].upper() + text[1:]
