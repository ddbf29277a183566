"""Exact match: greedy answers, compared character for character."""

from __future__ import annotations

import pytest

from toolkit.datasets.schema import Example, Message
from toolkit.evaluate.exact_match import SPARE_TOKENS, answer_questions, exact_match, judge, normalise
from toolkit.evaluate.questions import ask_all


def test_only_white_space_at_the_ends_is_forgiven() -> None:
    assert judge(" 42\n", True, "42").correct
    assert not judge("42.", True, "42").correct
    assert not judge("Yes", True, "yes").correct
    assert not judge("a  b", True, "a b").correct
    assert normalise("\t a b \n") == "a b"


def test_answers_come_in_the_order_of_the_questions_whatever_the_batches(
    example, byte_tokenizer, knowing_scorer
) -> None:
    known = {f"q{i}": "x" * (1 + (7 * i) % 11) for i in range(11)}
    questions = ask_all([example(question, answer) for question, answer in known.items()])
    scorer = knowing_scorer(known)
    answers = answer_questions(scorer, byte_tokenizer, questions, batch_size=3)
    assert [answer.text for answer in answers] == list(known.values())
    assert exact_match(answers).value == 1
    assert [rows for rows, _ in scorer.calls] == [3, 3, 3, 2]


def test_decoding_is_greedy_and_stops_at_the_end_of_turn(example, byte_tokenizer, knowing_scorer) -> None:
    scorer = knowing_scorer({"q": "yes"})
    answer_questions(scorer, byte_tokenizer, ask_all([example("q", "yes")]))
    (_, sampling) = scorer.calls[0]
    assert sampling.temperature == 0
    assert sampling.stop_ids == byte_tokenizer.stop_ids
    assert sampling.max_new_tokens == len("yes") + 1 + SPARE_TOKENS


def test_an_answer_that_never_ends_is_wrong_even_if_it_begins_well(example, byte_tokenizer, knowing_scorer) -> None:
    scorer = knowing_scorer({"q": "yes"}, endless=["q"])
    (answer,) = answer_questions(scorer, byte_tokenizer, ask_all([example("q", "yes")]))
    assert answer.text.startswith("yes")
    assert not answer.finished
    assert not answer.correct


def test_a_question_without_room_for_its_reference_is_wrong_and_is_not_asked(
    example, byte_tokenizer, knowing_scorer
) -> None:
    questions = ask_all([example("q", "yes"), example("long" * 30, "yes")])
    scorer = knowing_scorer({"q": "yes", "long" * 30: "yes"})
    done: list[int] = []
    answers = answer_questions(scorer, byte_tokenizer, questions, context=100, advance=done.append)
    assert [answer.correct for answer in answers] == [True, False]
    assert [rows for rows, _ in scorer.calls] == [1]
    assert sum(done) == 2


def test_a_question_near_the_context_is_asked_alone_with_what_room_there_is(
    example, byte_tokenizer, knowing_scorer
) -> None:
    tight = "t" * 60
    questions = ask_all([example(tight, "yes"), example("q", "y" * 40)])
    prompt = len(byte_tokenizer.encode_chat(questions[0].messages, True))
    scorer = knowing_scorer({tight: "yes", "q": "y" * 40})
    answers = answer_questions(scorer, byte_tokenizer, questions, context=prompt + 4)
    assert [answer.correct for answer in answers] == [True, True]
    assert sorted((rows, sampling.max_new_tokens) for rows, sampling in scorer.calls)[0] == (1, 4)


def test_the_last_assistant_turn_is_the_one_that_is_asked_for() -> None:
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    (question,) = ask_all([Example(tuple(Message(role, content) for role, content in turns), {}, "f:1")])
    assert [message.content for message in question.messages] == ["s", "a", "b", "c"]
    assert question.reference == "d"


@pytest.mark.parametrize("roles", [["user"], ["assistant"], ["assistant", "user"]])
def test_examples_that_ask_nothing_are_left_out(roles: list[str]) -> None:
    assert ask_all([Example(tuple(Message(role, "x") for role in roles), {}, "f:1")]) == []


def test_a_long_question_never_takes_the_room_of_a_long_answer(example, byte_tokenizer, knowing_scorer) -> None:
    long_question, long_answer = "t" * 150, "y" * 120
    known = {long_question: "yes", "q": long_answer}
    questions = ask_all([example(question, answer) for question, answer in known.items()])
    answers = answer_questions(knowing_scorer(known), byte_tokenizer, questions, context=200)
    assert [answer.correct for answer in answers] == [True, True]
