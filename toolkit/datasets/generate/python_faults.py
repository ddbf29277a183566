"""Programs with one beginner's fault, what is wrong in words, and the program without it.

`error` is what running the faulty program must end with: an exception's name, `time` for a loop that never ends, or
nothing where the fault shows in what is printed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from toolkit.datasets.generate.drawing import between, pick, pick_some
from toolkit.datasets.generate.python_programs import LIST_NAMES, NUMBER_NAMES, WORD_NAMES, WORDS, number_list


class Fault(NamedTuple):
    """A faulty program, how it ends, the explanation, the repaired program."""

    name: str
    program: str
    error: str
    because: str
    repaired: str


def any_fault(rng: random.Random) -> Fault:
    """Draw a faulty program."""
    return pick(rng, _FAULTS)(rng)


def _misspelled(rng: random.Random) -> Fault:
    name = pick(rng, (*LIST_NAMES, "total", "counter", "message"))
    wrong = name[:-2] + name[-1] + name[-2]
    value, shown = (number_list(rng), "len({})") if name in LIST_NAMES else (between(rng, 2, 90), "{} + 1")
    wrong = wrong if wrong != name else name + "s"
    program = f"{name} = {value}\nprint({shown})"
    because = f"`{wrong}` was never defined: the variable is called `{name}`."
    return Fault("misspelled name", program.format(wrong), "NameError", because, program.format(name))


def _text_plus_number(rng: random.Random) -> Fault:
    name, number, word = pick(rng, NUMBER_NAMES), between(rng, 1, 99), pick(rng, WORDS)
    program = f"{name} = {number}\nprint('{word}: ' + {{}})"
    because = f"`{name}` is a number, and `+` does not join a text and a number. Turn it into a text with `str`."
    return Fault("text plus number", program.format(name), "TypeError", because, program.format(f"str({name})"))


def _index(rng: random.Random) -> Fault:
    name, numbers = pick(rng, LIST_NAMES), number_list(rng)
    program = f"{name} = {numbers}\nlast = {name}[{{}}]\nprint(last)"
    because = f"Indices start at 0, so the last item of `{name}` has the index `len({name}) - 1`, or -1."
    return Fault("index past the end", program.format(f"len({name})"), "IndexError", because, program.format(-1))


def _loop_index(rng: random.Random) -> Fault:
    name, numbers, loop = pick(rng, LIST_NAMES), number_list(rng), pick(rng, ("i", "k"))
    program = f"{name} = {numbers}\nfor {loop} in range({{}}):\n    print({name}[{loop}])"
    because = f"`range(len({name}) + 1)` goes one too far: the last index is `len({name}) - 1`."
    wrong, right = program.format(f"len({name}) + 1"), program.format(f"len({name})")
    return Fault("loop goes too far", wrong, "IndexError", because, right)


def _missing_colon(rng: random.Random) -> Fault:
    name, number = pick(rng, NUMBER_NAMES), between(rng, 1, 20)
    head = pick(
        rng, (f"if {name} > {between(rng, 0, 20)}", f"for k in range({between(rng, 2, 5)})", f"while {name} < 0")
    )
    program = f"{name} = {number}\n{head}{{}}\n    print({name})"
    word = head.split()[0]
    because = f"The line with `{word}` must end with a colon."
    return Fault("missing colon", program.format(""), "SyntaxError", because, program.format(":"))


def _single_equals(rng: random.Random) -> Fault:
    name, number = pick(rng, NUMBER_NAMES), between(rng, 1, 9)
    program = f"{name} = {number}\nif {name} {{}} {pick(rng, (number, number + 1))}:\n    print('{pick(rng, WORDS)}')"
    because = "`=` assigns a value; a comparison is written `==`."
    return Fault("assignment for comparison", program.format("="), "SyntaxError", because, program.format("=="))


def _missing_bracket(rng: random.Random) -> Fault:
    name, numbers = pick(rng, LIST_NAMES), number_list(rng)
    call = pick(
        rng, (f"print(sum({name}){{}}", f"print(len({name}) + {between(rng, 1, 9)}{{}}", f"print(max({name}){{}}")
    )
    program = f"{name} = {numbers}\n{call}"
    because = "The bracket that `print(` opens is never closed."
    return Fault("unclosed bracket", program.format(""), "SyntaxError", because, program.format(")"))


def _indentation(rng: random.Random) -> Fault:
    loop, stop, word = pick(rng, ("i", "k", "n")), between(rng, 2, 5), pick(rng, WORDS)
    program = f"for {loop} in range({stop}):\n{{}}print('{word}', {loop})"
    because = "The body of the loop must be indented."
    return Fault("missing indentation", program.format(""), "IndentationError", because, program.format("    "))


def _no_return(rng: random.Random) -> Fault:
    name, factor, number = pick(rng, ("double", "grow", "scale", "area")), between(rng, 2, 9), between(rng, 2, 30)
    program = f"def {name}(n):\n    result = n * {factor}\n{{}}\nprint({name}({number}))"
    because = f"`{name}` computes the result but does not return it, so the call gives `None`."
    return Fault("no return", program.format(""), "", because, program.format("    return result\n"))


def _return_in_loop(rng: random.Random) -> Fault:
    name, numbers = pick(rng, ("total", "add_up", "sum_of")), number_list(rng, 3, 5, 15)
    numbers = [abs(number) + 1 for number in numbers]
    program = f"def {name}(numbers):\n    result = 0\n    for n in numbers:\n        result += n\n{{}}return result\n\nprint({name}({numbers}))"
    because = (
        "`return` stands inside the loop, so the function ends after the first number. It belongs behind the loop."
    )
    return Fault("return inside the loop", program.format(" " * 8), "", because, program.format("    "))


def _mutable_default(rng: random.Random) -> Fault:
    name, first, second = pick(rng, ("collect", "add", "remember")), *pick_some(rng, WORDS, 2)
    calls = f"print({name}('{first}'))\nprint({name}('{second}'))"
    wrong = f"def {name}(item, items=[]):\n    items.append(item)\n    return items\n\n{calls}"
    right = f"def {name}(item, items=None):\n    items = [] if items is None else items\n    items.append(item)\n    return items\n\n{calls}"
    because = "The default list is made once and shared by all calls, so the second call still holds the first item."
    return Fault("mutable default", wrong, "", because, right)


def _integer_division(rng: random.Random) -> Fault:
    name, numbers = pick(rng, LIST_NAMES), number_list(rng, 3, 4)
    numbers[-1] += (1 - sum(numbers)) % len(numbers)
    program = f"{name} = {numbers}\naverage = sum({name}) {{}} len({name})\nprint(average)"
    because = "`//` cuts off what is behind the point. An average needs `/`."
    return Fault("integer division", program.format("//"), "", because, program.format("/"))


def _endless(rng: random.Random) -> Fault:
    name, start, top = pick(rng, NUMBER_NAMES), between(rng, 0, 3), between(rng, 5, 9)
    line = f"    {name} += {between(rng, 1, 2)}\n"
    program = f"{name} = {start}\nwhile {name} < {top}:\n    double = {name} * 2\n{{}}print({name})"
    because = f"`{name}` never changes inside the loop, so the condition stays true and the loop never ends."
    return Fault("endless loop", program.format(""), "time", because, program.format(line))


def _missing_key(rng: random.Random) -> Fault:
    name, keys = pick(rng, ("stock", "ages", "prices")), pick_some(rng, WORDS, 3)
    pairs = {key: between(rng, 1, 30) for key in keys[:2]}
    start = f"{name} = {pairs}\nprint({name}"
    because = f"`{name}` has no key '{keys[2]}'. `get` with a default value does not fail."
    wrong, right = f"{start}['{keys[2]}'])", f"{start}.get('{keys[2]}', 0))"
    return Fault("missing key", wrong, "KeyError", because, right)


def _text_number(rng: random.Random) -> Fault:
    name, number, other = pick(rng, ("age", "price", "amount")), between(rng, 2, 60), between(rng, 2, 60)
    program = f"{name} = {{}}\nif {name} > {other}:\n    print('more')\nelse:\n    print('not more')"
    because = f"`{name}` is a text, and `>` does not compare a text with a number. Make it a number with `int`."
    return Fault(
        "text compared with number",
        program.format(f"'{number}'"),
        "TypeError",
        because,
        program.format(f"int('{number}')"),
    )


def _sort_result(rng: random.Random) -> Fault:
    name, numbers = pick(rng, LIST_NAMES), number_list(rng, 4, 5)
    program = f"{name} = {numbers}\nordered = {{}}\nprint(ordered)"
    because = "`sort` changes the list itself and returns `None`. `sorted` returns a new list."
    return Fault("result of sort", program.format(f"{name}.sort()"), "", because, program.format(f"sorted({name})"))


def _text_changed(rng: random.Random) -> Fault:
    name, word = pick(rng, WORD_NAMES), pick(rng, WORDS)
    letter = word[0].upper()
    program = f"{name} = '{word}'\n{{}}\nprint({name})"
    because = "A text cannot be changed in place. Build a new one and assign it."
    right = program.format(f"{name} = '{letter}' + {name}[1:]")
    return Fault("text changed in place", program.format(f"{name}[0] = '{letter}'"), "TypeError", because, right)


def _ignored_result(rng: random.Random) -> Fault:
    name, word = pick(rng, WORD_NAMES), pick(rng, WORDS)
    method = pick(rng, ("upper()", "replace('e', 'a')", "capitalize()"))
    word = word if "e" in word else f"{word}e"
    program = f"{name} = '{word}'\n{{}}{name}.{method}\nprint({name})"
    because = f"`{method.split('(')[0]}` returns a new text and leaves `{name}` as it is. Assign the result."
    return Fault("result thrown away", program.format(""), "", because, program.format(f"{name} = "))


_FAULTS: tuple[Callable[[random.Random], Fault], ...] = (
    _misspelled, _text_plus_number, _index, _loop_index, _missing_colon, _single_equals, _missing_bracket, _indentation,
    _no_return, _return_in_loop, _mutable_default, _integer_division, _missing_key, _text_number, _sort_result,
    _text_changed, _ignored_result, _misspelled, _text_plus_number, _loop_index, _missing_colon, _endless,
)  # fmt: skip
