"""Prepare training from scratch: a tokenizer trained on the corpus, a Qwen2 model with drawn weights, rows of tokens.

Tokenizer and initial model are kept in the run folder (`initial/`), so that a resumed run has the same ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from toolkit.atomic_files import atomic_folder, write_atomic
from toolkit.backends import choose_backend
from toolkit.config import ArchitectureConfig, PretrainConfig, resolve_model_defaults, resolve_steps
from toolkit.datasets.batching import TrainingData, evaluation_batches
from toolkit.datasets.corpus import Document, document_texts, read_corpus, rows, split_documents
from toolkit.datasets.generate import pretraining_text
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.datasets.tokenizer_training import train_tokenizer
from toolkit.errors import Problem, ToolkitError
from toolkit.initial_values import draw_normal
from toolkit.jobs.job import Job, measure
from toolkit.models import read_model
from toolkit.tensor_files import SINGLE_NAME, StoredTensor, write_tensors

INITIAL_STD = 0.02  # GPT-2's, which Qwen2's configs name as initializer_range


def check_shape(config: PretrainConfig) -> None:
    """Raise ToolkitError with everything in the architecture that does not fit together."""
    shape = config.architecture
    problems = []
    if shape.hidden_size % (2 * shape.heads):
        what = f"{shape.hidden_size} does not divide into {shape.heads} heads of an even width"
        problems.append(Problem(what, "architecture.hidden_size"))
    if shape.heads % shape.kv_heads:
        problems.append(Problem(f"{shape.kv_heads} does not divide {shape.heads} heads", "architecture.kv_heads"))
    if config.row_tokens > shape.context:
        what = f"{config.row_tokens} is more than the context of {shape.context} tokens"
        problems.append(Problem(what, "row_tokens", "Raise architecture.context or lower row_tokens"))
    if problems:
        raise ToolkitError.gather(problems)


def prepare_pretraining(config: PretrainConfig, initial: Path, say: Callable[[str], None]) -> Job:
    """Read the corpus, make (or on resume, read) the tokenizer and the initial model in `initial`, cut the rows.

    `say` is told what is being done, since a large corpus takes minutes.

    Raises:
        ToolkitError: the corpus, the architecture or the backend is not usable.
    """
    check_shape(config)
    backend, reason = choose_backend(config.backend, config.train.device)
    seed = config.train.seed
    say(f"reading the corpus {config.corpus}")
    documents = _documents(config.corpus, seed)
    train_documents, held_out_documents = split_documents(documents, config.validation, seed)
    if not (initial / "config.json").is_file():
        say(f"training a tokenizer on {len(train_documents):,} documents")
        write_initial_model(config, document_texts(train_documents), initial)
    facts = read_model(initial, "initial")
    tokenizer = Tokenizer.load(initial)
    say("cutting the corpus into rows")
    train = rows(train_documents, tokenizer, config.row_tokens, seed=seed)
    held_out = rows(held_out_documents, tokenizer, config.row_tokens, seed=seed)
    batch_size = config.train.batch_size
    data = TrainingData(
        train, batch_size=batch_size, accumulation=config.train.accumulation, seed=seed, pad_id=tokenizer.pad_id
    )
    return Job(
        config=resolve_steps(resolve_model_defaults(config, facts.size), data.updates_per_epoch),
        asked=config.train,
        facts=facts,
        tokenizer=tokenizer,
        training=data,
        train_examples=train,
        validation=evaluation_batches(held_out, batch_size, tokenizer.pad_id),
        backend=backend,
        reason=reason,
        data_label=Path(config.corpus).stem,
        data_files=(),
        figures=measure(train, held_out, 0),
    )


def _documents(corpus: str, seed: int) -> Iterable[Document]:
    return pretraining_text.documents(seed) if corpus == "nano" else read_corpus(corpus)


def write_initial_model(config: PretrainConfig, texts: Iterable[str], folder: Path) -> None:
    """Write a complete Qwen2 folder: tokenizer trained on `texts`, float32 weights drawn from (seed, name)."""
    shape = config.architecture
    with atomic_folder(folder) as partial:
        tokenizer = train_tokenizer(texts, config.tokenizer.vocab_size, partial, context=shape.context)
        vocab_size = tokenizer.vocab_size
        write_atomic(partial / "config.json", json.dumps(model_config(shape, tokenizer), indent=2) + "\n")
        generation = {"eos_token_id": list(tokenizer.stop_ids), "pad_token_id": tokenizer.pad_id, "do_sample": False}
        write_atomic(partial / "generation_config.json", json.dumps(generation, indent=2) + "\n")
        tensors = {tensor.name: tensor for tensor in initial_tensors(shape, vocab_size, config.train.seed)}
        write_tensors(partial / SINGLE_NAME, tensors, {"format": "pt"})


def model_config(shape: ArchitectureConfig, tokenizer: Tokenizer) -> dict[str, object]:
    """Return config.json of a Qwen2 model, in the published form (rope_theta at the top level)."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": INITIAL_STD,
        "intermediate_size": shape.ffn_size,
        "max_position_embeddings": shape.context,
        "model_type": "qwen2",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tie_embeddings,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": tokenizer.vocab_size,
    }


def initial_tensors(shape: ArchitectureConfig, vocab_size: int, seed: int) -> Iterator[StoredTensor]:
    """Yield a Qwen2 model's tensors: normal(0, 0.02), the projections into the residual stream scaled by 1/√(2·layers).

    The scaling is GPT-2's (Radford et al. 2019, section 2.3). Norms start at one, biases at zero.
    """
    hidden, ffn = shape.hidden_size, shape.ffn_size
    kv_size = hidden // shape.heads * shape.kv_heads

    def drawn(name: str, rows: int, columns: int, std: float = INITIAL_STD) -> StoredTensor:
        return StoredTensor(name, "float32", draw_normal(seed, name, (rows, columns), std))

    def filled(name: str, size: int, value: float) -> StoredTensor:
        return StoredTensor(name, "float32", np.full(size, value, np.float32))

    residual_std = INITIAL_STD / math.sqrt(2 * shape.layers)
    yield drawn("model.embed_tokens.weight", vocab_size, hidden)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        yield filled(f"{prefix}input_layernorm.weight", hidden, 1.0)
        yield filled(f"{prefix}post_attention_layernorm.weight", hidden, 1.0)
        for name, size in (("q_proj", hidden), ("k_proj", kv_size), ("v_proj", kv_size)):
            yield drawn(f"{prefix}self_attn.{name}.weight", size, hidden)
            yield filled(f"{prefix}self_attn.{name}.bias", size, 0.0)
        yield drawn(f"{prefix}self_attn.o_proj.weight", hidden, hidden, residual_std)
        yield drawn(f"{prefix}mlp.gate_proj.weight", ffn, hidden)
        yield drawn(f"{prefix}mlp.up_proj.weight", ffn, hidden)
        yield drawn(f"{prefix}mlp.down_proj.weight", hidden, ffn, residual_std)
    yield filled("model.norm.weight", hidden, 1.0)
    if not shape.tie_embeddings:
        yield drawn("lm_head.weight", vocab_size, hidden)
