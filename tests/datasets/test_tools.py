"""Conversations with tools: read in every spelling, rendered as transformers does, calls trained and results not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets import templates, tool_templates
from toolkit.config import DataConfig, FinetuneConfig
from toolkit.datasets.chat import tokenize_examples, trained_pieces
from toolkit.datasets.records import example_from_record
from toolkit.datasets.schema import Example, ToolCall
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import ToolkitError
from toolkit.evaluate.exact_match import answer_questions, expected_text
from toolkit.evaluate.questions import ask, ask_all
from toolkit.jobs.finetune import prepare_finetune
from toolkit.jobs.plan import make_plan
from toolkit.models import NANO_FOLDER
from toolkit.protocols import GeneratedToken

MakeTokenizer = Callable[..., Tokenizer]
LLAMA = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES: dict[str, tuple[str, dict[str, str]]] = {
    "qwen2.5": (tool_templates.QWEN25_TOOLS, {}),
    "qwen3": (tool_templates.QWEN3_TOOLS, {}),
    "llama3.1": (tool_templates.LLAMA31_TOOLS, LLAMA),
    "mistral": (tool_templates.MISTRAL_TOOLS, LLAMA),
    "xml": (tool_templates.XML_TOOLS, {}),
}
ENDS = {"llama3.1": "<|eot_id|>", "mistral": "</s>"}

# What these templates cannot write is refused in words, not dropped.
REFUSED_PARALLEL = {
    "llama3.1": "only supports single tool-calls at once",
    "mistral": "leaves out what the assistant says beside its tool calls",
}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city — «now»",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CLOCK = {"name": "clock", "description": "The time", "parameters": {"type": "object", "properties": {}}}


def call(name: str, arguments: Any, identity: str = "abc123xyz") -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def conversation(*turns: dict[str, Any], tools: Any = None) -> dict[str, Any]:
    return {"tools": [WEATHER, CLOCK] if tools is None else tools, "messages": list(turns)}


USER = {"role": "user", "content": "Weather in Zürich and Bern?"}
CALLS = {"role": "assistant", "content": None, "tool_calls": [call("get_weather", {"city": "Zürich"})]}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "abc123xyz", "content": '{"celsius": 21}'}
ANSWER = {"role": "assistant", "content": "21 °C in Zürich."}
SINGLE = conversation(USER, CALLS, RESULT, ANSWER)
MULTI = conversation(
    {"role": "system", "content": "Be brief."}, USER, CALLS, RESULT, ANSWER,
    {"role": "user", "content": "What time is it?"},
    {"role": "assistant", "content": "", "tool_calls": [call("clock", "{}", "def456uvw")]},
    {"role": "tool", "tool_call_id": "def456uvw", "content": "noon"},
    {"role": "assistant", "content": "Noon."},
)  # fmt: skip
PARALLEL = conversation(
    USER,
    {
        "role": "assistant",
        "content": "Looking both up.",
        "tool_calls": [
            call("get_weather", {"city": "Zürich", "days": 3, "units": {"wind": ["km/h", None]}}),
            call("get_weather", '{"city": "Bern"}', "def456uvw"),
        ],
    },
    RESULT,
    {"role": "tool", "tool_call_id": "def456uvw", "content": "rain"},
    ANSWER,
)


def read(record: Any, **data: Any) -> Example:
    return example_from_record(record, DataConfig(**data), "data.jsonl:7")


def trained_texts(example: Example, tokenizer: Tokenizer) -> list[str]:
    (tokenized,) = tokenize_examples([example], tokenizer, 4096).examples
    return [text for text, trained in trained_pieces(tokenized, tokenizer) if trained]


def make(name: str, make_tokenizer: MakeTokenizer) -> Tokenizer:
    template, special = TEMPLATES[name]
    return make_tokenizer(template, **special)


# ---- reading


def test_arguments_are_decoded_and_bare_tools_wrapped_whatever_their_spelling() -> None:
    spelt = [
        (CALLS["tool_calls"], [WEATHER, CLOCK]),
        ([call("get_weather", '{"city": "Zürich"}')], json.dumps([WEATHER["function"], CLOCK])),
        ([{"name": "get_weather", "arguments": {"city": "Zürich"}, "id": "abc123xyz"}], [json.dumps(WEATHER), CLOCK]),
        (json.dumps(CALLS["tool_calls"]), [WEATHER, CLOCK]),
    ]
    for calls, tools in spelt:
        example = read(conversation(USER, {"role": "assistant", "tool_calls": calls}, RESULT, ANSWER, tools=tools))
        assert example.messages[1].tool_calls == (ToolCall("get_weather", {"city": "Zürich"}, "abc123xyz"),)
        assert example.tools == (WEATHER, {"type": "function", "function": CLOCK})


def test_sharegpt_calls_and_observations_are_read_as_calls_and_results() -> None:
    example = read(
        {
            "system": "Be brief.",
            "tools": json.dumps([WEATHER]),
            "conversations": [
                {"from": "human", "value": "Weather in Bern?"},
                {"from": "function_call", "value": '{"name": "get_weather", "arguments": {"city": "Bern"}}'},
                {"from": "observation", "value": "rain"},
                {"from": "gpt", "value": "It rains."},
            ],
        }
    )
    assert [m.role for m in example.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert example.messages[2].tool_calls == (ToolCall("get_weather", {"city": "Bern"}),)
    assert example.uses_tools and example.messages[3].content == "rain"


def test_a_result_that_is_no_text_is_kept_as_json_and_the_older_function_call_is_read() -> None:
    example = read(
        {
            "functions": [CLOCK],
            "messages": [
                USER,
                {"role": "assistant", "content": None, "function_call": {"name": "clock", "arguments": ""}},
                {"role": "function", "name": "clock", "content": {"hour": 12}},
                ANSWER,
            ],
        }
    )
    assert example.messages[1].tool_calls == (ToolCall("clock", {}),)
    assert (example.messages[2].content, example.messages[2].name) == ('{"hour": 12}', "clock")


BAD: dict[str, tuple[Any, str]] = {
    "tools that are no JSON": (conversation(USER, ANSWER, tools="[{"), "`tools` is not valid JSON: Expecting property"),
    "tools that are a number": (conversation(USER, ANSWER, tools=3), "`tools` must be a list of JSON schemas, found"),
    "a tool without a name": (conversation(USER, ANSWER, tools=[{"type": "function"}]), "`tools.0` has no name"),
    "a call without a name": (
        conversation(USER, {"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}),
        "`messages.1.tool_calls.0` has no name",
    ),
    "arguments that are no JSON": (
        conversation(USER, {"role": "assistant", "tool_calls": [call("clock", "{a}")]}),
        "`messages.1.tool_calls.0.arguments` is not valid JSON",
    ),
    "arguments that are a list": (
        conversation(USER, {"role": "assistant", "tool_calls": [call("clock", "[1]")]}),
        "`messages.1.tool_calls.0.arguments` must be an object with one entry for each argument, found a list",
    ),
    "a result without a call": (conversation(USER, ANSWER, RESULT), "`messages.2` is a tool result, but the"),
    "a result first": (conversation(RESULT, ANSWER), "`messages.0` is a tool result, but the assistant's turn"),
    "a result for another call": (
        conversation(USER, CALLS, {**RESULT, "tool_call_id": "nobody"}, ANSWER),
        "`messages.2` answers the call 'nobody', but the calls before it are 'abc123xyz'",
    ),
    "two results for one call": (conversation(USER, CALLS, RESULT, RESULT, ANSWER), "`messages.3` is one tool result"),
    "a result without content": (
        conversation(USER, CALLS, {**RESULT, "content": None}, ANSWER),
        "`messages.2` is a tool result without content",
    ),
    "a user who calls": (conversation({**CALLS, "role": "user"}, ANSWER), "`messages.0` is a user turn with tool"),
    "a surrogate in an argument": (
        conversation(USER, {"role": "assistant", "tool_calls": [call("clock", {"a": ["\ud800"]})]}),
        "`messages.1.tool_calls.0.arguments` holds half of a surrogate pair",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_tools_is_said_with_its_place(name: str) -> None:
    record, message = BAD[name]
    with pytest.raises(ToolkitError) as caught:
        read(record)
    assert [str(problem)[: len(message) + 14] for problem in caught.value.problems] == [f"data.jsonl:7: {message}"]


# ---- what transformers writes


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("record", [SINGLE, MULTI, PARALLEL], ids=["single", "multi-turn", "parallel"])
def test_text_and_ids_equal_those_of_transformers(
    name: str, record: Any, make_tokenizer: MakeTokenizer, tokenizer_json: str, tmp_path: Path
) -> None:
    if record is PARALLEL and name in REFUSED_PARALLEL:
        with pytest.raises(ToolkitError, match=REFUSED_PARALLEL[name]):
            trained_texts(read(record), make(name, make_tokenizer))
        return
    import transformers

    template, special = TEMPLATES[name]
    (tmp_path / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, "eos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, **special}), encoding="utf-8")
    witness: Any = transformers.AutoTokenizer.from_pretrained(tmp_path)  # noqa: TID251 - the witness
    example = read(record)
    # transformers wants arguments decoded and tools wrapped: its documented form, made here by other code.
    plain = [
        {**turn, "content": turn.get("content") or "", **_decoded_calls(turn)} for turn in record["messages"]
    ]  # fmt: skip
    tools = [WEATHER, {"type": "function", "function": CLOCK}]
    tokenizer = make(name, make_tokenizer)
    assert tokenizer.render(
        example.messages, add_generation_prompt=False, tools=example.tools
    ) == witness.apply_chat_template(plain, tools=tools, tokenize=False)
    ids = list(witness.apply_chat_template(plain, tools=tools, return_dict=False))
    assert tokenize_examples([example], tokenizer, 4096).examples[0].tokens.tolist() == ids


def _decoded_calls(turn: dict[str, Any]) -> dict[str, Any]:
    if "tool_calls" not in turn:
        return {}
    calls = [(c, c["function"]["arguments"]) for c in turn["tool_calls"]]
    functions = [{**c["function"], "arguments": json.loads(a) if isinstance(a, str) else a} for c, a in calls]
    return {"tool_calls": [{**c, "function": f} for (c, _), f in zip(calls, functions, strict=True)]}


# ---- what is trained


def test_qwen_trains_calls_and_answers_and_not_tools_or_results(make_tokenizer: MakeTokenizer) -> None:
    assert trained_texts(read(PARALLEL), make("qwen2.5", make_tokenizer)) == [
        "Looking both up.\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich", "days": 3, "units": '
        '{"wind": ["km/h", null]}}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bern"}}\n</tool_call><|im_end|>',
        "21 °C in Zürich.<|im_end|>",
    ]


def test_llama_trains_calls_and_answers_and_not_tools_or_results(make_tokenizer: MakeTokenizer) -> None:
    assert trained_texts(read(MULTI), make("llama3.1", make_tokenizer)) == [
        '{"name": "get_weather", "parameters": {"city": "Zürich"}}<|eot_id|>',
        "21 °C in Zürich.<|eot_id|>",
        '{"name": "clock", "parameters": {}}<|eot_id|>',
        "Noon.<|eot_id|>",
    ]


def test_mistral_trains_the_token_that_opens_a_call_though_no_header_stands_before_it(
    make_tokenizer: MakeTokenizer,
) -> None:
    assert trained_texts(read(MULTI), make("mistral", make_tokenizer)) == [
        '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Zürich"}, "id": "abc123xyz"}]</s>',
        " 21 °C in Zürich.</s>",
        '[TOOL_CALLS] [{"name": "clock", "arguments": {}, "id": "def456uvw"}]</s>',
        " Noon.</s>",
    ]


def test_xml_calls_are_trained_whole(make_tokenizer: MakeTokenizer) -> None:
    assert trained_texts(read(SINGLE), make("xml", make_tokenizer)) == [
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nZürich\n</parameter>\n</function>\n</tool_call><|im_end|>",
        "21 °C in Zürich.<|im_end|>",
    ]


def test_reasoning_before_a_call_is_trained_where_the_template_keeps_it_and_only_there(
    make_tokenizer: MakeTokenizer,
) -> None:
    thinking = [{**turn, "content": f"<think>\nstep {i}\n</think>\n\n{turn.get('content') or ''}"} if
                turn["role"] == "assistant" else turn for i, turn in enumerate(MULTI["messages"])]  # fmt: skip
    runs = trained_texts(read(conversation(*thinking)), make("qwen3", make_tokenizer))
    assert runs == [
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call><|im_end|>',
        "21 °C in Zürich.<|im_end|>",
        '<think>\nstep 6\n</think>\n\n<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call><|im_end|>',
        "<think>\nstep 8\n</think>\n\nNoon.<|im_end|>",
    ]


def test_a_call_that_ends_with_another_end_of_turn_token_is_trained_up_to_it(make_tokenizer: MakeTokenizer) -> None:
    template = tool_templates.LLAMA31_TOOLS.replace('{{- "}" }}\n        {{- "<|eot_id|>" }}', '{{- "}<|eom_id|>" }}')
    assert "eom_id" in template
    eom = make_tokenizer(None).token_to_id("<|eom_id|>")
    tokenizer = make_tokenizer(template, extra_stop_ids=(eom,), **LLAMA)
    runs = trained_texts(read(SINGLE), tokenizer)
    assert runs[0] == '{"name": "get_weather", "parameters": {"city": "Zürich"}}<|eom_id|>'
    # Without that token among the model's ends, the turn has no end before the result: refused.
    with pytest.raises(ToolkitError, match="puts no end-of-turn token behind the assistant's turn"):
        trained_texts(read(SINGLE), make_tokenizer(template, **LLAMA))


@pytest.mark.parametrize("name", ["qwen2.5", "llama3.1"])
def test_a_turn_of_weight_zero_is_context_and_the_others_are_trained(name: str, make_tokenizer: MakeTokenizer) -> None:
    wrong = {**CALLS, "weight": 0}
    runs = trained_texts(read(conversation(USER, wrong, RESULT, ANSWER)), make(name, make_tokenizer))
    assert runs == ["21 °C in Zürich." + ENDS.get(name, "<|im_end|>")]


# ---- what is refused


def test_a_template_without_tools_is_refused_and_nothing_is_dropped_silently(make_tokenizer: MakeTokenizer) -> None:
    for template in (templates.CHATML, templates.QWEN25, None):
        with pytest.raises(ToolkitError, match=r"data\.jsonl:7: this model's chat template does not write tools"):
            trained_texts(read(SINGLE), make_tokenizer(template))
    with pytest.raises(ToolkitError, match="the chat template leaves tool calls out"):
        trained_texts(read(conversation(USER, CALLS, tools=[])), make_tokenizer(templates.CHATML))


def test_a_template_that_leaves_results_or_arguments_out_is_refused(make_tokenizer: MakeTokenizer) -> None:
    deaf = tool_templates.QWEN25_TOOLS.replace(
        "'\\n<tool_response>\\n' + message.content + ", "'\\n<tool_response>\\n' + "
    )
    with pytest.raises(ToolkitError, match="the chat template leaves tool results out"):
        trained_texts(read(SINGLE), make_tokenizer(deaf))
    short = tool_templates.QWEN25_TOOLS.replace(
        "tool_call.arguments | tojson", "tool_call.arguments.get('value', '') | tojson"
    )
    with pytest.raises(ToolkitError, match="does not write the call of 'get_weather' as the record has it"):
        trained_texts(read(SINGLE), make_tokenizer(short))


def test_a_template_that_writes_something_else_between_the_turns_is_refused(make_tokenizer: MakeTokenizer) -> None:
    moody = tool_templates.QWEN25_TOOLS + "{% if '21' in messages[-1].content %}How warm<|im_end|>{% endif %}"
    with pytest.raises(ToolkitError, match="the chat template rewrites this conversation"):
        trained_texts(read(SINGLE), make_tokenizer(moody))


def test_an_end_of_turn_token_inside_an_argument_is_refused(make_tokenizer: MakeTokenizer) -> None:
    calls = {"role": "assistant", "tool_calls": [call("get_weather", {"city": "<|im_end|>"})]}
    with pytest.raises(ToolkitError, match=r"data\.jsonl:7: a message contains <\|im_end\|>"):
        trained_texts(read(conversation(USER, calls, RESULT, ANSWER)), make("qwen2.5", make_tokenizer))


# ---- evaluation


def test_the_reference_of_a_call_is_what_the_models_own_template_writes(make_tokenizer: MakeTokenizer) -> None:
    question = ask(read(conversation(USER, CALLS)), "all")
    assert question is not None and question.reference == '{"arguments": {"city": "Zürich"}, "name": "get_weather"}'
    assert expected_text(question, make("qwen2.5", make_tokenizer)) == (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
    )
    assert expected_text(question, make("llama3.1", make_tokenizer)).startswith('{"name": "get_weather", "parameters"')


class Saying:
    """A scorer that answers every prompt with the same text and then stops."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens

    def generate(self, prompts: Any, sampling: Any) -> Any:
        for row in range(len(prompts)):
            yield from (GeneratedToken(row, token) for token in self.tokens)
            yield GeneratedToken(row, None, "stop")


def test_a_call_is_right_when_it_is_spelt_as_the_template_spells_it(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make("qwen2.5", make_tokenizer)
    questions = ask_all([read(conversation(USER, CALLS)), read(MULTI)])
    right = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
    for text, correct in ((right, True), (right.replace("Zürich", "Bern"), False)):
        scorer: Any = Saying(tokenizer.encode(text))
        assert [answer.correct for answer in answer_questions(scorer, tokenizer, questions)] == [correct, False]


def test_a_dry_run_shows_a_conversation_with_tools_with_its_calls_marked(tmp_path: Path) -> None:
    for file in NANO_FOLDER.iterdir():
        if file.is_file():
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "chat_template.jinja").write_text(tool_templates.QWEN25_TOOLS, encoding="utf-8")
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(SINGLE) + "\n", encoding="utf-8")
    job = prepare_finetune(FinetuneConfig(model=str(tmp_path), data=DataConfig(path=str(path), validation=0.0)))
    assert [text for text, trained in make_plan(job).example if trained] == [
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call><|im_end|>',
        "21 °C in Zürich.<|im_end|>",
    ]


# ---- whatever the text

TEXT = st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda text: text.strip())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=5,
)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=30)
@given(question=TEXT, arguments=st.dictionaries(TEXT, VALUES, max_size=3), result=TEXT, answer=TEXT)
def test_whatever_is_called_and_answered_the_trained_runs_are_the_call_and_the_answer(
    name: str, question: str, arguments: Any, result: str, answer: str, make_tokenizer: MakeTokenizer
) -> None:
    tokenizer = make(name, make_tokenizer)
    example = read(
        conversation(
            {"role": "user", "content": question},
            {"role": "assistant", "content": None, "tool_calls": [call("lookup", arguments)]},
            {"role": "tool", "content": result, "tool_call_id": "abc123xyz"},
            {"role": "assistant", "content": answer},
        )
    )
    (tokenized,) = tokenize_examples([example], tokenizer, 10**6).examples
    assert tokenized.tokens.tolist() == tokenizer.encode_chat(example.messages, False, example.tools)
    text = tokenizer.render(example.messages, add_generation_prompt=False, tools=example.tools)
    runs = [text for text, trained in trained_pieces(tokenized, tokenizer) if trained]
    end = ENDS.get(name, "<|im_end|>")
    assert len(runs) == 2 and all(run.endswith(end) for run in runs)
    assert "lookup" in runs[0] and text.count(end) >= 2
