"""Short procedures for the starter set: what to do, in one to three steps.

As with definitions, a held-out question is a new phrasing of a procedure that training taught through other phrasings.
"""

from __future__ import annotations

PHRASINGS: tuple[str, ...] = (
    "How do I {task}?",
    "What are the steps to {task}?",
    "Tell me how to {task}.",
    "I want to {task}. What should I do?",
    "Describe how we {task}.",
    "Please help me to {task}.",
    "What is the right way to {task}?",
    "Give me a short guide to {task}.",
)

# task -> its steps.
PROCEDURES: dict[str, str] = {
    "write a commit": "1. Stage one change. 2. Say what it does in one line. 3. Say why below.",
    "handle an error": "1. Read the message. 2. Find the first cause. 3. Add a test before the fix.",
    "roll back a release": "1. Stop the rollout. 2. Deploy the last good tag. 3. Tell the team.",
    "review a change": "1. Read the tests first. 2. Run the code. 3. Ask before you judge.",
    "report a bug": "1. Write what you did. 2. Write what you saw. 3. Write what you expected.",
    "restore a backup": "1. Copy the backup. 2. Check its hash. 3. Restore it on a spare machine.",
    "rotate a password": "1. Make a new password. 2. Change every user of it. 3. Delete the old one.",
    "name a branch": "1. Begin with the ticket number. 2. Add two plain words.",
    "merge a branch": "1. Update it from main. 2. Run all tests. 3. Merge and delete it.",
    "publish a release": "1. Update the change log. 2. Set the tag. 3. Upload the files.",
    "delete a record": "1. Ask its owner. 2. Save a copy. 3. Delete it and note the date.",
    "add a dependency": "1. Check its licence. 2. Pin its version. 3. Say why we need it.",
    "start a meeting": "1. Read the goal aloud. 2. Name a writer. 3. Set the end time.",
    "close a ticket": "1. Link the fix. 2. Thank the reporter. 3. Close it.",
    "welcome a new colleague": "1. Give them an account. 2. Show them the docs. 3. Pair for a day.",
    "clean a full disk": "1. Find the largest folders. 2. Move old logs away. 3. Set an alarm.",
    "test a slow query": "1. Measure it twice. 2. Read its plan. 3. Add one index.",
    "share a secret": "Never send it by mail. Put it in the vault and share the link.",
    "answer an angry customer": "1. Listen. 2. Repeat the problem. 3. Promise one next step.",
    "move a server": "1. Lower the time to live. 2. Copy the data. 3. Switch the address.",
    "stop a stuck job": "1. Find its number. 2. Ask it to stop. 3. Wait before you kill it.",
    "record a decision": "1. Write the question. 2. Write the choice. 3. Write what it costs.",
    "split a large task": "1. Find the smallest useful part. 2. Finish it. 3. Repeat.",
    "ask for help": "1. Say what you want. 2. Show what you tried. 3. Ask one question.",
}


def question(task: str, index: int) -> str:
    """Return the question for `task` in phrasing number `index`."""
    return PHRASINGS[index].format(task=task)


def key(task: str, index: int) -> str:
    """Return the semantic key: the procedure and its phrasing."""
    return f"procedure:{task}|{PHRASINGS[index].format(task='…')}"
