"""The benchmark for a GPU, on a CPU."""

import json

import pytest
import torch

from benchmarks import gpu, synthetic
from benchmarks.drawing import DrawingReader
from benchmarks.transformers_search import Reader
from cord_jax.errors import UserError
from cord_jax.text.vocabulary import Vocabulary

FLAGS = gpu.FLAGS


@pytest.mark.slow
def test_all_parts_are_measured(flags, tmp_path, capsys):
    """Every part has numbers that fit each other, and both programs do the same."""
    output = tmp_path / "gpu.json"
    flags(model_shape="tiny", slots=2, limit=3, beam_width=2, proposers=2, shrink=64)
    flags(greedy=True, threads=1, output=output)
    gpu.main(gpu.FLAGS)
    printed, result = capsys.readouterr().out, json.loads(output.read_text())
    decode, scoring, search = (result[part] for part in ("decode", "scoring", "search"))
    assert decode["share_of_copy"] > 0
    assert decode["must_read_bytes"] > decode["parameter_bytes"] > 0
    assert decode["rows"] == 2 * 2  # of two proposers one writes through the meta-prover's reader
    assert decode["ticks"] == 16
    assert decode["seen_columns_per_slot"] > 30  # the prompts have more tokens
    assert scoring["share_of_matmul"] > 0
    assert scoring["candidates"] < scoring["tokens"] <= scoring["tokens_with_padding"]
    assert search["same_traces"] >= 2  # random networks may tie
    if search["same_traces"] == 3:
        ours, theirs = search["tokens"].values()
        assert ours == theirs
    assert search["problems_per_second"]["cord_jax"] == 3 / search["seconds"]["cord_jax"][0]
    assert 1 <= search["proposed_tokens"]["median"] <= search["proposed_tokens"]["longest"] <= 16
    for text in ("copy", "product", "decode", "scoring", "2 in lock-step", f"{search['ratio']:.2f}"):
        assert text in printed


def test_rates_alone_need_no_networks(flags, tmp_path):
    flags(parts="rates")
    result = gpu.measure(gpu.FLAGS, tmp_path)
    assert result["rates"]["matmul_operations_per_second"] > 0
    assert "product" in gpu.table(result)
    assert not list(tmp_path.iterdir())


def test_unknown_parts_are_refused(flags, tmp_path):
    flags(parts="rates,prefill")
    with pytest.raises(UserError, match="prefill"):
        gpu.measure(gpu.FLAGS, tmp_path)


def test_drawing_follows_the_probabilities(tmp_path):
    synthetic.write_checkpoint(tmp_path, "tiny", synthetic.Habits(), seed=0, greedy=False)
    vocabulary = Vocabulary.load(tmp_path)
    model = synthetic.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    reader = Reader(tmp_path, None, model, vocabulary)
    drawing = DrawingReader(reader, greedy=False)
    ids = [vocabulary.encode(" a01 a02 a03")] * 4000
    with torch.inference_mode():
        _, logits = reader.read(None, ids[:1], 1)
        _, drawn = drawing.read(None, ids, 1)
        for keep, greedy in ((2, False), (1, True)):
            _, kept = DrawingReader(reader, greedy).read(None, ids[:1], keep)
            torch.testing.assert_close(kept[:, -1:], logits)
    expected = logits[0, -1].softmax(-1)
    found = torch.bincount(drawn[:, -1].argmax(-1), minlength=len(expected)) / len(ids)
    deviation = (expected * (1 - expected) / len(ids)).sqrt()
    assert ((found - expected).abs() <= 5 * deviation + 2 / len(ids)).all()
    assert (found > 0).sum() > 50
