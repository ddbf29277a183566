"""A model folder's tokenizer and chat template, by `tokenizers` and Jinja2 (AutoTokenizer imports torch: 1.7 s)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from toolkit.datasets.chat_template import FALLBACK_TEMPLATE, ChatTemplate
from toolkit.datasets.schema import Message
from toolkit.datasets.sentencepiece_model import FILE_NAME, tokenizer_definition
from toolkit.errors import ToolkitError

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Text no conversation contains; templates that trim or split the content leave it whole.
_PROBE = "Qz7probe7zQ"


class Tokenizer:
    """Text to token ids and back, and conversations to text, as the model was trained to see them.

    Attributes:
        chat_template: the template in use (the fallback's text when the model brings none)
        template_source: the file that it came from, or `fallback`
        bos_id, eos_id, pad_id: ids; there may be no `bos_id`; without a padding token `pad_id` is `eos_id`
        stop_ids: every id that ends a turn: the end-of-text ids of tokenizer_config.json, config.json and
            generation_config.json, and the token that the template puts after an assistant turn
        turn_end: what the template writes after an assistant turn, up to and including its special token; when it
            writes no special token, the plain text that it closes with (often nothing)
        turn_end_id: id of that special token, or None
        writes_generation_prompt: whether `add_generation_prompt` makes a difference to the template
        vocab_size: entries, added tokens included (a model's embedding may have more rows)
        sha256: of tokenizer.json and the template: two equal hashes tokenise every conversation alike
    """

    def __init__(
        self,
        tokenizer_json: str,
        *,
        settings: Mapping[str, Any],
        chat_template: str | None,
        template_source: str,
        extra_stop_ids: Sequence[int] = (),
        where: str = "",
    ) -> None:
        """Build from parts; `load` reads them from a model folder.

        Args:
            tokenizer_json: the content of tokenizer.json.
            settings: tokenizer_config.json (special tokens as text or as `{"content": …}`).
            chat_template: Jinja2 text, or None for the fallback.
            template_source: the file that the template came from.
            extra_stop_ids: ids that config.json or generation_config.json call the end.
            where: the folder, for messages.

        Raises:
            ToolkitError: the tokenizer cannot be read, or nothing says how a text ends.
        """
        self._json = tokenizer_json
        self._tokenizer = self._build(where)
        self.special_tokens = _special_tokens(settings)
        self.bos_id = self._special_id("bos_token")
        eos_id = self._special_id("eos_token")
        stops = [eos_id, *extra_stop_ids] if eos_id is not None else list(extra_stop_ids)
        if not stops:
            raise ToolkitError(
                "nothing says which token ends a text",
                where=where,
                hint="Add eos_token to tokenizer_config.json or eos_token_id to config.json",
            )
        self.eos_id = stops[0]
        self.special_tokens.setdefault("eos_token", self.id_to_token(self.eos_id))
        pad_id = self._special_id("pad_token")
        self.pad_id = self.eos_id if pad_id is None else pad_id
        self.template_source = template_source if chat_template is not None else "fallback"
        self.chat_template: str | None = chat_template if chat_template is not None else FALLBACK_TEMPLATE
        self._template = ChatTemplate(self.chat_template, self._template_variables(chat_template is None), where)
        self.turn_end, self.turn_end_id = self._probe_turn_end()
        asked = [Message("user", "Hello")]
        self.writes_generation_prompt = self.render(asked, add_generation_prompt=True) != self.render(
            asked, add_generation_prompt=False
        )
        if self.turn_end_id is not None:
            stops.append(self.turn_end_id)
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(stops))
        self.vocab_size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.sha256 = hashlib.sha256(f"{tokenizer_json}\0{self.chat_template}".encode()).hexdigest()

    @classmethod
    def load(cls, folder: Path | str) -> Tokenizer:
        """Read tokenizer.json, tokenizer_config.json, chat_template.jinja, config.json and generation_config.json.

        A folder that has SentencePiece's tokenizer.model alone does as well.

        Raises:
            ToolkitError: there is no tokenizer, or one of the files cannot be read.
        """
        folder = Path(folder)
        settings = {**_read_json(folder / "special_tokens_map.json"), **_read_json(folder / "tokenizer_config.json")}
        template, source = _find_template(folder, settings)
        definition, special = _definition(folder, settings)
        ends = [_read_json(folder / name).get("eos_token_id") for name in ("config.json", "generation_config.json")]
        return cls(
            definition,
            settings={**special, **settings},
            chat_template=template,
            template_source=source,
            extra_stop_ids=[i for end in ends for i in (end if isinstance(end, list) else [end]) if isinstance(i, int)],
            where=str(folder),
        )

    # ---- text

    def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Return the ids of a text; nothing is added in front or behind.

        With `parse_special`, the spelling of a special token in the text becomes that token; without it, plain text.
        """
        return (self._tokenizer if parse_special else self._plain).encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        """Encode many rendered texts at once, special tokens parsed, keeping each token's place in the text."""
        return self._tokenizer.encode_batch(list(texts), add_special_tokens=False)

    def count_batch(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens rendered texts have, special tokens parsed, without finding their places."""
        return [len(found.ids) for found in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Return the text of some ids; bytes that are not UTF-8 become U+FFFD."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    def stream(self, *, skip_special: bool = False) -> TokenStream:
        """Return a decoder that takes one id at a time."""
        return TokenStream(self, skip_special)

    def id_to_token(self, token_id: int) -> str:
        """Return a token as the vocabulary spells it (`Ġthe`); an id without an entry gives `<id>`."""
        token = self._tokenizer.id_to_token(int(token_id))
        return f"<{token_id}>" if token is None else token

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a vocabulary entry, or None."""
        return self._tokenizer.token_to_id(token)

    # ---- conversations

    def render(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Write a conversation by the chat template. Raises ToolkitError when the template refuses it."""
        return self._template.render(messages, add_generation_prompt=add_generation_prompt, tools=tools)

    def encode_chat(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[int]:
        """Return the ids of a rendered conversation; nothing is added to what the template writes."""
        rendered = self.render(messages, add_generation_prompt=add_generation_prompt, tools=tools)
        return self.encode(rendered, parse_special=True)

    # ---- set-up

    def _build(self, where: str) -> tokenizers.Tokenizer:
        try:
            tokenizer = tokenizers.Tokenizer.from_str(self._json)
        except Exception as error:  # the Rust side raises bare Exception
            raise ToolkitError(f"tokenizer.json cannot be read: {error}", where=where) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # It only adds special tokens (never wanted here) and may trim the offsets that loss weights are found by.
        tokenizer.post_processor = None  # pyright: ignore[reportAttributeAccessIssue]
        return tokenizer

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        # A second instance, since reading special tokens or not is a switch on the tokenizer itself.
        plain = self._build("")
        plain.encode_special_tokens = True
        return plain

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of all special tokens."""
        return frozenset(i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special)

    @property
    def definition(self) -> str:
        """The content of tokenizer.json."""
        return self._json

    @property
    def text_start_id(self) -> int | None:
        """Id of the beginning-of-text token where the model's tokenizer starts texts with it, else None."""
        return self._text_start_id

    @cached_property
    def _text_start_id(self) -> int | None:
        start = tokenizers.Tokenizer.from_str(self._json).encode("", add_special_tokens=True).ids
        return self.bos_id if self.bos_id is not None and start[:1] == [self.bos_id] else None

    def _special_id(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self._tokenizer.token_to_id(token)

    def _template_variables(self, fallback: bool) -> dict[str, Any]:
        if not fallback:
            return self.special_tokens
        # The fallback starts with the beginning-of-text token only if the model's tokenizer starts texts with it.
        begins = self.text_start_id is not None
        return {**self.special_tokens, "bos_token": self.special_tokens["bos_token"] if begins else ""}

    def _probe_turn_end(self) -> tuple[str, int | None]:
        """Render a small conversation and look at what stands behind the assistant's text."""
        probe = [Message("user", "Hello"), Message("assistant", _PROBE)]
        tail = self.render(probe, add_generation_prompt=False).rpartition(_PROBE)[2]
        encoding = self._tokenizer.encode(tail, add_special_tokens=False)
        for token_id, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id in self.special_ids or token_id == self.eos_id:
                return tail[:end], token_id
        return tail.rstrip(), None


class TokenStream:
    """Turns a stream of ids into a stream of text without ever cutting a character in two.

    The pieces that `push` and `flush` return add up to `decode` of all the ids.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool) -> None:
        """Start an empty stream."""
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        # `_ids[:_shown]` has been returned as text. It is decoded again with what follows, because some decoders treat
        # the first token of a text differently (Metaspace drops its space).
        self._ids: list[int] = []
        self._shown = 0

    def push(self, token_id: int) -> str:
        """Take the next id and return the text that it completes (empty while a character is incomplete)."""
        self._ids.append(int(token_id))
        piece = self._pending()
        if not piece or piece.endswith("\ufffd"):
            return ""
        self._ids = self._ids[self._shown :]
        self._shown = len(self._ids)
        return piece

    def flush(self) -> str:
        """Return what was held back, incomplete bytes as U+FFFD, and start anew."""
        piece = self._pending()
        self._ids, self._shown = [], 0
        return piece

    def _pending(self) -> str:
        shown = self._tokenizer.decode(self._ids[: self._shown], skip_special=self._skip_special)
        return self._tokenizer.decode(self._ids, skip_special=self._skip_special)[len(shown) :]


def _definition(folder: Path, settings: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the text of tokenizer.json, and special tokens that no other file need name."""
    file = folder / "tokenizer.json"
    if file.is_file():
        return _read_text(file), {}
    if (folder / FILE_NAME).is_file():
        return tokenizer_definition(folder, settings)
    hint = f"Save it with transformers' AutoTokenizer.save_pretrained (SentencePiece's {FILE_NAME} will do too)"
    raise ToolkitError("no tokenizer.json", where=folder, hint=hint)


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return special tokens by name, whether spelt as text or as `{"content": …}`."""
    found: dict[str, str] = {}
    for name in _SPECIAL_NAMES:
        value = settings.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[name] = text
    return found


def _find_template(folder: Path, settings: Mapping[str, Any]) -> tuple[str | None, str]:
    """Return the template and the file it stands in; chat_template.jinja wins, as in transformers."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return _read_text(file), "chat_template.jinja"
    named = settings.get("chat_template")
    if isinstance(named, list):
        templates = {entry.get("name"): entry.get("template") for entry in named if isinstance(entry, dict)}
        named = templates.get("default") or (next(iter(templates.values())) if len(templates) == 1 else None)
        if named is None:
            names = ", ".join(str(name) for name in templates)
            raise ToolkitError(f"several chat templates ({names}), none called default", where=folder)
    return (named, "tokenizer_config.json") if isinstance(named, str) else (None, "")


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ToolkitError(f"cannot be read: {error}", where=file) from error


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(_read_text(file))
    except ValueError as error:
        raise ToolkitError(f"invalid JSON: {error}", where=file) from error
    return value if isinstance(value, dict) else {}
