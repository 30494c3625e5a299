"""Loading in two processes: each reads its share of the file, and both compute the same logits."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import models
from tests.models.references import logits_of, relative_error
from tests.models.test_checkpoint import assert_same_weights

WORKER = """
import sys, jax, numpy as np, json
address, process, directory, out = sys.argv[1:]
jax.distributed.initialize(address, num_processes=2, process_id=int(process))
import models
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from models import safetensors
mesh = jax.make_mesh((1, 8), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
read = 0
read_block = safetensors.read_block
def counting(tensor, rows, columns, out):
    global read
    read += (rows.stop - rows.start) * (columns.stop - columns.start) * tensor.dtype.itemsize
    read_block(tensor, rows, columns, out)
safetensors.read_block = counting
model = models.load(directory, mesh=mesh)
graphdef, weights = nnx.split(model)
run = jax.jit(lambda weights: nnx.merge(graphdef, weights)(np.arange(12)[None]),
              out_shardings=NamedSharding(mesh, PartitionSpec()))
models.save(model, out + "/copy")
np.save(out + "/logits.npy", np.asarray(run(weights).addressable_data(0)))
print(json.dumps({"read": read}))
"""


@pytest.mark.slow
def test_two_processes_read_one_half_each(tmp_path):
    fields = {
        "architectures": ["Phi3ForCausalLM"],
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    model = models.build(models.config_from_hf(fields), seed=1, stacked=False)
    models.save(model, tmp_path / "checkpoint", shard_bytes=200_000)
    size = sum(file.stat().st_size for file in (tmp_path / "checkpoint").glob("*.safetensors"))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    flags = "--xla_force_host_platform_device_count=4"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    for i in range(2):
        (tmp_path / str(i)).mkdir()
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                WORKER,
                address,
                str(i),
                str(tmp_path / "checkpoint"),
                str(tmp_path / str(i)),
            ],
            cwd=Path(models.__file__).parents[1],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    for output in outputs:
        assert json.loads(output.splitlines()[-1])["read"] == pytest.approx(size / 2, rel=0.02)
    expected = logits_of(model, np.arange(12)[None])
    again = models.load(tmp_path / "0" / "copy")
    assert_same_weights(again, model)
    assert not (tmp_path / "1" / "copy").exists()
    for i in range(2):
        assert relative_error(np.load(tmp_path / str(i) / "logits.npy"), expected) < 1e-4
