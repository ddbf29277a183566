"""Tokenizers in SentencePiece's manner, trained on the spot by the sentencepiece package."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Literal

from tests.tiny_models import TOKENIZER_TEXT

Spelling = Literal["prepend", "metaspace", "first"]
TEMPLATE = (
    "{{- bos_token }}{%- for message in messages %}{%- if message['role'] == 'assistant' %}"
    "{{- message['content'] + eos_token }}{%- else %}{{- '[INST] ' + message['content'] + ' [/INST]' }}{%- endif %}"
    "{%- endfor %}"
)
_SPECIAL = ("<unk>", "<s>", "</s>")


def train_pieces(vocab_size: int = 420, **options: Any) -> bytes:
    """Train a `tokenizer.model` (BPE with byte fallback, as Llama 2's is) and return its bytes.

    options: of the trainer, instead of those written here
    """
    import sentencepiece

    model = io.BytesIO()
    settings = {
        "vocab_size": vocab_size,
        "model_type": "bpe",
        "byte_fallback": True,
        "character_coverage": 0.99,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "split_digits": True,
        "allow_whitespace_only_pieces": True,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TOKENIZER_TEXT), model_writer=model, **{**settings, **options}
    )
    return model.getvalue()


def write_sentencepiece(folder: Path, spelling: Spelling = "prepend", *, proto: bytes | None = None) -> None:
    """Write tokenizer.json and tokenizer_config.json, merges derived from the pieces' scores as converters do."""
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces = sentencepiece.SentencePieceProcessor(model_proto=proto or train_pieces())
    names = [pieces.id_to_piece(number) for number in range(pieces.get_piece_size())]
    vocabulary = {name: number for number, name in enumerate(names)}
    splits = [
        (pieces.get_score(vocabulary[name]), name[:cut], name[cut:])
        for name in names[len(_SPECIAL) + 256 :]
        for cut in range(1, len(name))
        if name[:cut] in vocabulary and name[cut:] in vocabulary
    ]
    merges = [(left, right) for _, left, right in sorted(splits, key=lambda split: -split[0])]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if spelling == "prepend":
        parts = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer.normalizer = normalizers.Sequence(parts)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        scheme = "always" if spelling == "metaspace" else "first"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)  # pyright: ignore
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in _SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": TEMPLATE,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def write_pieces_alone(folder: Path, proto: bytes | None = None) -> None:
    """Leave a folder `tokenizer.model` for a tokenizer, with the settings and the template that go with it."""
    (folder / "tokenizer.json").unlink(missing_ok=True)
    (folder / "tokenizer.model").write_bytes(proto or train_pieces())
    settings = {"chat_template": TEMPLATE, "tokenizer_class": "LlamaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            held = json.loads((folder / name).read_text("utf-8"))
            (folder / name).write_text(json.dumps({**held, "bos_token_id": 1, "eos_token_id": 2}), "utf-8")
