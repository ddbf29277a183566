"""Every option, declared once: flags, YAML keys, help texts and the saved config all come from these models.

Models are frozen and strict; unknown keys are refused with the nearest valid name. `None` means 'decide from the model
and the data' and is filled by `resolve`; a resolved config has no such `None` left (of `max_steps` and `epochs`, which
exclude each other, `max_steps` remains), so saving it repeats the run. Files are read and written by
`toolkit.config_files`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from toolkit.errors import ToolkitError

Method = Literal["lora", "qlora", "full"]
OptimizerName = Literal["adamw", "sgd"]
LoraVariant = Literal["lora", "dora", "rslora"]
BaseLayout = Literal["auto", "affine", "nf4"]
BackendChoice = Literal["auto", "mlx", "torch"]
ScheduleName = Literal["constant", "linear", "cosine", "cosine_restarts", "wsd"]
DecayShape = Literal["linear", "cosine", "1-sqrt"]
DeviceChoice = Literal["auto", "cpu", "cuda", "mps"]
DtypeChoice = Literal["auto", "float32", "bfloat16"]


class Section(BaseModel):
    """Base of all sections: frozen, strict, closed, documented by attribute docstrings."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class DataConfig(Section):
    """Which examples to learn from and how their fields are called."""

    path: str = "starter"
    """A data file, a folder with train/valid/test files, a Hugging Face hub name (`owner/name@revision:subset`), or
    `starter` (the bundled set)."""
    validation: str | Annotated[float, Field(ge=0, lt=1)] = 0.05
    """A validation file, or the fraction of train held out by seed when the data brings none (0: no validation)."""
    prompt: str | None = None
    """Field that holds the prompt (dotted path, e.g. `instances.0.input`): text or a list of turns."""
    completion: str | None = None
    """Field that holds the completion (dotted path): text or a list of turns."""
    input: str | None = None
    """Field with further input, appended to the prompt after an empty line (dotted path)."""
    messages: str | None = None
    """Field that holds a list of turns (dotted path), for conversations under another name."""
    text: str | None = None
    """Field that holds plain text (dotted path): no chat template, every token trained."""
    preference: Literal["chosen"] | None = None
    """What to learn from preference pairs: `chosen` trains on the better answers. Default: pairs are refused."""
    system: str | None = None
    """System message put before examples that bring none."""
    max_examples: int | None = Field(default=None, gt=0)
    """Train on at most this many examples (chosen by seed); validation is not touched."""
    max_validation_examples: int = Field(default=200, gt=0)
    """Evaluate on at most this many examples (chosen by seed)."""
    max_seq_tokens: int | None = Field(default=None, gt=1)
    """Longest example in tokens; longer ones are truncated and counted. Default: the model's context, at most 2,048."""
    packing: bool = False
    """Put several examples into a row of max_seq_tokens, each seeing itself alone; batch_size then counts rows. Pays on
    GPUs with short examples, costs time on the CPU."""


class LoraConfig(Section):
    """Low-rank adapters: LoRA (arXiv:2106.09685), rsLoRA (arXiv:2312.03732), DoRA (arXiv:2402.09353)."""

    rank: int = Field(default=16, gt=0)
    """Inner dimension of the adapters."""
    alpha: float = Field(default=32.0, gt=0)
    """Adapters are scaled by alpha / rank (rslora: by alpha / √rank)."""
    variant: LoraVariant = "lora"
    """lora; rslora, whose scale does not shrink as the rank grows; or dora, which learns the length of each row of a
    weight apart from its direction (often better at low rank, slower)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapters' input while training."""
    target_modules: tuple[str, ...] | None = Field(default=None, strict=False, min_length=1)
    """Names of the linear layers to adapt, or the ends of their full names (`mlp.up_proj`). Default: all linear layers
    of the decoder blocks."""

    @property
    def scale(self) -> float:
        """The factor on the adapters' output."""
        return self.alpha / (math.sqrt(self.rank) if self.variant == "rslora" else self.rank)

    def targets(self, module: str) -> bool:
        """Say whether `target_modules` names a module, given by its full name (PEFT's rule: a name ends with it)."""
        return any(module == target or module.endswith(f".{target}") for target in self.target_modules or ())


class BaseConfig(Section):
    """How the frozen base is quantised (method: qlora; Dettmers et al. 2023, arXiv:2305.14314)."""

    bits: Literal[4, 8] | None = None
    """Bits of a weight of the base. Default: 4, or those of a model that is quantised already."""
    layout: BaseLayout = "auto"
    """affine is MLX's and runs everywhere; nf4 is bitsandbytes', for torch on CUDA and the CPU, 4 bits alone. Auto: nf4
    for 4 bits on CUDA, else affine."""
    group_size: Literal[32, 64, 128] | None = None
    """Weights that share a scale in layout affine (nf4: always 64). Default: 64, or that of a quantised model."""


class TrainConfig(Section):
    """How to train. Steps are optimizer updates, always."""

    max_steps: int | None = Field(default=None, gt=0)
    """Stop after this many updates. Give this or `epochs`; a resolved config has this one."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the training data, instead of `max_steps`. Default: 3."""
    batch_size: int = Field(default=8, gt=0)
    """Examples in a micro-batch (rows, with data.packing)."""
    accumulation: int = Field(default=1, gt=0)
    """Micro-batches in an update, weighted by their trained tokens."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate. Default by parameters (< 20 M, < 100 M, < 1 B, more): lora and qlora 5e-3, 1e-3, 2e-4, 2e-4;
    full 1e-3, 3e-4, 5e-5, 1e-5; pretraining 3e-3, 1e-3, 6e-4, 3e-4. SGD has no default."""
    schedule: ScheduleName = "cosine"
    """Shape of the learning rate after warmup; wsd (warmup-stable-decay) stays at the peak until the last `decay`."""
    schedule_cycles: int = Field(default=2, gt=0)
    """Cosines in a run (schedule: cosine_restarts)."""
    decay: float = Field(default=0.2, ge=0)
    """Length of the fall (schedule: wsd): a fraction of all steps when below 1, else a number of steps."""
    decay_shape: DecayShape = "1-sqrt"
    """Shape of the fall (schedule: wsd)."""
    warmup: float = Field(default=0.03, ge=0)
    """Linear warmup: a fraction of all steps when below 1, else a number of steps."""
    min_learning_rate_ratio: float = Field(default=0.1, ge=0, le=1)
    """Where the schedule ends, as a fraction of the peak (constant never leaves the peak)."""
    optimizer: OptimizerName = "adamw"
    """Update rule, its state in float32: AdamW with bias correction, or SGD (give it a train.learning_rate)."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD (0: none, and no state)."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay, on matrices only: decoupled in AdamW, added to the clipped gradient in SGD, as in torch.optim."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of AdamW's first moment."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of AdamW's second moment."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Clip the gradient to this norm."""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass: less memory, more time. Default: on from 1 B parameters."""
    checkpoint_layers: int = Field(default=1, gt=0)
    """With gradient_checkpointing, recompute every so many blocks: 1 all of them (least memory), 2 every other one
    (half of the extra time)."""
    device: DeviceChoice = "auto"
    """Device to train on; mps is the Apple GPU, for both backends. Auto: the best that the backend finds here."""
    dtype: DtypeChoice = "auto"
    """Precision of the frozen base and the arithmetic. Auto: bfloat16 on CUDA where it is native and for
    MLX on a GPU, else float32."""
    eval_every: int | None = Field(default=None, gt=0)
    """Measure the validation loss every so many steps and at both ends. Default: ten times."""
    save_every: int | None = Field(default=None, gt=0)
    """Write a checkpoint every so many steps. Default: as eval_every."""
    keep_checkpoints: int = Field(default=2, gt=0)
    """Checkpoints kept: the newest so many, and the best by validation loss."""
    log_every: int = Field(default=1, gt=0)
    """Write a line of metrics every so many steps, and let the guards look at them."""
    max_skipped: int = Field(default=5, gt=0)
    """Updates whose loss or gradient is not finite are skipped; after so many on end, go back to the last good
    checkpoint, with half the learning rate and without the data that they were trained on."""
    max_rollbacks: int = Field(default=3, ge=0)
    """Go back so many times in a run; then it fails."""
    spike_zscore: float = Field(default=5.0, ge=0)
    """Go back too when the loss of 5 updates on end is so many robust deviations above the median of those before (0:
    never)."""
    spike_window: int = Field(default=50, ge=10)
    """Updates that a loss is compared with."""
    patience: int = Field(default=0, ge=0)
    """End the run after so many evaluations without a better validation loss (0: never)."""
    min_improvement: float = Field(default=0.0, ge=0)
    """A validation loss counts as better for `patience` when it is lower by more than this, in nats."""
    seed: int = Field(default=0, ge=0)
    """Draws the split, the order, adapter initial values and dropout."""


class FinetuneConfig(Section):
    """`toolkit finetune`: teach an existing model."""

    model: str = "nano"
    """A model folder, a Hugging Face hub name, or `nano` (the bundled demonstration model)."""
    method: Method = "lora"
    """lora trains adapters on a frozen base, qlora on one that is quantised; full trains every weight."""
    backend: BackendChoice = "auto"
    """Framework to train with. Auto takes MLX on Apple silicon, else torch (CUDA, MPS, CPU), and says why."""
    data: DataConfig = DataConfig()
    """What to learn from."""
    adapter: str | None = None
    """Go on from this adapter: a run, a checkpoint, or a folder in PEFT's format. It brings `model` and `lora`; the
    optimizer starts afresh."""
    lora: LoraConfig = LoraConfig()
    """The adapters (method: lora, qlora)."""
    base: BaseConfig = BaseConfig()
    """The quantised base (method: qlora)."""
    train: TrainConfig = TrainConfig()
    """How to train."""


class ArchitectureConfig(Section):
    """A Qwen2-shaped decoder, trained from scratch."""

    hidden_size: int = Field(default=256, gt=0)
    """Width of the residual stream (K-quants need a multiple of 256)."""
    layers: int = Field(default=6, gt=0)
    """Decoder blocks."""
    heads: int = Field(default=4, gt=0)
    """Query heads."""
    kv_heads: int = Field(default=2, gt=0)
    """Key/value heads."""
    ffn_size: int = Field(default=768, gt=0)
    """Inner width of the feed-forward layers."""
    context: int = Field(default=1024, gt=0)
    """Longest sequence, in tokens."""
    rope_theta: float = Field(default=10000.0, gt=0)
    """Base of the rotary position embedding."""
    tie_embeddings: bool = True
    """Share the input and output embeddings."""


class TokenizerConfig(Section):
    """A byte-level BPE tokenizer, trained on the corpus."""

    vocab_size: int = Field(default=4096, gt=256)
    """Entries, special tokens included."""
    pre_tokenizer: Literal["qwen2"] = "qwen2"
    """How text is cut before merges apply."""


class PretrainConfig(Section):
    """`toolkit pretrain`: train a small model and its tokenizer from scratch on a text corpus."""

    corpus: str = "nano"
    """A .txt or .jsonl file (`text` fields or chat `messages`), a folder of them, or `nano` (the bundled generator)."""
    validation: float = Field(default=0.01, gt=0, lt=1)
    """Fraction of the documents held out by seed."""
    backend: BackendChoice = "auto"
    """Framework to train with."""
    row_tokens: int = Field(default=256, gt=1)
    """Length of the rows that documents are joined into."""
    architecture: ArchitectureConfig = ArchitectureConfig()
    """The shape of the model."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """The tokenizer that is trained on the corpus."""
    train: TrainConfig = TrainConfig()
    """How to train."""


@dataclass(frozen=True)
class SizeFacts:
    """What `resolve` must know of a model.

    parameter_count: stored weights
    context:         longest sequence, in tokens
    linear_modules:  names of the linear layers of the decoder blocks, e.g. `q_proj`
    """

    parameter_count: int
    context: int
    linear_modules: tuple[str, ...]


AnyConfig = TypeVar("AnyConfig", FinetuneConfig, PretrainConfig)

DEFAULT_EPOCHS = 3
EVALUATIONS_PER_RUN = 10
MAX_DEFAULT_SEQ_TOKENS = 2048
CHECKPOINTING_PARAMETERS = 1_000_000_000
# Peak learning rates by model size: upper bound of the parameters, then one rate for each way to train.
LEARNING_RATES: tuple[tuple[float, dict[str, float]], ...] = (
    (2e7, {"lora": 5e-3, "qlora": 5e-3, "full": 1e-3, "pretrain": 3e-3}),
    (1e8, {"lora": 1e-3, "qlora": 1e-3, "full": 3e-4, "pretrain": 1e-3}),
    (1e9, {"lora": 2e-4, "qlora": 2e-4, "full": 5e-5, "pretrain": 6e-4}),
    (math.inf, {"lora": 2e-4, "qlora": 2e-4, "full": 1e-5, "pretrain": 3e-4}),
)


def default_learning_rate(method: str, parameter_count: int) -> float:
    """Return the peak learning rate for a method (lora | qlora | full | pretrain) and a model's size."""
    return next(rates[method] for bound, rates in LEARNING_RATES if parameter_count < bound)


def resolve_model_defaults(config: AnyConfig, facts: SizeFacts) -> AnyConfig:
    """Fill the defaults that depend on the model: learning rate, length, target modules, checkpointing.

    Raises:
        ToolkitError: the optimizer is SGD, and no learning rate is given.
    """
    method = config.method if isinstance(config, FinetuneConfig) else "pretrain"
    train = config.train
    filled: dict[str, object] = {}
    if train.learning_rate is None and train.optimizer == "sgd":
        hint = "Try: --set train.learning_rate=0.1 (AdamW's defaults are far too small for SGD)"
        raise ToolkitError("SGD has no default learning rate", where="train.learning_rate", hint=hint)
    if train.learning_rate is None:
        filled["learning_rate"] = default_learning_rate(method, facts.parameter_count)
    if train.gradient_checkpointing is None:
        filled["gradient_checkpointing"] = facts.parameter_count >= CHECKPOINTING_PARAMETERS
    config = config.model_copy(update={"train": train.model_copy(update=filled)})
    if isinstance(config, PretrainConfig):
        return config
    data, lora = config.data, config.lora
    if data.max_seq_tokens is None:
        data = data.model_copy(update={"max_seq_tokens": min(facts.context, MAX_DEFAULT_SEQ_TOKENS)})
    if lora.target_modules is None:
        lora = lora.model_copy(update={"target_modules": facts.linear_modules})
    return config.model_copy(update={"data": data, "lora": lora})


def resolve_steps(config: AnyConfig, updates_per_epoch: int) -> AnyConfig:
    """Fill what depends on the amount of data: the number of steps, and how often to evaluate and save."""
    train = config.train
    steps = train.max_steps
    if steps is None:
        epochs = DEFAULT_EPOCHS if train.epochs is None else train.epochs
        steps = max(1, math.ceil(epochs * updates_per_epoch))
    eval_every = train.eval_every or math.ceil(steps / EVALUATIONS_PER_RUN)
    filled = {
        "max_steps": steps,
        "epochs": None,
        "eval_every": eval_every,
        "save_every": train.save_every or eval_every,
    }
    return config.model_copy(update={"train": train.model_copy(update=filled)})


def resolve(config: AnyConfig, facts: SizeFacts, updates_per_epoch: int) -> AnyConfig:
    """Fill every default that depends on the model (`facts`) or on the data (`updates_per_epoch`)."""
    return resolve_steps(resolve_model_defaults(config, facts), updates_per_epoch)
