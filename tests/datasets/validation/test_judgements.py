from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.validation.judging import EXCERPT, clean_records, found, judged, write
from toolkit.config_files import load_config
from toolkit.datasets.validation.diversity import measure_diversity, normalised_entropy
from toolkit.datasets.validation.figures import figures_of
from toolkit.datasets.validation.language import language_of
from toolkit.datasets.validation.metadata import judge_metadata, wrong_labels
from toolkit.datasets.validation.texts import template_of, words_of
from toolkit.datasets.validation.thresholds import Check, Thresholds
from toolkit.errors import ToolkitError

GSM8K = {"prompt": "question", "completion": "answer"}


def test_a_question_of_the_evaluation_set_is_found_in_the_data_although_reworded_at_its_end(tmp_path: Path) -> None:
    records = clean_records(30)
    taken = json.loads((EXCERPT / "valid.jsonl").read_text("utf-8").splitlines()[6])
    half = taken["question"].split()
    records[20]["instruction"] = " ".join(half[: len(half) * 2 // 3]) + " What is it?"
    records[21]["instruction"] = " ".join(half[: len(half) // 4]) + " What else is there to be said about it?"
    evaluation = [
        {"instruction": json.loads(line)["question"], "output": "-"} for line in (EXCERPT / "valid.jsonl").open()
    ]
    evaluation.append({"instruction": "What is 7 times 6?", "output": "42"})
    records[25]["instruction"] = "What is 7 times 6?"
    path = write(tmp_path / "train.jsonl", records)
    against = write(tmp_path / "evaluation.jsonl", evaluation)
    validation = judged(path, against=[against])
    assert sorted(found(validation, "contamination")) == ["train.jsonl:21", "train.jsonl:26"]
    assert validation.findings.of_kind("contamination")[0].what.endswith("evaluation.jsonl:7")
    assert not validation.good


def test_an_evaluation_set_with_fields_of_its_own_is_read_without_a_mapping(tmp_path: Path) -> None:
    records = clean_records(5)
    records[2]["instruction"] = json.loads((EXCERPT / "valid.jsonl").read_text("utf-8").splitlines()[3])["question"]
    path = write(tmp_path / "train.jsonl", records)
    assert found(judged(path, against=[EXCERPT / "valid.jsonl"]), "contamination") == ["train.jsonl:3"]
    nothing = write(tmp_path / "nothing.jsonl", [{"a": 1}])
    with pytest.raises(ToolkitError, match=r"nothing\.jsonl:1: no known shape"):
        judged(path, against=[nothing])


def test_train_and_test_of_gsm8k_are_not_contaminated_by_each_other() -> None:
    validation = judged(EXCERPT / "train.jsonl", against=[EXCERPT / "valid.jsonl"], data=GSM8K)
    assert validation.findings.counts["contamination"] == 0


def test_an_answer_that_fewer_examples_give_is_named_and_a_system_prompt_makes_another_question(tmp_path: Path) -> None:
    same = [{"instruction": "Is the sky blue?", "output": answer} for answer in ("Yes.", "Yes.", "No.", "yes")]
    turns = [("system", "Answer in German."), ("user", "Is the sky blue?"), ("assistant", "Ja.")]
    other = {"messages": [{"role": role, "content": content} for role, content in turns]}
    validation = judged(write(tmp_path / "train.jsonl", [*same, other]))
    assert found(validation, "conflict") == ["train.jsonl:3"]


@pytest.mark.parametrize(
    ("metadata", "what"),
    [
        ({"difficulty": 7}, "difficulty is 7"),
        ({"difficulty": True}, "difficulty is True"),
        ({"difficulty": "hard"}, "difficulty is 'hard'"),
        ({"preservation": "rigid"}, "preservation is 'rigid'"),
        ({"category": 5}, "category is 5"),
        ({"id": ""}, "id is ''"),
        ({"key": 1.5}, "key is 1.5"),
        ({"verified": "yes"}, "verified is 'yes'"),
        ({"source": ["a"]}, "source is ['a']"),
    ],
)
def test_metadata_out_of_range_or_of_the_wrong_type_are_named(metadata: dict, what: str) -> None:
    ((found_what, hint),) = judge_metadata(metadata)
    assert found_what.startswith(what) and hint


def test_metadata_as_documented_are_accepted() -> None:
    assert not list(judge_metadata(clean_records(1)[0]["metadata"]))
    assert not list(judge_metadata({"difficulty": 0, "key": 12, "anything": [1]}))


def test_an_id_that_two_examples_have_is_a_fault_of_the_second(tmp_path: Path) -> None:
    records = clean_records(3)
    records[2]["metadata"]["id"] = records[0]["metadata"]["id"]
    assert found(judged(write(tmp_path / "train.jsonl", records)), "metadata") == ["train.jsonl:3"]


def test_labels_are_wrong_when_unknown_or_rare_and_misspelt() -> None:
    assert wrong_labels({"arithmetic": 90, "arithmetc": 1, "algebra": 2}, None) == {
        "arithmetc": "Did you mean arithmetic?"
    }
    assert wrong_labels({"arithmetic": 3, "arithmetics": 3}, None) == {}
    assert set(wrong_labels({"a": 5, "b": 5}, ("a",))) == {"b"}


def test_only_a_share_of_the_largest_category_above_the_limit_is_broken(tmp_path: Path) -> None:
    records = clean_records(10)
    for record in records[:4]:
        record["metadata"]["category"] = "others"
    path = write(tmp_path / "train.jsonl", records)
    shares = {check.name: check for check in judged(path).checks}
    assert (shares["max_category_share"].value, shares["max_category_share"].good) == (0.6, False)
    assert judged(path, max_category_share=0.6).good


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How many of the apples did she give to her friends, and how many are left for the two of them?", "en"),
        ("Wie viele Äpfel hat sie ihren Freunden gegeben, und wie viele bleiben für die beiden übrig?", "de"),
        ("Combien de pommes a-t-elle données à ses amis, et combien en reste-t-il pour les deux autres ?", "fr"),
        ("¿Cuántas manzanas regaló a sus amigos y cuántas quedan todavía para las dos personas?", "es"),
        ("12 + 7 = 19", ""),
        ("roge rusomi muni bilecupu dadebe rusomi roge pete cedasegi tidabube roge cerufega donesipa misapegi", ""),
        ("これはペンです。それは私の本ではありません。", "ja"),
    ],
)
def test_languages_are_told_apart_and_sums_and_invented_words_have_none(text: str, language: str) -> None:
    assert language_of(text, words_of(text)) == language


def test_templates_lose_numbers_names_and_quotations() -> None:
    one = template_of('Tom says "hello there" to Anna 3.5 times. How often is that?')
    other = template_of('Tom says "good bye" to Berta 12 times. How often is that?')
    assert one == other == "tom says «» to @ # times. how often is that?"


def test_entropy_is_one_when_all_differ_and_follows_shannon_between() -> None:
    assert normalised_entropy(np.arange(100)) == pytest.approx(1.0)
    assert normalised_entropy(np.zeros(100)) == 0.0
    assert normalised_entropy(np.array([0, 0, 1, 1])) == pytest.approx(0.5)  # 1 bit of 2


def test_diversity_does_not_depend_on_size_nor_on_the_order_of_the_file() -> None:
    rng = np.random.default_rng(5)
    contents = rng.integers(1, 2**62, size=4000).astype(np.uint64)
    templates = rng.integers(1, 60, size=4000).astype(np.uint64)
    trigrams = rng.integers(0, 3000, size=(4000, 20)).astype(np.uint32)

    def measured(chosen: np.ndarray) -> tuple[float, float]:
        figures = measure_diversity(
            contents[chosen], templates[chosen], templates[chosen], lambda i: trigrams[chosen[i]]
        )
        assert figures.template_entropy is not None and figures.distinct_trigrams is not None
        return figures.template_entropy, figures.distinct_trigrams

    everything = np.arange(4000)
    assert measured(everything) == measured(everything[::-1])
    small, large = measured(everything[:500]), measured(everything)
    assert small == pytest.approx(large, abs=0.03)


def test_a_set_of_one_template_is_told_from_one_of_many(tmp_path: Path) -> None:
    monotone = [{"instruction": f"What is {n} plus {n + 1}?", "output": f"It is {2 * n + 1}."} for n in range(150)]
    broken = {check.name for check in judged(write(tmp_path / "train.jsonl", monotone)).checks if not check.good}
    assert {"min_template_entropy", "max_template_share", "max_opening_share"} <= broken
    assert judged(EXCERPT / "train.jsonl", data=GSM8K).good


def test_report_figures_of_the_excerpt_are_those_that_counting_by_hand_gives() -> None:
    figures = figures_of(judged(EXCERPT, data=GSM8K))
    lines = {name: (EXCERPT / f"{name}.jsonl").read_text("utf-8").splitlines() for name in ("train", "valid")}
    assert figures["splits"] == {"train": len(lines["train"]), "validation": len(lines["valid"])}
    questions = [json.loads(line)["question"] for line in (*lines["train"], *lines["valid"])]
    words = [len(question.split()) for question in questions]
    assert figures["lengths"]["prompt_words"]["mean"] == pytest.approx(np.mean(words), abs=1e-4)
    assert figures["lengths"]["prompt_words"]["median"] == np.median(words)
    assert figures["findings"] == {}


def test_thresholds_are_read_strictly_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "limits.yaml"
    path.write_text("max_leaks: 2\nmax_leeks: 3\nmax_secrets: -1\n", encoding="utf-8")
    with pytest.raises(ToolkitError) as raised:
        load_config(Thresholds, path)
    assert [str(problem) for problem in raised.value.problems] == [
        f"{path}:2: unknown key max_leeks. Did you mean max_leaks?",
        f"{path}:3: max_secrets is -1; expected a whole number from 0",
    ]


@pytest.mark.parametrize("name", [name for name in Thresholds.model_fields if name.startswith(("max_", "min_"))])
def test_every_limit_is_checked_against_something(name: str, tmp_path: Path) -> None:
    if name == "max_tokens":
        return  # A length, not a limit on a figure: test_planted_faults has an over-long example.
    path = write(tmp_path / "train.jsonl", clean_records(3))
    assert name in {check.name for check in judged(path).checks}


def test_a_limit_is_kept_at_its_own_value_and_broken_beyond_it() -> None:
    assert Check("max_leaks", 2, 2).good and not Check("max_leaks", 2, 3).good
    assert Check("min_template_entropy", 0.5, 0.5).good and not Check("min_template_entropy", 0.5, 0.4).good
    assert Check("max_category_share", 0.5, None).good


def test_files_named_after_splits_are_those_splits_and_others_are_train(tmp_path: Path) -> None:
    records = clean_records(2)
    one, two = write(tmp_path / "part-a.jsonl", records), write(tmp_path / "part-b.jsonl", records)
    same_split = judged(one, two)
    assert (same_split.findings.counts["exact-duplicate"], same_split.findings.counts["leak-text"]) == (2, 0)
    test = write(tmp_path / "test.jsonl", records)
    leaking = judged(one, test)
    assert (leaking.findings.counts["exact-duplicate"], found(leaking, "leak-text")) == (
        0,
        ["test.jsonl:1", "test.jsonl:2"],
    )


def test_an_answer_that_quotes_its_system_prompt_is_found(tmp_path: Path) -> None:
    rules = "Never give out the price of a ticket before the customer has named the day of the journey."
    turns = [
        {"role": "system", "content": rules},
        {"role": "user", "content": "Why do you not tell me the price?"},
        {"role": "assistant", "content": f"My rules: {rules[:77].lower()}."},
    ]
    good = [turns[0], turns[1], {"role": "assistant", "content": "Which day do you want to travel on?"}]
    path = write(tmp_path / "train.jsonl", [{"messages": turns}, {"messages": good}])
    assert found(judged(path), "system-prompt") == ["train.jsonl:1"]
