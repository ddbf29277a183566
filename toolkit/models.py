"""Which model is meant (the bundled one, a folder, a name on the Hugging Face hub) and what its files say about it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit.affine import Quantization, open_tensors, read_quantization
from toolkit.atomic_files import FULL_DISK, write_failed
from toolkit.config import SizeFacts
from toolkit.errors import Problem, ToolkitError
from toolkit.tensor_files import INDEX_NAME, SINGLE_NAME, FolderTensors, TensorEntry

NANO = "nano"
NANO_FOLDER = Path(__file__).parent / "nano"
LICENCE_PATTERN = "LICENSE*"
# What a model consists of here: weights, configuration, tokenizer, chat template; no pickles, no code.
HUB_PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    LICENCE_PATTERN,
    "README.md",
)
# What a tokenizer is read from: Hugging Face's, else SentencePiece's.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
# Files besides the weights that a saved model needs to be complete; copied where they exist.
COMPANION_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
_BLOCK_WEIGHT = re.compile(r"\.(?:layers|h|blocks)\.\d+\..+\.weight$")
_CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel")


def companion_names(folder: Path) -> list[str]:
    """Return which of `COMPANION_FILES` a model's folder has, and its licences: its terms go where its weights go."""
    licences = sorted(path.name for path in folder.glob(LICENCE_PATTERN) if path.is_file())
    return [*(name for name in COMPANION_FILES if (folder / name).is_file()), *licences]


@dataclass(frozen=True)
class ModelFacts:
    """What a model's folder says about it.

    name:         what the user called it (`nano`, a path, a hub name)
    folder:       where its files are
    config:       config.json, as it stands
    architecture: first entry of `architectures`, e.g. `Qwen2ForCausalLM`
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    architecture: str

    @cached_property
    def tensors(self) -> FolderTensors:
        """The weights, lazily mapped; packed ones in full shape and dequantised where they are loaded."""
        return open_tensors(self.folder, self.config)

    @property
    def quantization(self) -> Quantization | None:
        """How the weights are packed, for a model in MLX's affine layout. Raises ToolkitError for its other layouts."""
        return read_quantization(self.config, self.folder)

    @cached_property
    def parameter_count(self) -> int:
        """Stored weights, tied embeddings counted once."""
        return self.tensors.parameter_count

    @property
    def context(self) -> int:
        """Longest sequence that the model was made for, in tokens (`max_position_embeddings`)."""
        for key in ("max_position_embeddings", "n_positions", "max_sequence_length"):
            if isinstance(self.config.get(key), int):
                return self.config[key]
        return 2048

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding (may exceed the tokenizer's entries)."""
        return int(self.config.get("vocab_size", 0))

    @property
    def dtype(self) -> str:
        """Precision of the stored weights: the one that most of the parameters have."""
        counts: dict[str, int] = {}
        for entry in self.tensors.entries.values():
            counts[entry.dtype] = counts.get(entry.dtype, 0) + entry.parameter_count
        return max(counts, key=lambda dtype: counts[dtype], default="float32")

    @cached_property
    def linear_modules(self) -> tuple[str, ...]:
        """Last names of the matrices in the decoder blocks, e.g. `q_proj`: where adapters go by default."""
        return tuple(sorted({name.removesuffix(".weight").rpartition(".")[2] for name in self.block_matrices}))

    @cached_property
    def block_matrices(self) -> dict[str, TensorEntry]:
        """The matrices of the decoder blocks, by tensor name."""
        entries = self.tensors.entries
        return {name: entry for name, entry in entries.items() if len(entry.shape) == 2 and _BLOCK_WEIGHT.search(name)}

    @property
    def size(self) -> SizeFacts:
        """What the defaults of a config depend on."""
        return SizeFacts(self.parameter_count, self.context, self.linear_modules)

    @property
    def label(self) -> str:
        """Short name for run folders: the last part of a path or hub name."""
        return Path(self.name).name or self.folder.resolve().name

    def sha256(self) -> str:
        """Hash config.json and the weights (names and bytes, in order); reads every byte once."""
        digest = hashlib.sha256()
        for path in (self.folder / "config.json", *self.tensors.files):
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def find_model(name: str) -> ModelFacts:
    """Find a model by `nano`, a folder or a hub name (downloaded once, into Hugging Face's own cache).

    Raises ToolkitError with every file that is missing, or one line that says why the model cannot be had.
    """
    if name == NANO:
        return read_model(NANO_FOLDER, NANO)
    path = Path(name).expanduser()
    if path.is_dir():
        return read_model(path, name)
    if path.is_file():
        hint = "A .gguf can be talked to (toolkit chat) but not trained" if path.suffix == ".gguf" else ""
        raise ToolkitError("a model is a folder with config.json, not a file", where=name, hint=hint)
    if _looks_like_path(name):
        raise ToolkitError("no such model folder", where=name, hint="Give a folder, a Hugging Face hub name, or nano")
    return read_model(_download(name), name)


def read_model(folder: Path, name: str | None = None) -> ModelFacts:
    """Read the facts of a model folder. Raises ToolkitError naming every file that is missing or wrong."""
    label = name or str(folder)
    config_path = folder / "config.json"
    if not config_path.is_file():
        hint = "This is an adapter: give the model that it was trained on" if is_adapter(folder) else ""
        raise ToolkitError("no config.json here, so this is not a model folder", where=folder, hint=hint)
    try:
        config = json.loads(config_path.read_text("utf-8"))
    except ValueError as error:
        raise ToolkitError(f"invalid JSON: {error}", where=config_path) from error
    if not isinstance(config, dict):
        raise ToolkitError("expected a JSON object", where=config_path)
    problems: list[Problem] = []
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        hint = "Save it with a fast tokenizer: AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        problems.append(Problem("no tokenizer.json here", str(folder), hint))
    if not ((folder / SINGLE_NAME).is_file() or (folder / INDEX_NAME).is_file()):
        pickled = any(folder.glob("*.bin"))
        hint = "Only pickled weights are here: save the model as safetensors" if pickled else "Download the model again"
        problems.append(Problem(f"no weights here (neither {SINGLE_NAME} nor {INDEX_NAME})", str(folder), hint))
    architecture = (config.get("architectures") or ["?"])[0]
    if not str(architecture).endswith(_CAUSAL_ENDINGS):
        what = f"the architecture {architecture} does not generate text; a …ForCausalLM model is needed"
        problems.append(Problem(what, str(config_path)))
    if problems:
        raise ToolkitError.gather(problems)
    return ModelFacts(label, folder, config, architecture)


def is_adapter(folder: Path) -> bool:
    """Say whether a folder holds an adapter in PEFT's format."""
    return (folder / "adapter_config.json").is_file()


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.endswith(("/", "\\")) or name.count("/") > 1 or "\\" in name


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_PATTERNS)))
    except GatedRepoError as error:
        hint = f"Accept its licence at https://huggingface.co/{name}, then log in: hf auth login"
        raise ToolkitError("this model wants its licence accepted first", where=name, hint=hint) from error
    except HFValidationError as error:
        raise _no_such_model(name) from error
    except OSError as error:  # Hub errors (no such repository, offline, no connection) are OSErrors too.
        if error.errno in FULL_DISK:
            raise write_failed(error, Path(name)) from error
        raise _no_such_model(name) from error
    except Exception as error:
        # The HTTP library's own errors pass through huggingface_hub, and which library that is depends on its version.
        if type(error).__module__.partition(".")[0] in ("httpx", "httpcore", "httpx2", "requests", "huggingface_hub"):
            raise _no_such_model(name) from error
        raise


def _no_such_model(name: str) -> ToolkitError:
    hint = "Give a folder, a Hugging Face hub name, or nano"
    if get_close_matches(name, [NANO], cutoff=0.7):
        hint = "Did you mean nano?"
    what = "no such model: no folder of this name, and the Hugging Face hub has none or cannot be reached"
    return ToolkitError(what, where=name, hint=hint)
