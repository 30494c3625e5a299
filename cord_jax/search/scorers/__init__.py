"""The selectors: each gives every candidate a number, the more the better (method, section 3.13).

A scorer is one file, with a frozen dataclass that is a `Scorer` and a function `scorer` that makes one, and one line in `names.SELECTORS`, whose name is the file's.
"""

import abc
import dataclasses
import importlib
from typing import Any, NamedTuple

import jax

from cord_jax.config import SynthesisConfig
from cord_jax.search.commits import Passage
from cord_jax.search.exchange import Candidates
from cord_jax.search.readers import ReaderConstants
from cord_jax.search.slots import SubBatch
from cord_jax.search.state import SearchPlan, SearchState


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of candidates, and what was read for them.

    Attributes:
      score_rj: float32, the more the better; of candidates that were dropped and of rows that do not count it has no
        meaning.
      passages: by reader, what it has read of all candidates in one pass, their steps being its forks: that reader need not
        read the chosen ones again.
      memory: what the scorer remembers, of the rows.
    """

    score_rj: jax.Array
    passages: dict[int, Passage] = dataclasses.field(default_factory=dict)
    memory: Any = ()


class Judged(NamedTuple):
    """The judgments that a scorer asks for.

    Attributes:
      texts: of each candidate.
      max_tokens: most tokens of one.
      graded: whether the exchange says how many are right; that is a candidate's score then.
    """

    texts: int
    max_tokens: int
    graded: bool


class Scorer(abc.ABC):
    """A way of ranking candidates; static, so hashable.

    Attributes:
      needs_answer: whether it cannot do without a gold answer.
      needs_reward_model: whether the pool's reward model is one of the readers.
      scores_replayed: whether it scores rounds that an earlier run has settled, too, though their scores are known.
      judgments: the answers that the meta-prover writes after every candidate before it is scored; None for none.
    """

    needs_answer = False
    needs_reward_model = False
    scores_replayed = False
    judgments: Judged | None = None

    def empty_memory(self, slots: int, rounds: int, candidates: int) -> Any:
        """Makes what it remembers of each slot when a search begins: a pytree whose fields declare their axes."""
        return ()

    @abc.abstractmethod
    def __call__(
        self,
        plan: SearchPlan,
        constants: tuple[ReaderConstants, ...],
        state: SearchState,
        batch: SubBatch,
        candidates: Candidates,
    ) -> Scores:
        """Scores the candidates of a sub-batch, on one shard.

        What it may read: the candidates' texts as tokens of every vocabulary (`candidates`), the networks and KV caches of
        all readers (`constants`, `state.readers`), the random key of each problem (`state.clock`), the tree, and the gold
        answer in the meta-prover's tokens (`state.closings`).

        Args:
          batch: the rows whose candidates are to be scored.
        """


def make_scorer(config: SynthesisConfig) -> Scorer:
    """The scorer of a run's selector; `config` is resolved."""
    return importlib.import_module(f"{__name__}.{config.selector}").scorer(config)
