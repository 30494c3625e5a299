"""Tokens per second of the student's training step, beside a plain torch loop over transformers on the same rows.

    python -m benchmarks.sft                                   # the miniature's size, float32, on a CPU
    python -m benchmarks.sft --size=1.5b --length=8192 --steps=10 --dtype=bfloat16 --remat=full      # a GPU or TPU
    python -m benchmarks.sft --size=1.5b --length=8192 --steps=10 --dtype=bfloat16 --program=torch   # torch beside it

Rows are random tokens of random lengths, a third of them prompt. Both programs see the same batches; torch pads them,
one row per sequence, as its users do, and `--program=cord_jax` packs them. Counted are the tokens of rows, not padding.
Prints one JSON object: tokens per second, MFU where the device's peak is known, seconds to compile, peak memory.
"""

import json
import time
from collections.abc import Sequence

import numpy as np
from absl import flags

from launch import common

SIZES = {
    "miniature": dict(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "0.5b": dict(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "1.5b": dict(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
}

FLAGS = flags.FlagValues()
flags.DEFINE_enum("program", "both", ["both", "cord_jax", "torch"], "what is measured", flag_values=FLAGS)
flags.DEFINE_enum("size", "miniature", list(SIZES), "shape of the student, a Qwen2", flag_values=FLAGS)
flags.DEFINE_integer("length", 512, "tokens of a window", flag_values=FLAGS)
flags.DEFINE_integer(
    "longest", 200, "tokens of the longest row; the shortest has a third of it", flag_values=FLAGS
)
flags.DEFINE_integer("batch_size", 8, "windows of a step", flag_values=FLAGS)
flags.DEFINE_integer("steps", 5, "steps that are timed, after one that is not", flag_values=FLAGS)
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "of the computation", flag_values=FLAGS)
flags.DEFINE_enum("remat", "none", ["none", "dots", "full"], "as in launch.train_student", flag_values=FLAGS)
flags.DEFINE_string("mesh", "fsdp:-1", "devices along each axis", flag_values=FLAGS)


def make_batches(values: flags.FlagValues):
    """The rows, and for every step the windows that hold them."""
    from cord_jax.student.batches import plan
    from cord_jax.student.data import Example

    rng = np.random.default_rng(0)
    mean = values.longest * 2 / 3
    count = int((values.steps + 3) * values.batch_size * values.length / mean)
    lengths = rng.integers(values.longest // 3, values.longest + 1, count)
    rows = [
        Example(str(i), rng.integers(0, SIZES[values.size]["vocab_size"], n, np.int32), n // 3)
        for i, n in enumerate(lengths)
    ]
    run = plan(
        lengths.tolist(),
        epochs=1,
        batch_size=values.batch_size,
        max_length=values.length,
        pack=True,
        seed=0,
        max_steps=values.steps + 1,
    )
    return rows, run


def measure_cord_jax(values: flags.FlagValues) -> dict:
    """Compiles and runs the trainer's step."""
    import jax
    from flax import nnx

    import models
    from cord_jax.mesh import parse_mesh
    from cord_jax.student import StudentConfig
    from cord_jax.student.batches import assemble
    from cord_jax.student.metrics import peak_flops, step_flops
    from cord_jax.student.step import Step, batch_sharding

    rows, run = make_batches(values)
    mesh = parse_mesh(values.mesh)
    config = StudentConfig(
        "-",
        "-",
        "-",
        batch_size=values.batch_size,
        max_length=values.length,
        compute_dtype=values.dtype,
        remat=values.remat,
    )
    model_config = models.config_from_hf(
        {"model_type": "qwen2", "max_position_embeddings": 32768, **SIZES[values.size]}
    )
    step, _ = Step.build(model_config, config, mesh, run.steps)
    state = step.start(nnx.state(models.build(model_config, 0, mesh)))
    batches = [
        jax.device_put(
            assemble(rows, windows, length=length, batch_size=values.batch_size), batch_sharding(mesh)
        )
        for windows, length in zip(run.windows, run.lengths, strict=True)
    ]
    start = time.perf_counter()
    program = step.compile_step(state, batches[0])
    compiling = time.perf_counter() - start
    state, report = program(state, batches[0])
    jax.block_until_ready(report)
    start, start_cpu = time.perf_counter(), time.process_time()
    for batch in batches[1:]:
        state, report = program(state, batch)
    jax.block_until_ready(report)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    shown = [rows[i] for step in run.windows[1:] for window in step for i in window]
    peak = peak_flops(jax.devices()[0])
    flops = step_flops(
        model_config, [len(r.tokens) for r in shown], sum(len(r.tokens) - r.prompt_length for r in shown)
    )
    memory = jax.devices()[0].memory_stats() or {}
    tokens = sum(len(r.tokens) for r in shown)
    return {
        "tokens_per_second": round(tokens / seconds, 1),
        "tokens_per_cpu_second": round(tokens / cpu_seconds, 1),
        "mfu": peak and round(flops / seconds / peak / mesh.size, 4),
        "compile_seconds": round(compiling, 1),
        "peak_bytes": memory.get("peak_bytes_in_use"),
        "loss": round(float(report.loss), 4),
        "device": jax.devices()[0].device_kind,
    }


def measure_torch(values: flags.FlagValues) -> dict:
    """A loop as one writes it: padded batches, scaled-dot-product attention, AdamW, clipping."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    rows, run = make_batches(values)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    config = Qwen2Config(**SIZES[values.size], max_position_embeddings=32768)
    model = (
        AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
        .to(device)
        .train()
    )
    if values.remat != "none":
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-6)

    def step(windows: Sequence[Sequence[int]]) -> int:
        shown = [rows[i] for window in windows for i in window]
        length = max(len(row.tokens) for row in shown)
        tokens, labels = (torch.full((len(shown), length), fill, dtype=torch.long) for fill in (0, -100))
        mask = torch.zeros((len(shown), length), dtype=torch.long)
        for i, row in enumerate(shown):
            n = len(row.tokens)
            tokens[i, :n] = torch.as_tensor(row.tokens)
            labels[i, row.prompt_length : n] = tokens[i, row.prompt_length : n]
            mask[i, :n] = 1
        with torch.autocast(device, torch.bfloat16, enabled=values.dtype == "bfloat16"):
            model(tokens.to(device), attention_mask=mask.to(device), labels=labels.to(device)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        return sum(len(row.tokens) for row in shown)

    step(run.windows[0])
    start, start_cpu = time.perf_counter(), time.process_time()
    tokens = sum(step(windows) for windows in run.windows[1:])
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    return {
        "tokens_per_second": round(tokens / seconds, 1),
        "tokens_per_cpu_second": round(tokens / cpu_seconds, 1),
        "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
        "device": device,
    }


def main(values: flags.FlagValues) -> None:
    """Prints what was measured."""
    result = {name: values[name].value for name in values}
    if values.program in ("both", "torch"):
        result["torch"] = measure_torch(values)
    if values.program in ("both", "cord_jax"):
        result["cord_jax"] = measure_cord_jax(values)
    if values.program == "both":
        result["ratio"] = round(
            result["cord_jax"]["tokens_per_second"] / result["torch"]["tokens_per_second"], 2
        )
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
