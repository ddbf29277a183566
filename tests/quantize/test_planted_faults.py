"""Faults that exporters have had, planted one at a time: the gate that is there for each must fail, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from toolkit.backends import Target, open_target
from toolkit.quantize import export, prove, stream
from toolkit.quantize.architectures.llama import Llama
from toolkit.quantize.export import ExportRequest, export_model
from toolkit.quantize.merge import MergedTensors
from toolkit.quantize.vocabulary import Vocabulary
from toolkit.tensor_files import StoredTensor

Patch = pytest.MonkeyPatch


def adapter_not_applied(patch: Patch) -> None:
    def rows(self: MergedTensors, name: str, start: int, stop: int) -> StoredTensor:
        return self._stored.rows(name, start, stop)

    real = stream.write_gguf

    def write(*arguments: Any, **options: Any) -> None:
        with pytest.MonkeyPatch.context() as inner:  # the weights gate must still see the adapter
            inner.setattr(MergedTensors, "rows", rows)
            real(*arguments, **options)

    for module in (export, prove):
        patch.setattr(module, "write_gguf", write)


def queries_and_keys_not_permuted(patch: Patch) -> None:
    patch.setattr(Llama, "arrange", lambda self, name, array: array)


def change_tensors(patch: Patch, ending: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    real = stream.convert

    def convert(tensor: StoredTensor, kind: Any) -> np.ndarray:
        array = real(tensor, kind)
        return np.ascontiguousarray(change(array)) if tensor.name.endswith(ending) else array

    patch.setattr(stream, "convert", convert)


def a_tensor_transposed(patch: Patch) -> None:
    change_tensors(patch, "layers.1.self_attn.o_proj.weight", lambda array: array.T)


def norm_weights_shifted(patch: Patch) -> None:
    change_tensors(patch, "layernorm.weight", lambda array: array + 1)


def write_less(patch: Patch, method: str, change: Callable[[Any], Any]) -> None:
    real = getattr(gguf.GGUFWriter, method)
    patch.setattr(gguf.GGUFWriter, method, lambda self, value: real(self, change(value)))


def wrong_rope_base(patch: Patch) -> None:
    write_less(patch, "add_rope_freq_base", lambda base: base * 10)


def a_merge_missing(patch: Patch) -> None:
    write_less(patch, "add_token_merges", lambda merges: merges[:10] + merges[11:])


def eos_dropped(patch: Patch) -> None:
    patch.setattr(gguf.GGUFWriter, "add_eos_token_id", lambda self, token: None)


def bos_not_added(patch: Patch) -> None:
    write_less(patch, "add_add_bos_token", lambda adds: False)


def change_vocabulary(patch: Patch, change: Callable[[Vocabulary], Vocabulary]) -> None:
    real = Vocabulary.write
    patch.setattr(Vocabulary, "write", lambda self, writer: real(change(self), writer))


def template_changed(patch: Patch) -> None:
    def change(vocabulary: Vocabulary) -> Vocabulary:
        template = (vocabulary.chat_template or "").replace("\\n\\n", "\\n")
        return dataclasses.replace(vocabulary, chat_template=template)

    change_vocabulary(patch, change)


def wrong_pre_tokenizer(patch: Patch) -> None:
    change_vocabulary(patch, lambda vocabulary: dataclasses.replace(vocabulary, pre_tokenizer="qwen2"))


def special_tokens_as_plain_text(patch: Patch) -> None:
    def change(vocabulary: Vocabulary) -> Vocabulary:
        return dataclasses.replace(vocabulary, types=(int(gguf.TokenType.NORMAL),) * len(vocabulary.types))

    change_vocabulary(patch, change)


# Each with the gate that is there for it, and with every gate that it fails.
NUMBERS = ("conversion", "weights", "behaviour")
FAULTS: dict[Callable[[Patch], None], tuple[str, tuple[str, ...]]] = {
    adapter_not_applied: ("conversion", NUMBERS),
    queries_and_keys_not_permuted: ("conversion", NUMBERS),
    a_tensor_transposed: ("weights", NUMBERS),
    norm_weights_shifted: ("weights", NUMBERS),
    wrong_rope_base: ("conversion", ("conversion", "behaviour")),
    a_merge_missing: ("tokenizer", ("tokenizer", "chat")),
    wrong_pre_tokenizer: ("tokenizer", ("tokenizer", "chat")),
    special_tokens_as_plain_text: ("chat", ("chat",)),
    eos_dropped: ("chat", ("chat",)),
    bos_not_added: ("chat", ("chat",)),
    template_changed: ("chat", ("chat",)),
}


# Faults of which a like one is planted in the quick tests.
RARE = (wrong_pre_tokenizer, special_tokens_as_plain_text, bos_not_added)


@pytest.mark.parametrize(
    "plant",
    [pytest.param(plant, marks=pytest.mark.slow if plant in RARE else ()) for plant in FAULTS],
    ids=[plant.__name__ for plant in FAULTS],
)
def test_a_planted_fault_fails_its_gate_and_the_file_does_not_take_its_name(
    build_tiny_model: Callable[..., Path],
    adapter_for: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[Patch], None],
):
    folder = build_tiny_model(family="llama", tied=False)
    target = Target("adapter", "tiny", folder, adapter_for(folder))
    plant(monkeypatch)
    report = export_model(
        ExportRequest(target, "F32", tmp_path), open_reference=lambda: open_target(target, "cpu", "float32").scorer
    )
    gate, failed = FAULTS[plant]
    assert gate in failed
    assert report.failed == failed
    assert report.path.name == "tiny-F32.failed.gguf"
    assert not (tmp_path / "tiny-F32.gguf").exists()
    assert not (tmp_path / "Modelfile").exists()


def test_a_planted_fault_makes_the_command_name_its_gate_and_exit_with_1(
    build_tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from click.testing import CliRunner

    from toolkit.cli import main

    eos_dropped(monkeypatch)
    folder = build_tiny_model(family="llama", tied=False)
    done = CliRunner().invoke(main, ["export", str(folder), "--quant", "F32", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "gates that failed: chat" in " ".join(done.output.split())


def test_a_fault_of_the_quantised_file_alone_fails_its_behaviour(
    build_tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its tensors are right, and so is the float32 file that the conversion is judged on."""
    real = export.write_gguf

    def write(*arguments: Any, **options: Any) -> None:
        with pytest.MonkeyPatch.context() as inner:
            wrong_rope_base(inner)
            real(*arguments, **options)

    monkeypatch.setattr(export, "write_gguf", write)
    folder = build_tiny_model(family="llama", tied=False)
    report = export_model(ExportRequest(Target("model", "tiny", folder), "Q8_0", tmp_path))
    assert report.failed == ("behaviour",)


def test_a_damaged_block_of_a_quantised_matrix_fails_its_weights(
    build_tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = stream.ggml.quantise_rows

    def quantise_rows(rows: np.ndarray, kind: Any) -> np.ndarray:
        packed = real(rows, kind)
        packed[3, 2:34] = 0  # 32 of 64 weights of one row
        return packed

    monkeypatch.setattr(stream.ggml, "quantise_rows", quantise_rows)
    folder = build_tiny_model(family="llama", tied=False)
    report = export_model(ExportRequest(Target("model", "tiny", folder), "Q8_0", tmp_path))
    assert "weights" in report.failed


def test_a_fault_before_quantisation_is_seen_in_a_quantised_export_too(
    build_tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    wrong_rope_base(monkeypatch)
    folder = build_tiny_model(family="llama", tied=False)
    report = export_model(ExportRequest(Target("model", "tiny", folder), "Q4_K_M", tmp_path))
    assert "conversion" in report.failed


def test_a_custom_end_of_turn_token_ends_generation(build_tiny_model: Callable[..., Path], tmp_path: Path):
    """llama.cpp knows common end-of-turn tokens by their text; one that it does not know must be named in the file."""
    import shutil

    from toolkit.gguf_backend.session import GgufScorer

    folder = tmp_path / "model"
    shutil.copytree(build_tiny_model(), folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text("utf-8").replace("<|im_end|>", "<|over_to_you|>")
        (folder / name).write_text(
            text.replace('"eos_token": "<|over_to_you|>"', '"eos_token": "<|endoftext|>"'), "utf-8"
        )
    target = Target("model", "tiny", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "add_eot_token_id", lambda self, token: None)
        without = export_model(ExportRequest(target, "F32", tmp_path / "without"))
    assert without.failed == ("chat",)
    (figures,) = (gate.figures for gate in without.gates if gate.gate == "chat")
    assert figures["never_ending"] == ["<|over_to_you|>"]
    report = export_model(ExportRequest(target, "F32", tmp_path / "out"))
    assert report.failed == ()
    scorer = GgufScorer(report.path)
    ends = [scorer.tokenizer().id_to_token(token) for token in scorer.tokenizer().stop_ids]
    scorer.close()
    assert "<|over_to_you|>" in ends
