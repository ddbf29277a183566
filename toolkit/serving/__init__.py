"""An OpenAI-compatible server on loopback over trained weights (a .gguf is served by llama-cpp-python's own)."""
