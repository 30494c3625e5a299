"""The section `settings`: what each run is."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cord_jax.report.content import NOTHING, Section, Table
from cord_jax.report.runs import Run, Runs
from cord_jax.report.tallies import Tally

_LONGEST = 120


def section(runs: Runs, tallies: Mapping[str, Tally]) -> Section | None:
    """A table of settings for the runs of each job; where they differ, the settings that do come first."""
    kinds = (("synthesis", runs.synthesis), ("evaluation", runs.evaluation), ("training", runs.training))
    blocks = [_table(name, members) for name, members in kinds if members]
    return Section("settings", "Settings", "What decided the results, from each run's config.json.", blocks)


def _table(name: str, runs: Sequence[Run]) -> Table:
    values = [_flat(run.config["settings"]) | _packages(run.config["packages"]) for run in runs]
    keys = list(dict.fromkeys(key for of in values for key in of))
    rows = [(key, *(of.get(key, NOTHING) for of in values)) for key in keys]
    different = [row for row in rows if len(set(row[1:])) > 1]
    same = [row for row in rows if len(set(row[1:])) == 1]
    marked = [("≠ " + key, *cells) for key, *cells in different]
    return Table(
        f"Settings of {name}",
        ("setting", *(run.name for run in runs)),
        [*marked, *same],
        "≠: the runs differ in it." if different else "",
        folded=True,
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, list) and value and all(isinstance(member, dict) for member in value):
            value = {str(member.get("name") or i): member for i, member in enumerate(value)}
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
            found[prefix + key] = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return found


def _packages(packages: Mapping[str, str]) -> dict[str, str]:
    return {f"package {name}": version for name, version in packages.items()}
