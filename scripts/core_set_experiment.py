"""What the core set teaches nano: held-out accuracy by category before and after, and the system prompt made needless.

    python -m scripts.core_set_experiment --data data/core [--steps 2600] [--seed 0] [--out docs/core-set]
    python -m scripts.core_set_experiment --prepare data/nano-with-tools      # only the model, to validate the set with

`--data` holds `train.jsonl` and `valid.jsonl` (`make dataset` writes them). nano's own chat template writes no tools,
so a copy of nano with one that does is trained and compared; its weights are the same. Every weight is trained, as in
the demonstration.

The checkpoint is chosen by the loss on a twentieth of `train.jsonl` that is not trained on; `valid.jsonl` chooses
nothing. What was answered is kept in the runs folder (`core-set-answers.jsonl`).

Measured on the held-out examples (`valid.jsonl`), greedily, the copy before and after:

- exact match of the whole answer, and beside it:
- tagging and compliance: the label, that is the first word (`strict, rule` -> strict; `violates: …` -> violates)
- arithmetic, algebra: the last number of the answer is that of the reference
- memory: the tool that the first call names (exact match there is the whole call, name and arguments)

Context-window replacement: the same held-out questions of `context`, to the copy as it was *with* the system prompt
(`metadata.system_prompt`) and to the trained one *without* it. Intervals are Wilson's at 95 %; differences are paired.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from toolkit.atomic_files import write_atomic
from toolkit.backends import OpenTarget, open_target, resolve_target
from toolkit.commands.finetune import run_finetune
from toolkit.config import DataConfig, FinetuneConfig
from toolkit.config_files import load_config
from toolkit.datasets.formats import read_examples
from toolkit.datasets.passing_on import read_records
from toolkit.datasets.schema import Example, Message
from toolkit.datasets.splitting import assign_splits
from toolkit.datasets.validation.sources import Source
from toolkit.datasets.writing import write_records
from toolkit.evaluate.exact_match import Answer, answer_questions, expected_text
from toolkit.evaluate.intervals import Estimate, PairedDifference, paired_difference, wilson_interval
from toolkit.evaluate.questions import Question, ask
from toolkit.models import find_model
from toolkit.recipes import recipe
from toolkit.runs import runs_root

# Short, since nano has to read it before every call: names, parameters and what each tool is for.
TOOL_TEMPLATE = """\
{% if tools %}
{{- '<|im_start|>system\\n' }}
{%- for tool in tools %}
{{- tool.function.name + '(' + (tool.function.parameters.properties | list | join(', ')) + ') ' }}
{{- tool.function.description + '\\n' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- 'call ' + call.function.name + ' ' + (call.function.arguments | tojson) }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
SELECTION_SHARES = {"train": 95.0, "valid": 5.0}
NUMBERS = re.compile(r"-?\d+(?:[./]\d+)?")

Judge = Callable[[str, str], bool]


@dataclass(frozen=True)
class Row:
    """One category of one comparison: shares right in both, with intervals, and their paired difference."""

    category: str
    scorer: str
    n: int
    before: Estimate
    after: Estimate
    difference: PairedDifference


def label_of(answer: str) -> str:
    """Return the label of a tagging or compliance answer: its first word."""
    return re.split(r"[,:\s]", answer.strip(), maxsplit=1)[0]


def last_number(answer: str) -> str | None:
    """Return the last number of an answer, without thousands separators; None where there is none."""
    found = NUMBERS.findall(re.sub(r"(?<=\d)[,_](?=\d{3})", "", answer.replace("−", "-")))
    return found[-1].rstrip(".") if found else None


def same_label(answer: str, reference: str) -> bool:
    """Compare labels."""
    return label_of(answer) == label_of(reference)


def same_number(answer: str, reference: str) -> bool:
    """Compare last numbers; without a number in the reference, the whole texts."""
    wanted = last_number(reference)
    return answer.strip() == reference.strip() if wanted is None else last_number(answer) == wanted


def same_tool(answer: str, reference: str) -> bool:
    """Compare the tools that two calls name, as the template writes them."""
    named = [re.match(r"call (\w+) ", text.strip()) for text in (answer, reference)]
    return named[0] is not None and named[1] is not None and named[0][1] == named[1][1]


SCORERS: Mapping[str, tuple[str, Judge]] = {
    "tagging": ("label", same_label),
    "compliance": ("label", same_label),
    "arithmetic": ("last number", same_number),
    "algebra": ("last number", same_number),
    "memory": ("tool", same_tool),
}


def model_with_tools(folder: Path) -> Path:
    """Copy nano into `folder` and give it a chat template that writes tools."""
    shutil.copytree(
        find_model("nano").folder,
        folder,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("data", "*.md", "SHA256SUMS"),
    )
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text("utf-8"))
    settings["chat_template"] = TOOL_TEMPLATE
    write_atomic(config, json.dumps(settings, ensure_ascii=False, indent=2) + "\n")
    return folder


def training_part(data: Path, folder: Path) -> Path:
    """Split `train.jsonl` 95/5, what belongs together on one side, so that no held-out example chooses a checkpoint."""
    source = [Source(data / "train.jsonl", "train")]
    split_of = assign_splits((example for _, example in read_records(source, DataConfig())), SELECTION_SHARES, 1)
    for name in SELECTION_SHARES:
        records = (record for (record, _), own in zip(read_records(source, DataConfig()), split_of) if own == name)
        write_records(folder / f"{name}.jsonl", records)
    return folder


def first_call(example: Example) -> Example:
    """Cut a conversation with tools behind its first assistant turn, so that this turn is what is asked for."""
    end = next(index for index, message in enumerate(example.messages) if message.role == "assistant")
    return replace(example, messages=example.messages[: end + 1])


def questions_of(examples: Sequence[Example], *, system_prompt: bool = False) -> list[Question]:
    """Turn held-out examples into questions; with `system_prompt`, each after the prompt that its metadata holds."""
    asked = []
    for example in examples:
        example = first_call(example) if example.uses_tools else example
        if system_prompt:
            prompt = Message("system", str(example.metadata["system_prompt"]))
            example = replace(example, messages=(prompt, *example.messages))
        question = ask(example, example.category or "other")
        if question is not None:
            asked.append(question)
    return asked


def answers_of(target: OpenTarget, questions: Sequence[Question]) -> list[Answer]:
    """Ask a model."""
    return answer_questions(target.scorer, target.tokenizer, questions, context=target.context)


def rows_of(
    questions: Sequence[Question], references: Sequence[str], before: Sequence[Answer], after: Sequence[Answer]
) -> list[Row]:
    """Score both models by category: exact match everywhere, and the category's own scorer where it has one."""
    rows = []
    for category in sorted({question.family for question in questions}):
        chosen = [index for index, question in enumerate(questions) if question.family == category]
        scorers = [("exact match", None), *([SCORERS[category]] if category in SCORERS else [])]
        for name, judge in scorers:
            right = [_right(answers, references, chosen, judge) for answers in (before, after)]
            first, second = (wilson_interval(sum(flags), len(flags)) for flags in right)
            rows.append(Row(category, name, len(chosen), first, second, paired_difference(*right)))
    return rows


def _right(
    answers: Sequence[Answer], references: Sequence[str], chosen: Sequence[int], judge: Judge | None
) -> list[bool]:
    if judge is None:
        return [answers[index].correct for index in chosen]
    return [judge(answers[index].text, references[index]) for index in chosen]


def measure(folder: Path, run: str, held_out: Path, answers: Path) -> dict[str, list[Row]]:
    """Ask the copy before and after training, and the prompt comparison. What was answered is written to `answers`."""
    examples = read_examples(held_out, DataConfig())
    questions = questions_of(examples)
    of_context = [example for example in examples if example.category == "context"]
    with_prompt, bare = questions_of(of_context, system_prompt=True), questions_of(of_context)
    before = open_target(resolve_target(str(folder), runs_root()))
    references = [expected_text(question, before.tokenizer) for question in questions]
    base = answers_of(before, questions)
    prompted = answers_of(before, with_prompt)
    before.scorer.close()
    after = open_target(resolve_target(run, runs_root()))
    tuned = answers_of(after, questions)
    tuned_bare = [answer for question, answer in zip(questions, tuned, strict=True) if question.family == "context"]
    after.scorer.close()
    write_records(
        answers,
        (
            {
                "where": question.where,
                "category": question.family,
                "reference": reference,
                "before": b.text,
                "after": a.text,
            }
            for question, reference, b, a in zip(questions, references, base, tuned, strict=True)
        ),
    )
    return {
        "categories": rows_of(questions, references, base, tuned),
        "context with the prompt before, without it after": rows_of(
            bare, [question.reference for question in bare], prompted, tuned_bare
        ),
    }


def percent(estimate: Estimate) -> str:
    """Write a share in percent with its interval."""
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f}–{100 * estimate.high:.1f})"


def markdown(tables: Mapping[str, Sequence[Row]]) -> str:
    """Write the tables in Markdown."""
    lines = []
    for title, rows in tables.items():
        lines += ["", f"**{title[0].upper()}{title[1:]}**", ""]
        lines += ["| category | scored by | n | before | after | difference |", "| --- | --- | --- | --- | --- | --- |"]
        for row in rows:
            gain = row.difference
            change = f"{100 * gain.difference:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
            cells = (row.category, row.scorer, str(row.n), percent(row.before), percent(row.after), change)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines[1:]) + "\n"


def main() -> None:
    """Train, measure, print and save the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/core"), help="folder with train.jsonl and valid.jsonl")
    parser.add_argument("--steps", type=int, default=2600, help="optimizer updates")
    parser.add_argument("--batch-size", type=int, default=16, help="examples of an update")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="at its peak")
    parser.add_argument("--seed", type=int, default=0, help="order of the examples")
    parser.add_argument("--name", default="core-set", help="name of the run")
    parser.add_argument("--out", type=Path, help="save experiment.json and experiment.md in this folder")
    parser.add_argument("--trained", help="measure this run instead of training one")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="write the model that learns here, and stop")
    arguments = parser.parse_args()
    if arguments.prepare is not None:
        model_with_tools(arguments.prepare)
        return
    folder = model_with_tools(runs_root() / "nano-with-tools")
    run = arguments.trained
    if run is None:
        data = training_part(arguments.data, runs_root() / "core-set-data")
        flags = {"model": str(folder), "data.path": str(data), "train.max_steps": arguments.steps}
        overrides = (
            *("data.max_seq_tokens=640", "train.dtype=bfloat16", "train.eval_every=100", "train.save_every=100"),
            *(f"train.learning_rate={arguments.learning_rate}", f"train.batch_size={arguments.batch_size}"),
            f"train.seed={arguments.seed}",
        )
        config = load_config(FinetuneConfig, None, overrides, flags, base=recipe("nano-demo"))
        run = str(run_finetune(config, name=arguments.name, overwrite=True).path)
    tables = measure(folder, run, arguments.data / "valid.jsonl", runs_root() / "core-set-answers.jsonl")
    text = markdown(tables)
    print(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        content = {title: [asdict(row) for row in rows] for title, rows in tables.items()}
        write_atomic(arguments.out / "experiment.json", json.dumps(content, indent=1) + "\n")
        write_atomic(arguments.out / "experiment.md", text)


if __name__ == "__main__":
    main()
