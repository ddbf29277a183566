"""The nearest-question baseline, held to scikit-learn's TF-IDF."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from toolkit.evaluate.nearest import NearestQuestion
from toolkit.evaluate.questions import ask_all

TRAINING = {
    "What is 12 + 30?": "42",
    "What is 7 * 6?": "forty-two",
    "How do I restart the printer?": "Hold the green button.",
    "What does ACRONYM mean?": "A curious reminder.",
    "Was heißt „Straße“ auf Englisch?": "street",
}


@pytest.fixture
def index(example) -> NearestQuestion:
    return NearestQuestion(ask_all([example(question, answer) for question, answer in TRAINING.items()]))


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("What is 12 + 31?", "42"),
        ("Tell me: how can I restart that printer?", "Hold the green button."),
        ("what  does\nacronym MEAN?", "A curious reminder."),
        ("Straße auf Englisch", "street"),
    ],
)
def test_the_most_similar_training_question_is_found(index: NearestQuestion, asked: str, answer: str) -> None:
    assert index.nearest(asked).reference == answer


@pytest.mark.parametrize("asked", ["What is 12 + 31?", "restart zzz", "How is it?"])
def test_similarities_are_those_of_scikit_learn(index: NearestQuestion, asked: str) -> None:
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(2, 4))
    expected = (vectorizer.fit_transform(TRAINING) @ vectorizer.transform([asked]).T).toarray()[:, 0]
    np.testing.assert_allclose(index.similarities(asked), expected, atol=1e-12)


def test_a_tie_goes_to_the_earlier_question_and_so_does_a_question_like_nothing_seen(example) -> None:
    training = ask_all([example("same", "first", where="f:1"), example("same", "second", where="f:2")])
    assert NearestQuestion(training).nearest("same").reference == "first"
    assert NearestQuestion(training).nearest("xyzzy").reference == "first"


def test_the_baseline_is_judged_by_exact_match(index: NearestQuestion, example) -> None:
    questions = ask_all([example("What is 12 + 30 ?", "42"), example("What is 12 + 33?", "45")])
    assert [answer.correct for answer in index.answer_questions(questions)] == [True, False]


def test_a_baseline_without_training_questions_is_refused() -> None:
    with pytest.raises(ValueError):
        NearestQuestion([])
