"""Tasks "write a function that …": the wording, solutions in several manners, and calls that test a solution.

What a call must give comes from a function of the generator, not from the solution that is printed: running the
solution against it is the check.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

from toolkit.datasets.generate.drawing import between, pick
from toolkit.datasets.generate.python_programs import WORDS, number_list

Arguments = tuple[Any, ...]


class Task(NamedTuple):
    """A function to write.

    names:     names that it may have.
    says:      what it does, after "a function that".
    solutions: bodies, indented by four spaces; the arguments are named as in `parameters`.
    oracle:    what a call must give.
    draw:      draws the arguments of a call.
    """

    names: tuple[str, ...]
    parameters: str
    says: tuple[str, ...]
    solutions: tuple[str, ...]
    oracle: Callable[..., Any]
    draw: Callable[[random.Random], Arguments]


def _numbers(rng: random.Random) -> Arguments:
    return (number_list(rng, 3, 6),)


def _word(rng: random.Random) -> Arguments:
    return (pick(rng, WORDS),)


def _sentence(rng: random.Random) -> Arguments:
    return (" ".join(pick(rng, WORDS) for _ in range(between(rng, 2, 4))),)


def _small(rng: random.Random) -> Arguments:
    return (between(rng, 1, 12),)


def _number(rng: random.Random) -> Arguments:
    return (between(rng, 2, 60),)


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


def _fibonacci(n: int) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def _counts(text: str) -> dict[str, int]:
    return {letter: text.count(letter) for letter in dict.fromkeys(text)}


def _factorial(n: int) -> int:
    return n * _factorial(n - 1) if n else 1


TASKS: tuple[Task, ...] = (
    Task(("sum_of_even", "add_even_numbers", "even_total"), "numbers", ("adds up the even numbers of a list", "returns the sum of all even numbers in a list"), ("    return sum(n for n in numbers if n % 2 == 0)", "    total = 0\n    for n in numbers:\n        if n % 2 == 0:\n            total += n\n    return total"), lambda numbers: sum(n * (1 - n % 2) for n in numbers), _numbers),
    Task(("largest", "find_largest", "biggest"), "numbers", ("finds the largest number of a list without using max", "returns the biggest item of a list of numbers, not using max"), ("    best = numbers[0]\n    for n in numbers[1:]:\n        if n > best:\n            best = n\n    return best", "    return sorted(numbers)[-1]"), max, _numbers),
    Task(("reverse_text", "backwards", "reversed_text"), "text", ("returns a text backwards", "reverses a string"), ("    return text[::-1]", '    return "".join(reversed(text))', '    result = ""\n    for letter in text:\n        result = letter + result\n    return result'), lambda text: "".join(text[i] for i in range(len(text) - 1, -1, -1)), _word),
    Task(("count_vowels", "vowels_in", "number_of_vowels"), "text", ("counts the vowels in a text", "tells how many vowels a string has"), ('    return sum(letter in "aeiou" for letter in text.lower())', '    count = 0\n    for letter in text.lower():\n        if letter in "aeiou":\n            count += 1\n    return count'), lambda text: sum(text.count(v) for v in "aeiou"), _sentence),
    Task(("is_prime", "check_prime", "prime"), "n", ("tells whether a number is prime", "returns True for a prime number and False otherwise"), ("    if n < 2:\n        return False\n    for d in range(2, int(n ** 0.5) + 1):\n        if n % d == 0:\n            return False\n    return True", "    return n > 1 and all(n % d for d in range(2, n))"), _is_prime, _number),
    Task(("factorial", "product_up_to", "fact"), "n", ("computes the factorial of n", "multiplies all whole numbers from 1 to n"), ("    result = 1\n    for k in range(2, n + 1):\n        result *= k\n    return result", "    if n == 0:\n        return 1\n    return n * {name}(n - 1)"), _factorial, _small),
    Task(("fibonacci", "fib", "nth_fibonacci"), "n", ("returns the n-th Fibonacci number, starting with 0 for n = 0", "computes Fibonacci number n (0, 1, 1, 2, …)"), ("    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a", "    if n < 2:\n        return n\n    return {name}(n - 1) + {name}(n - 2)"), _fibonacci, _small),
    Task(("letter_counts", "count_letters", "frequencies"), "text", ("counts how often each letter occurs in a word and returns a dictionary", "returns a dictionary from each character of a text to its count"), ("    counts = {}\n    for letter in text:\n        counts[letter] = counts.get(letter, 0) + 1\n    return counts", "    return {letter: text.count(letter) for letter in text}"), _counts, _word),
    Task(("without_duplicates", "unique", "deduplicate"), "items", ("removes duplicates from a list and keeps the order", "returns the items of a list, each once, in order of first appearance"), ("    result = []\n    for item in items:\n        if item not in result:\n            result.append(item)\n    return result", "    return list(dict.fromkeys(items))"), lambda items: [x for i, x in enumerate(items) if x not in items[:i]], lambda rng: (number_list(rng, 4, 7, 5),)),
    Task(("average", "mean", "mean_of"), "numbers", ("returns the average of a list of numbers, and 0 for an empty list", "computes the mean of a list (0 where the list is empty)"), ("    if not numbers:\n        return 0\n    return sum(numbers) / len(numbers)", "    return sum(numbers) / len(numbers) if numbers else 0"), lambda numbers: sum(numbers) / len(numbers), _numbers),
    Task(("is_palindrome", "reads_the_same_backwards", "palindrome"), "text", ("checks whether a text is a palindrome", "tells if a word reads the same in both directions"), ("    return text == text[::-1]", "    for i in range(len(text) // 2):\n        if text[i] != text[-1 - i]:\n            return False\n    return True"), lambda text: list(text) == list(reversed(text)), lambda rng: (pick(rng, ("level", "radar", "noon", "civic", "refer", *WORDS[:6])),)),
    Task(("squares", "square_all", "squared"), "numbers", ("returns the squares of all numbers in a list", "squares every number of a list"), ("    return [n ** 2 for n in numbers]", "    result = []\n    for n in numbers:\n        result.append(n * n)\n    return result"), lambda numbers: [n * n for n in numbers], _numbers),
    Task(("digit_sum", "sum_of_digits", "cross_sum"), "n", ("adds the digits of a positive whole number", "computes the digit sum of n"), ("    return sum(int(digit) for digit in str(n))", "    total = 0\n    while n:\n        total += n % 10\n        n //= 10\n    return total"), lambda n: sum(map(int, str(n))), lambda rng: (between(rng, 10, 99_999),)),
    Task(("longest_word", "longest", "find_longest_word"), "sentence", ("returns the longest word of a sentence, the first one of several", "finds the first longest word in a sentence"), ("    return max(sentence.split(), key=len)", '    best = ""\n    for word in sentence.split():\n        if len(word) > len(best):\n            best = word\n    return best'), lambda s: sorted(s.split(), key=lambda w: -len(w))[0], _sentence),
    Task(("fizzbuzz", "fizz", "fizz_or_buzz"), "n", ('returns "Fizz" for multiples of 3, "Buzz" for multiples of 5, "FizzBuzz" for both, and the number as text otherwise',), ('    if n % 15 == 0:\n        return "FizzBuzz"\n    if n % 3 == 0:\n        return "Fizz"\n    if n % 5 == 0:\n        return "Buzz"\n    return str(n)', '    word = ""\n    if n % 3 == 0:\n        word += "Fizz"\n    if n % 5 == 0:\n        word += "Buzz"\n    return word or str(n)'), lambda n: "Fizz" * (n % 3 == 0) + "Buzz" * (n % 5 == 0) or str(n), _number),
    Task(("clamp", "limit", "keep_within"), "value, low, high", ("limits a value to the range from low to high", "returns low, high or the value itself, whichever keeps it within the range"), ("    return max(low, min(value, high))", "    if value < low:\n        return low\n    if value > high:\n        return high\n    return value"), lambda v, low, high: sorted((v, low, high))[1], lambda rng: (between(rng, -20, 40), between(rng, -5, 5), between(rng, 10, 20))),
    Task(("common", "in_both", "shared_items"), "first, second", ("returns the items of the first list that are in the second one too", "lists what two lists have in common, in the order of the first"), ("    return [item for item in first if item in second]", "    result = []\n    for item in first:\n        if item in second:\n            result.append(item)\n    return result"), lambda a, b: list(filter(b.__contains__, a)), lambda rng: (number_list(rng, 4, 5, 8), number_list(rng, 4, 5, 8))),
    Task(("gcd", "greatest_common_divisor", "common_divisor"), "a, b", ("computes the greatest common divisor of two positive numbers", "finds the largest number that divides both a and b"), ("    while b:\n        a, b = b, a % b\n    return a", "    for d in range(min(a, b), 0, -1):\n        if a % d == 0 and b % d == 0:\n            return d"), lambda a, b: max(d for d in range(1, a + 1) if a % d == b % d == 0), lambda rng: (between(rng, 2, 90), between(rng, 2, 90))),
    Task(("chunks", "split_into", "in_groups"), "items, size", ("splits a list into pieces of a given size, the last one may be shorter", "cuts a list into groups of at most size items"), ("    return [items[i:i + size] for i in range(0, len(items), size)]", "    result = []\n    while items:\n        result.append(items[:size])\n        items = items[size:]\n    return result"), lambda items, size: [items[k * size : (k + 1) * size] for k in range(-(-len(items) // size))], lambda rng: (number_list(rng, 4, 8), between(rng, 2, 3))),
    Task(("running_total", "cumulative", "partial_sums"), "numbers", ("returns the running totals of a list", "computes the sum up to each position of a list"), ("    result = []\n    total = 0\n    for n in numbers:\n        total += n\n        result.append(total)\n    return result", "    return [sum(numbers[:i + 1]) for i in range(len(numbers))]"), lambda numbers: [sum(numbers[: k + 1]) for k in range(len(numbers))], _numbers),
    Task(("to_celsius", "celsius", "fahrenheit_to_celsius"), "degrees", ("converts degrees Fahrenheit to degrees Celsius, rounded to one decimal place",), ("    return round((degrees - 32) * 5 / 9, 1)",), lambda f: round((f - 32) * 5 / 9, 1), lambda rng: (between(rng, -40, 212),)),
    Task(("initials", "first_letters", "abbreviation"), "sentence", ("returns the first letters of all words as capitals", "builds an abbreviation from the words of a text"), ('    return "".join(word[0].upper() for word in sentence.split())', '    result = ""\n    for word in sentence.split():\n        result += word[0].upper()\n    return result'), lambda s: "".join(w[:1] for w in s.upper().split()), _sentence),
)  # fmt: skip
