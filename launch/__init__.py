"""Entry points, one file per job: `python -m launch.JOB --help`. They parse flags and call `cord_jax`."""

import os
import signal
import sys

from cord_jax import interruption


def _end(number: int, frame: object) -> None:
    """Ends a job that is still being imported; `cord_jax.interruption` takes over when it runs."""
    os.write(2, (interruption.MESSAGE + "\n").encode())
    os._exit(interruption.exit_status(number))


if sys.argv[:1] == ["-m"]:  # so it is while `python -m launch.JOB` imports this package, and at no other time
    for _number in interruption.SIGNALS:
        signal.signal(_number, _end)
