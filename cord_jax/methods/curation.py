"""Curation: every teacher writes whole traces, and the best is taken (paper, baselines; method, section 3.12).

With `beam_width` 8 instead of 4 it is the paper's "Curation x 2"; with one teacher and `beam_width` 1 it is that teacher
alone.
"""

from typing import Any

from cord_jax.config import SynthesisConfig
from cord_jax.engine.plan import SearchSettings
from cord_jax.methods import OneSearch, settings_of
from cord_jax.search.decodings.whole import whole


def method(config: SynthesisConfig) -> OneSearch:
    """A search of one round over whole traces; `config` is resolved."""
    return OneSearch(whole_traces(config, config.beam_width))


def whole_traces(config: SynthesisConfig, samples: int, **changed) -> SearchSettings:
    """The search that writes so many whole traces of every proposer. They are scored one by one, which bounds memory."""
    settings: dict[str, Any] = dict(
        segmentation="whole",
        decoding=whole(samples),
        max_steps=1,
        max_step_tokens=config.max_thinking_tokens,
        whole_traces=True,
        scored_together=1,
    )
    return settings_of(config, **settings | changed)
