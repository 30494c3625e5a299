"""CoRD: the teachers write one trace together, step by step (paper, section 3)."""

from cord_jax.config import SynthesisConfig
from cord_jax.engine.plan import SearchSettings
from cord_jax.methods import settings_of
from cord_jax.search.decodings import make_decoding


def search_settings(config: SynthesisConfig) -> SearchSettings:
    """A search over steps; `config` is resolved."""
    return settings_of(
        config,
        segmentation=config.segmentation,
        decoding=make_decoding(config),
        max_steps=config.max_steps,
        max_step_tokens=config.max_step_tokens,
        whole_traces=False,
        scored_together=0,
    )
