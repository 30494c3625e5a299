"""Whole traces: one round of B samples of every proposer, of which the best stays (method, section 3.12)."""

from cord_jax.search.decodings.beam import Beam


def whole(samples: int) -> Beam:
    """A search of one round, which extends the empty trace at every place and keeps one hypothesis."""
    return Beam(places=samples, kept=1, opened_first=samples, max_rounds=1)
