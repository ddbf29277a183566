from __future__ import annotations

import json


def test_both_shapes_load_in_transformers_and_their_templates_render(build_tiny_model, tiny_qwen2, tiny_llama):
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    for folder, turn_end in ((tiny_qwen2, "<|im_end|>\n"), (tiny_llama, "<|eot_id|>")):
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], tokenize=False
        )
        assert text.endswith(f"Hello{turn_end}")
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        assert tokenizer.decode(ids[0]) == text
        with torch.no_grad():
            assert torch.isfinite(model(ids).logits).all()


def test_the_llama_folder_is_sharded_and_untied_and_the_qwen2_folder_is_padded(tiny_qwen2, tiny_llama):
    index = json.loads((tiny_llama / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert "lm_head.weight" in index["weight_map"]
    config = json.loads((tiny_qwen2 / "config.json").read_text())
    tokens = json.loads((tiny_qwen2 / "tokenizer.json").read_text())
    assert config["vocab_size"] > len(tokens["model"]["vocab"]) + len(tokens["added_tokens"])
    assert not (tiny_qwen2 / "model.safetensors.index.json").exists()


def test_equal_requests_share_one_folder_and_others_do_not(build_tiny_model, tiny_qwen2):
    assert build_tiny_model(family="qwen2") == tiny_qwen2
    assert build_tiny_model(family="qwen2", seed=1) != tiny_qwen2
