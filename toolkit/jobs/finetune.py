"""Prepare fine-tuning: find the model, read and tokenise the data, fill the defaults, choose the backend."""

from __future__ import annotations

from toolkit.backends import choose_backend
from toolkit.config import FinetuneConfig, resolve_model_defaults, resolve_steps
from toolkit.datasets.batching import TrainingData, evaluation_batches
from toolkit.datasets.chat import tokenize_examples
from toolkit.datasets.formats import data_label, load_splits
from toolkit.datasets.preferences import need_a_choice
from toolkit.datasets.problems import condense
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import ToolkitError
from toolkit.jobs.adapter_start import start_from_adapter
from toolkit.jobs.job import Job, measure
from toolkit.jobs.quantised_base import resolve_base
from toolkit.models import ModelFacts, find_model


def prepare_finetune(config: FinetuneConfig, *, resuming: bool = False) -> Job:
    """Read everything that a fine-tuning run needs and resolve its config. Writes nothing.

    resuming: weights come from a checkpoint, so an adapter that the run began from need not be there any more

    Raises:
        ToolkitError: the model, the data or the backend is not there or not usable.
    """
    start = None
    if config.adapter is not None and not resuming:
        config, facts, start = start_from_adapter(config)
    else:
        facts = find_model(config.model)
    # Before the data, which can take minutes to tokenise.
    backend, reason = choose_backend(config.backend, config.train.device)
    config = resolve_base(config, facts, backend)
    config = resolve_model_defaults(config, facts.size)
    max_seq_tokens = check_length(config, facts)
    tokenizer = Tokenizer.load(facts.folder)
    splits = load_splits(config.data, config.train.seed)
    # A dataset on the hub may move on: the saved config names the commit that was read.
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": splits.path})})
    pairs = need_a_choice([*splits.train, *splits.validation]) if config.data.preference is None else []
    if pairs:
        raise ToolkitError.gather(condense(pairs))
    train = tokenize_examples(splits.train, tokenizer, max_seq_tokens)
    validation = tokenize_examples(splits.validation, tokenizer, max_seq_tokens) if splits.validation else None
    held_out = validation.examples if validation else []
    if config.train.patience and not held_out:
        hint = "Give data.validation a file or a fraction, or set train.patience=0"
        raise ToolkitError("train.patience waits for a better validation loss, but nothing is held out", hint=hint)
    data = TrainingData(
        train.examples,
        batch_size=config.train.batch_size,
        accumulation=config.train.accumulation,
        seed=config.train.seed,
        pad_id=tokenizer.pad_id,
        row_tokens=max_seq_tokens if config.data.packing else None,
    )
    return Job(
        config=resolve_steps(config, data.updates_per_epoch),
        asked=config.train,
        facts=facts,
        tokenizer=tokenizer,
        training=data,
        train_examples=train.examples,
        validation=evaluation_batches(held_out, config.train.batch_size, tokenizer.pad_id),
        backend=backend,
        reason=reason,
        data_label=data_label(config.data.path),
        data_files=splits.files,
        figures=measure(train.examples, held_out, train.truncated),
        dropped=train.dropped,
        start=start,
    )


def check_length(config: FinetuneConfig, facts: ModelFacts) -> int:
    """Return the longest sequence in tokens. Raises ToolkitError when the model cannot read so far."""
    wanted = config.data.max_seq_tokens
    if wanted is None:
        raise ValueError("data.max_seq_tokens must be resolved")
    if wanted > facts.context:
        what = f"data.max_seq_tokens is {wanted}, but {facts.name} reads at most {facts.context} tokens"
        raise ToolkitError(what, hint=f"Try: --set data.max_seq_tokens={facts.context}")
    return wanted
