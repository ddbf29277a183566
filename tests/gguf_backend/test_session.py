"""llama.cpp as a Scorer, against transformers on the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from toolkit.backends import Target
from toolkit.errors import ToolkitError
from toolkit.gguf_backend.generate import draw
from toolkit.gguf_backend.session import GgufScorer
from toolkit.protocols import Batch, Sampling, Scorer
from toolkit.quantize.export import ExportRequest, export_model


@pytest.fixture(scope="module")
def gguf_file(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama in float32."""
    request = ExportRequest(Target("model", "tiny", tiny_llama), "F32", tmp_path_factory.mktemp("gguf"), check=False)
    return export_model(request).path


@pytest.fixture
def scorer(gguf_file: Path) -> Iterator[Scorer]:
    """The file opened for exact comparison."""
    opened = GgufScorer(gguf_file, exact=True)
    yield opened
    opened.close()


def packed_batch() -> Batch:
    """Three rows: two sequences packed and padded, one long sequence, one row of padding alone."""
    random = np.random.default_rng(3)
    tokens = random.integers(0, 380, (3, 40)).astype(np.int32)
    segments = np.zeros((3, 40), np.int32)
    segments[0, :15], segments[0, 15:33], segments[1, :] = 1, 2, 1
    positions = np.zeros((3, 40), np.int32)
    weights = random.random((3, 40)).astype(np.float32)
    weights[(random.random((3, 40)) < 0.3) | (segments == 0)] = 0
    return Batch(tokens, weights, segments, positions)


def reference_logprobs(folder: Path, batch: Batch) -> np.ndarray:
    """Score every segment on its own with transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    result = np.zeros(batch.tokens.shape)
    for row, ids in enumerate(batch.segment_ids):
        for segment in set(ids.tolist()) - {0}:
            places = np.flatnonzero(ids == segment)
            tokens = torch.from_numpy(batch.tokens[row, places].astype(np.int64))[None]
            with torch.no_grad():
                logprobs = model(tokens).logits.log_softmax(-1)[0, :-1]
            result[row, places[1:]] = logprobs.gather(1, tokens[0, 1:, None])[:, 0].numpy()
    return result


def test_token_logprobs_of_packed_rows_are_those_of_each_sequence_alone(tiny_llama: Path, scorer: Scorer):
    batch = packed_batch()
    assert np.abs(scorer.token_logprobs(batch) - reference_logprobs(tiny_llama, batch)).max() < 1e-4


def test_evaluate_sums_weighted_losses_over_the_positions_that_train(tiny_llama: Path, scorer: Scorer):
    batch = packed_batch()
    loss, weight = scorer.evaluate(batch)
    same = np.zeros(batch.tokens.shape, bool)
    same[:, 1:] = batch.segment_ids[:, 1:] == batch.segment_ids[:, :-1]
    expected = -(reference_logprobs(tiny_llama, batch) * batch.loss_weights * same).sum()
    assert loss == pytest.approx(expected, abs=1e-3)
    assert weight == pytest.approx(batch.trained_weight)


def test_logits_come_in_chunks_that_join_up(scorer: Scorer, monkeypatch: pytest.MonkeyPatch):
    tokens = np.random.default_rng(0).integers(0, 380, (3, 60)).astype(np.int32)
    whole = np.concatenate(list(scorer.logits(tokens)), axis=1)
    assert whole.shape == (3, 60, 384)
    monkeypatch.setattr("toolkit.gguf_backend.model.MAX_BATCH_TOKENS", 20)
    other = GgufScorer(scorer.path, exact=True)
    chunks = list(other.logits(tokens))
    other.close()
    assert len(chunks) == 10
    assert np.abs(np.concatenate(chunks, axis=1) - whole).max() < 1e-4


def collect(scorer: Scorer, prompts: list[list[int]], sampling: Sampling) -> tuple[list[list[int]], list[str | None]]:
    answers: list[list[int]] = [[] for _ in prompts]
    reasons: list[str | None] = [None] * len(prompts)
    for item in scorer.generate(prompts, sampling):
        if item.token is None:
            assert reasons[item.row] is None
            reasons[item.row] = item.finish_reason
        else:
            assert reasons[item.row] is None
            answers[item.row].append(item.token)
    return answers, reasons


def test_more_prompts_than_places_give_the_same_answers_as_one_by_one(scorer: Scorer, monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(5)
    prompts = [random.integers(0, 380, int(size)).tolist() for size in random.integers(1, 70, 11)]
    sampling = Sampling(max_new_tokens=12)
    alone = [collect(scorer, [prompt], sampling)[0][0] for prompt in prompts]
    monkeypatch.setattr("toolkit.gguf_backend.session.MAX_SEQUENCES", 3)
    monkeypatch.setattr("toolkit.gguf_backend.model.MAX_BATCH_TOKENS", 16)
    other = GgufScorer(scorer.path, exact=True)
    answers, reasons = collect(other, prompts, sampling)
    other.close()
    assert answers == alone
    assert set(reasons) == {"length"}


def test_a_stop_token_ends_its_row_and_is_not_yielded(scorer: Scorer):
    (free,), _ = collect(scorer, [[5, 6, 7]], Sampling(max_new_tokens=10))
    stop = free[4]
    (answer,), reasons = collect(scorer, [[5, 6, 7]], Sampling(max_new_tokens=10, stop_ids=(stop,)))
    assert answer == free[: free.index(stop)]
    assert reasons == ["stop"]


def test_a_row_that_fills_the_context_ends_by_length(scorer: Scorer):
    prompt = [7] * 250
    (answer,), reasons = collect(scorer, [prompt], Sampling(max_new_tokens=100))
    assert reasons == ["length"]
    assert len(answer) == 256 - 250 + 1


@pytest.mark.parametrize("size", [0, 256, 300])
def test_prompts_that_do_not_fit_are_refused_with_their_number(scorer: Scorer, size: int):
    with pytest.raises(ToolkitError, match=f"prompt 2 has {size} tokens; the model takes 1 to 255"):
        list(scorer.generate([[1], [1] * size], Sampling()))


def test_sampling_repeats_with_its_seed_and_differs_between_rows(scorer: Scorer):
    sampling = Sampling(max_new_tokens=15, temperature=1.5, seed=3)
    first, _ = collect(scorer, [[1, 2], [1, 2]], sampling)
    again, _ = collect(scorer, [[1, 2], [1, 2]], sampling)
    other, _ = collect(scorer, [[1, 2], [1, 2]], Sampling(max_new_tokens=15, temperature=1.5, seed=4))
    assert first == again
    assert first[0] != first[1]
    assert other != first


def test_top_k_and_top_p_draw_from_the_likeliest_tokens_alone():
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))

    def drawn(sampling: Sampling) -> set[int]:
        random = np.random.default_rng(0)
        return {draw(logits, sampling, random) for _ in range(300)}

    assert drawn(Sampling(temperature=1.0)) == {0, 1, 2, 3}
    assert drawn(Sampling(temperature=1.0, top_k=2)) == {0, 1}
    assert drawn(Sampling(temperature=1.0, top_p=0.65)) == {0, 1}
    assert drawn(Sampling(temperature=1.0, top_p=0.75)) == {0, 1, 2}
    assert drawn(Sampling(temperature=0.0, top_k=3)) == {0}


def test_weights_come_back_under_their_hugging_face_names(tiny_llama: Path, scorer: Scorer):
    import torch
    from transformers import AutoModelForCausalLM

    state = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).state_dict()
    found = {tensor.name: tensor.to_float32() for tensor in scorer.named_weights()}
    assert found.keys() == state.keys()
    assert all((found[name] == tensor.numpy()).all() for name, tensor in state.items())


def test_files_that_are_not_gguf_are_refused_in_words(tmp_path: Path, gguf_file: Path):
    text = tmp_path / "text.gguf"
    text.write_text("hello")
    with pytest.raises(ToolkitError, match="not a GGUF file"):
        GgufScorer(text)
    with pytest.raises(ToolkitError, match=r"cannot be read: No such file"):
        GgufScorer(tmp_path / "none.gguf")
    short = tmp_path / "short.gguf"
    short.write_bytes(gguf_file.read_bytes()[:100_000])
    with pytest.raises(ToolkitError, match="llama.cpp cannot load this file: .*(not within the file bounds|corrupted)"):
        GgufScorer(short)


def test_llama_cpp_prints_nothing(gguf_file: Path, capfd: pytest.CaptureFixture[str]):
    scorer = GgufScorer(gguf_file)
    collect(scorer, [[1, 2, 3]], Sampling(max_new_tokens=3))
    scorer.close()
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
