"""Reports of a run: utilisation of the devices, TensorBoard events, curves."""

import contextlib
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cord_jax.storage import stored
from models.config import ModelConfig

# Peak dense bfloat16 FLOP/s of one device, by a part of its `device_kind` (makers' data sheets; a device is a
# core where jax counts cores: TPU v2 and v3). First match counts.
_PEAK_FLOPS = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("RTX 4090", 165e12),
    ("TPU v6", 918e12),
    ("TPU7x", 2307e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5p", 459e12),
    ("TPU v5", 459e12),
    ("TPU v4", 275e12),
    ("TPU v3", 61.5e12),
    ("TPU v2", 22.5e12),
)


def peak_flops(device: jax.Device) -> float | None:
    """Peak dense bfloat16 FLOP/s of a device; None for one that is not in the table."""
    return next((peak for part, peak in _PEAK_FLOPS if part.lower() in device.device_kind.lower()), None)


def step_flops(config: ModelConfig, row_lengths: Sequence[int], targets: int, frozen: bool = False) -> float:
    """Floating-point operations that one optimisation step needs, padding and recomputation not counted.

    Three times (forward, and backward for inputs and weights) those of the matrix products: of the layers for
    every token, of attention for every pair of a token and one it sees, of the head for every target.

    Args:
      row_lengths: tokens of each row of the batch.
      targets: target tokens of the batch.
      frozen: the weights get no gradient, as under adapters, whose own share is left out.
    """
    d, e = config.hidden_size, config.head_dim
    feed_forward = 3 * d * config.intermediate_size * config.num_layers
    if config.experts is not None:
        sparse = sum(config.experts.layers)
        feed_forward = (
            3
            * d
            * (
                config.intermediate_size * (config.num_layers - sparse)
                + config.experts.intermediate_size * config.experts.experts_per_token * sparse
            )
        )
    projections = config.num_layers * d * e * 2 * (config.num_heads + config.num_kv_heads)
    lengths = np.asarray(row_lengths, np.float64)
    pairs = 0.0
    for window in config.sliding_windows or (None,) * config.num_layers:
        seen = lengths if window is None else np.minimum(lengths, window)
        pairs += float(np.sum(seen * (seen + 1) / 2 + (lengths - seen) * seen))
    weights = 2 * (feed_forward + projections) * float(lengths.sum()) + 2 * d * config.vocab_size * targets
    return (2 if frozen else 3) * weights + 3 * 4 * config.num_heads * e * pairs


class Events:
    """TensorBoard event files of the rows of metrics.jsonl.

    They are written as the rows come. tensorboardX's own SummaryWriter leaves that to a thread, which a full disk ends, and
    then waits for it for ever.
    """

    def __init__(self, directory: Path):
        """Begins a file in a directory, which is made if absent. Raises: `UserError` for a disk without room."""
        from tensorboardX.event_file_writer import EventsWriter

        self._directory = directory
        with stored(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(directory / "events"))

    def write(self, row: Mapping[str, Any]) -> None:
        """One row: every number but the step as a scalar of its name. Raises: `UserError` for a disk without room."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        numbers = {name: value for name, value in row.items() if name != "step" and value is not None}
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        with stored(self._directory):
            self._writer.write_event(
                Event(wall_time=time.time(), step=row["step"], summary=Summary(value=values))
            )
            self._writer.flush()

    def close(self) -> None:
        """Closes the file, which holds everything already."""
        with contextlib.suppress(OSError):
            self._writer.close()


def draw_curves(rows: Sequence[Mapping[str, Any]], unit: str) -> bytes:
    """Draws loss (and held-out loss), gradient norm, learning rate and, of pairs, rewards over the steps, as a PNG.

    Args:
      unit: of the loss.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rewards = any("reward_margin" in row for row in rows)
    figure = Figure(figsize=(7, 8), layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, norm_axes, rate_axes, *reward_axes = figure.subplots(5 if rewards else 3, 1, sharex=True)
    curves = [
        (loss_axes, "loss", "training", "-"),
        (loss_axes, "held_out_loss", "held out", "o-"),
        (norm_axes, "grad_norm", None, "-"),
        (rate_axes, "learning_rate", None, "-"),
    ]
    for axes, name in zip(reward_axes, ("reward_margin", "reward_accuracy")):
        curves += [(axes, name, "training", "-"), (axes, f"held_out_{name}", "held out", "o-")]
        axes.set_ylabel(name.replace("_", " "))
    for axes, name, label, style in curves:
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, markersize=3, linewidth=1, label=label)
    loss_axes.set_ylabel(f"loss ({unit})")
    loss_axes.legend()
    norm_axes.set_ylabel("gradient norm")
    norm_axes.set_yscale("log")
    rate_axes.set_ylabel("learning rate")
    (reward_axes or [rate_axes])[-1].set_xlabel("step")
    content = io.BytesIO()
    figure.savefig(content, dpi=110)
    return content.getvalue()
