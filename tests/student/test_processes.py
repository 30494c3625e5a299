"""Two processes train together as one does alone."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.student.students import read_metrics


@pytest.mark.slow
@pytest.mark.parametrize("objective, options", [("sft", []), ("dpo", ["--lora_rank=4"])])
def test_two_processes(objective, options, student, rows, pairs, tmp_path):
    learnt = {"sft": rows, "dpo": pairs}[objective]

    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"

    def start(output_dir, *extra, devices):
        command = [sys.executable, "-m", "launch.train_student", f"--student={student}", f"--traces={learnt}"]
        command += [f"--output_dir={output_dir}", "--max_length=128", "--max_steps=6", "--batch_size=8"]
        command += ["--learning_rate=1e-3", "--epsilon=1e-4", "--checkpoint_every=4", "--noplot", *options]
        command += [f"--objective={objective}", *extra]
        environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        return subprocess.Popen(
            command,
            cwd=Path(__file__).parents[2],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    alone = start(tmp_path / "alone", "--mesh=data:1", devices=1)
    assert alone.wait(timeout=600) == 0, alone.stdout.read().decode()
    both = [
        start(tmp_path / "both", "--mesh=fsdp:2,model:2", f"--distributed={address},2,{index}", devices=2)
        for index in range(2)
    ]
    for process in both:
        assert process.wait(timeout=600) == 0, process.stdout.read().decode()
    parts = ["hf/model.safetensors"] + ["adapter/adapter_model.safetensors"] * (objective == "dpo")
    expected, found = (
        {tensor: value for part in parts for tensor, value in load_file(tmp_path / name / part).items()}
        for name in ("alone", "both")
    )
    losses = [[row["loss"] for row in read_metrics(tmp_path / name)] for name in ("alone", "both")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    for name, weight in expected.items():
        np.testing.assert_allclose(found[name], weight, atol=1e-5, rtol=0, err_msg=name)
