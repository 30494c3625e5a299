"""The peer finds the same traces as the engine."""

import pytest

from benchmarks import peer

FLAGS = peer.FLAGS


@pytest.mark.slow
def test_peer_finds_the_same_traces(flags, tmp_path):
    """`measure` refuses a trace that differs and does not tie; random networks tie often, trained ones hardly ever."""
    flags(limit=4, beam_width=2, max_steps=4, slots=2, batches="1,2", repetitions=1, threads=1)
    result = peer.measure(peer.FLAGS, tmp_path)
    assert min(agreement["same"] for agreement in result["same_traces"].values()) >= 3
    assert result["floor_seconds_per_problem"] > 0 and min(result["seconds_per_problem"].values()) > 0
    assert "cord_jax" in peer.table(result)


@pytest.mark.slow
def test_peer_draws_the_same(flags, tmp_path):
    flags(
        temperature="1", limit=4, beam_width=2, max_steps=4, slots=2, batches="1,2", repetitions=1, threads=1
    )
    result = peer.measure(peer.FLAGS, tmp_path)
    assert min(agreement["same"] for agreement in result["same_traces"].values()) >= 3
