"""Metadata tagging: which preservation level, and which kind of note, belongs to a piece of text.

The levels mean what `toolkit.preservation` says. A note's kind decides its level:

    strict    definition (what a word means), rule (must, never, always), quotation (somebody's exact words)
    moderate  procedure (steps in order), decision (what was chosen, and why), fact (a lasting state of things)
    flexible  status (true today), draft (an idea, not settled), chat (small talk)

`verified`: `kind_of` reads the note's words and finds exactly that kind. Difficulty: 0.3 where the note says its kind in
so many words (definition, rule, quotation), 0.5 for the others.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from toolkit.datasets.generate.asking import one_per_key
from toolkit.datasets.generate.generator import OnRejected, Record, Rejected, ignore_rejected, record
from toolkit.datasets.generate.grammar import as_sentence, pick, read_pattern, read_patterns
from toolkit.datasets.generate.phrasings import SURROUNDINGS
from toolkit.preservation import Preservation

CATEGORY = "tagging"
SOURCE = "toolkit.datasets.generate.tagging"

LEVELS: dict[str, Preservation] = {
    "definition": "strict",
    "rule": "strict",
    "quotation": "strict",
    "procedure": "moderate",
    "decision": "moderate",
    "fact": "moderate",
    "status": "flexible",
    "draft": "flexible",
    "chat": "flexible",
}

WORDS = (
    "anchor", "bridge run", "cold seat", "deep copy", "early bird", "freight", "green light", "half tide", "iron rule", "jetty", "kelp",
    "lantern", "mast", "narrow gate", "open berth", "pump", "quay", "reef", "sail plan", "trim", "upwind", "vane", "whistle", "yard arm",
)  # fmt: skip
MEANINGS = (
    "a backup that was read back", "a customer without a contract", "a job that runs at night", "a list of open risks",
    "a page that needs no login", "a query without an index", "a release that can be undone", "a service with one user",
    "a ticket older than a month", "a word that stays in English", "an answer given twice", "an hour without meetings",
)  # fmt: skip
ACTIONS = (
    "answer a press call", "change a price", "copy customer data", "delete a log", "give out a badge", "move a server", "open a port",
    "order hardware", "publish a photo", "rename a field", "sign a contract", "skip a test", "switch off an alarm", "touch the tax table",
)  # fmt: skip
CONDITIONS = (
    "after six in the evening", "before a holiday", "during an audit", "on the main site", "while users are logged in",
    "with a guest in the room", "without a second person", "without a ticket", "without the owner", "without written consent",
)  # fmt: skip
SAYINGS = (
    "I will sign when the noise is gone", "The old form was faster than the new one", "We pay for hours and not for promises",
    "Nobody told us about the second fee", "Your map shows a door where we have a wall", "Ten users are not a test",
    "I count boxes and you count clicks", "Give us the numbers before the slides", "The red light has been on since May",
)  # fmt: skip
STEPS = (
    "check the cable", "clear the queue", "close the valve", "compare the sums", "empty the tray", "export the list", "freeze the branch",
    "lock the table", "note the time", "open the cover", "press reset", "print a label", "read the meter", "scan the code", "send the receipt",
    "sort the cards", "start the pump", "stop the timer", "test the light", "wait a minute",
)  # fmt: skip
CHOICES = (
    ("SQLite", "a server"), ("paper labels", "chips"), ("one long form", "five short ones"), ("tabs", "a menu"), ("YAML", "JSON"),
    ("a weekly build", "a daily one"), ("two small offices", "a big one"), ("plain text", "pictures"), ("a queue", "a lock"), ("buying", "building"),
)  # fmt: skip
REASONS = (
    "it can be mended at night", "it costs half as much", "it needs no training", "its licence is free", "nobody has to install it",
    "the old data fit", "the team knows it", "users asked for it",
)  # fmt: skip
STATES = (
    "has two power supplies", "is owned by {place}", "keeps its logs for ninety days", "listens on port {port}", "runs in the cellar of the Oslo office",
    "speaks only English", "stores its files in Lisbon", "was bought from a dealer in Bern",
)  # fmt: skip
MOODS = (
    "is slow",
    "is being cleaned",
    "shows a yellow light",
    "has a queue of {port} jobs",
    "waits for {name}",
    "makes a strange noise",
)
IDEAS = (
    "a darker colour for the menu", "a game for the waiting page", "a second screen in the hall", "a song for the hotline", "fewer mails on Monday",
    "names of fish for our servers", "one more coffee machine", "prizes for old bugs", "shorter forms", "stickers on every crate",
)  # fmt: skip
TALK = (
    "the soup was good", "the match was on again", "it rained into the bicycle shed", "someone brought a dog", "the lift played music",
    "the plant on the third floor has a flower", "the cake was gone before ten", "the window seat is free", "everybody wore green",
)  # fmt: skip

NOTES: dict[str, tuple[str, ...]] = {
    "definition": (
        "(A|An item called) {word} means {meaning}.",
        "By {word} we mean {meaning}.",
        "{word} stands for {meaning}(| in all our papers).",
        "Our word for {meaning} is {word}.",
    ),
    "rule": (
        "(Nobody|No one) may {action} {condition}.",
        "Never {action} {condition}.",
        "{place} must always be asked before (we|you) {action}.",
        "It is forbidden to {action} {condition}.",
    ),
    "quotation": (
        "{name} said, word for word: '{saying}.'",
        "Quote from {place}: '{saying}.'",
        "'{saying}.' These were the exact words of {name}.",
    ),
    "procedure": (
        "First {step}, then {step2}, then {step3}.",
        "(When the {thing} stops|After a restart of the {thing}): 1. {step} 2. {step2} 3. {step3}",
        "{step}; after that {step2}; finally {step3}.",
    ),
    "decision": (
        "We (chose|decided on) {choice} instead of {other}, because {reason}.",
        "Decision of the {meeting}: {choice}, not {other}, since {reason}.",
        "{name} and {place} decided for {choice} over {other}: {reason}.",
    ),
    "fact": (
        "The {thing} {state}.",
        "(As|For) the record: the {thing} {state}.",
        "About the {thing}: it {state}.",
    ),
    "status": (
        "(Right now|At the moment|This morning) the {thing} {mood}.",
        "The {thing} {mood} (today|this afternoon|until lunch).",
        "Today {name} (sits in|visits|helps) {place}.",
    ),
    "draft": (
        "(Maybe|Perhaps) we could (try|have) {idea}.",
        "(Rough idea|Just a thought|Not settled): {idea}?",
        "{name} is still thinking about {idea}.",
    ),
    "chat": (
        "(Haha|By the way|Funny), {talk}.",
        "{name} told me at lunch that {talk}.",
        "Lovely weekend! {talk}.",
    ),
}

QUESTIONS = (
    "Tag this note: {note}",
    "Which preservation level (does this get|fits this|should this note have)? {note}",
    "{note} (How do we keep that|Level and kind, please|Which tag)?",
    "(Classify|Label) for the memory: {note}",
    "I want to (store|keep|save) this. {note} Which level(|, and what kind of note is it)?",
    "(The memory asks for|We need) metadata for '{note}' (What do I enter|Your tag)?",
    "From {place}: {note} (Strict, moderate or flexible?|Tag it, please.)",
)

# The second reading: words that give a kind away. Of a note, exactly one kind's may be found.
_CUES: dict[str, str] = {
    "definition": r"\bmeans? (a|an)\b|\bstands for\b|\bOur word for\b",
    "rule": r"\b(may|must|[Nn]ever|forbidden)\b",
    "quotation": r"\bword for word\b|\bQuote from\b|\bexact words\b",
    "procedure": r"\bFirst\b.*\bthen\b|1\. .* 2\. |after that .*finally",
    "decision": r"\bdecided\b|\bDecision\b|\bchose\b",
    "fact": r"\b(has two|is owned by|keeps its logs|listens on|runs in|speaks only|stores its files|was bought)\b",
    "status": r"\bToday\b|\btoday\b|\bRight now\b|\bAt the moment\b|\bThis morning\b|\bthis afternoon\b|\buntil lunch\b",
    "draft": r"\bMaybe\b|\bPerhaps\b|\bRough idea\b|\bJust a thought\b|\bNot settled\b|\bstill thinking\b",
    "chat": r"\bHaha\b|\bBy the way\b|\bFunny\b|\bat lunch\b|\bLovely\b",
}

_NOTES = {kind: read_patterns(texts) for kind, texts in NOTES.items()}
_QUESTIONS = read_patterns(QUESTIONS)


def kind_of(note: str) -> str | None:
    """Return a note's kind by its words; None where no kind, or more than one, is found in them."""
    unquoted = re.sub(r"'[^']*'", "", note)
    found = [kind for kind, cues in _CUES.items() if re.search(cues, unquoted)]
    return found[0] if len(found) == 1 else None


def write_note(kind: str, rng: random.Random) -> str:
    """Write a note of a kind."""
    choice, other = pick(rng, CHOICES)
    port = str(20 + int(rng.random() * 980))
    fill = {name: pick(rng, values) for name, values in SURROUNDINGS.items()}
    fill |= {
        "word": pick(rng, WORDS),
        "meaning": pick(rng, MEANINGS),
        "action": pick(rng, ACTIONS),
        "condition": pick(rng, CONDITIONS),
        "saying": pick(rng, SAYINGS),
        "step": pick(rng, STEPS[:7]),
        "step2": pick(rng, STEPS[7:14]),
        "step3": pick(rng, STEPS[14:]),
        "choice": choice,
        "other": other,
        "reason": pick(rng, REASONS),
        "idea": pick(rng, IDEAS),
        "talk": pick(rng, TALK),
    }
    inner = {**fill, "port": port}
    fill["state"] = read_pattern(pick(rng, STATES)).expand(rng, inner)
    fill["mood"] = read_pattern(pick(rng, MOODS)).expand(rng, inner)
    return as_sentence(pick(rng, _NOTES[kind]).expand(rng, fill))


def _make_one(rng: random.Random) -> Record:
    kind = pick(rng, list(LEVELS))
    note = write_note(kind, rng)
    if kind_of(note) != kind:
        raise Rejected(f"{note!r} was written as {kind} and reads as {kind_of(note)}")
    level = LEVELS[kind]
    question = pick(rng, _QUESTIONS).expand(rng, {"note": note, "place": pick(rng, SURROUNDINGS["place"])})
    return record(
        CATEGORY,
        as_sentence(question),
        f"{level}, {kind}",
        key=f"tag:{note}",
        difficulty=0.3 if level == "strict" else 0.5,
        source=SOURCE,
        verified=True,
        preservation=level,
        label=level,
        kind=kind,
    )


def tagging(seed: int, count: int, on_rejected: OnRejected = ignore_rejected) -> Iterator[Record]:
    """Yield notes with the preservation level and the kind that belong to them."""
    return one_per_key(CATEGORY, seed, count, _make_one, on_rejected)
