"""How entry points report mistakes: one line, status 2, no traceback."""

from pathlib import Path

import jax
import pytest
from absl import flags

import models
from cord_jax import settings
from cord_jax.errors import UserError
from cord_jax.settings import configuration, setting
from launch import common, flags_of


@configuration
class Config:
    """A job."""

    model: Path | str = setting(help="checkpoint directory")
    beam_width: int = setting(default=4, help="traces kept", at_least=1)
    method: str = setting(default="cord", help="how", choices=("cord", "curation"))
    mesh: str = setting(default="data:1,model:-1", help="devices")

    def __post_init__(self):
        settings.check(self)


def job(main=lambda config: None) -> tuple:
    """An entry point with a required flag, a number and a choice, as `common.run_with` takes it."""
    values = flags.FlagValues()
    flags_of.define(Config, values)
    return lambda values: main(flags_of.config_of(Config, values)), values, "Does something."


def call(capsys, *arguments, main=lambda config: None) -> tuple[int, str, str]:
    status = common.run_with(*job(main), ["job", *arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model=m", "--beam_widht=2"], "unknown flag --beam_widht; did you mean --beam_width?"),
        (["--model=m", "--colour=2"], "unknown flag --colour; see --help"),
        (["--model=m", "--beam_width=0"], "--beam_width=0: must be at least 1"),
        (["--model=m", "--beam_width=two"], "--beam_width=two: must be a whole number"),
        (["--model=m", "--method=mcts"], "--method=mcts: must be one of cord, curation"),
        (["--model=m", "here"], "unexpected argument 'here'"),
        ([], "--model"),
    ],
)
def test_a_wrong_flag_is_one_line(capsys, arguments, message):
    status, out, err = call(capsys, *arguments, main=lambda config: pytest.fail("ran"))
    assert status == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err


@pytest.mark.parametrize(
    "error",
    [
        UserError("problems.jsonl, line 3:\nno answer"),
        models.CheckpointError("problems.jsonl, line 3: no answer"),
    ],
)
def test_a_users_mistake_is_one_line(capsys, error):
    def main(config):
        raise error

    assert call(capsys, "--model=m", main=main) == (2, "", "error: problems.jsonl, line 3: no answer\n")


def test_a_bug_keeps_its_traceback():
    def main(config):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        common.run_with(*job(main), ["job", "--model=m"])


def test_an_interruption_says_how_to_go_on(capsys):
    def main(config):
        raise KeyboardInterrupt

    status, _, err = call(capsys, "--model=m", main=main)
    assert status == 130 and "continues" in err and err.count("\n") == 1


def test_flags_reach_main(capsys):
    seen = []
    status, _, err = call(capsys, "--model=m", "--beam_width=2", "--method=curation", main=seen.append)
    assert status == 0 and err == ""
    assert seen == [Config(model="m", beam_width=2, method="curation")]


def test_help_shows_every_flag_with_its_default(capsys):
    status, out, _ = call(capsys, "--help", main=lambda config: pytest.fail("ran"))
    assert status == 0 and out.startswith("Does something.")
    for part in (
        "--model\n",
        "--beam_width=4\n      traces kept",
        "<cord|curation>",
        "--mesh=data:1,model:-1",
    ):
        assert part in out


def test_programs_are_kept_in_the_users_cache_unless_told_otherwise(tmp_path, monkeypatch):
    kept = jax.config.jax_compilation_cache_dir

    def directory(variable, value):
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        monkeypatch.setenv(variable, str(value))
        jax.config.update("jax_compilation_cache_dir", "as it was")
        common.run_with(*job(), ["job", "--model=m"])
        return jax.config.jax_compilation_cache_dir

    try:
        assert directory("XDG_CACHE_HOME", tmp_path) == str(tmp_path / "cord_jax" / "compiled")
        assert directory("JAX_COMPILATION_CACHE_DIR", tmp_path / "mine") == "as it was"
        (tmp_path / "file").touch()
        assert directory("XDG_CACHE_HOME", tmp_path / "file") == "as it was"
    finally:
        jax.config.update("jax_compilation_cache_dir", kept)
