"""PyTorch: transformers' models and PEFT's LoRA layers behind the seam of `toolkit.protocols`."""
