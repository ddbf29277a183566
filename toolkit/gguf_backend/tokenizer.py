"""The tokenizer inside a GGUF file, with the face of `toolkit.datasets.tokenizer.Tokenizer`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import llama_cpp

from toolkit.datasets.chat_template import ChatTemplate
from toolkit.datasets.schema import Message
from toolkit.datasets.tokenizer import TokenStream
from toolkit.errors import ToolkitError
from toolkit.gguf_backend.model import LoadedModel, token_bytes

_NO_TOKEN = -1
# Text no conversation contains; templates that trim or split the content leave it whole.
_PROBE = "Qz7probe7zQ"


@dataclass(frozen=True)
class Encoding:
    """Ids of a text and the characters (start, end) that each stands for; an id inside a character spans it whole."""

    ids: list[int]
    offsets: list[tuple[int, int]]

    def token_to_chars(self, token: int) -> tuple[int, int]:
        """Return the (start, end) of the characters that the token at this index stands for."""
        return self.offsets[token]

    def char_to_token(self, character: int) -> int | None:
        """Return the index of the first token that stands for a character; None where there is none."""
        return self._first_tokens.get(character)

    @cached_property
    def _first_tokens(self) -> dict[int, int]:
        first: dict[int, int] = {}
        for token, (start, end) in enumerate(self.offsets):
            for character in range(start, end):
                first.setdefault(character, token)
        return first


class GgufTokenizer:
    """Text to ids and back, and the chat template, all by llama.cpp's reading of the file."""

    def __init__(self, model: LoadedModel) -> None:
        """Read from a loaded model, which must stay open (its vocabulary alone is enough)."""
        self._model = model
        self._vocabulary: Any = model.vocabulary

    # ---- text

    def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Cut text into ids. Special tokens written in the text count as text unless `parse_special`."""
        return self._tokenize(text, add_special=False, parse_special=parse_special)

    def encode_prompt(self, text: str) -> list[int]:
        """Cut text into ids as llama.cpp does for a plain prompt: with BOS or EOS where the file asks for them."""
        return self._tokenize(text, add_special=True, parse_special=True)

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Encode rendered texts, special tokens parsed, keeping each token's place in the text."""
        return [self._with_offsets(text) for text in texts]

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Join ids into text; bytes that are not UTF-8 become U+FFFD."""
        kept = (int(token) for token in ids if not (skip_special and self._is_control(int(token))))
        return b"".join(self.token_bytes(token) for token in kept).decode("utf-8", errors="replace")

    def stream(self, *, skip_special: bool = False) -> TokenStream:
        """Return a detokenizer for ids that come one by one."""
        return TokenStream(self, skip_special)  # pyright: ignore[reportArgumentType] (only `decode` is used)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that an id stands for."""
        return token_bytes(self._model, token)

    def id_to_token(self, token_id: int) -> str:
        """Return an id's text as the vocabulary holds it."""
        return llama_cpp.llama_vocab_get_text(self._vocabulary, int(token_id)).decode("utf-8", errors="replace")

    # ---- conversations

    def render(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Write a conversation by the file's chat template. Raises ToolkitError when it has none or refuses."""
        return self._template.render(messages, add_generation_prompt=add_generation_prompt, tools=tools)

    def encode_chat(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[int]:
        """Render a conversation and cut it into ids, the template's special tokens recognised."""
        rendered = self.render(messages, add_generation_prompt=add_generation_prompt, tools=tools)
        return self.encode(rendered, parse_special=True)

    @cached_property
    def chat_template(self) -> str | None:
        """The file's default chat template (Jinja), if it has one."""
        template: Any = llama_cpp.llama_model_chat_template(self._model.handle, None)
        return None if template is None else template.decode("utf-8")

    @cached_property
    def turn_end(self) -> str:
        """What the template writes after an assistant turn, up to its special token or the plain text's end."""
        return self._turn_end[0]

    @cached_property
    def turn_end_id(self) -> int | None:
        """Id of the special token that ends an assistant turn."""
        return self._turn_end[1]

    @cached_property
    def writes_generation_prompt(self) -> bool:
        """Whether `add_generation_prompt` makes a difference to the template."""
        asked = [Message("user", "Hello")]
        return self.render(asked, add_generation_prompt=True) != self.render(asked, add_generation_prompt=False)

    # ---- facts

    @property
    def vocab_size(self) -> int:
        """Entries, padding included."""
        return self._model.vocabulary_size

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Every id that llama.cpp counts as end of generation."""
        return tuple(token for token in range(self.vocab_size) if self.ends_generation(token))

    def ends_generation(self, token: int) -> bool:
        """Say whether llama.cpp stops at this id."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocabulary, token))

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of all control tokens."""
        return frozenset(token for token in range(self.vocab_size) if self._is_control(token))

    @property
    def bos_id(self) -> int | None:
        """Beginning of sequence."""
        return _optional(llama_cpp.llama_vocab_bos(self._vocabulary))

    @property
    def eos_id(self) -> int:
        """End of sequence. Raises ToolkitError where the file names none."""
        eos = _optional(llama_cpp.llama_vocab_eos(self._vocabulary))
        if eos is None:
            raise ToolkitError("this file does not say which token ends a text", where=self._model.path)
        return eos

    @property
    def pad_id(self) -> int:
        """Padding; the end of sequence where the file names none."""
        pad = _optional(llama_cpp.llama_vocab_pad(self._vocabulary))
        return self.eos_id if pad is None else pad

    @property
    def adds_bos(self) -> bool:
        """Whether llama.cpp puts a BOS before a plain prompt."""
        return bool(llama_cpp.llama_vocab_get_add_bos(self._vocabulary))

    @property
    def text_start_id(self) -> int | None:
        """Id that llama.cpp puts before a plain prompt, or None."""
        return self.bos_id if self.adds_bos else None

    @cached_property
    def sha256(self) -> str:
        """Hash over all tokens and the template."""
        digest = hashlib.sha256((self.chat_template or "").encode())
        for token in range(self.vocab_size):
            digest.update(b"\0" + llama_cpp.llama_vocab_get_text(self._vocabulary, token))
        return digest.hexdigest()

    # ---- inner workings

    @cached_property
    def _template(self) -> ChatTemplate:
        if self.chat_template is None:
            raise ToolkitError("this file has no chat template", where=self._model.path)
        named = {"bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id}
        variables = {name: self.id_to_token(token) for name, token in named.items() if token is not None}
        return ChatTemplate(self.chat_template, variables, str(self._model.path))

    @cached_property
    def _turn_end(self) -> tuple[str, int | None]:
        probe = [Message("user", "Hello"), Message("assistant", _PROBE)]
        tail = self.render(probe, add_generation_prompt=False).rpartition(_PROBE)[2]
        encoding = self._with_offsets(tail)
        for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if self._is_control(token) or token == self.eos_id:
                return tail[:end], token
        return tail.rstrip(), None

    def _with_offsets(self, text: str) -> Encoding:
        ids = self.encode(text, parse_special=True)
        raw = text.encode("utf-8")
        # Character index at every byte of the text: continuation bytes belong to the character that they continue.
        characters = list(accumulate(((byte & 0xC0) != 0x80 for byte in raw), initial=-1))[1:]
        offsets, position = [], 0
        for token in ids:
            piece = self.token_bytes(token)
            if piece[:1] == b" " and raw[position : position + 1] != b" ":
                piece = piece[1:]  # the space that SentencePiece puts before a text stands nowhere in it
            end = position + len(piece)
            offsets.append((characters[position], characters[end - 1] + 1) if end > position else (0, 0))
            position = end
        return Encoding(ids, offsets)

    def _is_control(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_control(self._vocabulary, token))

    def _tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        raw = text.encode("utf-8")
        room = len(raw) + 8
        while True:
            buffer: Any = (llama_cpp.llama_token * room)()
            count = llama_cpp.llama_tokenize(self._vocabulary, raw, len(raw), buffer, room, add_special, parse_special)
            if count >= 0:
                return buffer[:count]
            room = -count


def _optional(token: Any) -> int | None:
    return None if token == _NO_TOKEN else token
