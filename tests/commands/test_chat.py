"""`toolkit chat`: streaming, turns, interruptions, a full context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.tiny_models import write_tokenizer
from toolkit.backends import OpenTarget, Target
from toolkit.cli import main
from toolkit.commands import chat as chat_module
from toolkit.commands.chat import Conversation, converse, say
from toolkit.datasets.schema import Message
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import ToolkitError
from toolkit.protocols import GeneratedToken, Sampling

ANSWER = "Grüße 🙂 你好"


class ScriptedScorer:
    """Says its answers one after the other, and may be interrupted after some tokens."""

    def __init__(self, tokenizer: Tokenizer, answers: Sequence[str], *, interrupt_after: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.answers = list(answers)
        self.interrupt_after = interrupt_after
        self.prompts: list[str] = []
        self.samplings: list[Sampling] = []
        self.closed = False

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[GeneratedToken]:
        self.prompts.append(self.tokenizer.decode(prompts[0]))
        self.samplings.append(sampling)
        tokens = self.tokenizer.encode(self.answers.pop(0))
        for count, token in enumerate(tokens[: sampling.max_new_tokens]):
            if count == self.interrupt_after:
                raise KeyboardInterrupt
            yield GeneratedToken(0, token)
        yield GeneratedToken(0, None, "stop" if len(tokens) <= sampling.max_new_tokens else "length")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    write_tokenizer(tmp_path, "qwen2")
    return Tokenizer.load(tmp_path)


@pytest.fixture
def talk(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    """Return `talk(answers, context=…) -> scorer`; from then on every target is that scorer."""

    def install(answers: Sequence[str], *, context: int = 512, interrupt_after: int | None = None) -> ScriptedScorer:
        scorer = ScriptedScorer(tokenizer, answers, interrupt_after=interrupt_after)
        opened = OpenTarget(scorer, tokenizer, "tiny", context)  # pyright: ignore[reportArgumentType]
        monkeypatch.setattr(chat_module, "resolve_target", lambda text, root: Target("model", text))
        monkeypatch.setattr(chat_module, "open_target", lambda *args, **options: opened)
        return scorer

    return install


def conversation(scorer: ScriptedScorer, *, context: int = 512, limit: int = 64, system: str | None = None):
    target = OpenTarget(scorer, scorer.tokenizer, "tiny", context)  # pyright: ignore[reportArgumentType]
    return Conversation(target, Sampling(limit, stop_ids=scorer.tokenizer.stop_ids), system)


def test_pieces_never_cut_a_character_and_add_up_to_the_answer(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("🙂")) >= 1
    text = "🙂🚀é你ñ " * 3
    assert len(tokenizer.encode(text)) > len(text), "the tokenizer must cut some characters into bytes"
    pieces = list(conversation(ScriptedScorer(tokenizer, [text])).ask("q"))
    assert "".join(pieces) == text
    assert len(pieces) > 1
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_answer_cut_inside_a_character_ends_with_a_replacement(tokenizer: Tokenizer) -> None:
    rocket = tokenizer.encode("🚀")
    assert len(rocket) > 1
    talking = conversation(ScriptedScorer(tokenizer, ["🚀"]), limit=1)
    assert "".join(talking.ask("q")) == "\ufffd"
    assert "--max-tokens" in talking.note


def test_prompt_answers_once_on_stdout_and_closes_the_model(talk) -> None:
    scorer = talk([ANSWER])
    result = CliRunner().invoke(main, ["chat", "tiny", "--prompt", "Hello?", "--system", "Be kind."])
    assert (result.exit_code, result.stdout) == (0, f"{ANSWER}\n")
    assert "Be kind." in scorer.prompts[0] and "Hello?" in scorer.prompts[0]
    assert scorer.prompts[0].endswith("<|im_start|>assistant\n")
    assert scorer.closed


def test_a_piped_prompt_is_read_from_standard_input(talk) -> None:
    scorer = talk(["ok"])
    result = CliRunner().invoke(main, ["chat", "tiny"], input="line one\nline two\n")
    assert result.stdout == "ok\n"
    assert "line one\nline two<|im_end|>" in scorer.prompts[0]


@pytest.mark.parametrize("arguments", [["--prompt", " "], []])
def test_an_empty_prompt_is_refused_before_the_model_is_loaded(arguments: list[str], monkeypatch) -> None:
    monkeypatch.setattr(chat_module, "open_target", lambda *args, **options: pytest.fail("loaded"))
    result = CliRunner().invoke(main, ["chat", "nano", *arguments], input="\n")
    assert result.exit_code == 2
    assert "the prompt is empty" in result.stderr


def test_sampling_options_reach_the_model(talk, tokenizer: Tokenizer) -> None:
    scorer = talk(["ok"])
    options = ["--max-tokens", "7", "--temperature", "0.5", "--seed", "3"]
    CliRunner().invoke(main, ["chat", "tiny", "--prompt", "q", *options])
    assert scorer.samplings == [Sampling(7, 0.5, seed=3, stop_ids=tokenizer.stop_ids)]


def test_a_prompt_beyond_the_context_is_one_clear_line(talk) -> None:
    talk(["ok"], context=20)
    result = CliRunner().invoke(main, ["chat", "tiny", "--prompt", "word " * 50])
    assert result.exit_code == 2
    assert "the model's context is 20" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_an_answer_that_fills_the_context_says_so(tokenizer: Tokenizer) -> None:
    scorer = ScriptedScorer(tokenizer, ["word " * 80])
    talking = conversation(scorer, context=60, limit=60)
    list(talking.ask("q"))
    assert "context of 60 tokens is full" in talking.note


def test_turns_are_remembered_until_reset(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = ScriptedScorer(tokenizer, ["first", "second", "third"])
    talking = conversation(scorer, system="Be kind.")
    lines = iter(["one", "", "/help", "two", "/reset", "three", "/exit", "never"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    converse(talking)
    assert "one" in scorer.prompts[1] and "first" in scorer.prompts[1]
    assert "one" not in scorer.prompts[2] and "Be kind." in scorer.prompts[2]
    assert talking.messages == [Message("system", "Be kind."), Message("user", "three"), Message("assistant", "third")]
    assert next(lines) == "never"


def test_the_end_of_input_leaves_and_ctrl_c_at_the_prompt_does_not(tokenizer: Tokenizer, monkeypatch, capsys) -> None:
    talking = conversation(ScriptedScorer(tokenizer, ["yes"]))
    events = iter([KeyboardInterrupt, "hello", EOFError])

    def read(prompt: str) -> str:
        event = next(events)
        if isinstance(event, str):
            return event
        raise event

    monkeypatch.setattr("builtins.input", read)
    converse(talking)
    assert "yes" in capsys.readouterr().out


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(tokenizer: Tokenizer, monkeypatch, capsys) -> None:
    scorer = ScriptedScorer(tokenizer, ["a long answer that goes on", "fine"], interrupt_after=2)
    talking = conversation(scorer)
    lines = iter(["talk", "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    converse(talking)
    captured = capsys.readouterr()
    said = talking.messages[-1].content
    assert talking.messages[-1].role == "assistant"
    assert said and "a long answer that goes on".startswith(said)
    assert "(stopped)" in captured.err


def test_a_full_context_does_not_end_the_conversation(tokenizer: Tokenizer, monkeypatch, capsys) -> None:
    talking = conversation(ScriptedScorer(tokenizer, ["ok"]), context=60)
    lines = iter(["word " * 60, "/reset", "hi", "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    converse(talking)
    captured = capsys.readouterr()
    assert "/reset" in captured.err and "context is 60" in captured.err
    assert captured.out == "ok\n"


def test_a_conversation_without_room_is_refused_and_forgets_the_turn(tokenizer: Tokenizer) -> None:
    talking = conversation(ScriptedScorer(tokenizer, []), context=10)
    with pytest.raises(ToolkitError):
        list(talking.ask("word " * 30))
    assert talking.messages == []


def test_answers_cannot_steer_the_terminal(tokenizer: Tokenizer, monkeypatch, capsys) -> None:
    talking = conversation(ScriptedScorer(tokenizer, ["\x1b[2J\x07red\n\tok"]))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    say(talking, "q")
    assert capsys.readouterr().out == "[2Jred\n\tok\n"


def test_a_real_model_folder_answers_the_same_every_time(tiny_qwen2: Path) -> None:
    arguments = ["chat", str(tiny_qwen2), "--prompt", "What is 12 plus 30?", "--max-tokens", "6", "--device", "cpu"]
    first, second = (CliRunner().invoke(main, arguments) for _ in range(2))
    assert first.exit_code == 0, first.stderr
    assert first.stdout == second.stdout
