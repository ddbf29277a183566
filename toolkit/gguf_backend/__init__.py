"""llama.cpp as a Scorer: all inference on GGUF files goes through here (evaluation, chat, the proof of an export)."""
