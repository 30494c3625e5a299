"""The selectors: each gives every candidate a number, the more the better (method, section 3.13).

A scorer is one file, with a frozen dataclass that has the attributes and methods of `Scorer` and a function `scorer` that
makes one, and one line in `names.SELECTORS`, whose name is the file's.
"""

import importlib
from typing import Protocol

import jax

from cord_jax.config import SynthesisConfig
from cord_jax.search.commits import Passage
from cord_jax.search.exchange import Candidates
from cord_jax.search.readers import ReaderConstants
from cord_jax.search.slots import SubBatch
from cord_jax.search.state import SearchPlan, SearchState


class Scorer(Protocol):
    """A way of ranking candidates; static, so hashable.

    Attributes:
      needs_answer: whether it cannot do without a gold answer.
    """

    needs_answer: bool

    def __call__(
        self,
        plan: SearchPlan,
        constants: tuple[ReaderConstants, ...],
        state: SearchState,
        batch: SubBatch,
        candidates: Candidates,
    ) -> tuple[jax.Array, Passage | None]:
        """Scores the candidates of a sub-batch, on one shard.

        What it may read: the candidates' texts as tokens of every vocabulary (`candidates`), the networks and KV caches of
        all readers (`constants`, `state.readers`), the random key of each problem (`state.clock`), the tree, and the gold
        answer in the meta-prover's tokens (`state.closings`).

        Args:
          batch: the rows whose candidates are to be scored; those that an earlier run has scored do not count.

        Returns:
          `(score_rj, passage)`: float32 scores, of which those of candidates that were dropped and of rows that do not count
          have no meaning; and what the meta-prover has read to score them, the candidates' steps being its forks, or
          None if it has not read all of them in one pass.
        """


def make_scorer(config: SynthesisConfig) -> Scorer:
    """The scorer of a run's selector; `config` is resolved."""
    return importlib.import_module(f"{__name__}.{config.selector}").scorer(config)
