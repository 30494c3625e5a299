"""Settings of asking a run; what a field means and what it may be stands in its `setting`."""

from pathlib import Path

from cord_jax import names, settings
from cord_jax.config import MESH_HELP, OUTPUT_HELP
from cord_jax.mesh_text import parse_sizes
from cord_jax.settings import configuration, setting


@configuration
class RescoringConfig:
    """Settings of asking a finished run: what `cord_jax.rescore` is given and the flags of `launch.rescore`."""

    run: Path | str = setting(help="directory of a run of launch.synthesize", changes_result=False)
    output_dir: Path | str = setting(help=OUTPUT_HELP, changes_result=False)
    pool: Path | str | None = setting(
        default=None,
        help="TOML file whose meta-prover, or reward model, scores the recorded candidates anew; its proposers are not asked; "
        "not given: with --selector, the run's own pool; else the recorded scores stay",
        changes_result=False,
    )
    selector: str = setting(
        default="", help="another selector: one of " + ", ".join(names.SELECTORS) + "; not given: the run's"
    )
    beam_width: int = setting(
        default=0,
        help="traces kept at every step; for a run of curation, whole traces per proposer; 0: as many as the run kept",
        at_least=0,
    )
    teachers: str = setting(
        default="", help="the proposers that take part, joined by commas; not given: all of the run"
    )
    slots: int = setting(
        default=8,
        help="problems scored at a time; a matter of memory and speed",
        at_least=1,
        changes_result=False,
    )
    mesh: str = setting(default="data:1,model:-1", help=MESH_HELP, check=parse_sizes, changes_result=False)

    def __post_init__(self):
        """Raises: `UserError` for a value out of range."""
        settings.check(self, _a_known_selector, _different_teachers)


def _a_known_selector(config: RescoringConfig) -> None:
    if config.selector and config.selector not in names.SELECTORS:
        raise settings.refusal("selector", config.selector, "one of " + ", ".join(names.SELECTORS))


def _different_teachers(config: RescoringConfig) -> None:
    parts = config.teachers.split(",")
    if config.teachers and ("" in parts or len(set(parts)) < len(parts)):
        raise settings.refusal("teachers", config.teachers, "different proposers, joined by commas")
