"""The selector `confidence`: how sure the meta-prover, cut short, is of the answer that it states (paper, "selection
criteria"; method, section 3.13). It needs no gold answer.
"""

import dataclasses

from cord_jax.config import SynthesisConfig
from cord_jax.search.judgments import confidence
from cord_jax.search.scorers import Judged, Scorer, Scores


@dataclasses.dataclass(frozen=True)
class Confidence(Scorer):
    """exp of the mean log-probability of the one answer that is written, greedily, after a candidate.

    Attributes:
      judgments: as in `Scorer`.
    """

    judgments: Judged

    def __call__(self, plan, constants, state, batch, candidates):
        """Scores as `Scorer` says."""
        return Scores(batch.take(confidence(state.judgments.rows, plan.candidates)))


def scorer(config: SynthesisConfig) -> Confidence:
    """The scorer of a run; `config` is resolved."""
    return Confidence(Judged(1, config.max_judgment_tokens, graded=False))
