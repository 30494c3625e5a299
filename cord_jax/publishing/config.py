"""Settings of publishing; what a field means and what it may be stands in its `setting`."""

import re
from pathlib import Path

from cord_jax import settings
from cord_jax.config import COLUMNS_HELP, SPLIT_HELP
from cord_jax.errors import UserError
from cord_jax.problem_files import parse_columns
from cord_jax.settings import configuration, setting

_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_LICENCE_HELP = "a Hub identifier such as apache-2.0, mit, cc-by-4.0, other"


def parse_licences(text: str) -> dict[str, str]:
    """Reads `teacher=licence,...`. Raises: `UserError`."""
    licences: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        teacher, given, licence = (piece.strip() for piece in part.partition("="))
        if not given or not teacher or not _LICENCE.fullmatch(licence):
            raise UserError(
                f"--teacher_licenses={settings.show(text)}: {settings.show(part)!r} is not teacher=licence; "
                "write teacher=apache-2.0,other_teacher=mit"
            )
        if teacher in licences:
            raise UserError(f"--teacher_licenses={settings.show(text)}: names {teacher} twice")
        licences[teacher] = licence
    return licences


def _check_title(title: str) -> None:
    if not title.strip() or not title.isprintable():
        raise settings.refusal("title", title, "a line of text")


@configuration
class PublishConfig:
    """Settings of publishing traces: what `cord_jax.publish` is given and the flags of `launch.publish`."""

    run: Path | str = setting(
        help="directory of a finished run of launch.synthesize, or several joined by commas that were made with the same "
        "settings (shards of a problem file, say)",
        changes_result=False,
    )
    output_dir: Path | str = setting(help="directory of the data set, which is made", changes_result=False)
    decontaminate: str = setting(
        default="",
        help="problem files, comma-separated: problems whose question is one of theirs, or shares 13 words in a row with one, "
        "are left out and listed",
        changes_result=False,
    )
    common_words: int = setting(
        default=0,
        help="with --decontaminate: 13 words in a row that stand in more problems of the run than this are a turn of phrase "
        "('where m and n are relatively prime positive integers') and no overlap; 0: all are one",
        at_least=0,
    )
    columns: str = setting(
        default="", help=f"with --decontaminate: {COLUMNS_HELP}", check=parse_columns, changes_result=False
    )
    split: str = setting(default="", help=f"with --decontaminate: {SPLIT_HELP}", changes_result=False)
    title: str = setting(default="Reasoning traces by CoRD", help="title of the card", check=_check_title)
    license: str | None = setting(
        default=None,
        help=f"licence of the dataset, {_LICENCE_HELP}",
        check=lambda value: _check("license", value),
    )
    problems_license: str | None = setting(
        default=None,
        help=f"licence of the problems, {_LICENCE_HELP}",
        check=lambda value: _check("problems_license", value),
    )
    teacher_licenses: str = setting(
        default="",
        help="licences of the teachers by their names in the pool: teacher=apache-2.0,other_teacher=mit",
        check=parse_licences,
    )

    @property
    def licences(self) -> dict[str, str]:
        """The licences of the teachers by their names."""
        return parse_licences(self.teacher_licenses)

    @property
    def runs(self) -> list[Path]:
        """The directories of `run`."""
        return _paths(self.run)

    @property
    def test_files(self) -> list[Path]:
        """The problem files of `decontaminate`."""
        return _paths(self.decontaminate)

    def __post_init__(self):
        """Raises: `UserError` for a value that is not what it must be."""
        settings.check(self, _columns_of_something, _different_paths)


def _check(name: str, value: str) -> None:
    if not _LICENCE.fullmatch(value):
        raise settings.refusal(name, value, _LICENCE_HELP)


def _columns_of_something(config: PublishConfig) -> None:
    for name in ("columns", "split"):
        value = getattr(config, name)
        if value and not config.decontaminate:
            raise UserError(
                f"--{name}={settings.show(value)}: is of the files of --decontaminate; give that, or leave --{name} out"
            )


def _different_paths(config: PublishConfig) -> None:
    for name, wanted in (("run", "directories"), ("decontaminate", "files")):
        parts = str(getattr(config, name)).split(",")
        if parts != [""] and ("" in parts or len(set(parts)) < len(parts)):
            raise settings.refusal(name, getattr(config, name), f"different {wanted}, joined by commas")


def _paths(text: Path | str) -> list[Path]:
    return [Path(part) for part in str(text).split(",") if part]
