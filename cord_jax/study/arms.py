"""The arms of the study: ways of writing traces, students that learn from them, and the order in which they are run.

Tables are the paper's (arXiv 2605.02290); groups are what `--arms` takes beside single names. The first arms answer the
question that the method stands or falls with, so that a study that is cut short has answered that.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cord_jax import names, settings
from cord_jax.miniature.world import MAX_STEPS, MIN_STEPS, SKILLS

TEACHERS, META_PROVER = tuple(SKILLS), "prover"
# So many times the puzzles, and a rival of CoRD has processed about as many tokens as CoRD (docs/evidence.md).
EQUAL_COMPUTE = 2.0
_CORD = {"method": "cord"}
_CURATION = {"method": "curation"}


@dataclasses.dataclass(frozen=True)
class Writing:
    """A way of writing traces.

    Attributes:
        name: unique among all arms.
        label: for tables.
        groups: that it belongs to.
        settings: of `SynthesisConfig`, beside the miniature's limits.
        pool: the proposers, `MEMBER` or `MEMBER@TEMPERATURE`; see `members`.
        learner: the student that is one more proposer, each seed its own; None for none.
        meta_prover: a member.
        temperature: of proposers that say none.
        share: of the study's puzzles; above 1 for further ones.
        lengths: steps that a puzzle takes, from and to.
    """

    name: str
    label: str
    groups: tuple[str, ...]
    settings: Mapping[str, Any]
    pool: tuple[str, ...] = TEACHERS
    meta_prover: str = META_PROVER
    temperature: float = 0.6
    share: float = 1.0
    lengths: tuple[int, int] = (MIN_STEPS, MAX_STEPS)
    learner: str | None = None

    @property
    def steps(self) -> bool:
        """Whether candidates are steps and not whole traces."""
        return self.settings["method"] == "cord" and self.settings.get("segmentation") != "prefix"

    @property
    def absent(self) -> str | None:
        """What of the program this arm needs and there is not; None if it can be run."""
        for setting, known in (
            ("method", names.METHODS),
            ("selector", names.SELECTORS),
            ("decoding", names.DECODINGS),
        ):
            value = self.settings.get(setting)
            if value is not None and value not in known:
                return f"{setting} {value}"
        return None


@dataclasses.dataclass(frozen=True)
class Learner:
    """A student.

    Attributes:
        name, label, groups: as of `Writing`.
        traces: the arm whose traces it learns from; None for the base student.
        rows: which of them: `first` (of the puzzles that all arms share), `all`, `right` (of all, those that are right),
            `one_wording` (the first, every step said in one wording).
        objective: of its training (`names.OBJECTIVES`).
    """

    name: str
    label: str
    groups: tuple[str, ...]
    traces: str | None
    rows: str = "first"
    objective: str = "sft"


def _alone(name: str) -> Writing:
    return Writing(
        f"only_{name}",
        f"{name} alone, best of 12",
        ("lead", "single"),
        {**_CURATION, "beam_width": 12},
        pool=(name,),
        share=EQUAL_COMPUTE,
    )


def _pair(name: str, label: str, group: str, share: float = 1 / 3, **changes: Any) -> tuple[Writing, Writing]:
    """CoRD and curation under the same circumstances."""
    return (
        Writing(f"{name}_cord", f"CoRD, {label}", (group,), _CORD, share=share, **changes),
        Writing(f"{name}_curation", f"curation, {label}", (group,), _CURATION, share=share, **changes),
    )


def _second_round(name: str, settings: Mapping[str, Any]) -> Writing:
    """What the teachers write together with the student that learnt from what they wrote alone."""
    return Writing(
        f"second_{name}", f"{_LABELS[name]}, second round", ("rounds",), settings, learner=f"after_{name}"
    )


NOISE = (0.3, 0.4, 0.5, 0.6)
_LABELS = {"cord": "CoRD", "curation": "curation"}
_LEAD = (
    Writing("cord", "CoRD", ("lead",), {**_CORD, "decoys": 3}),
    Writing("cord_filtered", "CoRD + filter", ("lead",), {**_CORD, "filters": "arithmetic", "decoys": 3}),
    Writing("curation", "curation", ("lead",), {**_CURATION, "decoys": 3}, share=EQUAL_COMPUTE),
    Writing("random", "random trace", ("lead",), {**_CURATION, "selector": "random"}, share=EQUAL_COMPUTE),
    *map(_alone, TEACHERS),
    Writing("curation_x2", "curation x 2", ("lead",), {**_CURATION, "beam_width": 8}),
)
_OTHERS = (
    Writing("greedy", "greedy", ("decodings", "beams"), {**_CORD, "decoding": "greedy"}),
    Writing("beam_2", "beam of 2", ("beams",), {**_CORD, "beam_width": 2}),
    Writing("beam_8", "beam of 8", ("beams",), {**_CORD, "beam_width": 8}),
    Writing("max_length", "longest trace", ("selectors",), {**_CURATION, "selector": "max_length"}),
    Writing("random_steps", "random steps", ("selectors",), {**_CORD, "selector": "random"}),
    Writing("longest_steps", "longest steps", ("selectors",), {**_CORD, "selector": "max_length"}),
    Writing(
        "process_reward",
        "process rewards",
        ("selectors",),
        {**_CORD, "selector": "process_reward"},
    ),
    Writing(
        "confidence",
        "confidence",
        ("selectors",),
        {**_CORD, "selector": "confidence", "max_judgment_tokens": 48},
        share=1 / 3,
    ),
    Writing(
        "line_break", "steps at blank lines", ("segmentations",), {**_CORD, "segmentation": "line_break"}
    ),
    Writing("prefix", "steps before words", ("segmentations",), {**_CORD, "segmentation": "prefix"}),
    *(
        Writing(f"by_{name}", f"meta-prover {name}", ("meta_provers",), _CORD, meta_prover=name)
        for name in (*TEACHERS, "student")
    ),
    *_pair("homogeneous", "sums three times", "pools", share=1.0, pool=("sums@0.5", "sums@0.6", "sums@0.7")),
    Writing("integration", "integration", ("methods",), {"method": "integration"}),
    *(
        arm
        for noise in NOISE
        for arm in _pair(
            f"noise_{noise}", f"meta-prover with noise {noise}", "noise", meta_prover=f"{META_PROVER}~{noise}"
        )
    ),
    *_pair("no_shares", "without shares", "pools", pool=("sums", "products")),
    *_pair("no_products", "without products", "pools", pool=("sums", "shares")),
    *_pair("no_sums", "without sums", "pools", pool=("products", "shares")),
    *_pair("identical", "two identical teachers", "conditions", pool=("sums", "sums@0.6", "products")),
    *_pair("useless", "useless third teacher", "conditions", pool=("sums", "products", "shares~0.6")),
    *_pair(
        "unable",
        "teachers that cannot go on from others' text",
        "conditions",
        pool=tuple(f"{name}!alone" for name in TEACHERS),
    ),
    *_pair("short", "chains of 2 or 3 steps", "conditions", lengths=(2, 3)),
    *_pair("warm", "temperature 1", "conditions", temperature=1.0),
    *_pair("hot", "temperature 1.5", "conditions", temperature=1.5),
    Writing("curation_filtered", "curation + filter", ("filters",), {**_CURATION, "filters": "arithmetic"}),
    *_pair(
        "one_sided", "meta-prover trained to trust sums alone", "conditions", meta_prover="prover!of_sums"
    ),
    _second_round("cord", _CORD),
    _second_round("curation", _CURATION),
    # These take the longest.
    Writing("mcts", "tree search", ("decodings",), {**_CORD, "decoding": "mcts", "slots": 96}, share=0.5),
    Writing(
        "binary_judgment",
        "binary judgement",
        ("selectors",),
        {**_CORD, "selector": "binary_judgment", "max_judgment_tokens": 48},
        share=0.25,
    ),
)
WRITINGS = (*_LEAD, *_OTHERS)

_RIVALS = {arm.name: arm.label for arm in _LEAD if arm.name not in ("cord", "cord_filtered")}
_MORE = tuple(name for name in _RIVALS if name != "curation_x2")
_LEAD_LEARNERS = (
    Learner("base", "base student", ("lead", "students"), None),
    *(
        Learner(f"after_{name}", f"after {label}", ("lead", "students"), name)
        for name, label in {"cord": "CoRD", "cord_filtered": "CoRD + filter", **_RIVALS}.items()
    ),
    *(
        Learner(
            f"after_{name}_more", f"after {_RIVALS[name]}, equal compute", ("lead", "students"), name, "all"
        )
        for name in _MORE
    ),
)
_OTHER_LEARNERS = (
    *(
        Learner(f"after_{name}_right", f"after {_RIVALS[name]}, right rows of all", ("rows",), name, "right")
        for name in _MORE
    ),
    Learner("after_cord_one_wording", "after CoRD in one wording", ("rows",), "cord", "one_wording"),
    Learner("after_cord_gain", "after CoRD, steps weighted by gain", ("rows",), "cord", objective="gain"),
    *(
        Learner(f"after_second_{name}", f"after {label}, second round", ("rounds",), f"second_{name}")
        for name, label in _LABELS.items()
    ),
    *(
        Learner(f"after_{name}", f"after {label}", ("ablations",), name)
        for name, label in (
            ("greedy", "greedy"),
            ("max_length", "longest trace"),
            ("random_steps", "random steps"),
            ("line_break", "steps at blank lines"),
            ("by_sums", "meta-prover sums"),
            ("by_student", "meta-prover student"),
            ("homogeneous_cord", "CoRD, sums three times"),
            ("homogeneous_curation", "curation, sums three times"),
        )
    ),
)
LEARNERS = (*_LEAD_LEARNERS, *_OTHER_LEARNERS)
Arm = Writing | Learner
# First what the lead needs, then the other ways of writing, then further students.
IN_ORDER: tuple[Arm, ...] = (*_LEAD, *_LEAD_LEARNERS, *_OTHERS, *_OTHER_LEARNERS)
BY_NAME: dict[str, Arm] = {arm.name: arm for arm in IN_ORDER}


def learner_of(name: str) -> Learner:
    """The student of that name."""
    arm = BY_NAME[name]
    assert isinstance(arm, Learner), name
    return arm


def rows_needed(arm: Arm) -> str | None:
    """The arm whose traces this one learns from, or the student among its proposers does; None if there is none."""
    if isinstance(arm, Learner):
        return arm.traces
    return None if arm.learner is None else rows_needed(BY_NAME[arm.learner])


GROUPS = tuple(dict.fromkeys(group for arm in IN_ORDER for group in arm.groups))


def choose(text: str) -> tuple[Arm, ...]:
    """The arms that `--arms` asks for, in the order in which they are run, with the traces that students need.

    A condition's name stands for CoRD and curation under it.

    Raises: `UserError` for a name that is neither an arm's nor a condition's nor a group's.
    """
    asked = [name.strip() for name in text.split(",") if name.strip()] or list(GROUPS)
    chosen: set[str] = set()
    for name in asked:
        pair = (f"{name}_cord", f"{name}_curation")
        found = [
            arm
            for arm in IN_ORDER
            if name in (arm.name, *arm.groups) or (isinstance(arm, Writing) and arm.name in pair)
        ]
        if not found:
            raise settings.refusal(
                "arms", name, f"names of arms, of conditions or of groups: {', '.join(GROUPS)}"
            )
        while found:
            chosen |= {arm.name for arm in found}
            found = [BY_NAME[rows] for arm in found if (rows := rows_needed(arm)) is not None]
    return tuple(arm for arm in IN_ORDER if arm.name in chosen)
