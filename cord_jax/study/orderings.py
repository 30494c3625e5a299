"""The orderings that the paper reports (arXiv 2605.02290), as pairs of arms that should differ the same way here."""

import dataclasses

from cord_jax.study.arms import TEACHERS

RIVALS = (*(f"only_{name}" for name in TEACHERS), "random", "curation", "curation_x2")


@dataclasses.dataclass(frozen=True)
class Ordering:
    """One statement of the paper.

    Attributes:
        text: the statement, with the paper's figures.
        measure: `right` or `predictive_perplexity` of traces, or `pass@1` of students.
        first, second: names of arms; the first has more in the paper.
    """

    text: str
    measure: str
    first: str
    second: str


def _traces(text: str, first: str, second: str, accuracy: str, perplexity: str) -> tuple[Ordering, Ordering]:
    return (
        Ordering(f"{text}, right traces ({accuracy} %)", "right", first, second),
        Ordering(f"{text}, predictive perplexity ({perplexity})", "predictive_perplexity", first, second),
    )


def _student(text: str, first: str, second: str, figures: str) -> Ordering:
    return Ordering(
        f"{text}, students on AIME24 ({figures} %)", "pass@1", f"after_{first}", f"after_{second}"
    )


ORDERINGS = (
    *_traces("CoRD above curation, three different teachers", "cord", "curation", "93.1, 84.8", ".774, .652"),
    _student("CoRD above curation, three different teachers", "cord", "curation", "79.6, 75.0"),
    *_traces("CoRD above curation x 2", "cord", "curation_x2", "93.1, 90.3", ".774, .712"),
    _student("CoRD above curation x 2", "cord", "curation_x2", "79.6, 74.6"),
    *_traces("curation x 2 above curation", "curation_x2", "curation", "90.3, 84.8", ".712, .652"),
    Ordering(
        "curation above no training, students on AIME24 (75.0, 71.6 %)", "pass@1", "after_curation", "base"
    ),
    Ordering("CoRD above no training, students on AIME24 (79.6, 71.6 %)", "pass@1", "after_cord", "base"),
    *_traces(
        "CoRD above curation, one teacher three times",
        "homogeneous_cord",
        "homogeneous_curation",
        "90.0, 77.4",
        ".726, .664",
    ),
    _student(
        "CoRD above curation, one teacher three times",
        "homogeneous_cord",
        "homogeneous_curation",
        "75.8, 74.2",
    ),
    *_traces("CoRD above integration", "cord", "integration", "93.1, 91.2", ".774, .223"),
    *_traces("CoRD, different teachers above one", "cord", "homogeneous_cord", "93.1, 90.0", ".774, .726"),
    _student("CoRD, different teachers above one", "cord", "homogeneous_cord", "79.6, 75.8"),
    *_traces("the score above a random trace", "cord", "random", "93.1, 80.4", ".774, .494"),
    _student("the score above a random trace", "cord", "random", "79.6, 69.0"),
    *_traces("the score above the longest trace", "cord", "max_length", "93.1, 80.0", ".774, .502"),
    _student("the score above the longest trace", "cord", "max_length", "79.6, 68.8"),
    *_traces("the score above process rewards", "cord", "process_reward", "93.1, 82.6", ".774, .591"),
    *_traces("the score above binary judgement", "cord", "binary_judgment", "93.1, 91.7", ".774, .626"),
    *_traces("steps of the prompt above blank lines", "cord", "line_break", "93.1, 88.4", ".774, .734"),
    _student("steps of the prompt above blank lines", "cord", "line_break", "79.6, 76.7"),
    *_traces("steps of the prompt above words", "cord", "prefix", "93.1, 91.3", ".774, .747"),
    *_traces("beams above greedy", "cord", "greedy", "93.1, 81.6", ".774, .719"),
    _student("beams above greedy", "cord", "greedy", "79.6, 76.7"),
    *_traces("beams above tree search", "cord", "mcts", "93.1, 89.6", ".774, .755"),
    *_traces("the best meta-prover above the worst", "cord", "by_student", "93.1, 80.5", ".774, .641"),
    _student("the best meta-prover above the worst", "cord", "by_student", "79.6, 68.5"),
)

# Those that have twice the puzzles, and so CoRD's compute.
_MORE = tuple(name for name in RIVALS if name != "curation_x2")

# The comparison that the method stands or falls with: one family.
LEAD = tuple(
    ("pass@1", f"after_{ours}", rival)
    for ours in ("cord", "cord_filtered")
    for rival in (
        "base",
        *(f"after_{name}" for name in RIVALS),
        *(f"after_{name}_more" for name in _MORE),
    )
)

# What a second round, with the student of the first among the proposers, brings: one family.
SECOND_ROUND = tuple(
    comparison
    for name in ("cord", "curation")
    for comparison in (
        ("right", f"second_{name}", name),
        ("predictive_perplexity", f"second_{name}", name),
        ("pass@1", f"after_second_{name}", f"after_{name}"),
    )
)

# What the rows that a student learns from bring, and how they are weighted: one family.
LEARNING = (
    ("pass@1", "after_cord_gain", "after_cord"),
    ("pass@1", "after_cord_one_wording", "after_cord"),
    *(("pass@1", f"after_{name}_right", f"after_{name}_more") for name in _MORE),
    *(("pass@1", "after_cord", f"after_{name}_right") for name in _MORE),
)

# Groups of arms in pairs NAME_cord and NAME_curation.
CONDITIONS = (
    "identical",
    "useless",
    "one_sided",
    "unable",
    "short",
    "warm",
    "hot",
    "no_shares",
    "no_products",
    "no_sums",
    "homogeneous",
)
