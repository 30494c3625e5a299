"""Integration by brute force: a curation of one trace each, then a search in which the integrator alone writes."""

from dataclasses import replace
from pathlib import Path

from . import text
from .reader import Reader
from .reward import RewardReader
from .search import Hypothesis, ProblemSearch
from .settings import Pool, Proposer, Settings

INSTRUCTION = "Combine the solutions above into one coherent and complete solution."


def reference_integration(
    pool: Pool,
    problems: list[dict],
    integrator: Proposer,
    *,
    instruction: str = INSTRUCTION,
    reward_model: Path | None = None,
    **settings,
) -> list[tuple[dict, list[dict]]]:
    """A trace and its tree rows for every problem, as `search.reference_search` gives them.

    Args:
      integrator: at temperature 0, one of the pool's proposers or another.
      settings: further fields of `search.Settings`, the limits of thinking and answer among them.
    """
    settings = Settings(
        method="curation",
        segmentation="prompt",
        beam_width=1,
        max_steps=1,
        max_step_tokens=settings["max_thinking_tokens"],
        closing=text.DEFAULT_CLOSING,
        reward_model=None if reward_model is None else RewardReader(reward_model),
        **settings,
    )
    checkpoints = [spec.checkpoint for spec in (*pool.proposers, pool.meta_prover, integrator)]
    readers = {Path(checkpoint): Reader(checkpoint) for checkpoint in dict.fromkeys(checkpoints)}
    judge = readers[Path(pool.meta_prover.checkpoint)]
    teachers = [readers[Path(proposer.checkpoint)] for proposer in pool.proposers]
    writer = readers[Path(integrator.checkpoint)]
    found = []
    for problem in problems:
        first = ProblemSearch(pool, teachers, judge, problem, problems, settings)
        first.curation()
        solutions = [row["text"] for row in first.rows if row["dropped"] is None]
        alone = Pool((integrator,), pool.meta_prover)
        of_integrator = replace(settings, method="integration", filters={})
        second = ProblemSearch(alone, [writer], judge, problem, problems, of_integrator)
        if solutions:
            more = "".join(f"\n\n### Solution {k}\n{solution}" for k, solution in enumerate(solutions, 1))
            more += "\n\n" + instruction
            second.prompts = [writer.prompt(problem, integrator.system_prompt, more)]
        else:
            second.curation = lambda: (Hypothesis(), "stuck")
        trace, _ = second.run()
        usage = first.usage
        mine = usage.setdefault(integrator.name, {"proposed": 0, "committed": 0, "scored": 0})
        for kind, tokens in second.usage[integrator.name].items():
            mine[kind] += tokens
        found.append((trace | {"usage": usage}, first.rows))
    return found
