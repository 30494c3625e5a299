"""A process that renders chat templates, within bounds of time and memory that the operating system keeps.

A template is a program of a checkpoint's author: loops in loops, `'a' * 10**10` and `10**10**8` would hang or exhaust
whoever renders them. `cord_jax.text.templates` starts `python -m cord_jax.text.template_worker FILE_DESCRIPTOR SECONDS`
and speaks with it in JSON, since what comes back is not to be trusted more than the template.
"""

import contextlib
import json
import os
import resource
import sys
from multiprocessing.connection import Connection

# Beyond what the process takes before its first template.
MEMORY_BYTES = 1 << 30
LONGEST_OUTPUT = 1 << 25
TOO_MUCH = f"it asks for more than {MEMORY_BYTES >> 20} MB of memory"


def main() -> None:
    """Answers requests {template, messages, variables} with {text}, {error} or {too_much} until the connection is closed."""
    from transformers.utils.chat_template_utils import render_jinja_template

    connection, seconds = Connection(int(sys.argv[1])), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _bound(resource.RLIMIT_AS, _memory() + MEMORY_BYTES)
    connection.send_bytes(b"ready")
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        # Beyond it the process is ended by a signal, in the middle of a multiplication, too.
        _bound(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)
        try:
            ((text,), _) = render_jinja_template(
                conversations=[request["messages"]],
                chat_template=request["template"],
                add_generation_prompt=True,
                **request["variables"],
            )
            if len(text) > LONGEST_OUTPUT:
                text = f"it writes {len(text)} characters; at most {LONGEST_OUTPUT} are taken"
                answer = {"too_much": text}
            else:
                answer = {"text": text}
        except MemoryError:
            answer = {"too_much": TOO_MUCH}
        except Exception as error:  # a template may raise anything
            answer = {"error": " ".join(str(error).split())[:500] or type(error).__name__}
        connection.send_bytes(json.dumps(answer).encode())


def _bound(kind: int, most: int) -> None:
    hardest = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hardest == resource.RLIM_INFINITY else min(most, hardest), hardest))


def _memory() -> int:
    """Bytes of address space that this process has; elsewhere than on Linux, a guess that is large enough."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 8 << 30


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # whoever asked is gone
        main()
