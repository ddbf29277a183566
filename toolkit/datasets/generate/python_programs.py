"""Short Python programs drawn from a grammar, to ask what they print: loops, lists, texts, dictionaries, functions.

Only what every Python from 3.11 on prints alike is used: no sets in print, no addresses, no texts of exceptions.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from toolkit.datasets.generate.drawing import between, chance, pick, pick_some

WORDS = """apple bridge candle desert engine forest garden harbor island jacket kettle lemon market needle orange pencil
quartz river silver timber umbrella valley window yellow zebra python banana copper marble lantern""".split()
NUMBER_NAMES = ("n", "x", "total", "count", "value", "score", "size", "amount", "result", "level")
LIST_NAMES = ("numbers", "values", "items", "data", "scores", "prices", "marks", "sizes")
LOOP_NAMES = ("i", "k", "number", "step", "j")
WORD_NAMES = ("word", "text", "name", "label", "title")


def any_program(rng: random.Random) -> str:
    """Draw a program."""
    return pick(rng, _PROGRAMS)(rng)


def number_list(rng: random.Random, low: int = 3, high: int = 6, top: int = 20) -> list[int]:
    """Draw a list of integers."""
    return [between(rng, -3 if chance(rng, 0.2) else 0, top) for _ in range(between(rng, low, high))]


def _loop(rng: random.Random) -> str:
    name, loop = pick(rng, NUMBER_NAMES), pick(rng, LOOP_NAMES)
    start, stop, step = between(rng, 0, 4), between(rng, 5, 12), between(rng, 1, 3)
    bounds = f"{start}, {stop}, {step}" if step > 1 else f"{start}, {stop}" if start else f"{stop}"
    change = pick(
        rng, (f"{name} += {loop}", f"{name} += {loop} * {between(rng, 2, 4)}", f"{name} = {name} + {loop} - 1")
    )
    lines = [f"{name} = {between(rng, 0, 10)}", f"for {loop} in range({bounds}):"]
    if chance(rng, 0.6):
        divisor = between(rng, 2, 4)
        lines += [
            f"    if {loop} % {divisor} {pick(rng, ('==', '!='))} {between(rng, 0, divisor - 1)}:",
            f"        {change}",
        ]
        if chance(rng, 0.5):
            lines += ["    else:", f"        {name} -= {between(rng, 1, 3)}"]
    else:
        lines.append(f"    {change}")
    return "\n".join([*lines, f"print({name})"])


def _while(rng: random.Random) -> str:
    name, steps = pick(rng, ("n", "x", "left", "number")), pick(rng, ("steps", "rounds", "count"))
    if chance(rng, 0.5):
        body = f"{name} //= {between(rng, 2, 4)}"
        return f"{name} = {between(rng, 20, 300)}\n{steps} = 0\nwhile {name} > 0:\n    {body}\n    {steps} += 1\nprint({steps})"
    lines = [f"{name} = {between(rng, 3, 24)}", f"{steps} = 0", f"while {name} != 1:", f"    if {name} % 2 == 0:"]
    lines += [f"        {name} = {name} // 2", "    else:", f"        {name} = 3 * {name} + 1", f"    {steps} += 1"]
    return "\n".join([*lines, f"print({steps})"])


def _list(rng: random.Random) -> str:
    name, numbers = pick(rng, LIST_NAMES), number_list(rng, 4, 6)
    changes = (
        f"{name}.append({between(rng, 0, 30)})",
        f"{name}.insert({between(rng, 0, 3)}, {between(rng, 0, 30)})",
        f"{name}.pop()",
        f"{name}.pop({between(rng, 0, 2)})",
        f"{name}.reverse()",
        f"{name}.sort()",
        f"{name}.sort(reverse=True)",
        f"{name}.extend([{between(rng, 0, 9)}, {between(rng, 0, 9)}])",
        f"{name}[{between(rng, 0, 1)}] = {between(rng, 0, 30)}",
        f"{name}.remove({pick(rng, numbers)})",
        f"del {name}[{pick(rng, (0, -1))}]",
        f"{name} = {name}[{between(rng, 0, 1)}:{between(rng, 2, 4)}] * 2",
    )
    shown = (
        name,
        f"len({name}), {name}[0]",
        f"{name}[-1]",
        f"sum({name})",
        f"{name}[1:3]",
        f"max({name}) - min({name})",
        f"{name}[::-1]",
    )
    first = f"{name} = {numbers}"
    return "\n".join([first, *pick_some(rng, changes, between(rng, 1, 3)), f"print({pick(rng, shown)})"])


def _text(rng: random.Random) -> str:
    name, word = pick(rng, WORD_NAMES), pick(rng, WORDS)
    letter = pick(rng, word)
    shown = (
        f"{name}.upper()", f"{name}[::-1]", f"{name}[{between(rng, 0, 2)}:{between(rng, 3, 5)}]", f"len({name})",
        f"{name}.replace({letter!r}, {pick(rng, 'xoz-')!r})", f"{name}.count({letter!r})", f"{name}.find({letter!r})",
        f"{name}[-{between(rng, 1, 3)}]", f"{name} * {between(rng, 2, 3)}", f"{name}.title() + '!'", f"{name}[::2]",
        f"{name}.startswith({word[: between(rng, 1, 2)]!r})", f"{letter!r} in {name}", f"sorted({name})[:3]",
        f"'-'.join({name})", f"{name}.center({len(word) + 4}, '*')", f"{name}.split({letter!r})",
    )  # fmt: skip
    lines = [f"{name} = {word!r}"]
    if chance(rng, 0.5):
        other = pick(rng, WORDS)
        lines.append(
            pick(rng, (f"{name} = {name} + {other!r}", f"{name} += {other[:3]!r}", f"{name} = {name}.capitalize()"))
        )
    return "\n".join([*lines, *(f"print({one})" for one in pick_some(rng, shown, between(rng, 1, 2)))])


def _dictionary(rng: random.Random) -> str:
    name, keys = pick(rng, ("stock", "ages", "prices", "counts", "points")), pick_some(rng, WORDS, 3)
    pairs = {key: between(rng, 1, 20) for key in keys}
    new = pick(rng, [word for word in WORDS if word not in keys])
    changes = (
        f"{name}[{new!r}] = {between(rng, 1, 20)}",
        f"{name}[{keys[0]!r}] += {between(rng, 1, 9)}",
        f"del {name}[{keys[1]!r}]",
        f"{name}.update({{{keys[2]!r}: {between(rng, 20, 40)}}})",
        f"{name}.pop({keys[1]!r})",
    )
    shown = (
        f"print({name})",
        f"print({name}.get({new!r}, {between(rng, 0, 5)}))",
        f"print(sorted({name}))",
        f"print(sum({name}.values()))",
        f"for key, value in {name}.items():\n    print(key, value * 2)",
        f"print({{key: value for key, value in {name}.items() if value > {between(rng, 5, 12)}}})",
        f"print(max({name}, key={name}.get))",
        f"print({keys[0]!r} in {name}, len({name}))",
    )
    return "\n".join([f"{name} = {pairs}", *pick_some(rng, changes, between(rng, 1, 2)), pick(rng, shown)])


def _function(rng: random.Random) -> str:
    name = pick(rng, ("change", "compute", "combine", "scale", "mix", "f"))
    a, b, c = between(rng, 1, 9), between(rng, 1, 9), between(rng, 2, 5)
    bodies = (
        f"def {name}(a, b={b}):\n    return a * {c} + b\n\nprint({name}({a}), {name}({a}, b=0))",
        f"def {name}(a, b):\n    if a > b:\n        return a - b\n    return b * {c}\n\nprint({name}({a}, {b}))",
        f"def {name}(*numbers):\n    return sum(numbers) * {c}\n\nprint({name}({a}, {b}, {a + b}))",
        f"def {name}(n):\n    if n <= 1:\n        return 1\n    return n * {name}(n - 1)\n\nprint({name}({between(rng, 3, 6)}))",
        f"def {name}(n):\n    if n < 2:\n        return n\n    return {name}(n - 1) + {name}(n - 2)\n\nprint({name}({between(rng, 4, 9)}))",
        f"def {name}(a, b):\n    while b:\n        a, b = b, a % b\n    return a\n\nprint({name}({a * 6}, {b * 4}))",
        f"x = {a}\n\ndef {name}():\n    x = {b}\n    return x\n\nprint({name}() + x)",
        f"def {name}(n):\n    n = n + {c}\n    print(n)\n\nn = {a}\n{name}(n)\nprint(n)",
        f"def {name}(values):\n    values.append({a})\n\ndata = [{b}]\n{name}(data)\n{name}(data)\nprint(data)",
        f"def make(k):\n    def {name}(n):\n        return n * k\n    return {name}\n\nprint(make({c})({a}) + make({c + 1})({b}))",
    )  # fmt: skip
    return pick(rng, bodies)


def _comprehension(rng: random.Random) -> str:
    name, loop, numbers = pick(rng, LIST_NAMES), pick(rng, ("n", "x", "v")), number_list(rng)
    divisor, factor, limit = between(rng, 2, 4), between(rng, 2, 5), between(rng, 3, 12)
    shown = (
        f"[{loop} * {factor} for {loop} in {name}]",
        f"[{loop} for {loop} in {name} if {loop} % {divisor} == 0]",
        f"[{loop} ** 2 for {loop} in {name} if {loop} > {limit}]",
        f"sum({loop} for {loop} in {name} if {loop} < {limit})",
        f"any({loop} > {limit} for {loop} in {name}), all({loop} >= 0 for {loop} in {name})",
        f"[(i, {loop}) for i, {loop} in enumerate({name}) if i % 2]",
        f"[a + b for a, b in zip({name}, {name}[1:])]",
        f"[str({loop}) for {loop} in sorted({name})[:2]]",
        f"[{loop} if {loop} % 2 else -{loop} for {loop} in {name}]",
        f"list(map(lambda {loop}: {loop} // {divisor}, {name}))",
    )
    return f"{name} = {numbers}\nprint({pick(rng, shown)})"


def _formatting(rng: random.Random) -> str:
    word, a, b = pick(rng, WORDS), between(rng, 2, 99), between(rng, 2, 12)
    name, number = pick(rng, WORD_NAMES), pick(rng, NUMBER_NAMES)
    shown = (
        f"f'{{{name}}}: {{{number}}}'", f"f'{{{number}:05d}}'", f"f'{{{number} / 4:.2f}}'", f"f'|{{{name}:>{len(word) + 3}}}|'",
        f"f'{{{name}}} has {{len({name})}} letters'", f"f'{{{number} * 1000:,}}'",
        f"{name}, {number}, sep='-'", f"str({number}) * 2", f"f'{{{number} % {b}}} left'", f"'%s=%d' % ({name}, {number})",
        f"f'{{{number}:b}}'", f"f'{{{number} / {b * 10}:.1%}}'",
    )  # fmt: skip
    return f"{name} = {word!r}\n{number} = {a}\nprint({pick(rng, shown)})"


def _logic(rng: random.Random) -> str:
    a, b, c = (between(rng, 0, 12) for _ in range(3))
    shown = (
        "a < b < c", "a > b or b > c", "not a == b and c > a", "a and b", "a or c", "'low' if a < b else 'high'",
        "bool(a) + bool(b - c)", "a if a > c else c", "(a, b) < (b, c)", "a == b, a != c", "max(a, b, c) is not None", "a % 2 == 0",
    )  # fmt: skip
    return f"a, b, c = {a}, {b}, {c}\n" + "\n".join(
        f"print({one})" for one in pick_some(rng, shown, between(rng, 1, 3))
    )


def _integers(rng: random.Random) -> str:
    a, b = between(rng, 7, 99) * pick(rng, (1, 1, 1, -1)), between(rng, 2, 9)
    shown = (
        "a // b, a % b", "divmod(a, b)", "a / b > a // b", "a ** 2 - b ** 2", "int(a / b)", "abs(a) % 10", "-a // b", "a & b, a | b",
        "round(a / b, 1)", "int(str(abs(a))[::-1])", "bin(b)", "float(b)", "a - b * 2", "(a - b) * 2", "sum(map(int, str(abs(a))))",
    )  # fmt: skip
    return f"a = {a}\nb = {b}\n" + "\n".join(f"print({one})" for one in pick_some(rng, shown, between(rng, 1, 2)))


def _exceptions(rng: random.Random) -> str:
    a, word, numbers = between(rng, 1, 50), pick(rng, WORDS), number_list(rng, 2, 3)
    risky = (
        (f"print({a} // {pick(rng, (0, 2, 5))})", "ZeroDivisionError"),
        (f"print(int({pick(rng, (word, str(a)))!r}) + 1)", "ValueError"),
        (f"print({numbers}[{between(rng, 0, 4)}])", "IndexError"),
        (f"print({{{word!r}: {a}}}[{pick(rng, (word, 'none'))!r}])", "KeyError"),
        (f"print({pick(rng, (repr(word), a))} + {a})", "TypeError"),
    )
    action, name = pick(rng, risky)
    caught = pick(rng, WORDS)
    lines = ["try:", f"    {action}", f"except {name}:", f"    print({caught!r})"]
    if chance(rng, 0.4):
        lines += ["finally:", "    print('done')"]
    elif chance(rng, 0.3):
        lines += ["else:", "    print('fine')"]
    return "\n".join(lines)


def _nested(rng: random.Random) -> str:
    rows, columns = between(rng, 2, 3), between(rng, 2, 3)
    form = pick(rng, ("i * j", "i + j", "i - j", "j"))
    if chance(rng, 0.5):
        return (
            f"for i in range({rows}):\n    for j in range({columns}):\n        if i != j:\n            print(i, {form})"
        )
    first = f"table = [[{form} for j in range({columns})] for i in range({rows})]"
    return f"{first}\nprint({pick(rng, ('table', 'table[1]', 'table[1][0]', 'sum(table[-1])', 'len(table)'))})"


def _class(rng: random.Random) -> str:
    name = pick(rng, ("Counter", "Account", "Box", "Meter"))
    a, b, c = between(rng, 0, 20), between(rng, 1, 9), between(rng, 1, 9)
    sign = pick(rng, ("+", "-"))
    return (
        f"class {name}:\n    def __init__(self, start={a}):\n        self.value = start\n\n"
        f"    def change(self, by):\n        self.value = self.value {sign} by\n        return self\n\n"
        f"thing = {name}({pick(rng, ('', str(c * 3)))})\nthing.change({b}){pick(rng, ('', f'.change({c})'))}\nprint(thing.value)"
    )


def _aliases(rng: random.Random) -> str:
    numbers = number_list(rng, 2, 3)
    copy = pick(rng, ("first", "first[:]", "list(first)", "first + []"))
    change = pick(rng, ("second.append(9)", "second[0] = 7", "first.append(1)", "second += [5]"))
    return f"first = {numbers}\nsecond = {copy}\n{change}\nprint({pick(rng, ('first', 'second', 'first == second', 'first is second'))})"


def _one_line(rng: random.Random) -> str:
    a, b, word = between(rng, 0, 9), between(rng, 1, 9), pick(rng, WORDS)
    numbers = number_list(rng, 2, 4, 9)
    value = pick(rng, (a, float(b), word, numbers, a > b, tuple(numbers), {word: a}, None))
    shown = (
        f"{a} + {b}", f"{a} * {b}", f"{max(a, b)} - {min(a, b)}", f"{a} {pick(rng, ('<', '>', '==', '!=', '<=', '>='))} {b}",
        f"type({value!r}).__name__", f"type({value!r}).__name__", f"isinstance({value!r}, {pick(rng, ('int', 'str', 'list', 'dict'))})",
        f"bool({value!r})", f"len({numbers})", f"{numbers}[{pick(rng, (0, -1))}]", f"{pick(rng, numbers)} in {numbers}",
        f"{word!r}", f"{word!r}[0]", f"{word!r} == {pick(rng, (word, word.upper(), pick(rng, WORDS)))!r}", f"{word!r} * 2",
        f"not {a > b}", f"{a > b} {pick(rng, ('and', 'or'))} {b > 4}", f"{a}, {b}", f"{word!r}, {b}",
    )  # fmt: skip
    expression = pick(rng, shown)
    if chance(rng, 0.4):
        return f"print({expression})"
    name = pick(rng, ("answer", "shown", "found", "check"))
    return f"{name} = {expression}\nprint({name})"


_PROGRAMS: tuple[Callable[[random.Random], str], ...] = (
    *(_one_line,) * 8, _loop, _loop, _while, _list, _list, _text, _text, _dictionary, _dictionary, _function, _function, _comprehension,
    _comprehension, _formatting, _logic, _integers, _exceptions, _nested, _class, _aliases,
)  # fmt: skip
