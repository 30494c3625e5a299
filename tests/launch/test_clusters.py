"""The files for Kubernetes and SkyPilot: their schemas, and the commands that they run."""

import os
import shlex
import subprocess

import jsonschema
import pytest
import yaml

from cord_jax import SynthesisConfig
from launch import flags_of
from launch import synthesize as entry_point
from tests.conftest import REPOSITORY

TEXT = {"type": "string"}
WHOLE = {"type": "integer"}


def closed(required=(), **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def listed(items):
    return {"type": "array", "items": items}


# The fields of the JobSet CRD, jobset.x-k8s.io/v1alpha2; its Jobs are checked against those of Kubernetes.
JOB_SET = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata={"type": "object"},
    spec=closed(
        failurePolicy=closed(
            maxRestarts=WHOLE,
            restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
            rules=listed(
                closed(
                    ["action", "name"],
                    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
                    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                    onJobFailureReasons=listed(
                        {
                            "enum": [
                                "BackoffLimitExceeded",
                                "DeadlineExceeded",
                                "FailedIndexes",
                                "MaxFailedIndexesExceeded",
                                "PodFailurePolicy",
                            ]
                        }
                    ),
                    targetReplicatedJobs=listed(TEXT),
                )
            ),
        ),
        network=closed(
            enableDNSHostnames={"type": "boolean"},
            publishNotReadyAddresses={"type": "boolean"},
            subdomain=TEXT,
        ),
        replicatedJobs=listed(
            closed(
                ["name", "template"], name=TEXT, replicas=WHOLE, groupName=TEXT, template={"type": "object"}
            )
        ),
        suspend={"type": "boolean"},
        ttlSecondsAfterFinished=WHOLE,
    ),
)
# Of `get_task_schema`, `get_resources_schema` and `get_storage_schema` of SkyPilot 0.14, what a task of ours may have.
TASK = closed(
    name=TEXT,
    workdir=TEXT,
    num_nodes=WHOLE,
    resources=closed(
        infra=TEXT,
        accelerators={"type": ["string", "object", "array"]},
        cpus={"type": ["string", "number"]},
        memory={"type": ["string", "number"]},
        use_spot={"type": "boolean"},
        disk_size=WHOLE,
        image_id=TEXT,
        job_recovery={"type": ["string", "object"]},
    ),
    envs={
        "type": "object",
        "patternProperties": {"^[a-zA-Z_][a-zA-Z0-9_]*$": {"type": ["string", "null"]}},
        "additionalProperties": False,
    },
    file_mounts={
        "type": "object",
        "additionalProperties": {
            "anyOf": [
                TEXT,
                closed(
                    name=TEXT,
                    source=TEXT,
                    mode={"enum": ["MOUNT", "COPY", "MOUNT_CACHED"]},
                    persistent={"type": "boolean"},
                ),
            ]
        },
    },
    setup=TEXT,
    run=TEXT,
)


def read(name):
    return yaml.safe_load((REPOSITORY / "launch" / name).read_text())


def check_job(job):
    """Checks a Job against the schemas that Kubernetes publishes, where they are installed."""
    validate = pytest.importorskip("kubernetes_validate")
    validate.validate(job, "1.33", strict=True)


def config_of(arguments):
    """The settings that a command line of launch.synthesize stands for."""
    for name in entry_point.FLAGS:
        entry_point.FLAGS[name].unparse()
    assert entry_point.FLAGS(["synthesize", *arguments]) == ["synthesize"]
    return flags_of.config_of(SynthesisConfig, entry_point.FLAGS)


def run_shell(script, tmp_path, **environment):
    """The arguments with which a script calls python."""
    tool = tmp_path / "bin/python"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    tool.chmod(0o755)
    (tmp_path / ".venv").mkdir(exist_ok=True)
    if not (tmp_path / ".venv/bin").exists():
        (tmp_path / ".venv/bin").symlink_to(tmp_path / "bin")
    path = {"PATH": f"{tool.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", script], env=path | environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    module, *arguments = done.stdout.splitlines()[1:]
    assert module == "launch.synthesize"
    return arguments


def test_the_job_set_of_a_slice():
    job_set = read("k8s/tpu.yaml")
    jsonschema.validate(job_set, JOB_SET)
    (slice_,) = job_set["spec"]["replicatedJobs"]
    job = slice_["template"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    rule = job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert rule["containerName"] == container["name"] and rule["values"] == [2]
    assert container["command"] == ["python", "-m", "launch.synthesize"]
    config = config_of(container["args"])
    # Every chip of the topology has a place in the mesh, and every host a process.
    rows, columns = map(
        int, job["spec"]["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    )
    assert config.mesh == f"data:{rows},model:{columns}"
    assert job["spec"]["completions"] * container["resources"]["limits"]["google.com/tpu"] == rows * columns
    check_job({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}, **job})


def test_the_shards_of_slices():
    """What the comment of the file says makes four of it."""
    text = (REPOSITORY / "launch/k8s/tpu.yaml").read_text()
    (script,) = [line for line in text.splitlines() if "sed" in line]
    (expression,) = [part for part in shlex.split(script.lstrip("# ")) if "s|" in part]
    made = subprocess.run(
        ["sed", expression.replace("$i", "3")], input=text, capture_output=True, text=True, check=True
    ).stdout
    job_set = yaml.safe_load(made)
    assert job_set["metadata"]["name"] == "cord-3"
    (slice_,) = job_set["spec"]["replicatedJobs"]
    config = config_of(slice_["template"]["spec"]["template"]["spec"]["containers"][0]["args"])
    assert (config.shard, str(config.output_dir)) == ("3/4", "/data/runs/part3")


def test_the_job_of_gpu_nodes(tmp_path):
    job = read("k8s/gpu.yaml")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    for index in range(job["spec"]["completions"]):
        arguments = run_shell(container["args"][0], tmp_path, JOB_COMPLETION_INDEX=str(index))
        config = config_of(arguments)
        assert config.shard == f"{index + 1}/{job['spec']['completions']}"
        assert str(config.output_dir) == f"/data/runs/part{index + 1}"
    assert config.mesh == f"data:1,model:{container['resources']['limits']['nvidia.com/gpu']}"
    check_job(job)


def test_the_task_of_skypilot(tmp_path):
    task = read("skypilot/run.yaml")
    jsonschema.validate(task, TASK)
    given = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    arguments = run_shell(task["run"], tmp_path, **task["envs"] | {"SHARD": "3/4", "PART": "part3"}, **given)
    assert arguments[0] == "--distributed=10.0.0.1:8476,2,1"
    config = config_of(arguments)
    assert (config.shard, str(config.output_dir)) == ("3/4", "/data/runs/part3")
    assert config.mesh == f"data:1,model:{task['resources']['accelerators'].split(':')[1]}"
