"""Rendering chat templates in a process of its own, which bounds what a stranger's template may cost.

One process serves all templates of a job: it is started by the first one and keeps what it has compiled. One that
exceeds its bounds is ended, and the next template starts another.
"""

import atexit
import functools
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
_PROBE = "QUESTION81"  # a text that no template has
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
    jinja, own, processor = (
        directory / name for name in ("chat_template.jinja", "tokenizer_config.json", "chat_template.json")
    )
    if jinja.exists():
        return jinja
    return processor if processor.exists() and b'"chat_template"' not in _content(own) else own


def _content(file: Path) -> bytes:
    """The content of a file; nothing if there is none."""
    return file.read_bytes() if file.is_file() else b""


def render(template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
    """A chat template over messages, up to where the assistant begins to write, as transformers renders it.

    Args:
      template: Jinja.
      messages: turns; fields that are None are left out. Their content is a text, which a template that reads parts of
        content alone gets as one part.
      variables: everything else that the template can read; JSON values.

    Raises:
      TemplateError: the template refuses the messages.
      TooMuchError: it exceeds its bounds (here and in the worker).
      RuntimeError: the process cannot be started.
    """
    turns = [{name: value for name, value in turn.items() if value is not None} for turn in messages]
    if _takes_parts(template, json.dumps(dict(variables), sort_keys=True)):
        turns = [turn | {"content": _parts(turn["content"])} for turn in turns]
    return _rendered(template, turns, variables)


@functools.lru_cache(maxsize=64)
def _takes_parts(template: str, variables: str) -> bool:
    """Whether a template writes a turn's text only where its content is a list of parts; some of multimodal models do."""

    def writes(content: Any) -> bool:
        try:
            text = _rendered(template, [{"role": "user", "content": content}], json.loads(variables))
        except TooMuchError:
            raise
        except TemplateError:
            return False
        return _PROBE in text and "{'" not in text

    return not writes(_PROBE) and writes(_parts(_PROBE))


def _parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _rendered(template: str, turns: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
    request = {"template": template, "messages": list(turns), "variables": dict(variables)}
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
