"""The versions that the tests run with, by package. Written by `make docs` from pyproject.toml and constraints.txt."""

# package → (oldest version that is accepted, version that was tested, where it is declared)
# any: everywhere; apple: on Apple silicon; not mac: everywhere else; extra: by an extra, hence never missed
TESTED: dict[str, tuple[str, str, str]] = {
    "bitsandbytes": ("0.46", "0.50.2", "not mac"),
    "click": ("8.1", "8.5.1", "any"),
    "filelock": ("3.12", "4.2.11", "any"),
    "gguf": ("0.17", "0.19.0", "any"),
    "huggingface-hub": ("1.0", "2.4.0", "any"),
    "jinja2": ("3.1.6", "3.1.6", "any"),
    "llama-cpp-python": ("0.3.16", "0.3.36", "any"),
    "mcp": ("2.0", "2.3.0", "any"),
    "mlx": ("0.29", "0.32.4", "apple"),
    "mlx-lm": ("0.28", "0.32.2", "apple"),
    "numpy": ("1.26", "2.4.6", "any"),
    "openai": ("2", "3.54.0", "extra"),
    "peft": ("0.18", "0.21.2", "any"),
    "platformdirs": ("4", "4.14.5", "any"),
    "psutil": ("6", "7.2.2", "any"),
    "pyarrow": ("17", "26.0.1", "any"),
    "pydantic": ("2.11", "2.14.3", "any"),
    "pyyaml": ("6", "6.0.3", "any"),
    "rich": ("13", "15.0.0", "any"),
    "safetensors": ("0.6", "0.8.0", "any"),
    "sentence-transformers": ("5", "6.2.0", "any"),
    "starlette": ("0.47", "1.10.0", "any"),
    "tokenizers": ("0.22", "0.23.3", "any"),
    "torch": ("2.6", "2.13.0", "any"),
    "transformers": ("5.0", "5.23.0", "any"),
    "uvicorn": ("0.30", "0.54.0", "any"),
}
