"""The methods: how a problem becomes a trace (paper, section 4; method, section 3.15).

A method is one file and one line of `names.METHODS`. The file has a function `search_settings`, which says how its traces
are searched for.
"""

import dataclasses
import importlib

from cord_jax.config import SynthesisConfig
from cord_jax.engine.plan import SearchSettings
from cord_jax.search.scorers import make_scorer


def search_settings(config: SynthesisConfig) -> SearchSettings:
    """The search of a run's method."""
    return importlib.import_module(f"{__name__}.{config.method}").search_settings(config.resolved)


def settings_of(config: SynthesisConfig, **of_method) -> SearchSettings:
    """The settings that all methods take from a resolved configuration as they are, and those of a method."""
    return SearchSettings(
        scorer=make_scorer(config),
        max_thinking_tokens=config.max_thinking_tokens,
        max_answer_tokens=config.max_answer_tokens,
        closing=config.closing,
        filters=config.filters,
        seed=config.seed,
        slots=config.slots,
        **of_method,
    )


def search_of(*, quantum: int | None = None, **settings) -> SearchSettings:
    """The search that a `SynthesisConfig` with these settings asks for, for engines that are run without its files.

    Args:
      quantum: as in `SearchSettings`.
    """
    config = SynthesisConfig(pool="-", problems="-", output_dir="-", **settings)
    return dataclasses.replace(search_settings(config), quantum=quantum)
