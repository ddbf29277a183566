"""The bundled model: what is shipped is what its recipe and the docs say."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from toolkit.config import PretrainConfig
from toolkit.config_files import load_config
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.models import NANO_FOLDER, find_model
from toolkit.tensor_files import SINGLE_NAME, FolderTensors

MAX_BYTES = 16_000_000
ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "toolkit" / "configs" / "nano-pretrain.yaml"


def test_nano_has_the_shape_of_its_recipe():
    facts, recipe = find_model("nano"), load_config(PretrainConfig, RECIPE)
    shape = recipe.architecture
    assert facts.architecture == "Qwen2ForCausalLM"
    assert 5_000_000 < facts.parameter_count < 6_000_000
    assert (facts.vocab_size, facts.context) == (recipe.tokenizer.vocab_size, shape.context)
    config = json.loads((NANO_FOLDER / "config.json").read_text(encoding="utf-8"))
    assert (config["hidden_size"], config["num_hidden_layers"]) == (shape.hidden_size, shape.layers)
    assert (config["intermediate_size"], config["num_key_value_heads"]) == (shape.ffn_size, shape.kv_heads)


def test_nano_is_shipped_in_bfloat16_and_small():
    assert {entry.dtype for entry in FolderTensors(NANO_FOLDER).entries.values()} == {"bfloat16"}
    assert (NANO_FOLDER / SINGLE_NAME).stat().st_size <= MAX_BYTES


def test_the_docs_name_the_weights_that_are_shipped():
    digest = hashlib.sha256((NANO_FOLDER / SINGLE_NAME).read_bytes()).hexdigest()
    assert digest in (ROOT / "docs" / "nano.md").read_text(encoding="utf-8")


def test_nano_speaks_chatml_and_splits_numbers_into_digits():
    tokenizer = Tokenizer.load(NANO_FOLDER)
    assert tokenizer.vocab_size == 4096
    text = tokenizer.render([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert [tokenizer.decode([token]) for token in tokenizer.encode("2026")] == ["2", "0", "2", "6"]
    assert [tokenizer.id_to_token(stop) for stop in tokenizer.stop_ids] == ["<|im_end|>"]


def test_the_tokenizer_keeps_common_english_words_whole():
    tokenizer = Tokenizer.load(NANO_FOLDER)
    words = " the farmer had many apples and sold some of them at the market in the morning"
    assert len(tokenizer.encode(words)) <= 1.3 * len(words.split())
    assert len(re.findall("Ġ", (NANO_FOLDER / "tokenizer.json").read_text(encoding="utf-8"))) > 1000
