"""Rendering chat templates in a process of its own, which bounds what a stranger's template may cost.

One process serves all templates of a job: it is started by the first one and keeps what it has compiled. One that
exceeds its bounds is ended, and the next template starts another.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cord_jax.text.template_worker import TOO_MUCH

CPU_SECONDS = 5  # of computing, for one rendering
_START_SECONDS = 120.0  # for the process to import transformers, on a machine that is busy
_ANSWER_SECONDS = 120.0  # the same for an answer: its own bound is one of computing time


class TemplateError(Exception):
    """A template cannot be rendered; the message is the reason."""


class TooMuchError(TemplateError):
    """A template exceeds its bounds, whatever it is given."""


class _Worker:
    """A running process and the connection to it."""

    def __init__(self):
        self.connection, there = Pipe()
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "cord_jax.text.template_worker",
                *map(str, (there.fileno(), CPU_SECONDS)),
            ],
            pass_fds=[there.fileno()],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # an interruption is for us to handle
        )
        there.close()
        self.owner = os.getpid()
        if _received(self.connection, _START_SECONDS) is None:
            self.stop()
            raise RuntimeError(
                f"the process that renders chat templates did not start: {self.process.returncode}"
            )

    def stop(self) -> None:
        """Ends the process."""
        self.connection.close()
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()


_worker: _Worker | None = None


def file_of(directory: Path) -> Path:
    """The file that the chat template of a checkpoint stands in."""
    file = directory / "chat_template.jinja"
    return file if file.exists() else directory / "tokenizer_config.json"


def render(template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
    """A chat template over messages, up to where the assistant begins to write, as transformers renders it.

    Args:
      template: Jinja.
      messages: turns; fields that are None are left out.
      variables: everything else that the template can read; JSON values.

    Raises:
      TemplateError: the template refuses the messages.
      TooMuchError: it exceeds its bounds (here and in the worker).
      RuntimeError: the process cannot be started.
    """
    turns = [{name: value for name, value in turn.items() if value is not None} for turn in messages]
    request = {"template": template, "messages": turns, "variables": dict(variables)}
    answer = _ask(json.dumps(request).encode())
    if "too_much" in answer:
        raise TooMuchError(str(answer["too_much"]))
    if "error" in answer:
        raise TemplateError(str(answer["error"]))
    return str(answer["text"])


def _ask(request: bytes) -> dict[str, Any]:
    """The worker's answer. One that was ended from outside while it was idle is started again."""
    global _worker
    if _worker is not None and (_worker.owner != os.getpid() or _worker.process.poll() is not None):
        _stop()
    worker = _worker = _worker or _Worker()
    try:
        worker.connection.send_bytes(request)
        answer = _received(worker.connection, _ANSWER_SECONDS)
    except BaseException:  # an interruption: the answer to come would be taken for that of another request
        _stop()
        raise
    if answer is not None:
        return json.loads(answer)
    ended = _ends_soon(worker.process)
    _stop()
    slow = not ended or worker.process.returncode == -signal.SIGXCPU
    return {"too_much": f"it takes more than {CPU_SECONDS} seconds" if slow else TOO_MUCH}


def _ends_soon(process: subprocess.Popen) -> bool:
    """Whether a process that has closed its connection ends."""
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        return False
    return True


def _received(connection: Connection, seconds: float) -> bytes | None:
    """The next message; None if the process has ended or is silent for so long."""
    try:
        return connection.recv_bytes() if connection.poll(seconds) else None
    except (EOFError, ConnectionError):
        return None


def _stop() -> None:
    global _worker
    worker, _worker = _worker, None
    if worker is not None:
        worker.stop()


atexit.register(_stop)
