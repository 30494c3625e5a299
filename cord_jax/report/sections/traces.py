"""The section `traces`: what each run of synthesis came to, and how sure the differences are."""

import itertools
from collections.abc import Callable, Mapping, Sequence

from cord_jax import statistics
from cord_jax.report.content import NOTHING, Figure, Section, Table, number, percent, with_error
from cord_jax.report.runs import Runs, SynthesisRun
from cord_jax.report.tallies import Tally

FLIPS = 10_000
_FOLDED_FROM = 7
_WORDS = {"predictive_perplexity": "predictive perplexity", "process_reward": "process rewards"}


_METHODS = {
    "curation": "whole traces, the best kept",
    "integration": "whole traces, written anew as one",
    "cord": "step by step",
}


def section(runs: Runs, tallies: Mapping[str, Tally]) -> Section | None:
    """A row for each run, and one for each pair of runs."""
    if not runs.synthesis:
        return None
    blocks = [_table(runs.synthesis, tallies)]
    if len(runs.synthesis) > 1:
        blocks.append(differences(_DIFFER, runs.synthesis))
    return Section(
        "traces", "Traces", "What the runs came to; ± is the standard error over problems.", blocks
    )


def figures(runs: Runs) -> list[Figure]:
    """The share of right traces of each run; the mean score where nobody knows the answers."""
    found = []
    for run in runs.synthesis:
        right = statistics.estimate(list(_right(run).values()))
        score = statistics.estimate(list(_score(run).values()))
        of, unit, percents = (right, "right traces", True) if right.count else (score, "mean score", False)
        value, _, error = with_error(of, 1 if percents else 3, percents).removesuffix(" %").partition(" ± ")
        value = value + " %" if percents and value != NOTHING else value
        found.append(Figure(run.name, value, error, f"{unit} of {of.count}", describe(run)))
    return found


def describe(run: SynthesisRun) -> str:
    """How a run searches, and how far it has come, in a phrase."""
    settings = run.settings
    selector = settings.get("selector", "")
    method = settings.get("method", "")
    how = [
        _METHODS.get(method, method),
        settings.get("decoding", "") if method == "cord" else "",
        f"by {_WORDS.get(selector, selector)}",
        f"filters {settings['filters']}" if settings.get("filters") else "",
        run.state,
    ]
    return ", ".join(phrase.replace("_", " ") for phrase in how if phrase)


def _right(run: SynthesisRun) -> dict[str, float]:
    return {trace.id: float(trace.correct) for trace in run.traces if trace.correct is not None}


def _score(run: SynthesisRun) -> dict[str, float]:
    return {trace.id: trace.score or 0.0 for trace in run.traces}


def _perplexity(run: SynthesisRun) -> dict[str, float]:
    return {t.id: t.predictive_perplexity for t in run.traces if t.predictive_perplexity is not None}


_DIFFER = (("right", _right, True), ("predictive perplexity", _perplexity, False))


def _table(runs: Sequence[SynthesisRun], tallies: Mapping[str, Tally]) -> Table:
    rows = []
    for run in runs:
        proposed = [sum(usage.proposed for usage in trace.usage.values()) for trace in run.traces]
        row = [
            run.name,
            number(len(run.traces), 0),
            with_error(statistics.estimate(list(_right(run).values())), percents=True),
            with_error(statistics.estimate(list(_score(run).values())), 3),
            with_error(statistics.estimate([len(trace.steps) for trace in run.traces])),
            number(statistics.estimate(proposed).mean, 0),
            number(statistics.estimate([trace.seconds for trace in run.traces]).mean),
        ]
        figures = tallies[run.name].tree_search
        tree = [with_error(statistics.estimate(figures[name])) for name in _TREE if name in figures]
        rows.append(row + (tree or [NOTHING] * len(_TREE)))
    head = [*_HEAD, *_TREE.values()]
    if not any(tally.tree_search for tally in tallies.values()):
        head, rows = list(_HEAD), [row[: len(_HEAD)] for row in rows]
    return Table("Runs", head, rows)


_HEAD = ("run", "problems", "right", "mean score", "steps", "tokens proposed a problem", "seconds a problem")
_TREE = {"expansions": "expansions", "depth": "deepest node", "complete": "complete traces found"}


def differences(measures: Sequence[tuple[str, Callable, bool]], runs: Sequence) -> Table:
    """Each pair of runs, problem by problem.

    Args:
      measures: (name, run -> {problem id: value}, whether the values are shares).
      runs: two or more.
    """
    rows = []
    for (name, read, percents), (second, first) in itertools.product(
        measures, itertools.combinations(runs, 2)
    ):
        a, b = read(first), read(second)
        common = [problem for problem in a if problem in b]
        paired = statistics.paired_difference([a[p] for p in common], [b[p] for p in common], flips=FLIPS)
        scale, digits, unit = (100, 1, " pp") if percents else (1, 3, "")
        difference, interval = scale * paired.difference, 1.96 * scale * paired.standard_error
        rows.append(
            (
                f"{first.name} − {second.name}",
                name,
                f"{difference:+.{digits}f}{unit}".replace("-", "−") if common else NOTHING,
                f"± {interval:.{digits}f}" if len(common) > 1 else NOTHING,
                f"{paired.p_value:.2g}" if len(common) > 1 else NOTHING,
                str(paired.count),
            )
        )
    return Table(
        "Differences, problem by problem",
        ("runs", "of", "difference", "95 % interval", "p", "problems in common"),
        rows,
        "p: how often a difference as large would come about if the two were interchangeable "
        f"(signs of the problems' differences flipped, {number(FLIPS, 0)} times or in all ways).",
        folded=len(rows) >= _FOLDED_FROM,
    )


def share_of(values: Sequence[bool]) -> str:
    """The share of those that are true."""
    return percent(sum(values) / len(values) if values else None)
