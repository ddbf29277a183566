"""The shapes of record that are read beside instructions and chat, which of several wins, and what each trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets import templates
from toolkit.config import DataConfig, FinetuneConfig
from toolkit.datasets.chat import tokenize_examples, trained_pieces
from toolkit.datasets.records import example_from_record
from toolkit.datasets.schema import Example
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import ToolkitError
from toolkit.jobs.finetune import prepare_finetune

MakeTokenizer = Callable[..., Tokenizer]


def read(record: Any, **data: Any) -> Example:
    return example_from_record(record, DataConfig(**data), "data.jsonl:7")


def turns(example: Example) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in example.messages]


def untrained(example: Example) -> list[str]:
    return [message.content for message in example.messages if not message.trained]


def complaint(record: Any, **data: Any) -> str:
    with pytest.raises(ToolkitError) as caught:
        read(record, **data)
    return "\n".join(str(problem) for problem in caught.value.problems)


def pieces(record: Any, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    (tokenized,) = tokenize_examples([read(record)], tokenizer, 4096).examples
    return trained_pieces(tokenized, tokenizer)


USER, ANSWER = {"role": "user", "content": "6 times 7?"}, {"role": "assistant", "content": "42"}
WRONG = {"role": "assistant", "content": "41"}


# ---- ShareGPT


@pytest.mark.parametrize(
    ("asks", "answers"), [("human", "gpt"), ("user", "assistant"), ("human", "chatgpt"), ("User", "model")]
)
def test_sharegpt_turns_are_read_under_the_names_found_in_the_wild(asks: str, answers: str) -> None:
    for name in ("conversations", "conversation"):
        record = {name: [{"from": asks, "value": "6 times 7?"}, {"from": answers, "value": "42"}]}
        assert turns(read(record)) == [("user", "6 times 7?"), ("assistant", "42")]
    assert turns(read({"conversations": [USER, ANSWER], "system": "Be brief."})) == [
        ("system", "Be brief."),
        ("user", "6 times 7?"),
        ("assistant", "42"),
    ]


def test_a_conversation_under_another_name_is_read_by_mapping_and_the_refusal_names_it() -> None:
    record = {"data": {"dialogue": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}}
    assert turns(read(record, messages="data.dialogue")) == [("user", "a"), ("assistant", "b")]
    assert complaint({"dialogue": [USER, ANSWER]}).endswith("Say which fields to use: --set data.messages=dialogue")
    assert "no field `turns` (data.messages)" in complaint(record, messages="turns")


def test_parts_that_are_all_text_are_joined_and_others_are_refused_by_their_type() -> None:
    parts = [{"type": "text", "text": "6 times "}, {"type": "text", "text": "7?"}]
    assert turns(read({"messages": [{**USER, "content": parts}, ANSWER]}))[0] == ("user", "6 times 7?")
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    assert "`messages.0.content` holds a part of type 'image_url': only text is read" in complaint(
        {"messages": [{**USER, "content": image}, ANSWER]}
    )


def test_reasoning_in_a_field_of_its_own_is_refused_with_where_to_put_it() -> None:
    line = complaint({"messages": [USER, {**ANSWER, "reasoning_content": "six sevens"}]})
    assert "`messages.1.reasoning_content` is not read. Put it into the content, as <think>…</think>" in line


# ---- which turns are trained


def test_weight_and_train_keep_a_turn_out_of_the_loss(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(templates.CHATML)
    for mark in ({"weight": 0}, {"train": False}):
        trained = [text for text, on in pieces({"messages": [USER, {**WRONG, **mark}, USER, ANSWER]}, tokenizer) if on]
        assert trained == ["42<|im_end|>"]
    for mark in ({"weight": 1}, {"train": True}, {"weight": None}):
        trained = [text for text, on in pieces({"messages": [USER, {**WRONG, **mark}, USER, ANSWER]}, tokenizer) if on]
        assert trained == ["41<|im_end|>", "42<|im_end|>"]


def test_no_end_of_text_token_is_appended_behind_an_untrained_last_turn(make_tokenizer: MakeTokenizer) -> None:
    record = {"messages": [USER, ANSWER, USER, {**WRONG, "weight": 0}]}
    assert pieces(record, make_tokenizer(templates.PLAIN))[-2:] == [
        (" 42", True),
        ("\nuser: 6 times 7?\nassistant: 41\n", False),
    ]


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({**ANSWER, "weight": 0.5}, "`messages.1.weight` must be 0 or 1, found 0.5"),
        ({**ANSWER, "weight": True}, "`messages.1.weight` must be 0 or 1, found True"),
        ({**ANSWER, "train": "no"}, "`messages.1.train` must be true or false, found text"),
        (
            {**ANSWER, "train": True, "weight": 0},
            "`messages.1` has `weight` and `train`, and they say different things",
        ),
        ({**ANSWER, "weight": 0}, "no assistant turn is trained: there is nothing to learn"),
        ({**USER, "train": True}, "`messages.1` asks to train a user turn: only what the assistant writes is trained"),
    ],
)
def test_marks_that_make_no_sense_are_refused(turn: Any, message: str) -> None:
    assert complaint({"messages": [USER, turn]}) == f"data.jsonl:7: {message}"


# ---- prompt and completion as turns


def test_a_prompt_of_turns_is_context_and_only_the_completion_is_trained() -> None:
    example = read({"prompt": [USER, WRONG, USER], "completion": [ANSWER]})
    assert [text for _, text in turns(example)] == ["6 times 7?", "41", "6 times 7?", "42"]
    assert untrained(example) == ["6 times 7?", "41", "6 times 7?"]
    assert turns(read({"prompt": "a", "completion": [ANSWER]})) == [("user", "a"), ("assistant", "42")]
    assert turns(read({"q": [USER], "a": "42"}, prompt="q", completion="a"))[-1] == ("assistant", "42")
    assert "`completion` must begin with an assistant turn, found user" in complaint(
        {"prompt": "a", "completion": [USER]}
    )


def test_the_history_of_an_instruction_stands_before_it_as_turns() -> None:
    record = {"instruction": "And 6 times 8?", "output": "48", "history": [["6 times 7?", "42"]]}
    assert [text for _, text in turns(read(record))] == ["6 times 7?", "42", "And 6 times 8?", "48"]
    assert untrained(read(record)) == []
    assert turns(read({**record, "system": "Be brief."}))[0] == ("system", "Be brief.")
    assert "`history` holds an empty text" in complaint({**record, "history": [["a", " "]]})
    assert "`history` must be a list of pairs" in complaint({**record, "history": ["6 times 7?"]})
    assert "`history.0.1` must be text, found a number" in complaint({**record, "history": [["a", 3]]})


# ---- plain text


def test_every_token_of_a_plain_text_is_trained_with_its_end_and_no_template(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(templates.CHATML)
    assert pieces({"text": "naïve café 🙂"}, tokenizer) == [("naïve café 🙂<|endoftext|>", True)]
    # A text that brings its own end, or a conversation that somebody has rendered already, is taken as it is.
    assert pieces({"text": "<|im_start|>a<|endoftext|>"}, tokenizer) == [("<|im_start|>a<|endoftext|>", True)]
    (tokenized,) = tokenize_examples([read({"text": "abc"})], tokenizer, 4096).examples
    assert tokenized.trained_tokens == len(tokenized.tokens) - 1
    assert read({"body": "abc"}, text="body", system="ignored").text == "abc"


def test_a_text_begins_with_the_models_beginning_of_text_token_where_transformers_puts_one(
    tokenizer_json: str, tmp_path: Path
) -> None:
    import transformers

    described = json.loads(tokenizer_json)
    start = next(token["id"] for token in described["added_tokens"] if token["content"] == "<s>")
    described["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [start], "tokens": ["<s>"]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    witness: Any = transformers.AutoTokenizer.from_pretrained(tmp_path)  # noqa: TID251 - the witness
    (tokenized,) = tokenize_examples([read({"text": "Hello there"})], Tokenizer.load(tmp_path), 4096).examples
    assert tokenized.tokens.tolist() == [*witness("Hello there")["input_ids"], witness.eos_token_id]
    assert tokenized.tokens[0] == start


# ---- preference pairs


PAIRS: dict[str, Any] = {
    "texts": {"prompt": "6 times 7?", "chosen": "42", "rejected": "41"},
    "answers as turns": {"prompt": [USER], "chosen": [ANSWER], "rejected": [WRONG]},
    "a prompt of text": {"prompt": "6 times 7?", "chosen": [ANSWER], "rejected": [WRONG]},
    "whole conversations": {"chosen": [USER, ANSWER], "rejected": [USER, WRONG]},
    "whole conversations and the prompt again": {
        "prompt": "6 times 7?",
        "chosen": [USER, ANSWER],
        "rejected": [USER, WRONG],
        "messages": [USER, ANSWER],
        "score_chosen": 9.0,
    },
    "one text each, as HH-RLHF": {
        "chosen": "\n\nHuman: 6 times 7?\n\nAssistant: 42",
        "rejected": "\n\nHuman: 6 times 7?\n\nAssistant: 41",
    },
}


@pytest.mark.parametrize("name", PAIRS)
def test_preference_pairs_are_read_with_both_answers_in_every_spelling(name: str) -> None:
    example = read(PAIRS[name])
    assert turns(example) == [("user", "6 times 7?"), ("assistant", "42")]
    assert [(m.role, m.content) for m in example.rejected] == [("user", "6 times 7?"), ("assistant", "41")]


def test_what_two_conversations_share_is_the_prompt_and_is_not_trained() -> None:
    shared = [{"role": "system", "content": "s"}, USER, {"role": "assistant", "content": "Sure?"}, USER]
    example = read({"chosen": [*shared, ANSWER], "rejected": [*shared, WRONG]})
    assert untrained(example) == [turn["content"] for turn in shared]
    mapped = read({"question": "a", "chosen": "b", "rejected": "c"}, prompt="question", system="given")
    assert turns(mapped) == [("system", "given"), ("user", "a"), ("assistant", "b")]
    assert mapped.rejected[0].content == "given"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "a", "chosen": "b", "rejected": "c"}, "Say where the prompt stands: --set data.prompt=question"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "`chosen` and `rejected` are the same"),
        ({"prompt": "a", "chosen": 1, "rejected": [3]}, "`chosen` must be text or a list of turns, found a number"),
        ({"prompt": "a", "chosen": "b", "rejected": " "}, "`rejected` is empty"),
        ({"chosen": [ANSWER], "rejected": [WRONG]}, "`chosen` answers, but there is no prompt"),
        (
            {"prompt": "other", "chosen": [USER, ANSWER], "rejected": [USER, WRONG]},
            "`chosen` is a whole conversation that does not begin with `prompt`",
        ),
    ],
)
def test_pairs_that_do_not_fit_together_are_refused(record: Any, message: str) -> None:
    assert message in complaint(record)


def test_finetune_refuses_pairs_until_it_is_told_to_train_on_the_chosen_answers(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    lines = [{"prompt": f"{i} plus 1?", "chosen": f"{i + 1}", "rejected": "0"} for i in range(1, 6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def config(**data: Any) -> FinetuneConfig:
        return FinetuneConfig(data=DataConfig(path=str(path), **data))

    with pytest.raises(ToolkitError) as caught:
        prepare_finetune(config())
    (problem,) = caught.value.problems
    assert "a preference pair: training on pairs (DPO) is not built (and on 4 more lines: " in problem.what
    assert problem.hint == "To train on the chosen answers: --set data.preference=chosen"
    job = prepare_finetune(config(preference="chosen"))
    trained = [text for e in job.train_examples for text, on in trained_pieces(e, job.tokenizer) if on]
    assert len(trained) == 4 and not any(text.startswith("0") for text in trained)


# ---- which shape wins, and nulls


def test_of_several_shapes_in_one_record_the_first_of_the_documented_order_is_read() -> None:
    everything: dict[str, Any] = {
        "chosen": [USER, ANSWER],
        "rejected": [USER, WRONG],
        "messages": [USER, {"role": "assistant", "content": "from messages"}],
        "conversations": [USER, {"role": "assistant", "content": "from conversations"}],
        "instruction": "a",
        "output": "from output",
        "prompt": "6 times 7?",
        "completion": "from completion",
        "text": "from text",
    }
    said = []
    for drop in ("chosen", "messages", "conversations", "output", "completion", "text"):
        example = read(everything)
        said.append(example.text or example.messages[-1].content)
        everything[drop] = None  # as Parquet leaves a field out
    assert said == ["42", "from messages", "from conversations", "from output", "from completion", "from text"]
    assert read({"messages": [USER, ANSWER], "text": "b"}, text="text").text == "b"


def test_a_null_is_named_where_no_other_shape_fits() -> None:
    assert complaint({"instruction": "a", "output": None}) == "data.jsonl:7: `output` must be text, found null"


# ---- whatever a record holds

ODD_TEXTS = [
    "[]",
    "{}",
    '{"name":"f"}',
    '[{"name":"f","arguments":"{}"}]',
    "\x00",
    "\ud800",
    "\n\nHuman: a\n\nAssistant: b",
]
TURN_FIELDS = "role content from value tool_calls function_call weight train name tool_call_id".split()
CALL_FIELDS = "name arguments function id type".split()
RECORD_FIELDS = (
    "messages conversations tools functions instruction input output prompt completion text chosen rejected system"
    " history"
).split()
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(0, 2)
    | st.floats()
    | st.text(max_size=8)
    | st.just("[]")
    | st.just('{"name":"f"}'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
ROLES = st.sampled_from("user assistant system tool human gpt function_call observation".split())
CALL_LISTS = st.lists(st.dictionaries(st.sampled_from(CALL_FIELDS), JSON_VALUES), max_size=2)
TURN = st.dictionaries(st.sampled_from(TURN_FIELDS), ROLES | JSON_VALUES | CALL_LISTS, max_size=5)
RECORDS = st.dictionaries(st.sampled_from(RECORD_FIELDS), JSON_VALUES | st.lists(TURN, max_size=4))


@settings(max_examples=400)
@given(
    record=JSON_VALUES | RECORDS,
    data=st.fixed_dictionaries(
        {},
        optional={
            "prompt": st.sampled_from(["prompt", "messages", "chosen.0.value"]),
            "completion": st.sampled_from(["completion", "messages.0.content", "output.x"]),
            "messages": st.sampled_from(["chosen", "prompt"]),
            "text": st.sampled_from(["text", "instruction"]),
            "system": st.just("Be brief."),
        },
    ),
)
def test_whatever_a_record_holds_it_is_read_or_refused_in_words_with_its_place(record: Any, data: Any) -> None:
    try:
        example = read(record, **data)
    except ToolkitError as error:
        assert all(problem.where == "data.jsonl:7" and problem.what for problem in error.problems)
        return
    if example.text is not None:
        assert example.text.strip() and not example.messages
        return
    for side in (example.messages, example.rejected) if example.rejected else (example.messages,):
        assert any(m.role == "assistant" and m.trained and (m.content.strip() or m.tool_calls) for m in side)
        assert all(isinstance(call.arguments, dict) for m in side for call in m.tool_calls)
