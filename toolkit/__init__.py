"""Fine-tune a language model on a laptop, export it to GGUF and prove the export in llama.cpp."""

__version__ = "0.1.0"
