"""The card of a data set: what it holds, how it was made, how good it is, and what one may do with it."""

import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from cord_jax.names import METHODS, SELECTORS
from cord_jax.publishing.config import PublishConfig
from cord_jax.publishing.runs import OF_PROBLEMS, WHOLE, Runs
from cord_jax.traces import Trace

# As CITATION.cff has it.
CITATION = """@article{cord,
  title = {Distilling Long-CoT Reasoning through Collaborative Step-wise Multi-Teacher Decoding},
  author = {{The authors of arXiv:2605.02290}},
  journal = {arXiv preprint arXiv:2605.02290}
}"""
NOT_STATED = "not stated"
# Data set -> split -> its file. `datasets` keeps the word `all` for the splits together.
FILES = {
    "default": {"train": "default/train.parquet", "other": "default/other.parquet"},
    "tree": {"train": "tree/train.parquet"},
    "pairs": {"train": "pairs/train.parquet"},
}
_SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
_SIZE_NAMES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "n>10M")
_TAGS = ("reasoning", "chain-of-thought", "distillation", "synthetic", "preference", "cord")
# Settings that are of some selectors, decodings or methods alone.
_ONLY_WITH = {
    "reward_of": ("selector", ("process_reward",)),
    "judgments": ("selector", ("binary_judgment",)),
    "max_judgment_tokens": ("selector", ("binary_judgment", "confidence")),
    "exploration": ("decoding", ("mcts",)),
    "max_expansions": ("decoding", ("mcts",)),
    "integration_instruction": ("method", ("integration",)),
}
_MEMBERS = ("meta_prover", "integrator", "reward_model")
_ELSEWHERE = ("proposers", *_MEMBERS, *OF_PROBLEMS)
_SAMPLING = ("temperature", "top_k", "top_p", "dtype", "weights")


def write_card(
    path: Path, config: PublishConfig, runs: Runs, summary: Mapping[str, Any], example: Trace
) -> None:
    """Writes the card.

    Args:
      summary: as `publish` returns it.
      example: a trace whose question stands for the prompt where the run has not kept one.
    """
    settings, figures = runs.config["settings"], summary["figures"]
    counts = {
        **{split: summary["rows"].get("default", {}).get(split, 0) for split in ("train", "other")},
        **{name: summary["rows"].get(name, {}).get("train", 0) for name in ("tree", "pairs")},
        "all": figures["problems"],
        "without_gold": summary["without_gold_answer"],
    }
    card = DatasetCard.from_template(
        _data(config, summary["rows"], counts["all"]),
        template_str=(resources.files("cord_jax.publishing") / "card.md.jinja").read_text(encoding="utf-8"),
        title=config.title,
        counts=counts,
        version=runs.config["packages"].get("cord_jax", ""),
        method={"name": settings["method"], "phrase": METHODS.get(settings["method"], "")},
        selector={"name": settings["selector"], "phrase": SELECTORS.get(settings["selector"], "")},
        margin=summary["margin"],
        settings=_settings(settings, runs.devices),
        prompt=_prompt(runs.prompts, example),
        figures=figures,
        table=_figures(figures, settings["selector"]),
        teachers=_teachers(settings, figures, config.licences),
        licences={"dataset": config.license or NOT_STATED, "problems": config.problems_license or NOT_STATED},
        against=[f"`{name}`" for name in summary["removed"]["against"]],
        removed=summary["removed"],
        grader=settings["grader"],
        shards=[shard for shard in summary["shards"] if shard != WHOLE],
        citation=CITATION,
    )
    path.write_text(str(card).rstrip() + "\n", encoding="utf-8")


def _data(config: PublishConfig, rows: Mapping[str, Mapping[str, int]], traces: int) -> DatasetCardData:
    """The card's first part, which the Hub and `datasets` read."""
    configs = [
        {
            "config_name": name,
            **({"default": True} if name == "default" else {}),
            "data_files": [{"split": split, "path": FILES[name][split]} for split in splits],
        }
        for name, splits in rows.items()
    ]
    return DatasetCardData(
        license=config.license,
        pretty_name=config.title,
        size_categories=[_SIZE_NAMES[sum(traces >= size for size in _SIZES)]],
        task_categories=["text-generation"],
        tags=list(_TAGS),
        configs=configs,
    )


def _settings(settings: Mapping[str, Any], devices: tuple[str, ...]) -> list[tuple[str, str]]:
    """What a run was asked for, a line each."""
    lines = []
    for name, value in settings.items():
        of, wanted = _ONLY_WITH.get(name, ("", ()))
        if name not in _ELSEWHERE and value is not None and (not of or settings.get(of) in wanted):
            lines.append((name, _code(value)))
    members = [("proposer", proposer) for proposer in settings["proposers"]]
    members += [(role, settings[role]) for role in _MEMBERS if role in settings]
    for role, member in members:
        given = {n: v for n, v in member.items() if n in ("name", "checkpoint", *_SAMPLING) and v is not None}
        lines.append((role, _code(given)))
    return [*lines, ("devices", ", ".join(devices))]


def _prompt(kept: Mapping[str, Any], example: Trace) -> dict[str, str]:
    """A prompt as one teacher read it, or, of runs that kept none, the user's turn."""
    if kept.get("prompts"):
        teacher, text = next(iter(kept["prompts"].items()))
        kind, problem = "verbatim, in its own chat template", kept["problem"]
    else:
        teacher, kind = "every teacher", "without its chat template, which the run has not kept"
        problem, text = example.id, example.messages[0]["content"]
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return {"teacher": teacher, "kind": kind, "problem": problem, "block": f"{fence}text\n{text}\n{fence}"}


def _figures(figures: Mapping[str, Any], selector: str) -> list[tuple[str, str]]:
    statuses = ", ".join(f"{count} {status}" for status, count in figures["status"].items() if count)
    tokens = figures["tokens"]["total"]
    scores = [("score of the winner", "mean_score")]
    if selector != "predictive_perplexity":
        scores.append(("its predictive perplexity for the gold answer", "predictive_perplexity"))
    if figures["decoys"]:
        scores.append((f"the same for wrong answers, {figures['decoys']} a problem at most", "decoy_scores"))
    return [
        ("right answers", _with_error(figures, "accuracy")),
        *((said, _with_error(figures, name)) for said, name in scores),
        ("steps", f"{figures['mean_steps']:.2f}"),
        ("how the winners ended", statuses),
        ("tokens sampled, committed, scored", ", ".join(f"{count:,}" for count in tokens.values())),
        ("seconds", f"{figures['seconds']:,.1f}"),
    ]


def _with_error(figures: Mapping[str, Any], name: str) -> str:
    mean, error = figures[name], figures[f"{name}_standard_error"]
    if mean is None:
        return "nobody knows"
    return f"{mean:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _teachers(
    settings: Mapping[str, Any], figures: Mapping[str, Any], licences: Mapping[str, str]
) -> list[list[str]]:
    """Rows of the table of writers; one that is no proposer is the meta-prover, which may put traces together."""
    checkpoints = {proposer["name"]: proposer["checkpoint"] for proposer in settings["proposers"]}
    rows = []
    for name in figures["share"]["all"]:
        shares = (f"{by_teacher[name]:.3f}" for by_teacher in figures["share"].values())
        checkpoint = checkpoints.get(name, settings["meta_prover"]["checkpoint"])
        sampled = f"{figures['tokens'][name]['proposed']:,}"
        rows.append([name, _code(checkpoint), licences.get(name, NOT_STATED), *shares, sampled])
    return rows


def _code(value: Any) -> str:
    """A setting's value as code on one line."""
    text = (
        value
        if isinstance(value, str) and value.isprintable() and value
        else json.dumps(value, ensure_ascii=False)
    )
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{text}{ticks}"
