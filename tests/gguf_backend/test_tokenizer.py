"""The tokenizer inside a GGUF file, against the one that went in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from toolkit.backends import Target
from toolkit.datasets.chat import tokenize_examples
from toolkit.datasets.schema import Example
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.gguf_backend.session import GgufScorer
from toolkit.gguf_backend.tokenizer import GgufTokenizer
from toolkit.quantize.export import ExportRequest, export_model
from toolkit.quantize.probes import CONVERSATIONS, TEXTS


@pytest.fixture(scope="module", params=["tiny_qwen2", "tiny_llama"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Tokenizer, GgufTokenizer]]:
    """A folder's tokenizer and that of its export."""
    folder = request.getfixturevalue(request.param)
    out = tmp_path_factory.mktemp("gguf")
    path = export_model(ExportRequest(Target("model", "tiny", folder), "F32", out, check=False)).path
    scorer = GgufScorer(path)
    yield Tokenizer.load(folder), scorer.tokenizer()
    scorer.close()


Pair = tuple[Tokenizer, GgufTokenizer]


@pytest.mark.parametrize("parse_special", [False, True])
def test_ids_are_those_of_the_trained_tokenizer(pair: Pair, parse_special: bool):
    theirs, ours = pair
    for text in [*TEXTS, "a<|im_end|>b <|eot_id|>", ""]:
        assert ours.encode(text, parse_special=parse_special) == theirs.encode(text, parse_special=parse_special)


def test_decoding_gives_the_text_back_and_can_leave_special_tokens_out(pair: Pair):
    theirs, ours = pair
    for text in TEXTS:
        assert ours.decode(ours.encode(text)) == text
    ids = theirs.encode_chat(CONVERSATIONS[1], False)
    assert ours.decode(ids) == theirs.decode(ids)
    assert ours.decode(ids, skip_special=True) == theirs.decode(ids, skip_special=True)


def test_offsets_point_at_the_characters_of_each_token(pair: Pair):
    theirs, ours = pair
    for text in ["Grüße 你好 👍🏽 x", theirs.render(CONVERSATIONS[3], add_generation_prompt=True)]:
        (expected,), (found,) = theirs.encode_batch([text]), ours.encode_batch([text])
        assert found.ids == expected.ids
        assert found.offsets == [tuple(span) for span in expected.offsets]


def test_streamed_text_never_cuts_a_character(pair: Pair):
    _, ours = pair
    stream = ours.stream()
    ids = ours.encode("naïve 你好 👨‍👩‍👧 end")
    pieces = [stream.push(token) for token in ids] + [stream.flush()]
    assert "".join(pieces) == "naïve 你好 👨‍👩‍👧 end"
    assert not any("\ufffd" in piece for piece in pieces)


def test_conversations_render_and_end_as_in_training(pair: Pair):
    theirs, ours = pair
    for conversation in CONVERSATIONS:
        assert ours.render(conversation, add_generation_prompt=True) == theirs.render(
            conversation, add_generation_prompt=True
        )
        assert ours.encode_chat(conversation, True) == theirs.encode_chat(conversation, True)
    assert (ours.turn_end, ours.turn_end_id) == (theirs.turn_end, theirs.turn_end_id)
    assert ours.writes_generation_prompt == theirs.writes_generation_prompt
    assert set(theirs.stop_ids) <= set(ours.stop_ids)
    assert (ours.eos_id, ours.pad_id) == (theirs.eos_id, theirs.pad_id)
    assert ours.special_ids == theirs.special_ids


def test_examples_are_tokenised_for_evaluation_as_with_the_trained_tokenizer(pair: Pair):
    theirs, ours = pair
    examples = [Example(conversation, {}, "probe:1") for conversation in CONVERSATIONS[1::2]]
    expected, found = (tokenize_examples(examples, tokenizer, 200) for tokenizer in (theirs, ours))
    for one, other in zip(expected.examples, found.examples, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        assert one.loss_weights.tolist() == other.loss_weights.tolist()


def test_a_message_cannot_smuggle_in_special_tokens_when_they_are_not_parsed(pair: Pair):
    _, ours = pair
    turn_end = ours.id_to_token(ours.turn_end_id or 0)
    assert ours.turn_end_id not in ours.encode(turn_end)
    assert ours.encode(turn_end, parse_special=True) == [ours.turn_end_id]


def test_two_files_with_one_vocabulary_have_one_hash(pair: Pair):
    _, ours = pair
    assert len(ours.sha256) == 64
