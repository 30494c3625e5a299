"""The pool: which models write, and which one judges (docs/method.md, section 5)."""

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cord_jax.errors import UserError
from cord_jax.files import read_object, read_text
from cord_jax.settings import number_of, show
from cord_jax.text.prompt_settings import QUESTION, PromptSettings

DTYPES = ("float32", "bfloat16", "float16")
WEIGHTS = ("int8",)
_PROPOSER_KEYS = (
    "name",
    "checkpoint",
    "temperature",
    "top_k",
    "top_p",
    "system_prompt",
    "user_prompt",
    "template_arguments",
    "dtype",
    "weights",
)
_META_PROVER_KEYS = tuple(key for key in _PROPOSER_KEYS if key != "name")
_REWARD_MODEL_KEYS = ("checkpoint", "system_prompt", "dtype", "weights")
_POOL_KEYS = ("meta_prover", "proposer", "reward_model", "integrator")


@dataclasses.dataclass(frozen=True)
class ProposerSpec:
    """A teacher checkpoint and how it is sampled.

    Attributes:
      name: the name that traces record.
      checkpoint: path of a Hugging Face directory, absolute in what `read_pool` returns. Proposers may share one; its
        weights are loaded once.
      temperature: 0 means argmax.
      top_k: 0 means off.
      top_p: 1 means off.
      system_prompt: None means what the chat template does by itself.
      dtype: of the weights, one of `DTYPES`; None means the checkpoint's own.
      weights: "int8" keeps the layers' projections as int8 (`models.load`); None keeps all in `dtype`.
      user_prompt, template_arguments: as in `PromptSettings`; the latter may be given as a mapping.
    """

    name: str
    checkpoint: Path
    temperature: float = 0.6
    top_k: int = 0
    top_p: float = 1.0
    system_prompt: str | None = None
    dtype: str | None = None
    weights: str | None = None
    user_prompt: str = QUESTION
    template_arguments: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()

    @property
    def prompt(self) -> PromptSettings:
        """The filling of its chat template."""
        return PromptSettings(self.system_prompt, self.user_prompt, self.template_arguments)


@dataclasses.dataclass(frozen=True)
class MetaProverSpec:
    """The model that scores candidates.

    Attributes:
      checkpoint: path of a Hugging Face directory, absolute in what `read_pool` returns.
      system_prompt: None means what the chat template does by itself.
      dtype, weights, user_prompt, template_arguments: as in `ProposerSpec`.
      name: the proposer that it is, or None if it has its own table.
      temperature, top_k, top_p: as in `ProposerSpec`, of the judgments that it writes (`binary_judgment`).
    """

    checkpoint: Path
    system_prompt: str | None = None
    dtype: str | None = None
    weights: str | None = None
    name: str | None = None
    user_prompt: str = QUESTION
    template_arguments: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()
    temperature: float = 0.6
    top_k: int = 0
    top_p: float = 1.0

    @property
    def prompt(self) -> PromptSettings:
        """The filling of its chat template."""
        return PromptSettings(self.system_prompt, self.user_prompt, self.template_arguments)

    @classmethod
    def of(cls, proposer: ProposerSpec) -> "MetaProverSpec":
        """A proposer as meta-prover."""
        return cls(
            proposer.checkpoint,
            proposer.system_prompt,
            proposer.dtype,
            proposer.weights,
            proposer.name,
            proposer.user_prompt,
            proposer.template_arguments,
            proposer.temperature,
            proposer.top_k,
            proposer.top_p,
        )


@dataclasses.dataclass(frozen=True)
class RewardModelSpec:
    """The process reward model that scores steps for the selector `process_reward`.

    Attributes:
      checkpoint: path of a Hugging Face directory, absolute in what `read_pool` returns.
      system_prompt: None means what its chat template does by itself.
      dtype, weights: as in `ProposerSpec`.
    """

    checkpoint: Path
    system_prompt: str | None = None
    dtype: str | None = None
    weights: str | None = None


@dataclasses.dataclass(frozen=True)
class PoolSpec:
    """The models of a run.

    Attributes:
      proposers: the teachers, in the file's order.
      meta_prover: the model that scores.
      reward_model: for the selector `process_reward`, or None.
      integrator: name of the proposer that makes one solution of several (method `integration`); None is the
        meta-prover's checkpoint.
    """

    proposers: tuple[ProposerSpec, ...]
    meta_prover: MetaProverSpec
    reward_model: RewardModelSpec | None = None
    integrator: str | None = None


def described(spec: ProposerSpec | MetaProverSpec | RewardModelSpec) -> dict[str, Any]:
    """All of a model of the pool that decides traces, for a run's `config.json`: of its checkpoint the name alone."""
    values = dataclasses.asdict(spec)
    values["checkpoint"] = Path(values["checkpoint"]).name
    if not isinstance(spec, RewardModelSpec):
        values |= spec.prompt.to_row()
    return values


def read_pool(source: str | Path | PoolSpec) -> PoolSpec:
    """Reads a pool file, whose checkpoints are relative to it, or checks a pool, whose are relative to the working
    directory.

    Raises:
      UserError: the file cannot be read, or a key or value is not what it must be.
    """
    if isinstance(source, PoolSpec):
        return _read_table(Path("pool"), Path.cwd(), _as_table(source))
    path = Path(source)
    try:
        table = tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: not TOML: {error}") from None
    return _read_table(path, path.parent, table)


def _as_table(spec: PoolSpec) -> dict[str, Any]:
    """The pool as its file would have it."""

    def row(part: Any) -> dict[str, Any]:
        values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
        values["checkpoint"] = str(part.checkpoint)
        if isinstance(values.get("template_arguments"), tuple):
            values["template_arguments"] = dict(values["template_arguments"])
        return {name: value for name, value in values.items() if value is not None}

    judge, proposers = spec.meta_prover, list(spec.proposers)
    for part, kind in [(judge, MetaProverSpec), *((proposer, ProposerSpec) for proposer in proposers)]:
        if not isinstance(part, kind):
            raise UserError(f"pool: a {type(part).__name__} stands where a {kind.__name__} must be")
    if judge.name is not None and judge not in [MetaProverSpec.of(proposer) for proposer in proposers]:
        raise UserError(
            f'pool, meta_prover: "{judge.name}" is no proposer of these settings; give MetaProverSpec.of(proposer), or '
            "leave its name out"
        )
    table = {"meta_prover": judge.name or row(judge), "proposer": [row(proposer) for proposer in proposers]}
    if spec.reward_model is not None:
        if not isinstance(spec.reward_model, RewardModelSpec):
            raise UserError(
                f"pool: a {type(spec.reward_model).__name__} stands where a RewardModelSpec must be"
            )
        table["reward_model"] = row(spec.reward_model)
    return table if spec.integrator is None else table | {"integrator": spec.integrator}


def _read_table(path: Path, directory: Path, table: dict[str, Any]) -> PoolSpec:
    """The pool of a file's content; checkpoints are relative to `directory`, messages speak of `path`."""
    _check_keys(path, "the pool", table, _POOL_KEYS)
    rows = table.get("proposer")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(
            f"{path}: no proposers; write a [[proposer]] table for each, with name and checkpoint"
        )
    proposers: list[ProposerSpec] = []
    for number, row in enumerate(rows, start=1):
        proposer = _read_proposer(path, directory, f"proposer {number}", row)
        if proposer.name in [other.name for other in proposers]:
            raise UserError(
                f'{path}, proposer {number}: the name "{proposer.name}" is taken; names must be unique'
            )
        proposers.append(proposer)
    meta_prover = _read_meta_prover(path, directory, table.get("meta_prover"), proposers)
    reward_model = _read_reward_model(path, directory, table.get("reward_model"))
    integrator = _text(path, "the pool", table, "integrator")
    names = [proposer.name for proposer in proposers]
    if integrator is not None and integrator not in names:
        raise UserError(f'{path}: integrator "{integrator}" is no proposer; name one of {", ".join(names)}')
    pool = PoolSpec(tuple(proposers), meta_prover, reward_model, integrator)
    _check_shared(path, pool)
    _check_heads(path, pool)
    return pool


def _read_proposer(path: Path, directory: Path, where: str, row: dict[str, Any]) -> ProposerSpec:
    _check_keys(path, where, row, _PROPOSER_KEYS)
    name = _required_text(path, where, row, "name")
    where = f'{where} ("{name}")'
    return ProposerSpec(
        name,
        _checkpoint(path, directory, where, row),
        *_read_sampling(path, where, row),
        _text(path, where, row, "system_prompt"),
        _choice(path, where, row, "dtype", DTYPES),
        _choice(path, where, row, "weights", WEIGHTS),
        *_read_prompt(path, where, row),
    )


def _read_meta_prover(
    path: Path, directory: Path, value: Any, proposers: list[ProposerSpec]
) -> MetaProverSpec:
    if isinstance(value, str):
        for proposer in proposers:
            if proposer.name == value:
                return MetaProverSpec.of(proposer)
        names = ", ".join(proposer.name for proposer in proposers)
        raise UserError(
            f'{path}: meta_prover "{value}" is no proposer; name one of {names}, '
            "or write a [meta_prover] table with its own checkpoint"
        )
    if isinstance(value, dict):
        _check_keys(path, "meta_prover", value, _META_PROVER_KEYS)
        return MetaProverSpec(
            _checkpoint(path, directory, "meta_prover", value),
            _text(path, "meta_prover", value, "system_prompt"),
            _choice(path, "meta_prover", value, "dtype", DTYPES),
            _choice(path, "meta_prover", value, "weights", WEIGHTS),
            None,
            *(*_read_prompt(path, "meta_prover", value), *_read_sampling(path, "meta_prover", value)),
        )
    raise UserError(
        f"{path}: no meta_prover; name a proposer, or write a [meta_prover] table with its own checkpoint"
    )


def _read_sampling(path: Path, where: str, table: dict[str, Any]) -> tuple[float, int, float]:
    """`temperature`, `top_k` and `top_p` of a table."""
    temperature = _number(path, where, table, "temperature", 0.6)
    if temperature < 0:
        raise UserError(
            f"{path}, {where}: temperature is {temperature}; it must be 0 or more (0 means argmax)"
        )
    top_p = _number(path, where, table, "top_p", 1.0)
    if not 0 < top_p <= 1:
        raise UserError(f"{path}, {where}: top_p is {top_p}; it must be above 0 and at most 1 (1 means off)")
    top_k = table.get("top_k", 0)
    if not isinstance(top_k, int) or isinstance(top_k, bool) or not 0 <= top_k < 2**31:
        raise UserError(
            f"{path}, {where}: top_k is {_quoted(top_k)}; it must be a whole number, 0 or more (0 means off)"
        )
    return temperature, top_k, top_p


def _read_prompt(path: Path, where: str, table: dict[str, Any]) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """`user_prompt` and `template_arguments` of a table."""
    arguments = table.get("template_arguments", {})
    if not isinstance(arguments, dict):
        raise UserError(f"{path}, {where}: template_arguments must be a table, as in {{thinking = true}}")
    try:
        prompt = PromptSettings(None, table.get("user_prompt", QUESTION), tuple(arguments.items()))
    except UserError as error:
        raise UserError(f"{path}, {where}: {error}") from None
    return prompt.user_prompt, tuple(dict(prompt.template_arguments).items())


def _read_reward_model(path: Path, directory: Path, value: Any) -> RewardModelSpec | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise UserError(f"{path}: reward_model must be a table with its checkpoint, [reward_model]")
    _check_keys(path, "reward_model", value, _REWARD_MODEL_KEYS)
    return RewardModelSpec(
        _checkpoint(path, directory, "reward_model", value),
        _text(path, "reward_model", value, "system_prompt"),
        _choice(path, "reward_model", value, "dtype", DTYPES),
        _choice(path, "reward_model", value, "weights", WEIGHTS),
    )


def _check_heads(path: Path, pool: PoolSpec) -> None:
    """Reward models cannot write, and models that write give no rewards: told from config.json alone."""
    writers = [(f'proposer "{proposer.name}"', proposer.checkpoint) for proposer in pool.proposers]
    for where, checkpoint in [*writers, ("meta_prover", pool.meta_prover.checkpoint)]:
        if "RewardModel" in _architecture(checkpoint):
            raise UserError(
                f"{path}, {where}: {checkpoint} is a reward model ({_architecture(checkpoint)}) and cannot write; "
                "name it in a [reward_model] table"
            )
    if pool.reward_model is not None:
        architecture = _architecture(pool.reward_model.checkpoint)
        if architecture and "RewardModel" not in architecture:
            raise UserError(
                f"{path}, reward_model: {pool.reward_model.checkpoint} is no reward model but a {architecture}; "
                "give the checkpoint of a Qwen2ForProcessRewardModel"
            )


def _architecture(checkpoint: Path) -> str:
    """The class that config.json names; empty if it names none that can be read, which loading tells better."""
    try:
        names = read_object(checkpoint / "config.json")["architectures"]
        return str(names[0])
    except (UserError, LookupError, TypeError):
        return ""


def _check_keys(path: Path, where: str, table: dict[str, Any], allowed: tuple[str, ...]) -> None:
    for key in table:
        if key not in allowed:
            raise UserError(f'{path}, {where}: unknown key "{show(key)}"; allowed are {", ".join(allowed)}')


def _text(path: Path, where: str, table: dict[str, Any], key: str) -> str | None:
    return None if table.get(key) is None else _required_text(path, where, table, key, may_be_blank=True)


def _required_text(
    path: Path, where: str, table: dict[str, Any], key: str, may_be_blank: bool = False
) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not (may_be_blank or value.strip()):
        raise UserError(f"{path}, {where}: {key} must be a text in quotes")
    return value


def _number(path: Path, where: str, table: dict[str, Any], key: str, default: float) -> float:
    value = table.get(key, default)
    number = number_of(value)
    if number is None:
        raise UserError(f"{path}, {where}: {key} is {_quoted(value)}; it must be a number")
    return number


def _quoted(value: Any) -> str:
    return repr(show(value)) if isinstance(value, str) else show(value)


def _choice(path: Path, where: str, table: dict[str, Any], key: str, allowed: tuple[str, ...]) -> str | None:
    value = _text(path, where, table, key)
    if value is not None and value not in allowed:
        raise UserError(f'{path}, {where}: {key} "{value}" is not one of {", ".join(allowed)}')
    return value


def _checkpoint(path: Path, directory: Path, where: str, table: dict[str, Any]) -> Path:
    given = _required_text(path, where, table, "checkpoint")
    if "\0" in given:
        raise UserError(f"{path}, {where}: checkpoint {show(given)!r} is no path")
    checkpoint = Path(os.path.realpath(directory / os.path.expanduser(given)))
    if not os.path.isdir(checkpoint):  # False, too, for a name that is too long
        from models.errors import hub_hint  # only now: it brings jax

        raise UserError(
            f"{path}, {where}: checkpoint {checkpoint} is not a directory; paths are relative to {directory}"
            f"{hub_hint(given)}"
        )
    return checkpoint


def _check_shared(path: Path, pool: PoolSpec) -> None:
    """A checkpoint is loaded once, so those that share it must agree on how."""
    users: list[tuple[str, ProposerSpec | MetaProverSpec | RewardModelSpec]] = [
        (f'proposer "{proposer.name}"', proposer) for proposer in pool.proposers
    ]
    users.append(("meta_prover", pool.meta_prover))
    if pool.reward_model is not None:
        users.append(("reward_model", pool.reward_model))
    first: dict[Path, tuple[str, ProposerSpec | MetaProverSpec | RewardModelSpec]] = {}
    for where, user in users:
        owner, other = first.setdefault(user.checkpoint, (where, user))
        for key in ("dtype", "weights"):
            mine, theirs = getattr(user, key), getattr(other, key)
            if mine != theirs:
                raise UserError(
                    f"{path}, {where}: {key} {mine or 'unset'}, but {owner} loads the same checkpoint with "
                    f"{key} {theirs or 'unset'}; write the same {key} for both"
                )
