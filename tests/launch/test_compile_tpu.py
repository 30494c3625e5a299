"""launch.compile_tpu: what it plans is what the engine runs, what it prints, its errors."""

import dataclasses
import importlib.util
import json

import jax
import pytest

from cord_jax.dry_run import costs, lower, report, suggest, topologies
from cord_jax.dry_run.abstract import (
    Compiled,
    abstract_search,
    compile_program,
    lower_round,
)
from cord_jax.dry_run.student import cheaper
from cord_jax.dry_run.topologies import CHIPS
from cord_jax.engine.limits import bytes_per_device
from cord_jax.errors import UserError
from cord_jax.mesh import parse_mesh
from cord_jax.methods import search_of
from cord_jax.pool import read_pool
from cord_jax.student.config import StudentConfig
from launch import common
from launch import compile_tpu as entry_point

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, of the extra tpu, is not installed"
)
SMALL = {
    "model_type": "qwen2",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}
LIMITS = dict(max_steps=4, max_step_tokens=64, max_thinking_tokens=256, max_answer_tokens=64, beam_width=2)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return write_pool(tmp_path_factory.mktemp("pool"))


def write_pool(directory, **changes):
    """A pool of two architectures, of which there are no weights and no tokenizers."""
    lines = ['meta_prover = "first"']
    for name, heads in (("first", 2), ("second", 1)):
        config = SMALL | {"num_key_value_heads": heads} | changes
        (directory / name).mkdir()
        (directory / name / "config.json").write_text(json.dumps(config))
        lines += ["[[proposer]]", f'name = "{name}"', f'checkpoint = "{name}"']
    (directory / "pool.toml").write_text("\n".join(lines))
    return directory / "pool.toml"


def launch(capsys, **values) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the entry point."""
    for name in entry_point.FLAGS:
        entry_point.FLAGS[name].unparse()
    arguments = ["compile_tpu", *(f"--{name}={value}" for name, value in values.items())]
    try:
        status = common.run_with(entry_point.main, entry_point.FLAGS, entry_point.__doc__, arguments)
    except SystemExit as stopped:
        status = stopped.code
    output = capsys.readouterr()
    return status, output.out, output.err


@needs_libtpu
def test_a_pass_is_compiled_and_the_compiler_counts_what_arithmetic_does(pool):
    chip, devices = topologies.describe("v5e:2x2")
    spec, settings = read_pool(pool), search_of(slots=8, **LIMITS)
    mesh = parse_mesh("data:2,model:2", devices)
    search = abstract_search(spec, settings, mesh)
    assert [reader.execution.split for reader in search.plan.readers] == ["heads", "columns"]
    assert all(reader.execution.stacked for reader in search.plan.readers)
    found = lower.counted(lower.lower_decode, spec, settings, mesh, 1, SMALL["num_hidden_layers"])
    assert found.flops == pytest.approx(costs.decode_token(search, 1).flops, rel=0.25)
    compiled = compile_program(lambda: lower.lower_decode(search, 1))
    assert compiled.fits(chip.usable_bytes) and not compiled.fits(1000)
    held = bytes_per_device((search.constants[1], search.state.readers[1]))
    assert compiled.memory.arguments == pytest.approx(held, rel=0.1)


@needs_libtpu
@pytest.mark.slow
def test_search_is_compiled_from_config_files(pool, capsys):
    status, out, err = launch(capsys, topology="v5e:2x2", pool=pool, mesh="data:2,model:2", slots=2, **LIMITS)
    assert status == 0, err
    assert next(text for text in out.splitlines() if text.split()[:1] == ["round"]).endswith("fits")
    assert "first: no tokenizer.json; assumed" in out
    assert "columns of the pool over `model`" in out and "heads of the pool over `model`" in out
    for line in ("token, first", "token, second", "chunk and logits of scoring", "chunk of commit, second"):
        assert line in out


@needs_libtpu
@pytest.mark.slow
def test_a_round_copies_no_pool(tmp_path):
    """The compiler likes to turn pools around for what is gathered from them or written to them."""
    _, devices = topologies.describe("v5p:2x2x1")
    # Heads of 128, as large models have.
    spec = read_pool(write_pool(tmp_path, hidden_size=512, num_hidden_layers=16))
    search = abstract_search(spec, search_of(slots=16), parse_mesh("data:2,model:2", devices))
    assert [reader.execution.split for reader in search.plan.readers] == ["heads", "columns"]
    pools = bytes_per_device([reader.pool for reader in search.state.readers])
    assert compile_program(lambda: lower_round(search)).memory.temporaries < pools / 4


@needs_libtpu
def test_student_is_compiled_with_flags_that_fit(pool, capsys):
    directory = pool.parent / "student"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(SMALL | {"num_attention_heads": 8}))  # no splash kernel
    arguments = dict(topology="v5e:2x2", job="sft", student=directory, max_length=256, batch_size=4)
    status, out, _ = launch(capsys, **arguments)
    assert status == 0
    assert "--mesh=fsdp:4,model:1 --accumulation=1 --remat=none" in out and "fits" in out


@needs_libtpu
@pytest.mark.parametrize("name", ["v5p", "v9:2x2", "v5e:2", "v5p:3x3x3", "v5e:2x2x2x2"])
def test_a_topology_that_does_not_exist_is_told_in_one_line(pool, capsys, name):
    status, _, err = launch(capsys, topology=name, pool=pool)
    assert status == 2
    assert err.startswith(f"error: --topology={name}: ") and "v5p:2x2x4" in err and err.count("\n") == 1


def test_without_libtpu_the_extra_is_named(pool, capsys, monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    status, _, err = launch(capsys, topology="v5e:2x2", pool=pool)
    assert status == 2 and "the extra tpu" in err and err.count("\n") == 1


def test_each_job_names_what_it_needs(capsys):
    assert "--job=search needs --pool" in launch(capsys, topology="v5e:2x2")[2]
    assert "--job=sft needs --student" in launch(capsys, topology="v5e:2x2", job="sft")[2]


def test_arithmetic_counts_weights_and_keys(pool):
    search = abstract_search(read_pool(pool), search_of(slots=2, **LIMITS), parse_mesh("data:1,model:1"))
    state, plan = search.state.readers[0], search.plan
    kernels = 2 * (256 * (256 + 2 * 128 + 256) + 3 * 256 * 512) + 256 * 512
    rows, columns = 2 * 2, state.token_ns.shape[1] + plan.max_step_tokens
    work = costs.decode_token(search, 0)
    assert work.flops == 2 * rows * kernels + 4 * 256 * 2 * rows * columns
    read = 2 * (kernels + 2 * (2 * 256 + 2 * 256)) + bytes_per_device((state.pool, state.rows.local))
    assert work.bytes == pytest.approx(read, rel=0.01)


def test_the_best_mesh_fits_and_more_slots_do_not(pool):
    spec, settings = read_pool(pool), search_of(**LIMITS)
    chip = dataclasses.replace(CHIPS["v5e"], usable_bytes=60e6)
    best = suggest.best_of(suggest.candidates(spec, settings, chip, jax.devices()), chip)
    assert best.fits(chip)
    more = dataclasses.replace(settings, slots=64 * 8)
    mesh = parse_mesh(best.mesh)
    search = abstract_search(spec, more, mesh)
    assert bytes_per_device(search.state) > chip.usable_bytes
    with pytest.raises(UserError, match="take a larger topology"):
        tiny = dataclasses.replace(chip, usable_bytes=1e6)
        suggest.best_of(suggest.candidates(spec, settings, tiny, jax.devices()), tiny)


def test_cheaper_settings_keep_the_batch():
    settings = StudentConfig("s", "t", "o", batch_size=8)
    tried = list(cheaper(settings, 16))
    assert tried[0].mesh == "fsdp:8,model:2" and tried[0].remat == "none" and tried[-1].remat == "full"
    assert {choice.batch_size for choice in tried} == {8}


def test_the_report_stops_at_what_does_not_fit(pool, monkeypatch):
    refused = Compiled(None, "Ran out of memory", 0, 0, 1)
    monkeypatch.setattr(report, "compile_program", lambda lower: refused)
    lines, settings = [], search_of(slots=1, **LIMITS)
    arguments = (read_pool(pool), settings, CHIPS["v5e"], jax.devices(), "data:1,model:1", lines.append)
    assert not report.report_search(*arguments)
    assert len(lines) == 3 and lines[-1].endswith("does not fit (1 s to compile): Ran out of memory")
