"""Prove solutions by SymPy: put each back into the equation as it stands, expand, and compare the two sides with zero.

Putting back shows that a solution is right; that none is missing is shown by the degree (linear), by multiplying the
factors out again (quadratic), or by the determinant (systems). Expressions are built from their parts and only ever
expanded: `solve` and `simplify` take a hundred times as long, and would not prove more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache

import sympy

from toolkit.datasets.generate.equations import Equation, Root, Side, write
from toolkit.datasets.generate.generator import Rejected


@lru_cache
def _symbol(name: str) -> sympy.Symbol:
    return sympy.Symbol(name)


@lru_cache(4096)
def _number(numerator: int, denominator: int) -> sympy.Expr:
    return sympy.Rational(numerator, denominator)


def expression(side: Side) -> sympy.Expr:
    """Return a side as SymPy's expression, built as it is written."""
    terms = []
    for part in side:
        ratio = Fraction(part.coefficient) / part.divisor
        factors = [_number(ratio.numerator, ratio.denominator)]
        for base, power in part.factors:
            inner = _symbol(base) if isinstance(base, str) else expression(base)
            factors.append(inner if power == 1 else inner**power)
        terms.append(sympy.Mul(*factors))
    return sympy.Add(*terms)


def root_value(root: Root) -> sympy.Expr:
    """Return (p + q√r)/s as SymPy's number."""
    if not root.q:
        return _number(root.p, root.s)
    return _number(root.p, root.s) + _number(root.q, root.s) * sympy.sqrt(root.r)


def prove_linear(equation: Equation, name: str, solution: Root) -> None:
    """Prove that an equation of degree one has this solution. Raises Rejected."""
    difference = expression(equation.left) - expression(equation.right)
    unknown = _symbol(name)
    slope = sympy.expand(difference).coeff(unknown, 1)
    if difference.subs(unknown, root_value(solution)) != 0 or slope == 0:
        raise Rejected(f"{equation}: {name} = {solution} does not solve it")


def prove_sides(equation: Equation, name: str, value: Fraction, sides: tuple[Fraction, Fraction]) -> None:
    """Prove that the two sides come to these numbers when the unknown has this value. Raises Rejected."""
    put_in = _number(value.numerator, value.denominator)
    for side, stated in zip((equation.left, equation.right), sides, strict=True):
        if expression(side).subs(_symbol(name), put_in) != _number(stated.numerator, stated.denominator):
            raise Rejected(f"{equation}: {write(side)} is not {stated} with {name} = {value}")


def prove_degenerate(equation: Equation, holds_always: bool) -> None:
    """Prove that the unknown drops out, and that what is left is true (`holds_always`) or false. Raises Rejected."""
    left_over = sympy.expand(expression(equation.left) - expression(equation.right))
    if not left_over.is_number or (left_over == 0) != holds_always:
        raise Rejected(f"{equation}: leaves {left_over}")


def prove_quadratic(equation: Equation, name: str, leading: int, roots: Sequence[Root]) -> None:
    """Prove that these are all the complex solutions of an equation with the given leading term. Raises Rejected."""
    unknown, values = _symbol(name), [root_value(root) for root in roots]
    difference = sympy.expand(expression(equation.left) - expression(equation.right))
    for root, value in zip(roots, values, strict=True):
        if sympy.expand(difference.subs(unknown, value)) != 0:
            raise Rejected(f"{equation}: {name} = {root} does not solve it")
    factors = leading * (unknown - values[0]) * (unknown - values[-1])
    if sympy.expand(difference - factors) != 0:
        raise Rejected(f"{equation}: {', '.join(map(str, roots))} are not all its solutions")


def prove_system(equations: Sequence[Equation], solution: Mapping[str, Root]) -> None:
    """Prove that the values solve every equation. Raises Rejected."""
    values = [(_symbol(name), root_value(root)) for name, root in solution.items()]
    for equation in equations:
        difference = expression(equation.left) - expression(equation.right)
        if sympy.expand(difference.subs(values)) != 0:
            raise Rejected(f"{equation}: {dict(solution)} does not solve it")


def prove_parallel(first: Equation, second: Equation, factor: int, is_same: bool) -> None:
    """Prove that the second left side is `factor` times the first, and whether the right sides are. Raises Rejected."""
    left = sympy.expand(expression(second.left) - factor * expression(first.left))
    right = sympy.expand(expression(second.right) - factor * expression(first.right))
    if left != 0 or (right == 0) != is_same:
        raise Rejected(f"{first} and {second}: not {'the same' if is_same else 'contradictory'}")
