"""The pod and Slurm scripts, with stand-ins for the tools that they call; processes that find each other."""

import json
import os
import socket
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.reference.tiny import PROBLEMS, write_checkpoint, write_tokenizer

JOIN = """
import jax, numpy as np
from cord_jax.mesh import join_processes, parse_mesh
from jax.sharding import NamedSharding, PartitionSpec
import sys
join_processes(sys.argv[1])
mesh = parse_mesh("data:-1,model:1")
x = jax.make_array_from_callback((jax.device_count(),), NamedSharding(mesh, PartitionSpec("data")),
                                 lambda index: np.arange(jax.device_count())[index])
print(jax.process_index(), jax.process_count(), mesh.size, int(jax.jit(lambda x: x.sum())(x)))
"""


@pytest.fixture
def path_with(tmp_path):
    """Makes a PATH on which `name` is a program that appends its arguments to a file, one a line."""

    def make(name):
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f'#!/bin/sh\nfor a in "$@"; do printf "%s\\n" "$a"; done >> {tmp_path}/calls\n')
        tool.chmod(0o755)
        return {"PATH": f"{tool.parent}:{os.environ['PATH']}"}, tmp_path / "calls"

    return make


def test_the_pod_script_runs_the_job_on_all_workers(path_with):
    environment, calls = path_with("gcloud")
    subprocess.run(
        [
            REPOSITORY / "launch/pod/run",
            "slice",
            "zone-a",
            "launch.synthesize",
            "--pool=my pool.toml",
            "--seed=1",
        ],
        env=os.environ | environment,
        check=True,
    )
    written = calls.read_text()
    assert written.count("--worker=all") == 2 and written.count("--zone=zone-a") == 2
    assert (
        r".venv/bin/python -m launch.synthesize --distributed=auto --pool=my\ pool.toml --seed=1" in written
    )
    refused = subprocess.run([REPOSITORY / "launch/pod/run"], capture_output=True, text=True)
    assert refused.returncode == 2 and "launch/pod/run NAME ZONE" in refused.stderr


def test_the_slurm_script_starts_the_job_under_srun(path_with):
    environment, calls = path_with("srun")
    subprocess.run(
        [REPOSITORY / "launch/slurm/run.sbatch", "launch.evaluate", "--model=my model"],
        env=os.environ | environment,
        check=True,
    )
    assert calls.read_text().splitlines() == [
        ".venv/bin/python",
        "-m",
        "launch.evaluate",
        "--distributed=auto",
        "--model=my model",
    ]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("how", ["slurm", "address"])
def test_two_processes_find_each_other(how):
    port = free_port()

    def start(index):
        slurm = {
            "SLURM_JOB_ID": "7",
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(index),
            "SLURM_LOCALID": str(index),
            "JAX_COORDINATOR_PORT": str(port),
        }
        environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
        argument = "auto" if how == "slurm" else f"localhost:{port},2,{index}"
        return subprocess.Popen(
            [sys.executable, "-c", JOIN, argument],
            env=environment | (slurm if how == "slurm" else {}),
            cwd=REPOSITORY,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    processes = [start(index) for index in range(2)]
    results = [process.communicate(timeout=120) for process in processes]
    assert [out.splitlines()[-1:] for out, _ in results] == [["0 2 4 6"], ["1 2 4 6"]], results


@pytest.mark.slow
def test_two_processes_write_the_traces_of_one(tmp_path):
    write_checkpoint(tmp_path / "model", write_tokenizer(tmp_path / "tokenizer", "digits"), "qwen2", seed=3)
    proposers = "".join(f'[[proposer]]\nname = "{name}"\ncheckpoint = "model"\n' for name in ("one", "two"))
    (tmp_path / "pool.toml").write_text('meta_prover = "one"\n' + proposers)
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS))
    limits = (
        "--beam_width=2 --max_steps=3 --max_step_tokens=16 --max_thinking_tokens=60 --max_answer_tokens=8"
    )

    def start(output, *arguments):
        inputs = [f"--pool={tmp_path}/pool.toml", f"--problems={tmp_path}/problems.jsonl"]
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "launch.synthesize", f"--output_dir={tmp_path / output}"),
                *(*inputs, *limits.split(), *arguments),
            ],
            cwd=REPOSITORY,
            env=os.environ | {"XLA_FLAGS": ""},
        )

    port = free_port()
    processes = [start("one")]
    processes += [
        start("two", "--mesh=data:2,model:1", f"--distributed=localhost:{port},2,{index}")
        for index in range(2)
    ]
    assert [process.wait(timeout=600) for process in processes] == [0, 0, 0]

    def rows(output):
        lines = (tmp_path / output / "traces.jsonl").read_text().splitlines()
        return sorted((json.loads(line) | {"seconds": 0} for line in lines), key=lambda row: row["id"])

    assert len(rows("one")) == len(PROBLEMS)
    for found, expected in zip(rows("two"), rows("one"), strict=True):
        assert found["reasoning"] == expected["reasoning"] and found["response"] == expected["response"]
        assert [step["teacher"] for step in found["steps"]] == [step["teacher"] for step in expected["steps"]]
