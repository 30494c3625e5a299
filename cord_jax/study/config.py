"""The settings of the study."""

from pathlib import Path

from cord_jax import settings
from cord_jax.config import OUTPUT_HELP
from cord_jax.settings import configuration, setting
from cord_jax.study import arms


@configuration
class StudyConfig:
    """How much of the study to run: the flags of `launch.study`."""

    output_dir: Path | str = setting(help=OUTPUT_HELP, changes_result=False)
    arms: str = setting(
        default="",
        help="names of arms, of conditions (CoRD and curation under it) or of groups, comma-separated; empty takes all. "
        "Students bring the traces they learn from",
        changes_result=False,
        check=arms.choose,
    )
    seeds: int = setting(default=5, help="how often everything is repeated", at_least=1, changes_result=False)
    seed: int = setting(default=0, help="the first seed", at_least=0, changes_result=False)
    train_problems: int = setting(
        default=60, help="puzzles of a seed that every arm writes traces for", at_least=2
    )
    held_out_problems: int = setting(
        default=300, help="puzzles that students are measured on, 300 at most", at_least=2, at_most=300
    )
    samples: int = setting(default=2, help="answers of a student to each puzzle", at_least=1)
    work_dir: Path | str | None = setting(
        default=None,
        help="directory of the runs that results are taken from; not given: work in the output directory",
        changes_result=False,
    )
    together: int = setting(
        default=5,
        help="seeds whose traces are written in one run, which compiles once; fewer divide the work among more processes",
        at_least=1,
        changes_result=False,
    )
    time_limit: int = setting(
        default=0,
        help="seconds after which nothing new is begun; 0: none",
        at_least=0,
        changes_result=False,
    )
    devices: int = setting(
        default=1,
        help="devices that a CPU becomes; several processes on one output directory use more cores better",
        at_least=1,
        changes_result=False,
    )
    only_page: bool = setting(
        default=False,
        help="compute nothing; write the page from the results that are there",
        changes_result=False,
    )

    def __post_init__(self):
        """Raises: `UserError` for a value out of range."""
        settings.check(self)

    @property
    def all_seeds(self) -> range:
        """The seeds of the study."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def work(self) -> Path:
        """The directory of runs."""
        return Path(self.work_dir or Path(self.output_dir) / "work")
