"""Rule compliance: does a piece of work keep a named rule, and if not, what breaks it?

Rules have names in three spaces: `pattern:` (a form), `concept:` (an idea) and `definition:` (a word used as defined).
The answer is `complies`, or `violates: ` and the first reason. `verified`: the rule's own check, which sees only the
text quoted in the question, gives that answer. Difficulty: 0.4 where the form decides, 0.6 where the meaning does; 0.1
less where the text complies.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from toolkit.datasets.generate.asking import one_per_key
from toolkit.datasets.generate.generator import OnRejected, Record, Rejected, ignore_rejected, record
from toolkit.datasets.generate.grammar import as_sentence, pick, read_pattern, read_patterns
from toolkit.datasets.generate.phrasings import SURROUNDINGS

CATEGORY = "compliance"
SOURCE = "toolkit.datasets.generate.compliance"
COMPLIES = "complies"

VERBS = (
    "Add",
    "Check",
    "Close",
    "Count",
    "Drop",
    "Guard",
    "Keep",
    "Log",
    "Mend",
    "Move",
    "Name",
    "Pin",
    "Read",
    "Show",
    "Sort",
    "Test",
)
PAST = ("Added", "Checked", "Closed", "Counted", "Dropped", "Moved", "Named", "Pinned", "Showed", "Sorted", "Tested")
NOUNS = (
    "alarm", "archive", "badge", "cart", "clock", "counter", "export", "filter", "form", "header", "icon", "import", "index", "invoice", "label",
    "link", "list", "login", "menu", "note", "page", "price", "query", "queue", "report", "scale", "search", "table", "token", "upload",
)  # fmt: skip
TAILS = ("before the upload", "for guests", "in the export", "of the old shop", "on small screens", "without a lock")
LONG_TAILS = (
    "because the customer in Lisbon asked for it twice",
    "so that the night shift does not have to wait for it",
)


@dataclass(frozen=True)
class ComplianceRule:
    """A rule.

    write: draws a text that may or may not keep it, without saying which
    check: returns None for a text that keeps it, else the reason
    """

    name: str
    what: str
    write: Callable[[random.Random], str]
    check: Callable[[str], str | None]
    difficulty: float


def _subject(rng: random.Random) -> str:
    first = pick(rng, VERBS) if rng.random() < 0.75 else pick(rng, PAST)
    text = f"{first} the {pick(rng, NOUNS)} {pick(rng, TAILS)}"
    fault = int(rng.random() * 6)
    if fault == 0:
        text = text[0].lower() + text[1:]
    if fault == 1:
        text += "."
    return f"{text} {pick(rng, LONG_TAILS)}" if fault == 2 else text


def _check_subject(text: str) -> str | None:
    if len(text) > 60:
        return "it is too long"
    if not text[0].isupper():
        return "it begins with a small letter"
    if text.endswith("."):
        return "it ends with a full stop"
    return "it is in the past tense" if text.split()[0].endswith("ed") else None


def _branch(rng: random.Random) -> str:
    words = [pick(rng, VERBS).lower(), pick(rng, NOUNS)]
    number = str(100 + int(rng.random() * 900))
    fault = int(rng.random() * 6)
    joined = ("_" if fault == 0 else "-").join(words)
    return f"{joined}" if fault == 1 else f"{number}/{joined.title() if fault == 2 else joined}"


def _check_branch(text: str) -> str | None:
    if not re.match(r"\d{3}/", text):
        return "the ticket number is missing"
    if "_" in text:
        return "words are joined by an underscore"
    return "it has capital letters" if text != text.lower() else None


def _version(rng: random.Random) -> str:
    parts = [str(int(rng.random() * 20)) for _ in range(3)]
    fault = int(rng.random() * 6)
    if fault == 0:
        parts.pop()
    if fault == 1:
        parts[1] = f"0{parts[1]}"
    return ("v" if fault == 2 else "") + ".".join(parts)


def _check_version(text: str) -> str | None:
    if text.startswith("v"):
        return "it begins with a letter"
    if text.count(".") != 2:
        return "it has two parts"
    return "a part begins with zero" if re.search(r"(^|\.)0\d", text) else None


def _snake(rng: random.Random) -> str:
    words = [pick(rng, VERBS).lower(), pick(rng, NOUNS), pick(rng, NOUNS)]
    fault = int(rng.random() * 5)
    if fault == 0:
        return words[0] + words[1].title() + words[2].title()
    return ("-" if fault == 1 else "_").join(words)


def _check_snake(text: str) -> str | None:
    if "-" in text:
        return "it has a hyphen"
    return "it has capital letters" if text != text.lower() else None


def _one_change(rng: random.Random) -> str:
    first = f"{pick(rng, VERBS)} the {pick(rng, NOUNS)}"
    if rng.random() < 0.5:
        return f"{first} {pick(rng, TAILS)}"
    return f"{first} and {pick(rng, VERBS).lower()} the {pick(rng, NOUNS)}"


def _check_one_change(text: str) -> str | None:
    return "it names two changes" if " and " in text else None


_BLAME = (
    "{name} broke the {noun}", "{name} forgot the {noun}", "It was the fault of {name}", "{name} should have tested the {noun}",
    "The {noun} had no test", "The {noun} failed after the update", "The alarm for the {noun} came late", "Nobody owned the {noun}",
)  # fmt: skip


def _no_blame(rng: random.Random) -> str:
    fill = {"name": pick(rng, SURROUNDINGS["name"]), "noun": pick(rng, NOUNS)}
    return read_pattern(pick(rng, _BLAME)).expand(rng, fill)


def _check_no_blame(text: str) -> str | None:
    return "it blames a person" if any(re.search(rf"\b{name}\b", text) for name in SURROUNDINGS["name"]) else None


def _measured(rng: random.Random) -> str:
    noun, number = pick(rng, NOUNS), str(2 + int(rng.random() * 90))
    claim = pick(
        rng,
        (
            f"The {noun} is faster",
            f"The {noun} needs less memory",
            f"Users like the {noun}",
            f"The {noun} fails less often",
        ),
    )
    how = pick(
        rng,
        (f": {number} percent", f", by {number} runs", f": {number} of 100", " now", " than ever", ", everyone says"),
    )
    return f"{claim}{how}"


def _check_measured(text: str) -> str | None:
    return None if re.search(r"\d", text) else "it has no figure"


def _next_step(rng: random.Random) -> str:
    noun = pick(rng, NOUNS)
    state = pick(
        rng,
        (f"The {noun} is half done", f"The {noun} waits for review", f"We tested the {noun}", f"The {noun} is blocked"),
    )
    after = f"Next: {pick(rng, VERBS).lower()} the {pick(rng, NOUNS)}"
    return pick(rng, (f"{state}. {after}", f"{state}. {after}", f"{state} {pick(rng, TAILS)}", f"{state}. More later"))


def _check_next_step(text: str) -> str | None:
    return None if "Next:" in text else "the next step is missing"


def _done(rng: random.Random) -> str:
    parts = ("tests pass", "it is reviewed", "it is deployed")
    kept = [part for part in parts if rng.random() < 0.8]
    return f"The {pick(rng, NOUNS)} is done: {', '.join(kept) or 'it runs here'}"


def _check_done(text: str) -> str | None:
    for part, reason in (("tests pass", "the tests"), ("reviewed", "the review"), ("deployed", "the deployment")):
        if part not in text:
            return f"{reason} {'are' if reason.endswith('s') else 'is'} missing"
    return None


def _hot_fix(rng: random.Random) -> str:
    lines, outage = 1 + int(rng.random() * 38), rng.random() < 0.7
    ends = (
        pick(rng, ("ends the outage of", "ends the failure of"))
        if outage
        else pick(rng, ("changes the colour of", "adds a line to"))
    )
    return f"A hot fix of {lines} lines {ends} the {pick(rng, NOUNS)}"


def _check_hot_fix(text: str) -> str | None:
    found = re.search(r"\b(\d+) lines\b", text)
    if found is None or int(found[1]) > 20:
        return "it has more than twenty lines"
    return None if re.search("outage|failure", text) else "it ends no outage"


def _blue_ticket(rng: random.Random) -> str:
    amount, approvals = 50 * (1 + int(rng.random() * 20)), int(rng.random() * 4)
    said = ("without approval", "with one approval", "with two approvals", "with three approvals")[approvals]
    return f"A refund of {amount} euros for the {pick(rng, NOUNS)}, paid {said}"


def _check_blue_ticket(text: str) -> str | None:
    amount = re.search(r"\b(\d+) euros\b", text)
    if amount is None or int(amount[1]) <= 500:
        return None
    return None if re.search("two approvals|three approvals", text) else "it needs two approvals"


RULES: tuple[ComplianceRule, ...] = (
    ComplianceRule("pattern:commit-subject", "commit subject", _subject, _check_subject, 0.4),
    ComplianceRule("pattern:branch-name", "branch", _branch, _check_branch, 0.4),
    ComplianceRule("pattern:version", "version", _version, _check_version, 0.4),
    ComplianceRule("pattern:snake-case", "name", _snake, _check_snake, 0.4),
    ComplianceRule("concept:one-change", "commit", _one_change, _check_one_change, 0.6),
    ComplianceRule("concept:no-blame", "line of the report", _no_blame, _check_no_blame, 0.6),
    ComplianceRule("concept:measured", "claim", _measured, _check_measured, 0.6),
    ComplianceRule("concept:next-step", "status note", _next_step, _check_next_step, 0.6),
    ComplianceRule("definition:done", "statement", _done, _check_done, 0.6),
    ComplianceRule("definition:hot-fix", "change", _hot_fix, _check_hot_fix, 0.6),
    ComplianceRule("definition:blue-ticket", "payment", _blue_ticket, _check_blue_ticket, 0.6),
)

QUESTIONS = (
    "Does this {what} keep {rule}? '{text}'",
    "{rule}: '{text}'",
    "(Check|Test|Judge) '{text}' against {rule}.",
    "(Is|Would) '{text}' (be|) (fine|all right|accepted) under {rule}?",
    "The {what} is '{text}'. (Verdict|What do you say|Your judgement) by {rule}?",
    "{name} from {place} (sent|wrote|proposes) '{text}'. (Apply|Use) {rule}.",
    "(Review|Audit) for {place}, {rule}, {what}: '{text}'",
    "By {rule}, (may|can) (I|we) (use|accept|take) the {what} '{text}'?",
    "'{text}': {rule} (satisfied|kept|respected)?",
)
_QUESTIONS = read_patterns(QUESTIONS)


def quoted_text(question: str) -> str:
    """Return the text that a question quotes. Raises Rejected unless there is exactly one."""
    found = re.findall(r"'([^']*)'", question)
    if len(found) != 1:
        raise Rejected(f"{question!r} quotes {len(found)} texts")
    return found[0]


def verdict(rule: ComplianceRule, text: str) -> str:
    """Return `complies`, or `violates: ` and the first reason."""
    reason = rule.check(text)
    return COMPLIES if reason is None else f"violates: {reason}"


def _make_one(rng: random.Random) -> Record:
    rule = pick(rng, RULES)
    # A text that keeps its rule is wanted half of the time.
    wanted, text = rng.random() < 0.5, rule.write(rng)
    while (rule.check(text) is None) != wanted:
        text = rule.write(rng)
    fill = {"what": rule.what, "rule": rule.name, "text": text}
    fill |= {name: pick(rng, SURROUNDINGS[name]) for name in ("name", "place")}
    asked = pick(rng, _QUESTIONS).expand(rng, fill)
    question = asked if asked.startswith(("pattern:", "concept:", "definition:")) else as_sentence(asked)
    answer = verdict(rule, quoted_text(question))
    if (answer == COMPLIES) != wanted:
        raise Rejected(f"{rule.name}: {question!r} gives {answer!r}")
    return record(
        CATEGORY,
        question,
        answer,
        key=f"{rule.name}|{text}",
        difficulty=rule.difficulty - (0.1 if wanted else 0.0),
        source=SOURCE,
        verified=True,
        preservation="strict",
        rule=rule.name,
        label=COMPLIES if wanted else "violates",
    )


def compliance(seed: int, count: int, on_rejected: OnRejected = ignore_rejected) -> Iterator[Record]:
    """Yield texts with a rule's verdict on them."""
    return one_per_key(CATEGORY, seed, count, _make_one, on_rejected)
