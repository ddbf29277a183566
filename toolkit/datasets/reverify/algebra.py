"""Check an algebra example: read the equations from the question's text, solve them by SymPy, compare with the answer.

Every line of the answer must hold as well: an equation between numbers by itself, one with unknowns as an identity or
at every solution.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import sympy

from toolkit.datasets.reverify.columns import column_fault
from toolkit.datasets.reverify.equation_stories import equation_story_values
from toolkit.datasets.reverify.expressions import Unread, Values, evaluate

_OPERATORS = frozenset("+-×*/")
_OPERAND = re.compile(r"(?:[-(]|\d|[a-z](?![a-z])|[²√)/])+")
_ENDS = ".,;?!:"
_LAST_SENTENCE = re.compile(r"(?:^|[.:;] )([^.:;]*)\.?$")

_CANDIDATE = re.compile(
    r"(?:Is|Does|whether|found|Put|Test|says that|Can) ([a-z]) = (-?[\d/]+)"
    r" (?:a solution of|solves?|for|into|in the equation|be the solution of) "
)

Solution = dict[str, Any]


def _name(name: str) -> Any:
    return sympy.I if name == "i" else sympy.Symbol(name)


SYMPY = Values(lambda number: sympy.Rational(number.numerator, number.denominator), _name, sympy.sqrt)


def fault_in_algebra(question: str, answer: str) -> str:
    """Return what is wrong with the answer, or an empty text.

    Raises:
        Unread: the question holds no equation and is no known story, or the answer claims nothing.
    """
    expected_numbers = equation_story_values(question)
    if expected_numbers is not None:
        return _story_fault(answer, expected_numbers)
    candidate = _CANDIDATE.search(question)
    if candidate:
        return _candidate_fault(question, candidate, answer)
    equations = list(written_equations(question))
    if not equations:
        raise Unread(f"no equation in {question!r}")
    differences = [left - right for left, right in equations]
    names = sorted(
        {symbol.name for difference in differences for symbol in difference.free_symbols} or _names(question)
    )
    solutions = solve(differences, names)
    wrong = column_fault(answer) or _wrong_line(answer, solutions) or _wrong_remark(answer, equations, solutions)
    if wrong:
        return wrong
    if solutions is None or not solutions:
        return _degenerate_fault(answer, solutions)
    return _claims_fault(question, answer, names, solutions)


def written_equations(text: str) -> Iterator[tuple[Any, Any]]:
    """Yield the two sides of every equation in a text, as SymPy's expressions."""
    for line in text.split("\n"):
        words = line.split()
        for place, word in enumerate(words):
            if word == "=":
                left = _side(words[:place][::-1], forward=False)
                right = _side(words[place + 1 :], forward=True)
                if left and right:
                    yield evaluate(left, SYMPY), evaluate(right, SYMPY)


def _side(words: Sequence[str], forward: bool) -> str:
    """Collect the words next to a `=` as long as numbers and operators take turns."""
    taken: list[str] = []
    for word in words:
        bare = word.rstrip(_ENDS) if forward else word
        wants_operator = len(taken) % 2 == 1
        fits = bare in _OPERATORS if wants_operator else bool(_OPERAND.fullmatch(bare))
        if not fits:
            break
        taken.append(bare)
        if bare != word:
            break
    if len(taken) % 2 == 0:  # an operator without its operand: a dash in the prose
        taken = taken[:-1]
    return " ".join(taken if forward else taken[::-1])


def _names(question: str) -> set[str]:
    """Return the unknowns of equations from which they drop out."""
    return set(re.findall(r"(?<![a-z])\d*([a-z])(?![a-z])", " ".join(question.split("=")[:1])[-12:]))


def solve(differences: Sequence[Any], names: Sequence[str]) -> list[Solution] | None:
    """Return every solution over the complex numbers; None where there are infinitely many."""
    symbols = [sympy.Symbol(name) for name in names]
    if len(symbols) > 1:
        rows: list[Any] = list(sympy.linsolve([sympy.expand(one) for one in differences], symbols))
        if any(value.free_symbols for row in rows for value in row):
            return None
        return [dict(zip(names, row, strict=True)) for row in rows]
    difference = sympy.expand(differences[0])
    if difference.is_number:
        return None if difference == 0 else []
    return [{names[0]: root} for root in sympy.roots(sympy.Poly(difference, symbols[0]))]


def _same(first: Any, second: Any) -> bool:
    difference = sympy.expand(first - second)
    return difference == 0 or sympy.simplify(difference) == 0


def _wrong_line(answer: str, solutions: list[Solution] | None) -> str:
    """Return the first equation in the answer that neither is an identity nor holds at every solution."""
    for left, right in written_equations(answer):
        if _is_claim(left, right) or _same(left, right):
            continue
        difference = left - right
        if not solutions or not difference.free_symbols:
            return f"{left} = {right} does not hold"
        for solution in solutions:
            if not _same(difference.subs({sympy.Symbol(name): value for name, value in solution.items()}), 0):
                return f"{left} = {right} does not hold at {solution}"
    return ""


def _is_claim(left: Any, right: Any) -> bool:
    return left.is_Symbol and not right.free_symbols


def _wrong_remark(answer: str, equations: Sequence[tuple[Any, Any]], solutions: list[Solution] | None) -> str:
    found = re.search(r"discriminant is [^;]*? = (-?\d+)[;.]", answer)
    left, right = equations[0]
    if found:
        (symbol,) = (left - right).free_symbols
        if sympy.discriminant(sympy.expand(left - right), symbol) != int(found[1]):
            return f"the discriminant is not {found[1]}"
    found = re.search(r"both sides are ([^.;]+)", answer)
    if found:
        stated = evaluate(found[1], SYMPY)
        values = {sympy.Symbol(name): value for name, value in (solutions or [{}])[0].items()}
        if not (_same(left.subs(values), stated) and _same(right.subs(values), stated)):
            return f"the sides are not {found[1]}"
    return ""


def _degenerate_fault(answer: str, solutions: list[Solution] | None) -> str:
    text = answer.lower()
    says_all, says_none = "every number" in text or "infinitely many" in text, "no solution" in text
    if says_all == says_none:
        raise Unread(f"{answer!r} says neither that there is no solution nor that there are infinitely many")
    if says_all != (solutions is None):
        return f"there are {'infinitely many solutions' if solutions is None else 'none'}, the answer says {answer!r}"
    return ""


def _claims_fault(question: str, answer: str, names: Sequence[str], solutions: list[Solution]) -> str:
    real = [solution for solution in solutions if all(value.is_real for value in solution.values())]
    over_reals = re.search(r"real (?:solutions|numbers)", question) is not None
    over_complex = re.search(r"[Cc]omplex", question) is not None
    denies_real = "no real solution" in answer
    if denies_real and (real or over_complex):
        return f"real solutions exist or complex ones were asked for, the answer says {answer!r}"
    if not real and not over_complex and not denies_real:
        return "the answer does not say that no real solution exists"
    expected = real if over_reals else solutions
    for name in names:
        wanted = [solution[name] for solution in expected]
        claimed = [right for left, right in written_equations(answer) if _is_claim(left, right) and left.name == name]
        extra = [value for value in claimed if not any(_same(value, one) for one in wanted)]
        missing = [one for one in wanted if not any(_same(value, one) for value in claimed)]
        if extra or missing:
            return f"{name} should be {wanted}, the answer says {claimed}"
    return _double_fault(answer, expected)


def _double_fault(answer: str, expected: Sequence[Solution]) -> str:
    return "there are two solutions, not a double one" if "double" in answer and len(expected) != 1 else ""


def _candidate_fault(question: str, candidate: re.Match[str], answer: str) -> str:
    """Put the number that the question names into its equation."""
    equations = list(written_equations(question[candidate.end() :]))
    if len(equations) != 1:
        raise Unread(f"{len(equations)} equations for one number in {question!r}")
    left, right = equations[0]
    at = {sympy.Symbol(candidate[1]): evaluate(candidate[2], SYMPY)}
    sides = [left.subs(at), right.subs(at)]
    said = re.match(r"(Yes|No)\b", answer)
    if said is None:
        raise Unread(f"{answer!r} says neither yes nor no")
    if (said[1] == "Yes") != _same(*sides):
        return f"the sides are {sides[0]} and {sides[1]}, the answer says {said[1]}"
    stated = [evaluate(text, SYMPY) for text in re.findall(r"sides? (?:are|is) (-?[\d/]+)", answer)]
    if stated and stated not in ([sides[0]], sides):
        return f"the sides are {sides[0]} and {sides[1]}, the answer says {answer!r}"
    named = re.search(r"with ([a-z] = \S+) ", answer)
    if named and named[1] != f"{candidate[1]} = {candidate[2]}":
        return f"the question names {candidate[1]} = {candidate[2]}, the answer {named[1]}"
    return ""


def _story_fault(answer: str, expected: Sequence[int]) -> str:
    text = answer.removesuffix(" Put back, every equation holds.")
    found = _LAST_SENTENCE.search(text)
    numbers = [int(number) for number in re.findall(r"-?\d+", found[1] if found else text)]
    if not numbers:
        raise Unread(f"no number at the end of {answer!r}")
    if numbers != list(expected):
        return f"the story comes to {list(expected)}, the answer says {numbers}"
    return _wrong_story_line(text)


def _wrong_story_line(answer: str) -> str:
    """Solve the answer's own equations one after the other: each must agree with the values that it ends with."""
    lines = list(written_equations(answer))
    claims = {left: right for left, right in lines if _is_claim(left, right)}
    for left, right in lines:
        if left.is_Symbol:
            continue
        if not _same((left - right).subs(claims), 0):
            return f"{left} = {right} does not hold at {claims}"
    return ""
