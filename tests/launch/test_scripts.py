"""The pod and Slurm scripts, with stand-ins for the tools that they call; processes that find each other."""

import os
import socket
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

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


@pytest.mark.parametrize("how", ["slurm", "address"])
def test_two_processes_find_each_other(how):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    def start(index):
        slurm = {
            "SLURM_JOB_ID": "7",
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(index),
            "SLURM_LOCALID": str(index),
            "JAX_COORDINATOR_PORT": str(port),
        }
        environment = (
            os.environ
            | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
            | (slurm if how == "slurm" else {})
        )
        argument = "auto" if how == "slurm" else f"localhost:{port},2,{index}"
        return subprocess.Popen(
            [sys.executable, "-c", JOIN, argument],
            env=environment,
            cwd=REPOSITORY,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    processes = [start(index) for index in range(2)]
    results = [process.communicate(timeout=120) for process in processes]
    assert [out.splitlines()[-1:] for out, _ in results] == [["0 2 4 6"], ["1 2 4 6"]], results
