"""Seconds and peak host memory of loading one checkpoint: models.load beside transformers.

    python -m benchmarks.load --gigabytes=3 --shards=4

makes a random Qwen2 checkpoint (or takes --checkpoint) and loads it in a fresh process for every row of the
table: transformers on the CPU, `models.load` on one device, and on eight simulated devices with meshes of
data x model. The weights themselves lie in host memory here; "beyond" is what the loader needs on top: the
peak of the resident memory, less what the process had before and less the bytes of the weights. The last
column is the difference of the logits of a few tokens from those of the first row, relative to the greatest.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Checkpoint directory. Default: a random one, made for the run."
)
GIGABYTES = flags.DEFINE_float("gigabytes", 3.0, "Size of the random checkpoint, in 10^9 bytes.")
SHARDS = flags.DEFINE_integer("shards", 4, "Files of the random checkpoint.")
STORED = flags.DEFINE_string("stored", "float32", "Dtype of the random checkpoint.")
DTYPE = flags.DEFINE_string("dtype", "float32", "Dtype to load to.")
TASK = flags.DEFINE_string(
    "task", None, "What this process does: 'make', or one row of the table. Default: all."
)

ROWS = ("transformers", "one", "1x8", "2x4")
TOKENS = [[1, 5, 9, 2, 7, 3, 8, 4]]
# The widths of a 1.5B model, with heads that eight devices can share.
WIDTHS = {
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
}


def make_checkpoint(directory: str) -> None:
    """Writes a random checkpoint with as many layers as the size asks for."""
    import models

    v, d, f = WIDTHS["vocab_size"], WIDTHS["hidden_size"], WIDTHS["intermediate_size"]
    weights = (
        GIGABYTES.value * 1e9 / np.dtype(STORED.value if STORED.value != "bfloat16" else "float16").itemsize
    )
    layers = max(1, round((weights - 2 * v * d) / (d * (3 * d + 3 * f))))
    fields = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "max_position_embeddings": 4096,
        "num_hidden_layers": layers,
    }
    model = models.build(models.config_from_hf(fields | WIDTHS), dtype=STORED.value, stacked=False)
    models.save(model, directory, shard_bytes=int(GIGABYTES.value * 1.1e9 / SHARDS.value))


def load_with_transformers(directory: str):
    import torch
    import transformers

    watch = Watch()
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, DTYPE.value))
    # Its weights may still be views of the file: read them all, as any use would.
    for parameter in model.parameters():
        parameter.detach().view(-1)[:: 4096 // parameter.element_size()].sum()
    figures = watch.figures(sum(parameter.nbytes for parameter in model.parameters()))
    with torch.no_grad():
        return figures, model(torch.tensor(TOKENS)).logits.float().numpy()


def load_with_models(directory: str, row: str):
    import jax
    from flax import nnx
    from jax.sharding import AxisType

    import models

    mesh = None
    if row != "one":
        shape = tuple(map(int, row.split("x")))
        mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    jax.block_until_ready(jax.numpy.zeros(1))
    watch = Watch()
    model = models.load(directory, mesh=mesh, dtype=DTYPE.value)
    arrays = jax.tree.leaves(nnx.state(model))
    jax.block_until_ready(arrays)
    shards = [shard.data for array in arrays for shard in array.addressable_shards]
    # Simulated devices share the memory of equal shards.
    sizes = {shard.unsafe_buffer_pointer(): shard.nbytes for shard in shards}
    figures = watch.figures(sum(sizes.values()))
    return figures, np.asarray(nnx.jit(lambda model, tokens: model(tokens))(model, np.asarray(TOKENS)))


class Watch:
    """Time and memory since it was made, of this process."""

    def __init__(self):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        self.before = self._kilobytes("VmRSS")
        self.start = time.perf_counter()

    def figures(self, size: int) -> dict[str, float]:
        seconds = time.perf_counter() - self.start
        peak = self._kilobytes("VmHWM")
        return {"seconds": seconds, "peak": peak / 1e3, "weights": size / 1e6,
                "beyond": (peak - self.before) / 1e3 - size / 1e6}  # fmt: skip

    @staticmethod
    def _kilobytes(field: str) -> float:
        line = next(
            line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)
        )
        return int(line.split()[1]) * 1.024


def run_task(task: str) -> None:
    directory = CHECKPOINT.value
    if task == "make":
        make_checkpoint(directory)
        return
    figures, logits = (
        load_with_transformers(directory) if task == "transformers" else load_with_models(directory, task)
    )
    print(json.dumps({**figures, "logits": logits[0, -1].tolist()}))


def start_task(task: str, directory: Path) -> str:
    """Runs one task in a process of its own and returns the last line it prints."""
    environment = dict(os.environ, JAX_PLATFORMS="cpu")
    if "x" in task:
        environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    settings = {"task": task, "checkpoint": directory, "gigabytes": GIGABYTES.value, "shards": SHARDS.value,
                "stored": STORED.value, "dtype": DTYPE.value}  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "benchmarks.load",
        *(f"--{name}={value}" for name, value in settings.items()),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{task} failed:\n{done.stderr}")
    return done.stdout.strip().rpartition("\n")[2]


def main(_) -> None:
    if TASK.value:
        run_task(TASK.value)
        return
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(CHECKPOINT.value or Path(scratch) / "checkpoint")
        if not CHECKPOINT.value:
            start_task("make", directory)
        files = sorted(directory.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        print(
            f"{size / 1e9:.2f} GB in {len(files)} files, loaded as {DTYPE.value}, {os.cpu_count()} CPU cores"
        )
        print("loaded with      seconds   peak MB   weights MB   beyond MB   logits differ by")
        first = None
        for row in ROWS:
            found = json.loads(start_task(row, directory))
            logits = np.asarray(found["logits"])
            first = logits if first is None else first
            error = np.abs(logits - first).max() / np.abs(first).max()
            name = row if row == "transformers" else f"models, {row}"
            print(
                f"{name:14} {found['seconds']:9.1f} {found['peak']:9.0f} {found['weights']:12.0f} "
                f"{found['beyond']:11.0f}   {error:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
