"""CoRD: the teachers write one trace together, step by step (paper, section 3)."""

from cord_jax.config import SynthesisConfig
from cord_jax.methods import OneSearch, settings_of
from cord_jax.search.decodings import make_decoding


def method(config: SynthesisConfig) -> OneSearch:
    """A search over steps; `config` is resolved."""
    settings = settings_of(
        config,
        segmentation=config.segmentation,
        decoding=make_decoding(config),
        max_steps=config.max_steps,
        max_step_tokens=config.max_step_tokens,
        whole_traces=False,
        scored_together=0,
    )
    return OneSearch(settings)
