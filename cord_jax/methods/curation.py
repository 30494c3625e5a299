"""Curation: every teacher writes whole traces, and the best is taken (paper, baselines; method, section 3.12).

With `beam_width` 8 instead of 4 it is the paper's "Curation x 2"; with one teacher and `beam_width` 1 it is that teacher
alone.
"""

from cord_jax.config import SynthesisConfig
from cord_jax.engine.plan import SearchSettings
from cord_jax.search.decodings.whole import whole
from cord_jax.search.scorers import make_scorer


def search_settings(config: SynthesisConfig) -> SearchSettings:
    """A search of one round over whole traces; `config` is resolved. They are scored one by one, which bounds memory."""
    return SearchSettings(
        segmentation="whole",
        decoding=whole(config.beam_width),
        scorer=make_scorer(config),
        max_steps=1,
        max_step_tokens=config.max_thinking_tokens,
        max_thinking_tokens=config.max_thinking_tokens,
        max_answer_tokens=config.max_answer_tokens,
        closing=config.closing,
        filters=config.filters,
        whole_traces=True,
        scored_together=1,
        seed=config.seed,
        slots=config.slots,
    )
