"""What models are compared on, and how often they would choose the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from toolkit.datasets.schema import Example, Message
from toolkit.quantize import probe_rows
from toolkit.quantize.comparison import same_choices
from toolkit.quantize.probe_rows import ProbeRows, choose_rows
from toolkit.quantize.probes import CONVERSATIONS, random_texts
from toolkit.quantize.samples import Samples, read_samples, spread
from toolkit.quantize.source import Source, open_source
from toolkit.quantize.verify_behaviour import greedy_figures


def chat(question: str, answer: str) -> Example:
    return Example((Message("user", question), Message("assistant", answer)))


@pytest.fixture(scope="module")
def source(build_tiny_model: Callable[..., Path]) -> Source:
    return open_source("tiny", build_tiny_model(), None)


def answers(source: Source, probes: ProbeRows) -> list[str]:
    pairs = zip(probes.tokens, probes.answers, strict=True)
    return [source.tokenizer.decode(np.array(ids)[wanted].tolist()) for ids, wanted in pairs if wanted.any()]


def test_choices_are_compared_on_the_held_out_answers_alone(source: Source):
    samples = Samples((chat("one", "First answer."), chat("two", "Second.")), (chat("three", "Trained."),))
    probes = choose_rows(source, samples, 256)
    assert answers(source, probes) == ["First answer.<|im_end|>", "Second.<|im_end|>"]
    assert probes.answers_from == "the run's held-out data"
    assert len(probes.tokens) == 1 + len(CONVERSATIONS) + 3


def test_without_held_out_data_the_probe_conversations_are_taken_and_that_is_said(source: Source):
    probes = choose_rows(source, Samples((), (chat("three", "Trained."),)), 256)
    assert probes.answers_from == "the probe conversations"
    assert answers(source, probes)[0] == "A measure of disorder.<|im_end|>"
    assert not any("Trained" in answer for answer in answers(source, probes))


def test_rows_stop_where_their_logits_would_fill_the_memory(source: Source, monkeypatch: pytest.MonkeyPatch):
    samples = Samples(tuple(chat(f"question {number}", "word " * 50) for number in range(40)))
    many = choose_rows(source, samples, 256)
    monkeypatch.setattr(probe_rows, "_LOGITS_BUDGET_FLOATS", 400 * source.decoder.vocabulary_rows)
    few = choose_rows(source, samples, 256)
    assert sum(map(len, few.tokens)) <= 400 < sum(map(len, many.tokens)) <= 1536
    assert all(len(ids) <= 96 for ids in many.tokens[1:])


def test_a_choice_is_the_largest_logit_before_the_token(source: Source):
    """Three tokens: the second and third are the answer; the logits after the third predict nothing here."""
    del source
    theirs = np.array([[0, 9, 0], [5, 0, 0], [0, 0, 1]], np.float32)
    ours = np.array([[0, 1, 0], [0, 0, 2], [7, 0, 0]], np.float32)
    wanted = np.array([False, True, True])
    (same,) = same_choices([theirs], [ours], [wanted])
    assert same.tolist() == [True, False]
    figures = greedy_figures([theirs], [ours], ProbeRows([[1, 1, 0]], [wanted], "somewhere"))
    assert figures == {
        "greedy_agreement": 0.5,
        "greedy_tokens": 2,
        "greedy_answers": "0 of 1 alike",
        "greedy_on": "somewhere",
    }


def test_samples_are_spread_over_the_data():
    examples = [chat(str(number), "a") for number in range(100)]
    taken = [int(example.messages[0].content) for example in spread(examples, 4)]
    assert taken == [0, 25, 50, 75]
    assert len(spread(examples[:3], 4)) == 3


def test_a_runs_held_out_examples_are_told_from_those_it_was_trained_on(tmp_path: Path):
    from toolkit.config import DataConfig, FinetuneConfig
    from toolkit.config_files import save_config
    from toolkit.runs import RunFolder

    turns = [[{"role": m.role, "content": m.content} for m in chat(f"q{n}", f"a{n}").messages] for n in range(20)]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"messages": each}) for each in turns), "utf-8")
    save_config(
        FinetuneConfig(model="nano", data=DataConfig(path=str(data), validation=0.2)), RunFolder(tmp_path).config_path
    )
    samples = read_samples(tmp_path)
    assert (len(samples.held_out), len(samples.training)) == (4, 16)
    assert len({example.messages for example in samples.all}) == 20
    assert read_samples(None) == read_samples(tmp_path / "nowhere") == Samples()


def test_random_texts_are_the_same_every_time_and_hold_assigned_characters_of_all_planes():
    texts = random_texts(300)
    assert texts == random_texts(300)
    characters = {ord(character) for text in texts for character in text}
    assert any(code > 0xFFFF for code in characters)
    assert any(0x4E00 <= code <= 0x9FFF for code in characters)
    assert not any(0xD800 <= code <= 0xDFFF for code in characters)
