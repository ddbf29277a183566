"""Export to GGUF: read, merge, plan, stream, quantise with llama.cpp, and prove that the file behaves as the model does."""
