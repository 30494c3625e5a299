"""Greedy decoding: the best next step is taken (paper, ablations), which is a beam of one."""

from cord_jax.search.decodings.beam import decoding as decoding
