"""Rotary position embeddings and their scalings.

Rotation pairs feature i with feature i + rotary_dim / 2 of a head, as `rotate_half` in transformers. The scalings are
those of `transformers.modeling_rope_utils` (5.x): default, linear, dynamic (NTK), yarn, llama3, longrope.

Two of them depend on the length of the sequence: dynamic raises its base and longrope changes its factors
when the sequence grows beyond a limit. Keys that are already cached were rotated with the old frequencies and become
stale at that moment, so here the choice is made once, from `RopeConfig.length`, the greatest length of the run.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from models import cpu
from models.errors import CheckpointError
from models.files import Fields

KINDS = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
# Older spellings of the same scaling.
ALIASES = {"su": "longrope", "none": "default"}
# Fields of a scaling that mean something for one kind or another.
KNOWN = frozenset(
    "rope_type type rope_theta factor original_max_position_embeddings partial_rotary_factor attention_factor beta_fast "
    "beta_slow mscale mscale_all_dim truncate low_freq_factor high_freq_factor short_factor long_factor".split()
)
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Frequencies of the rotation.

    theta: base of the geometric series of wavelengths.
    rotary_dim: number of leading features of a head that are rotated (even).
    kind: one of `KINDS`.
    factor: scaling factor of linear, dynamic, yarn and llama3.
    attention_factor: multiplies cosine and sine (yarn and longrope; 1 otherwise).
    original_length: training length before scaling, in tokens (yarn, llama3, longrope).
    max_length: `max_position_embeddings`; dynamic scaling begins above it.
    length: greatest sequence length of the run, in tokens, for dynamic and longrope; None means that
        sequences stay within the original length.
    """

    theta: float
    rotary_dim: int
    kind: str = "default"
    factor: float = 1.0
    attention_factor: float = 1.0
    original_length: int = 0
    max_length: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    length: int | None = None

    @property
    def depends_on_length(self) -> bool:
        """True if `length` matters."""
        return self.kind in ("dynamic", "longrope")


def rope_from_hf(hf: Fields, head_dim: int, partial: bool = False) -> RopeConfig:
    """Reads the rope fields of a `config.json`.

    Understands `rope_parameters` (transformers 5) and `rope_theta`, `rope_scaling`, `partial_rotary_factor` (before).
    Fields of the scaling that are unknown are logged, since they change nothing here.

    Args:
      hf: the parsed `config.json`.
      head_dim: features of one attention head.
      partial: whether the family honours `partial_rotary_factor`; in the others any value but 1 is an error.

    Raises:
      CheckpointError: unknown scaling, or a field that the scaling needs is missing or has the wrong length.
    """
    fields = hf.section("rope_scaling" if hf.values.get("rope_scaling") else "rope_parameters")
    kind = fields.text("rope_type" if fields.has("rope_type") else "type", "default")
    kind = ALIASES.get(kind, kind)
    if kind not in KINDS or any(isinstance(value, Mapping) for value in fields.values.values()):
        found = kind if kind not in KINDS else "one scaling per layer type"
        raise CheckpointError(
            f"config.json: rope scaling {found!r} is not supported; supported are {', '.join(KINDS)}"
        )
    if unknown := sorted(set(fields.values) - KNOWN):
        _LOG.warning("%s: %s unknown, without effect here", fields.where, ", ".join(unknown))
    holder = fields if fields.has("rope_theta") else hf
    theta = holder.number("rope_theta", 10_000.0, above=1.0, at_most=1e15)
    holder = fields if fields.has("partial_rotary_factor") else hf
    portion = holder.number("partial_rotary_factor", 1.0, at_most=1.0)
    if portion != 1.0 and not partial:
        raise CheckpointError(
            f"config.json: partial_rotary_factor {portion} is not supported for model_type "
            f"{hf.values.get('model_type')!r}; supported is 1.0"
        )
    rotary_dim = int(head_dim * portion)
    least = 4 if kind in ("dynamic", "yarn") else 2
    if rotary_dim % 2 or not least <= rotary_dim <= head_dim:
        raise CheckpointError(
            f"config.json: the rotated part of a head must be even, at least {least} and at most {head_dim} "
            f"(head_dim), found {rotary_dim}"
        )
    max_length = hf.integer("max_position_embeddings")
    # Phi keeps the original length beside the scaling instead of inside it, and that one has priority.
    inside = fields.integer("original_max_position_embeddings", max_length)
    original = hf.integer(
        "original_max_position_embeddings", hf.defaults.get("original_max_position_embeddings", inside)
    )
    rope = RopeConfig(
        theta=theta, rotary_dim=rotary_dim, kind=kind, original_length=original, max_length=max_length
    )
    read = {"default": lambda *_: rope, "linear": _read_factor, "dynamic": _read_factor, "yarn": _read_yarn,
            "llama3": _read_llama3, "longrope": _read_longrope}[kind]  # fmt: skip
    return read(rope, fields)


def _needed(fields: Fields, kind: str, name: str) -> float:
    """A number without which the scaling means nothing."""
    if not fields.has(name):
        raise CheckpointError(
            f"config.json: rope scaling {kind!r} needs the field {name!r}, found {sorted(fields.values)}"
        )
    return fields.number(name, at_most=1e9)


def _read_factor(rope: RopeConfig, fields: Fields) -> RopeConfig:
    return dataclasses.replace(rope, factor=_needed(fields, rope.kind, "factor"))


def _read_llama3(rope: RopeConfig, fields: Fields) -> RopeConfig:
    low = _needed(fields, "llama3", "low_freq_factor")
    high = _needed(fields, "llama3", "high_freq_factor")
    if low >= high:
        raise CheckpointError(
            f"{fields.where}: low_freq_factor must be below high_freq_factor, found {low:g} and {high:g}"
        )
    return dataclasses.replace(
        rope, factor=_needed(fields, "llama3", "factor"), low_freq_factor=low, high_freq_factor=high
    )


def _read_yarn(rope: RopeConfig, fields: Fields) -> RopeConfig:
    factor = fields.number("factor", rope.max_length / rope.original_length, at_most=1e9)

    def mscale(weight: float = 1.0) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    weights = [fields.number(name, 0.0, above=-1e-30, at_most=1e6) for name in ("mscale", "mscale_all_dim")]
    made = mscale(weights[0]) / mscale(weights[1]) if all(weights) else mscale()
    return dataclasses.replace(
        rope,
        factor=factor,
        attention_factor=fields.number("attention_factor", made, at_most=1e6),
        beta_fast=fields.number("beta_fast", 32.0, at_most=1e6),
        beta_slow=fields.number("beta_slow", 1.0, at_most=1e6),
        truncate=fields.boolean("truncate", True),
    )


def _read_longrope(rope: RopeConfig, fields: Fields) -> RopeConfig:
    factors = {}
    for name in ("short_factor", "long_factor"):
        if not fields.has(name):
            raise CheckpointError(
                f"config.json: rope scaling 'longrope' needs the field {name!r}, found {sorted(fields.values)}"
            )
        factors[name] = fields.numbers(name)
        if len(factors[name]) != rope.rotary_dim // 2:
            raise CheckpointError(
                f"config.json: rope scaling {name} must have {rope.rotary_dim // 2} numbers (half of the "
                f"rotated features), found {len(factors[name])}"
            )
    factor = fields.number("factor", rope.max_length / rope.original_length, at_most=1e9)
    made = 1.0
    if factor > 1 and rope.original_length > 1:
        made = math.sqrt(1 + math.log(factor) / math.log(rope.original_length))
    attention_factor = fields.number("attention_factor", made, at_most=1e6)
    return dataclasses.replace(rope, factor=factor, attention_factor=attention_factor, **factors)


def inverse_frequencies(rope: RopeConfig) -> np.ndarray:
    """Radians per token of each rotated pair, float32 [rotary_dim / 2].

    The arithmetic is in float32 and in the order of `transformers.modeling_rope_utils`, whose numbers the
    published weights were trained with.
    """
    exponents = np.arange(0, rope.rotary_dim, 2, dtype=np.float32) / np.float32(rope.rotary_dim)
    theta = rope.theta
    if rope.kind == "dynamic":
        length = max(rope.length or 0, rope.max_length)
        growth = rope.factor * length / rope.max_length - (rope.factor - 1)
        theta *= growth ** (rope.rotary_dim / (rope.rotary_dim - 2))
    wavelengths = np.float32(theta) ** exponents
    if rope.kind == "longrope":
        long = rope.length is not None and rope.length > rope.original_length
        factors = np.asarray(rope.long_factor if long else rope.short_factor, np.float32)
        return np.float32(1) / (factors * wavelengths)
    frequencies = np.float32(1) / wavelengths
    if rope.kind == "linear":
        return frequencies / np.float32(rope.factor)
    if rope.kind == "yarn":
        return _yarn(rope, frequencies, wavelengths)
    if rope.kind == "llama3":
        return _llama3(rope, frequencies)
    return frequencies


def _yarn(rope: RopeConfig, frequencies: np.ndarray, wavelengths: np.ndarray) -> np.ndarray:
    """Interpolates slow features, keeps fast ones, blends in between (YaRN, arXiv 2309.00071, 3.2)."""

    def dimension(rotations: float) -> float:
        turns = rope.original_length / (rotations * 2 * math.pi)
        return rope.rotary_dim * math.log(turns) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.rotary_dim - 1)
    if low == high:
        high += 0.001
    ramp = (np.arange(rope.rotary_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    keep = np.float32(1) - np.clip(ramp, 0, 1)
    interpolated = np.float32(1) / (np.float32(rope.factor) * wavelengths)
    return interpolated * (1 - keep) + frequencies * keep


def _llama3(rope: RopeConfig, frequencies: np.ndarray) -> np.ndarray:
    """Divides the slow features by `factor`, keeps the fast ones, blends in between (Llama 3.1)."""
    turns = np.float32(2 * math.pi) / frequencies
    slow = turns > np.float32(rope.original_length / rope.low_freq_factor)
    fast = turns < np.float32(rope.original_length / rope.high_freq_factor)
    scaled = np.where(slow, frequencies / np.float32(rope.factor), frequencies)
    smooth = np.float32(rope.original_length) / turns - np.float32(rope.low_freq_factor)
    smooth = smooth / np.float32(rope.high_freq_factor - rope.low_freq_factor)
    blended = (1 - smooth) * scaled / np.float32(rope.factor) + smooth * scaled
    return np.where(~slow & ~fast, blended, scaled).astype(np.float32)


def rotary_tables(rope: RopeConfig, positions_bt: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of every position's angles, float32 [b, t, 1 (heads), rotary_dim / 2]."""

    def tables(positions_bt):
        angles = positions_bt.astype(jnp.float32)[..., None, None] * inverse_frequencies(rope)
        return jnp.cos(angles) * rope.attention_factor, jnp.sin(angles) * rope.attention_factor

    return cpu.computed_once(tables, positions_bt)  # and not in every rotation of every layer


def rotate(x_bthe: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the leading features of each head; computed in float32, returned in the dtype of `x_bthe`."""
    half = cos.shape[-1]
    first = x_bthe[..., :half].astype(jnp.float32)
    second = x_bthe[..., half : 2 * half].astype(jnp.float32)
    parts = [
        (first * cos - second * sin).astype(x_bthe.dtype),
        (second * cos + first * sin).astype(x_bthe.dtype),
    ]
    if 2 * half < x_bthe.shape[-1]:
        parts.append(x_bthe[..., 2 * half :])
    return jnp.concatenate(parts, axis=-1)
