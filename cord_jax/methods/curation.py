"""Curation: every teacher writes whole traces, and the best is taken (paper, baselines; method, section 3.12).

With `beam_width` 8 instead of 4 it is the paper's "Curation x 2"; with one teacher and `beam_width` 1 it is that teacher
alone.
"""

from cord_jax.config import SynthesisConfig
from cord_jax.engine.plan import SearchSettings
from cord_jax.methods import settings_of
from cord_jax.search.decodings.whole import whole


def search_settings(config: SynthesisConfig) -> SearchSettings:
    """A search of one round over whole traces; `config` is resolved. They are scored one by one, which bounds memory."""
    return settings_of(
        config,
        segmentation="whole",
        decoding=whole(config.beam_width),
        max_steps=1,
        max_step_tokens=config.max_thinking_tokens,
        whole_traces=True,
        scored_together=1,
    )
