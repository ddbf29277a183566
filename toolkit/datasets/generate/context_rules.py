"""The house rules of the context examples: how each is stated, what it decides, and how a question is read again.

`make` draws the slots of a question and the answer; `reread` takes the question's own text and nothing else. The two share
no code, so that they can disagree.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from toolkit.datasets.generate.grammar import pick
from toolkit.datasets.generate.phrasings import SURROUNDINGS

EVENTS = (
    "audit", "backup", "board meeting", "code review", "customer call", "demo", "drill", "handover", "interview", "lunch talk", "migration",
    "night build", "planning", "release", "retrospective", "server move", "stand-up", "test run", "training", "upgrade",
)  # fmt: skip
OBJECTS = SURROUNDINGS["thing"]
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
CHANNELS: Mapping[str, tuple[str, ...]] = {
    "money": ("invoices", "refunds", "prices", "taxes", "discounts"),
    "gate": ("passwords", "access rights", "certificates", "badges", "audits"),
    "cargo": ("deliveries", "stock", "returns", "labels", "pallets"),
    "deck": ("laptops", "screens", "desks", "chairs", "headsets"),
    "bridge": ("roadmaps", "deadlines", "hiring", "strategy", "budgets"),
}
SECRETS = ("password", "access key", "token", "private key", "PIN", "recovery code")
OUTAGES = ("is down for everybody", "answers nobody", "has lost data", "shows no page at all", "rejects every payment")
ANNOYANCES = (
    "looks wrong in one browser",
    "has a spelling mistake",
    "is slow for one user",
    "shows an old logo",
    "prints one page twice",
)
CURRENCIES = {"euros": "EUR", "dollars": "USD", "pounds": "GBP", "francs": "CHF", "crowns": "SEK"}

Fill = dict[str, str]


@dataclass(frozen=True)
class HouseRule:
    """One house rule.

    lines:    how a system prompt may state it
    asked:    patterns of questions that it decides
    make:     draws (slots of the question, answer)
    reread:   reads the question and returns the answer that the rule wants, or None where it cannot tell
    """

    name: str
    lines: tuple[str, ...]
    asked: tuple[str, ...]
    make: Callable[[random.Random], tuple[Fill, str]]
    reread: Callable[[str], str | None]
    difficulty: float


def _clock(rng: random.Random) -> tuple[Fill, str]:
    hour, minute = int(rng.random() * 24), 5 * int(rng.random() * 12)
    event = pick(rng, EVENTS)
    spoken = f"{hour % 12 or 12}:{minute:02d} {'am' if hour < 12 else 'pm'}"
    return {"event": event, "time": spoken}, f"The {event} is at {hour:02d}:{minute:02d}."


def _read_clock(text: str) -> str | None:
    time = re.search(r"\b\d{1,2}:\d\d [ap]m\b", text)
    event = re.search(rf"\b({'|'.join(EVENTS)})\b", text)
    if not time or not event:
        return None
    return f"The {event[0]} is at {datetime.strptime(time[0].upper(), '%I:%M %p'):%H:%M}."


def _date(rng: random.Random) -> tuple[Fill, str]:
    month, day, year = int(rng.random() * 12), 1 + int(rng.random() * 28), 2024 + int(rng.random() * 6)
    event = pick(rng, EVENTS)
    return {"event": event, "date": f"{day} {MONTHS[month]} {year}"}, f"{year}-{month + 1:02d}-{day:02d} {event}"


def _read_date(text: str) -> str | None:
    date = re.search(r"\b\d{1,2} [A-Z][a-z]+ 20\d\d\b", text)
    event = re.search(rf"\b({'|'.join(EVENTS)})\b", text)
    if not date or not event:
        return None
    return f"{datetime.strptime(date[0], '%d %B %Y'):%Y-%m-%d} {event[0]}"


def _ticket(rng: random.Random) -> tuple[Fill, str]:
    number, thing = str(100 + int(rng.random() * 900)), pick(rng, OBJECTS)
    return {"number": number, "thing": thing}, f"HB-{number}: {thing}"


def _read_ticket(text: str) -> str | None:
    number, thing = re.search(r"\b\d{3}\b", text), re.search(rf"\b({'|'.join(OBJECTS)})\b", text)
    return f"HB-{number[0]}: {thing[0]}" if number and thing else None


def _money(rng: random.Random) -> tuple[Fill, str]:
    amount, word = str(10 + int(rng.random() * 980)), pick(rng, list(CURRENCIES))
    return {"amount": f"{amount} {word}", "thing": pick(rng, OBJECTS)}, f"{CURRENCIES[word]} {amount}"


def _read_money(text: str) -> str | None:
    found = re.search(r"\b(\d+) (euro|dollar|pound|franc|crown)s\b", text)
    codes = {"euro": "EUR", "dollar": "USD", "pound": "GBP", "franc": "CHF", "crown": "SEK"}
    return f"{codes[found[2]]} {found[1]}" if found else None


def _channel(rng: random.Random) -> tuple[Fill, str]:
    channel = pick(rng, list(CHANNELS))
    return {"topic": pick(rng, CHANNELS[channel])}, f"Please ask in #{channel}."


def _read_channel(text: str) -> str | None:
    found = [
        channel for channel, topics in CHANNELS.items() if any(re.search(rf"\b{topic}\b", text) for topic in topics)
    ]
    return f"Please ask in #{found[0]}." if len(found) == 1 else None


def _secret(rng: random.Random) -> tuple[Fill, str]:
    secret = pick(rng, SECRETS)
    return {"secret": secret, "thing": pick(rng, OBJECTS)}, f"I never pass on secrets: ask the vault for the {secret}."


def _read_secret(text: str) -> str | None:
    found = [secret for secret in SECRETS if re.search(rf"\b{secret}\b", text)]
    return f"I never pass on secrets: ask the vault for the {found[0]}." if len(found) == 1 else None


def _severity(rng: random.Random) -> tuple[Fill, str]:
    thing = pick(rng, OBJECTS)
    if rng.random() < 0.5:
        return {"thing": thing, "state": pick(rng, OUTAGES)}, f"Severity 1. Page the owner of the {thing}."
    return {"thing": thing, "state": pick(rng, ANNOYANCES)}, f"Severity 3. Open a ticket for the {thing}."


def _read_severity(text: str) -> str | None:
    thing = re.search(rf"The ({'|'.join(OBJECTS)})\b", text)
    if thing is None:
        return None
    if re.search(r"every|nobody|lost data|no page", text):
        return f"Severity 1. Page the owner of the {thing[1]}."
    return f"Severity 3. Open a ticket for the {thing[1]}." if re.search(r"one |spelling|old logo", text) else None


def _friday(rng: random.Random) -> tuple[Fill, str]:
    thing = pick(rng, OBJECTS)
    return {"thing": thing, "day": "Friday"}, f"No. Release the {thing} on Monday."


def _read_friday(text: str) -> str | None:
    thing = re.search(rf"\b({'|'.join(OBJECTS)})\b", text)
    return f"No. Release the {thing[0]} on Monday." if thing and "Friday" in text else None


def _thanks(rng: random.Random) -> tuple[Fill, str]:
    name = pick(rng, SURROUNDINGS["name"])
    return {"name": name, "thing": pick(rng, OBJECTS)}, f"You are welcome, {name}. Shall I close the ticket?"


def _read_thanks(text: str) -> str | None:
    names = [name for name in SURROUNDINGS["name"] if re.search(rf"\b{name}\b", text)]
    return f"You are welcome, {names[0]}. Shall I close the ticket?" if len(names) == 1 else None


RULES: tuple[HouseRule, ...] = (
    HouseRule(
        "clock",
        (
            "Say when something is like this: The <event> is at <time>. Times are on the 24-hour clock.",
            'Times: 24 hours, no am or pm, in the sentence "The <event> is at <time>."',
            "Never write am or pm. The form is: The <event> is at 18:30.",
        ),
        (
            "(When is|What time is|At what time is) the {event}? (The plan|My note|The calendar) says {time}.",
            "(The invitation|The board|My mail) gives {time} for the {event}. (Write|Put) that down(| for us).",
            "{time}: the {event}. (Note it|Add it to the list|Enter it), please.",
            "They moved the {event} to {time}. When is it(| now)?",
            "(Remind|Tell) everyone: {event}, {time}.",
        ),
        _clock,
        _read_clock,
        0.6,
    ),
    HouseRule(
        "date",
        (
            "List an event as its date (YYYY-MM-DD) and its name, nothing else.",
            "Every entry is YYYY-MM-DD, a space, the event.",
            "ISO date first, then the event, no other words.",
        ),
        (
            "(File|Enter|Record) the {event} of {date}.",
            "(On|It was on) {date} we had the {event}. (Make|Write) the entry.",
            "(Title|Heading) for the minutes: {event}, {date}.",
            "The {event} will be on {date}. (How do I list it|What goes into the calendar)?",
            "(Name|Label) the folder for the {event} from {date}.",
        ),
        _date,
        _read_date,
        0.6,
    ),
    HouseRule(
        "ticket",
        (
            "Tickets are written HB-number: thing, without further words.",
            "Put HB- before a ticket number, then a colon and the thing; no more than that.",
            "Ticket style: HB-000: thing. Nothing else.",
        ),
        (
            "(Quote|Cite|Give me) ticket {number} about the {thing}.",
            "The {thing} has (the number|number) {number}. (Write|Make) the reference.",
            "(How do I refer to|What is the right form of) ticket {number}(, the one about the| for the) {thing}?",
            "{number} is about the {thing}. (Reference|Short form), please.",
        ),
        _ticket,
        _read_ticket,
        0.5,
    ),
    HouseRule(
        "money",
        (
            "Write an amount as currency code and figure (EUR 5), nothing else.",
            "Money is written code first, then the figure, and that is the whole answer.",
            "Answer with the ISO code and the amount only, such as CHF 20.",
        ),
        (
            "The new {thing} costs {amount}. (Write the amount|Put it into the budget|Enter the price).",
            "(What|How much) did we pay for the {thing}? The bill says {amount}.",
            "{amount} for the {thing}: how (does|should) that stand in the table?",
            "(Someone|The dealer) offers the {thing} for {amount}. (Note|List) the sum.",
        ),
        _money,
        _read_money,
        0.5,
    ),
    HouseRule(
        "channel",
        (
            "Money matters go to #money, access and audits to #gate, goods to #cargo, equipment to #deck, plans and people to #bridge. Say: Please ask in #<channel>.",
            'Do not answer for other teams, say "Please ask in #<channel>.": #money (prices, taxes, bills), #gate (access), #cargo (goods), #deck (equipment), #bridge (plans, people).',
            'Topic to channel: money #money, access #gate, goods #cargo, equipment #deck, plans and people #bridge. The answer is "Please ask in #<channel>."',
        ),
        (
            "Who (knows|can tell me|decides) (something|more|things) about {topic}?",
            "I have a question (about|on|regarding) {topic}.",
            "(Where|With whom) (do|can) I (talk|speak) about {topic}?",
            "(Is this the right place for|Do you handle) {topic}?",
            "(Somebody|A customer) complains about our {topic}. (Where does that go|What now)?",
        ),
        _channel,
        _read_channel,
        0.5,
    ),
    HouseRule(
        "secret",
        (
            "Asked for a secret, say: I never pass on secrets: ask the vault for the <secret>.",
            'Passwords, keys, tokens and PINs: the answer is always "I never pass on secrets: ask the vault for the <secret>."',
            "Secrets are refused in these words: I never pass on secrets: ask the vault for the <secret>.",
        ),
        (
            "(What is|Tell me|I forgot) the {secret} (of|for) the {thing}(.|?)",
            "(Can|Could) you (send|mail|give) me the {secret} of the {thing}?",
            "(Quick|Urgent): I need the {secret} for the {thing}(| right now).",
            "The {thing} asks for (a|its) {secret}. Which (one|is it)?",
        ),
        _secret,
        _read_secret,
        0.3,
    ),
    HouseRule(
        "severity",
        (
            'All users affected or data lost: "Severity 1. Page the owner of the <thing>." A single nuisance: "Severity 3. Open a ticket for the <thing>."',
            "Rate incidents. Severity 1 (everybody, data): Page the owner of the <thing>. Severity 3 (a nuisance): Open a ticket for the <thing>. The severity stands first.",
        ),
        (
            "The {thing} {state}.",
            "(Alarm|Report|Message from a user): The {thing} {state}. (What do I do|How bad is that)?",
            "(Please help|Look at this)! The {thing} {state}.",
            "(How serious|How urgent) is this? The {thing} {state}.",
        ),
        _severity,
        _read_severity,
        0.5,
    ),
    HouseRule(
        "friday",
        (
            "A release on Friday is refused: No. Release the <thing> on Monday.",
            'No releases on Friday; answer "No. Release the <thing> on Monday."',
            "On Fridays say: No. Release the <thing> on Monday.",
        ),
        (
            "(May|Can|Could) (I|we) (release|deploy|ship) the {thing} on {day}?",
            "(I would like|We plan) to (release|update) the {thing} on {day}(. Is that all right|, agreed)?",
            "{day} (suits me|would be good) for the {thing} release(.| - any objection?)",
            "The {thing} is ready and it is {day}. (Ship it|Go)?",
        ),
        _friday,
        _read_friday,
        0.3,
    ),
    HouseRule(
        "thanks",
        (
            "To thanks, answer: You are welcome, <name>. Shall I close the ticket?",
            'When somebody thanks you, say "You are welcome, <name>. Shall I close the ticket?"',
            "Thanks are answered with: You are welcome, <name>. Shall I close the ticket?",
        ),
        (
            "(Thanks|Thank you|Many thanks), the {thing} works again. {name}",
            "The {thing} is fine now(, thank you|, thanks a lot). (Regards|Greetings), {name}",
            "{name} here: (that helped|you saved my day), the {thing} runs. Thank you!",
        ),
        _thanks,
        _read_thanks,
        0.4,
    ),
)  # fmt: skip
