"""Custom definitions for the starter set: a team's private words, made up for this project.

A held-out question is a new phrasing of a term that training taught through other phrasings, so the fact can be known
and the question cannot have been seen.
"""

from __future__ import annotations

PHRASINGS: tuple[str, ...] = (
    "What is {term}?",
    "What does {term} mean?",
    "What do we mean by {term}?",
    "Define {term}.",
    "Explain {term} in one sentence.",
    "Tell me about {term}.",
    "A new colleague asks about {term}. What do you say?",
    "I heard the words {term}. What are they for?",
)

# term -> its private meaning. The first is the user's own "42".
DEFINITIONS: dict[str, str] = {
    "42": "42 is our word for an answer whose question is still unknown.",
    "blue hour": "The blue hour is the time before noon when nobody calls a meeting.",
    "paper boat": "A paper boat is a change so small that one reviewer is enough.",
    "lighthouse duty": "Lighthouse duty means answering every support question for one week.",
    "green door": "The green door is the test server that anyone may break.",
    "cold soup": "Cold soup is a task that nobody has touched for thirty days.",
    "night train": "The night train is the build that starts at two in the morning.",
    "glass box": "The glass box is the log that every customer can read.",
    "short rope": "A short rope is a plan that we can undo within one hour.",
    "red thread": "The red thread is the one sentence that explains a release.",
    "silver key": "The silver key is the password that opens the backup.",
    "stone soup": "Stone soup is a project that starts with nothing but good will.",
    "quiet week": "A quiet week is a week in which we only repair things.",
    "yellow card": "A yellow card is the first warning that a job is too slow.",
    "apple cart": "The apple cart is the old program that must not be upset.",
    "second cup": "The second cup is a short break after a hard bug.",
    "empty chair": "The empty chair stands for the customer in every meeting.",
    "north gate": "The north gate is the check that every file must pass.",
    "wooden spoon": "The wooden spoon goes to the person who broke the build.",
    "warm bench": "A warm bench is a spare machine that is ready to work.",
    "long shadow": "A long shadow is a mistake that still costs us time.",
    "open window": "An open window is an hour when users may call us directly.",
    "first snow": "First snow is the day when we stop adding new parts.",
    "tin whistle": "The tin whistle is the alarm for a full disk.",
    "black pudding": "Black pudding is code that works but nobody knows why.",
    "rain coat": "A rain coat is a test that we wrote after a failure.",
    "lost glove": "A lost glove is a file that has no owner.",
    "corner shop": "The corner shop is the folder with our small tools.",
    "brass bell": "The brass bell rings when a new customer joins us.",
    "flat stone": "A flat stone is a rule that has no exceptions.",
    "sleepy cat": "A sleepy cat is a server that answers only after a minute.",
    "garden walk": "A garden walk is a review that two people do aloud.",
    "sand castle": "A sand castle is a sketch that we throw away by Friday.",
    "back pocket": "The back pocket is the money we keep for broken machines.",
    "moon letter": "A moon letter is a note that only its writer understands.",
    "brown bag": "A brown bag is a talk that one of us gives at lunch.",
    "small harbour": "The small harbour is the branch where fixes wait for a release.",
    "loud clock": "The loud clock is the list of promises with a date.",
    "third wheel": "A third wheel is a tool that does what another one does.",
    "honest broker": "The honest broker is the person who decides when two others cannot.",
}


def question(term: str, index: int) -> str:
    """Return the question for `term` in phrasing number `index`."""
    return PHRASINGS[index].format(term=term)


def key(term: str, index: int) -> str:
    """Return the semantic key: the term and its phrasing."""
    return f"definition:{term}|{PHRASINGS[index].format(term='…')}"
