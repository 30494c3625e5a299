"""CoRD: the teachers write one trace together, step by step (paper, section 3)."""

from cord_jax.config import SynthesisConfig
from cord_jax.engine.plan import SearchSettings
from cord_jax.search.decodings import make_decoding
from cord_jax.search.scorers import make_scorer


def search_settings(config: SynthesisConfig) -> SearchSettings:
    """A search over steps; `config` is resolved."""
    return SearchSettings(
        segmentation=config.segmentation,
        decoding=make_decoding(config),
        scorer=make_scorer(config),
        max_steps=config.max_steps,
        max_step_tokens=config.max_step_tokens,
        max_thinking_tokens=config.max_thinking_tokens,
        max_answer_tokens=config.max_answer_tokens,
        closing=config.closing,
        filters=config.filters,
        whole_traces=False,
        scored_together=0,
        seed=config.seed,
        slots=config.slots,
    )
