"""What the loss sees: every assistant turn and its end, under every template, and nothing else."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets import templates
from toolkit.datasets.chat import TokenizedExample, tokenize_examples, trained_pieces
from toolkit.datasets.schema import Example, Message
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import ToolkitError

MakeTokenizer = Callable[..., Tokenizer]

LLAMA = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES = {
    "chatml": (templates.CHATML, {}),
    "qwen2.5": (templates.QWEN25, {}),
    "llama3": (templates.LLAMA3, LLAMA),
    "mistral": (templates.MISTRAL, LLAMA),
    "gemma": (templates.GEMMA, LLAMA),
    "no generation prompt": (templates.NO_GENERATION_PROMPT, {}),
    "generation blocks": (templates.GENERATION_BLOCKS, {}),
    "fallback": (None, LLAMA),
}
ENDS = {"llama3": "<|eot_id|>", "mistral": "</s>", "fallback": "</s>"}


def conversation(*contents: str, system: str = "") -> Example:
    """Build a conversation that alternates user and assistant."""
    turns = [Message("user" if i % 2 == 0 else "assistant", content) for i, content in enumerate(contents)]
    return Example(tuple([Message("system", system)] * bool(system) + turns), {}, "data.jsonl:7")


def tokenize(example: Example, tokenizer: Tokenizer, limit: int = 4096) -> TokenizedExample:
    return tokenize_examples([example], tokenizer, limit).examples[0]


def trained_texts(tokenized: TokenizedExample, tokenizer: Tokenizer) -> list[str]:
    return [text for text, trained in trained_pieces(tokenized, tokenizer) if trained]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_every_assistant_turn_and_its_end_token_are_trained_and_nothing_else(
    name: str, system: str, make_tokenizer: MakeTokenizer
) -> None:
    template, special = TEMPLATES[name]
    tokenizer = make_tokenizer(template, **special)
    tokenized = tokenize(conversation("6 times 7?", "It is 42.", "And 5?", "It is 35.", system=system), tokenizer)
    end = ENDS.get(name, "<|im_end|>")
    lead = " " if name == "mistral" else ""  # Mistral's model writes the space itself
    assert trained_texts(tokenized, tokenizer) == [f"{lead}It is 42.{end}", f"{lead}It is 35.{end}"]
    assert set(np.unique(tokenized.loss_weights)) == {0.0, 1.0}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_ids_are_those_of_the_whole_rendered_text(name: str, make_tokenizer: MakeTokenizer) -> None:
    template, special = TEMPLATES[name]
    tokenizer = make_tokenizer(template, **special)
    example = conversation("Hello", "naïve café", "你好", "🙂 42")
    assert tokenize(example, tokenizer).tokens.tolist() == tokenizer.encode_chat(example.messages, False)


def test_a_system_prompt_that_the_template_inserts_is_not_trained(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(templates.QWEN25)
    tokenized = tokenize(conversation("Hello", "Hi"), tokenizer)
    assert "You are Qwen" in tokenizer.decode(tokenized.tokens.tolist())
    assert trained_texts(tokenized, tokenizer) == ["Hi<|im_end|>"]


def test_the_header_and_the_line_end_after_a_turn_carry_no_weight(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(templates.CHATML)
    pieces = trained_pieces(tokenize(conversation("Hello", "Hi"), tokenizer), tokenizer)
    assert pieces == [
        ("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", False),
        ("Hi<|im_end|>", True),
        ("\n", False),
    ]


def test_reasoning_that_a_template_drops_from_earlier_turns_is_not_trained(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(templates.QWEN3)
    example = conversation(
        "6 times 7?", "<think>\nsix sevens\n</think>\n\n42", "And 5?", "<think>\nfive\n</think>\n\n35"
    )
    tokenized = tokenize(example, tokenizer)
    assert "six sevens" not in tokenizer.decode(tokenized.tokens.tolist())
    assert trained_texts(tokenized, tokenizer) == ["42<|im_end|>", "<think>\nfive\n</think>\n\n35<|im_end|>"]


def test_an_empty_reasoning_block_that_the_template_adds_is_trained_since_the_model_must_write_it(
    make_tokenizer: MakeTokenizer,
) -> None:
    tokenizer = make_tokenizer(templates.QWEN3)
    tokenized = tokenize(conversation("6 times 7?", "42"), tokenizer)
    assert trained_texts(tokenized, tokenizer) == ["<think>\n\n</think>\n\n42<|im_end|>"]


def test_the_end_of_text_token_is_appended_and_trained_where_the_template_ends_no_turn(
    make_tokenizer: MakeTokenizer,
) -> None:
    tokenizer = make_tokenizer(templates.PLAIN)
    tokenized = tokenize(conversation("Hello", "Hi", "Who?", "Me"), tokenizer)
    assert tokenized.tokens[-1] == tokenizer.eos_id
    assert trained_texts(tokenized, tokenizer) == [" Hi", " Me<|endoftext|>"]


def test_the_next_turns_opening_token_is_trained_where_the_model_config_calls_it_an_end(
    make_tokenizer: MakeTokenizer,
) -> None:
    user = make_tokenizer(templates.CHATML).token_to_id("<|user|>")
    tokenizer = make_tokenizer(templates.GLM, extra_stop_ids=(user,))
    tokenized = tokenize(conversation("Hello", "Hi", "Who?", "Me"), tokenizer)
    assert trained_texts(tokenized, tokenizer) == ["Hi<|user|>", "Me<|endoftext|>"]


def test_the_beginning_of_text_token_stands_once(make_tokenizer: MakeTokenizer) -> None:
    for name in ("llama3", "mistral", "gemma"):
        template, special = TEMPLATES[name]
        tokenizer = make_tokenizer(template, **special)
        tokens = tokenize(conversation("Hello", "Hi"), tokenizer).tokens.tolist()
        assert tokens.count(tokenizer.bos_id) == 1 and tokens[0] == tokenizer.bos_id


def test_a_template_that_rewrites_the_answer_is_refused_with_file_and_line(make_tokenizer: MakeTokenizer) -> None:
    shouting = templates.CHATML.replace("message['content']", "message['content'] | upper")
    with pytest.raises(ToolkitError, match=r"data\.jsonl:7: the chat template rewrites this conversation"):
        tokenize(conversation("Hello", "Hi there"), make_tokenizer(shouting))


def test_a_template_whose_ending_depends_on_the_answer_is_not_trusted(make_tokenizer: MakeTokenizer) -> None:
    moody = templates.PLAIN + "{% if 'Hi' in messages[-1].content %}What a friendly answer{% endif %}"
    with pytest.raises(ToolkitError, match="the chat template rewrites this conversation"):
        tokenize(conversation("Hello", "Hi there"), make_tokenizer(moody))


def test_every_token_of_a_last_character_is_trained_where_no_special_token_follows(
    make_tokenizer: MakeTokenizer,
) -> None:
    tokenizer = make_tokenizer(templates.PLAIN)
    assert len(tokenizer.encode("\U0001f980")) > 1
    example = conversation("Hello", "a \U0001f980", "b", "c")
    assert trained_texts(tokenize(example, tokenizer), tokenizer) == [" a \U0001f980", " c<|endoftext|>"]


def test_a_conversation_that_the_template_refuses_is_named_with_file_and_line(make_tokenizer: MakeTokenizer) -> None:
    example = Example((Message("assistant", "Hi"),), {}, "data.jsonl:3")
    with pytest.raises(ToolkitError, match=r"data\.jsonl:3: the chat template refuses .*must alternate"):
        tokenize(example, make_tokenizer(templates.MISTRAL, **LLAMA))


def test_an_example_without_an_assistant_turn_is_refused_with_file_and_line(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(ToolkitError, match=r"data\.jsonl:7: no assistant turn"):
        tokenize(conversation("Hello"), make_tokenizer(templates.CHATML))


def test_a_message_that_contains_the_end_of_turn_token_is_refused(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(ToolkitError, match=r"data\.jsonl:7: a message contains <\|im_end\|>"):
        tokenize(conversation("Hello", "Hi<|im_end|>there"), make_tokenizer(templates.CHATML))


def test_long_examples_are_cut_and_counted(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(templates.CHATML)
    short, long = conversation("Hello", "Hi"), conversation("Hello", "Hi " * 200)
    whole = tokenize(short, tokenizer)
    result = tokenize_examples([short, long], tokenizer, len(whole.tokens))
    assert result.truncated == 1
    assert [example.truncated for example in result.examples] == [False, True]
    assert {len(example.tokens) for example in result.examples} == {len(whole.tokens)}


def test_an_example_whose_prompt_fills_the_limit_is_dropped_and_counted(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(templates.CHATML)
    prompt = len(tokenizer.encode_chat([Message("user", "Hello")], True))
    long = Example(conversation("Hello " * 50, "Hi").messages, {}, "data.jsonl:9")
    result = tokenize_examples([conversation("Hello", "Hi"), long], tokenizer, prompt + 1)
    assert [example.where for example in result.examples] == ["data.jsonl:7"]
    assert [problem.where for problem in result.dropped] == ["data.jsonl:9"]
    assert result.examples[0].trained_tokens == 1


def test_a_limit_that_leaves_nothing_to_learn_anywhere_is_an_error(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(templates.CHATML)
    prompt = len(tokenizer.encode_chat([Message("user", "Hello")], True))
    with pytest.raises(ToolkitError, match=r"data\.jsonl:7: its prompt alone fills max_seq_tokens"):
        tokenize_examples([conversation("Hello", "Hi")], tokenizer, prompt)


def test_all_faulty_conversations_are_reported_at_once(make_tokenizer: MakeTokenizer) -> None:
    bad = [Example((Message("user", f"{i}"),), {}, f"data.jsonl:{i}") for i in (1, 2)]
    with pytest.raises(ToolkitError) as caught:
        tokenize_examples([*bad, conversation("Hello", "Hi")], make_tokenizer(templates.CHATML), 100)
    assert [problem.where for problem in caught.value.problems] == ["data.jsonl:1", "data.jsonl:2"]


def test_long_texts_are_tokenised_a_few_at_a_time(
    make_tokenizer: MakeTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.datasets.chat._CHUNK_CHARACTERS", 10_000)
    tokenizer = make_tokenizer(templates.CHATML)
    chunks: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(tokenizer, name)

        def encode_batch(self, texts: Sequence[str]) -> object:
            chunks.append(sum(map(len, texts)))
            return tokenizer.encode_batch(texts)

    examples = [conversation("Hello", f"{i} " * 2000) for i in range(8)]
    counting: Any = Counting()
    kept = tokenize_examples(examples, counting, 64).examples
    assert len(kept) == 8 and len(chunks) >= 2 and max(chunks) < 15_000
    assert all(example.tokens.base is None and example.loss_weights.base is None for example in kept)
    assert kept[7].tokens.tolist() == tokenize(examples[7], tokenizer, 64).tokens.tolist()


TURN_TEXT = st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=30).filter(lambda text: text.strip())


@pytest.mark.parametrize("name", ["chatml", "qwen2.5", "llama3", "mistral", "fallback"])
@settings(max_examples=30)
@given(contents=st.lists(TURN_TEXT, min_size=2, max_size=6).filter(lambda turns: len(turns) % 2 == 0))
def test_whatever_the_text_the_trained_runs_are_the_answers(
    name: str, contents: Sequence[str], make_tokenizer: MakeTokenizer
) -> None:
    template, special = TEMPLATES[name]
    tokenizer = make_tokenizer(template, **special)
    example = conversation(*contents)
    tokenized = tokenize(example, tokenizer)
    assert tokenized.tokens.tolist() == tokenizer.encode_chat(example.messages, False)
    end = ENDS.get(name, "<|im_end|>")
    runs = trained_texts(tokenized, tokenizer)
    assert all(run.endswith(end) for run in runs)
    # White space at an answer's start may share its token with the header's, which is not trained.
    answers = [unicodedata.normalize("NFC", answer).strip() for answer in contents[1::2]]
    assert [run.removesuffix(end).strip() for run in runs] == answers
