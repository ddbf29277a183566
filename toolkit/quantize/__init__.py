"""Export to GGUF: read, merge, plan, stream, quantise with llama.cpp, and prove the result."""
