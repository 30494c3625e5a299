"""Parts that the entry points share: their flags, how they report a user's mistake, the compilation cache.

An entry point has a set of flags of its own, so that several can be imported in one process:

    FLAGS = flags.FlagValues()
    flags_of.define(EvaluationConfig, FLAGS)  # a flag for every setting of the job's dataclass
    common.define_distributed(FLAGS)

    def main(values: flags.FlagValues) -> None:
        config = flags_of.config_of(EvaluationConfig, values)
        from cord_jax.evaluation import evaluate  # jax is imported after the flags are checked
        ...

    if __name__ == "__main__":
        common.run(main, FLAGS, __doc__)

A help text says what the flag means and its unit; `--help` adds the default and the allowed values.
"""

import difflib
import importlib.metadata
import os
import re
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import flags

from cord_jax import interruption, processes
from cord_jax.errors import UserError
from cord_jax.storage import REMEDY, storage_problem

EXIT_BUG = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
EXIT_BROKEN_PIPE = 141


def run(
    main: Callable[[flags.FlagValues], None], flag_values: flags.FlagValues, description: str
) -> NoReturn:
    """Runs an entry point on the command line's flags and exits with its status; see `run_with`."""
    leave(lambda: run_with(main, flag_values, description, sys.argv))


def leave(main: Callable[[], int]) -> NoReturn:
    """Exits with the status that a function gives; quietly where nobody reads what it prints any more."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_BROKEN_PIPE
    if processes.joined() and status not in (0, EXIT_INTERRUPTED, EXIT_TERMINATED):
        processes.leave(status)
    if not processes.joined():
        # The job is over. While the interpreter ends, signals would have their default actions again.
        for number in interruption.SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    sys.exit(status)


def run_with(
    main: Callable[[flags.FlagValues], None],
    flag_values: flags.FlagValues,
    description: str,
    argv: Sequence[str],
) -> int:
    """Parses `argv` (program name first), runs `main` on the flags and returns the exit status.

    0: it has finished, or `--help` or `--version` was asked for. 2: a mistake of the user's (a flag, an input, a directory),
    told in one line on stderr. 130, 143: interrupted by SIGINT, SIGTERM (`cord_jax.interruption`). 75: another process of
    the job has ended (`cord_jax.processes`). Anything else is a bug and propagates with its traceback; in a job of several
    processes it is printed, and the status is 1.
    """
    if any(argument in ("--help", "-help", "-h", "--helpfull") for argument in argv[1:]):
        print(_help(flag_values, description))
        return 0
    if "--version" in argv[1:]:
        print(version())
        return 0
    try:
        with interruption.handled(owns_process=True):
            _parse(flag_values, argv)
            _prepare_libraries()
            main(flag_values)
    except KeyboardInterrupt as error:
        print(interruption.MESSAGE, file=sys.stderr)
        return error.exit_status if isinstance(error, interruption.Interrupted) else EXIT_INTERRUPTED
    except Exception as error:
        if _is_user_error(error):
            message = str(error)
        elif problem := storage_problem(error):
            message = f"{problem}; {REMEDY}"
        elif ending := processes.lost(error):
            processes.tell(f"error: {ending}")
            return processes.EXIT_ALONE
        elif processes.joined():  # the others must not wait for this one
            traceback.print_exc()
            return EXIT_BUG
        else:
            raise
        print(f"error: {one_line(message)}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def version() -> str:
    """The versions of this program and of what it computes with, in a line."""
    names = ("cord_jax", "jax", "flax", "transformers")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def define_required(name: str, help_text: str, flag_values: flags.FlagValues) -> None:
    """A text flag without a default, whose absence is an error."""
    flags.DEFINE_string(name, None, help_text, flag_values=flag_values)
    flags.register_validator(
        name, lambda value: value is not None, message="must be given; see --help", flag_values=flag_values
    )


def define_distributed(flag_values: flags.FlagValues) -> None:
    """`--distributed` (see `cord_jax.mesh`), for jobs that compute; their dataclass has `--mesh`."""
    flags.DEFINE_string(
        "distributed",
        "none",
        "processes of this job: none (only this one), auto (as a TPU pod, "
        "Slurm or Open MPI says), or HOST:PORT,COUNT,INDEX (process 0's address, how many, which)",
        flag_values=flag_values,
    )


def define_report(flag_values: flags.FlagValues) -> None:
    """`--report` (see `cord_jax.report`), for jobs whose directory `write_report` draws at their end."""
    flags.DEFINE_bool(
        "report",
        True,
        "draw report.html, a page of this run, into the output directory",
        flag_values=flag_values,
    )


def write_report(values: flags.FlagValues) -> None:
    """Draws the page of a finished run if `--report` asks for it, and says on stderr where it is; process 0 does."""
    import jax

    if values.report and jax.process_index() == 0:
        from cord_jax.report.page import REPORT, try_report

        print(try_report([values.output_dir], Path(values.output_dir) / REPORT), file=sys.stderr)


def start_devices(values: flags.FlagValues, heeds_preemption: bool = False) -> None:
    """Does what `--mesh` and `--distributed` ask of this process, before it computes anything.

    Args:
      heeds_preemption: in a job of several processes SIGTERM is left to jax, which tells all of them.
    """
    from cord_jax.mesh import join_processes, split_cpu

    if values.distributed == "none":
        split_cpu(values.mesh)
    join_processes(values.distributed)
    if not heeds_preemption:
        interruption.take_over()


def _parse(flag_values: flags.FlagValues, argv: Sequence[str]) -> None:
    required = [name for name in flag_values if flag_values[name].validators]
    if len(argv) == 1 and len(required) > 1:
        for name in required:
            print(f"  --{name}: {flag_values[name].help}", file=sys.stderr)
        listed = ", ".join(f"--{name}" for name in required)
        raise UserError(f"{listed} must be given; see --help")
    try:
        rest = flag_values(list(argv))
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(flag_values), n=1)
        hint = f"did you mean --{near[0]}?" if near else "see --help"
        raise UserError(f"unknown flag --{error.flagname}; {hint}") from None
    except flags.Error as error:
        raise UserError(_of_absl(str(error).removeprefix("flag "))) from None
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}; flags are written --name=value, see --help")


def one_line(message: str, longest: int = 1000) -> str:
    """A message on one line, with no more than the beginning of words that are longer: values of files, not paths."""
    return re.sub(rf"\S{{{longest},}}", lambda found: found[0][:100] + "...", " ".join(message.split()))


def _of_absl(message: str) -> str:
    """absl's line on a flag, without its tuple where a flag is true or false, and with no more of a value than tells it."""
    if "Non-boolean argument" in message:
        message = message.partition(": (")[0] + ": must be true or false"
    return one_line(message, longest=120)


def _prepare_libraries() -> None:
    """Keeps compiled programs on disk between runs, and libraries quiet and off the network.

    The cache lies in the user's cache directory; JAX_COMPILATION_CACHE_DIR names another, and an empty value
    turns it off.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms.split(","):
        os.environ["JAX_PLATFORMS"] = f"{platforms},cpu"  # callbacks of the search run on the host
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # Errors of the compiler are raised as well; what it would print is that a program takes minutes to compile.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no PyTorch
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    cache = Path(home) / "cord_jax" / "compiled"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a read-only home: compile every time
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)  # read when jax is imported
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_compilation_cache_dir", str(cache))


def _is_user_error(error: Exception) -> bool:
    if isinstance(error, UserError):
        return True
    from models import CheckpointError  # only now: it brings jax, which a mistyped flag need not wait for

    return isinstance(error, CheckpointError)


def _help(flag_values: flags.FlagValues, description: str) -> str:
    """The module's docstring, then each flag in the order of its definition."""
    lines = [description.strip(), "", "Flags:"]
    indent = " " * 6
    wrapper = textwrap.TextWrapper(100, indent, indent, break_long_words=False, break_on_hyphens=False)
    for name in flag_values:
        flag = flag_values[name]
        lines.append(f"  --{name}" if flag.default is None else f"  --{name}={flag.default}")
        lines += wrapper.wrap(flag.help)
    return "\n".join(lines)
