"""How the pretraining text words its sums: statements, questions and replies.

A reply shows the working and ends with an equation or a sentence; the form in which the starter set wants it is left to
fine-tuning.
"""

from __future__ import annotations

from toolkit.datasets.generate.arithmetic import Operation

STATEMENTS: dict[Operation, tuple[str, ...]] = {
    "addition": (
        "{a} + {b} = {c}",
        "{a} plus {b} is {c}.",
        "{a} and {b} make {c}.",
        "The sum of {a} and {b} is {c}.",
        "If you add {a} and {b}, you get {c}.",
    ),
    "subtraction": (
        "{a} - {b} = {c}",
        "{a} minus {b} is {c}.",
        "{a} less {b} leaves {c}.",
        "If you take {b} away from {a}, {c} is left.",
        "Subtract {b} from {a} and you get {c}.",
    ),
    "multiplication": (
        "{a} × {b} = {c}",
        "{a} times {b} is {c}.",
        "The product of {a} and {b} is {c}.",
        "If you multiply {a} by {b}, you get {c}.",
    ),
}

QUESTIONS: dict[Operation, tuple[str, ...]] = {
    "addition": (
        "What is {a} + {b}?",
        "What is {a} plus {b}?",
        "Please add {a} and {b}.",
        "How much is {a} and {b} together?",
        "Find the sum of {a} and {b}.",
        "Calculate {a} + {b}.",
        "Can you work out {a} + {b}?",
        "Add these two numbers: {a} and {b}",
        "{a} + {b}",
    ),
    "subtraction": (
        "What is {a} - {b}?",
        "What is {a} minus {b}?",
        "Please subtract {b} from {a}.",
        "How much is {a} less {b}?",
        "If I take {b} away from {a}, what is left?",
        "Calculate {a} - {b}.",
        "Can you work out {a} - {b}?",
        "Subtract the second of these numbers from the first: {a} and {b}",
        "{a} - {b}",
    ),
    "multiplication": (
        "What is {a} × {b}?",
        "What is {a} times {b}?",
        "Please multiply {a} by {b}.",
        "How much is {a} times {b}?",
        "Find the product of {a} and {b}.",
        "Calculate {a} × {b}.",
        "Can you work out {a} × {b}?",
        "Multiply these two numbers: {a} and {b}",
        "{a} × {b}",
    ),
}

# {w} is the working; the starter set wants it followed by the bare result.
REPLIES: tuple[str, ...] = (
    "{w}; {a} {sign} {b} = {c}",
    "{w}; {a} {sign} {b} = {c}",
    "{w}; the answer is {c}.",
    "{w}; it is {c}.",
    "{w}; that makes {c}.",
    "{w}; so you get {c}.",
)
