"""Terms, procedures, rules and tools → examples: the questions that are asked about each, and what answers them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from toolkit.datasets.generate.asking import Asking, Openings, in_rounds, turn_of
from toolkit.datasets.generate.generator import OnRejected, Record, chat_record, ignore_rejected, record
from toolkit.datasets.generate.grammar import Pattern, as_sentence, pick, read_pattern, shuffled
from toolkit.datasets.generate.phrasings import OPENINGS, PHRASINGS
from toolkit.datasets.generate.team_file import Case, Procedure, Rule, Team, Term, Tool, ToolCase, argument


class TeamExamples:
    """Makes the records of a team, category by category.

    source: written into each record's metadata
    """

    def __init__(self, team: Team, source: str, *, openings: Openings | None = None) -> None:
        """Read the patterns: the toolkit's own for each facet, then the team's."""
        self.team = team
        self.source = source
        self.openings = openings or Openings([*OPENINGS, *team.openings])
        own = {facet: team.templates.get(facet, ()) for facet in PHRASINGS}
        self.patterns = {
            facet: tuple(read_pattern(text) for text in (*texts, *own[facet])) for facet, texts in PHRASINGS.items()
        }

    def categories(self) -> dict[str, Callable[[int, int, OnRejected], Iterator[Record]]]:
        """Return the function of each category that the team has something for."""
        makers = {
            "definitions": (self.team.terms, self.definitions),
            "procedures": (self.team.procedures, self.procedures),
            "context": (self.team.rules, self.rules),
            "tools": (self.team.tools, self.tools),
        }
        return {name: make for name, (items, make) in makers.items() if items}

    def default_count(self, category: str) -> int:
        """Return how many examples a category gets unless the user says: about three for everything that is asked."""
        asked = {
            "definitions": lambda: 3 * sum(len(self._term_askings(term)) for term in self.team.terms),
            "procedures": lambda: 3 * sum(len(self._procedure_askings(item)) for item in self.team.procedures),
            "context": lambda: sum(min(30, self._case_wordings(c)) for rule in self.team.rules for c in rule.cases),
            "tools": lambda: sum(min(30, self._case_wordings(c)) for tool in self.team.tools for c in tool.cases),
        }
        return asked[category]()

    def definitions(self, seed: int, count: int, on_rejected: OnRejected = ignore_rejected) -> Iterator[Record]:
        """Yield questions about the terms."""
        askings = [(term, asking) for term in self.team.terms for asking in self._term_askings(term)]
        return self._asked("definitions", seed, count, askings)

    def procedures(self, seed: int, count: int, on_rejected: OnRejected = ignore_rejected) -> Iterator[Record]:
        """Yield questions about the procedures."""
        askings = [(item, asking) for item in self.team.procedures for asking in self._procedure_askings(item)]
        return self._asked("procedures", seed, count, askings)

    def rules(self, seed: int, count: int, on_rejected: OnRejected = ignore_rejected) -> Iterator[Record]:
        """Yield what the rules decide, asked without them; the system prompt that holds them stands in the metadata."""
        cases = [(rule, index, case) for rule in self.team.rules for index, case in enumerate(rule.cases)]

        def make_one(subject: tuple[Rule, int, Case], turn: int, rng: random.Random) -> Record:
            rule, index, case = subject
            fill = self._fill(rng, [case.asked, case.input or ""])
            asked = self._question(read_pattern(case.asked), fill, rng)
            active = [other for other in shuffled(rng, self.team.rules) if other.name != rule.name][:2]
            prompt = system_prompt(self.team.team, shuffled(rng, [rule, *active]))
            return record(
                "context",
                asked,
                read_pattern(case.answer).expand(rng, fill),
                extra=read_pattern(case.input).expand(rng, fill) if case.input else "",
                key=f"rule:{rule.name}|{index}|{_values(fill)}",
                difficulty=0.4,
                source=self.source,
                verified=False,
                preservation=rule.preservation,
                rule=rule.name,
                system_prompt=prompt,
            )

        return in_rounds("context", seed, count, cases, make_one)

    def tools(self, seed: int, count: int, on_rejected: OnRejected = ignore_rejected) -> Iterator[Record]:
        """Yield questions that are answered by calling a tool: the call, its result, the answer."""
        cases = [(tool, index, case) for tool in self.team.tools for index, case in enumerate(tool.cases)]

        def make_one(subject: tuple[Tool, int, ToolCase], turn: int, rng: random.Random) -> Record:
            tool, index, case = subject
            fill = self._fill(rng, [case.asked])
            others = [other for other in shuffled(rng, self.team.tools) if other.name != tool.name][:2]
            values = {name: read_pattern(text).expand(rng, fill) for name, text in case.call.items()}
            call = {name: argument(tool.parameters[name].type, text) for name, text in values.items()}
            function = {"name": tool.name, "arguments": call}
            messages = [
                {"role": "user", "content": self._question(read_pattern(case.asked), fill, rng)},
                {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
                {"role": "tool", "name": tool.name, "content": read_pattern(case.result).expand(rng, fill)},
                {"role": "assistant", "content": read_pattern(case.answer).expand(rng, fill)},
            ]
            return chat_record(
                "tools",
                messages,
                tools=[tool_schema(each) for each in shuffled(rng, [tool, *others])],
                key=f"tool:{tool.name}|{index}|{_values(fill)}",
                difficulty=0.5,
                source=self.source,
                verified=False,
                preservation=tool.preservation,
            )

        return in_rounds("tools", seed, count, cases, make_one)

    def _asked(
        self, category: str, seed: int, count: int, askings: Sequence[tuple[Term | Procedure, Asking]]
    ) -> Iterator[Record]:
        def make_one(subject: tuple[Term | Procedure, Asking], turn: int, rng: random.Random) -> Record:
            item, asking = subject
            number = turn_of(category, seed, f"{asking.subject}|{asking.facet}", len(asking.patterns), turn)
            more = {"family": item.family} if isinstance(item, Procedure) and item.family else {}
            return record(
                category,
                self._question(asking.patterns[number], {**asking.fill, "team": self.team.team}, rng),
                asking.answer,
                key=f"{asking.subject}|{asking.facet}|{number}",
                difficulty=asking.difficulty,
                source=self.source,
                verified=False,
                preservation=item.preservation,
                facet=asking.facet,
                **more,
            )

        return in_rounds(category, seed, count, askings, make_one)

    def _term_askings(self, term: Term) -> list[Asking]:
        meaning, word = self.patterns["term.meaning"], self.patterns["term.word"]
        subject, fill = f"definition:{term.term}", {"term": term.term}
        askings = [Asking(subject, "meaning", meaning, fill, term.meaning, 0.3)]
        if term.example:
            askings.append(Asking(subject, "example", self.patterns["term.example"], fill, term.example, 0.4))
        blind = hide_term(term.meaning, term.term)
        if blind is not None:
            askings.append(Asking(subject, "word", word, {"meaning": blind}, as_sentence(f"{term.term}."), 0.5))
        return askings

    def _procedure_askings(self, item: Procedure) -> list[Asking]:
        subject, fill = f"procedure:{item.task}", {"task": item.task}
        numbered = " ".join(f"{number}. {step}" for number, step in enumerate(item.steps, start=1))

        def asking(facet: str, pattern: str, answer: str, difficulty: float, **more: str) -> Asking:
            return Asking(subject, facet, self.patterns[f"procedure.{pattern}"], {**fill, **more}, answer, difficulty)

        askings = [asking("steps", "steps", numbered, min(1.0, 0.3 + 0.1 * len(item.steps)))]
        if len(item.steps) > 1:
            askings.append(asking("first", "first", item.steps[0], 0.3))
        for number, (step, following) in enumerate(zip(item.steps, item.steps[1:]), start=1):
            askings.append(asking(f"next-{number}", "next", following, 0.4, step=step))
        if item.why:
            askings.append(asking("why", "why", item.why, 0.5))
        if item.avoid:
            askings.append(asking("avoid", "avoid", item.avoid, 0.4))
        return askings

    def _question(self, pattern: Pattern, fill: Mapping[str, str], rng: random.Random) -> str:
        question = as_sentence(pattern.expand(rng, {"team": self.team.team, **fill}))
        return self.openings.before(self._paraphrased(question, rng), rng, {"team": self.team.team, **self._fill(rng)})

    def _paraphrased(self, question: str, rng: random.Random) -> str:
        for word, others in self.team.paraphrases.items():
            chosen = pick(rng, [word, *others])
            question = re.sub(rf"\b{re.escape(word)}\b", lambda _, chosen=chosen: chosen, question)
        return question

    def _fill(self, rng: random.Random, texts: Sequence[str] | None = None) -> dict[str, str]:
        """Draw a value for the team's own slots: those that the texts use, or all of them."""
        used = None if texts is None else {slot for text in texts for slot in read_pattern(text).slots}
        return {
            name: pick(rng, values)
            for name, values in self.team.slots.items()
            if values and (used is None or name in used)
        }

    def _case_wordings(self, case: Case | ToolCase) -> int:
        pattern = read_pattern(case.asked)
        wordings = pattern.wordings
        for slot in pattern.slots:
            wordings *= max(1, len(self.team.slots.get(slot, ())))
        return wordings


def hide_term(meaning: str, term: str) -> str | None:
    """Return a meaning with `It` in place of the term at its beginning; None where the term stands elsewhere in it."""
    match = re.match(rf"(?:To |An? |The )?{re.escape(term)}\b", meaning, re.IGNORECASE)
    if match is None:
        return None
    rest = meaning[match.end() :]
    return None if re.search(rf"\b{re.escape(term)}\b", rest, re.IGNORECASE) else f"It{rest}"


def system_prompt(team: str, rules: Sequence[Rule]) -> str:
    """Write rules as a system prompt, one a line."""
    lines = [f"- {rule.text}" for rule in rules]
    return "\n".join([f"You answer for {team}. Rules:", *lines])


def tool_schema(tool: Tool) -> Record:
    """Return a tool in the form that chat templates expect."""
    properties = {
        name: {"type": item.type, **({"description": item.description} if item.description else {})}
        for name, item in tool.parameters.items()
    }
    parameters = {"type": "object", "properties": properties, "required": list(tool.parameters)}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def _values(fill: Mapping[str, str]) -> str:
    return json.dumps(fill, ensure_ascii=False, sort_keys=True)
