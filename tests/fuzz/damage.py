"""Valid files, damaged in every way: over the bytes of a file, and over the values of JSON.

All draw from a `random.Random`: a case is its seed, and a hundred thousand of them are drawn in a few minutes.
"""

import copy
import json
from random import Random

DEEP = 3000
# Values of the wrong type, size or form for nearly every field.
VALUES = (
    *(None, True, False, 0, 1, -1, 2, 3, 10**9, 2**31, 2**63, 10**30, 0.0, -0.5, 3.5, 1e-320, 1e308),
    *(
        float("nan"),
        float("inf"),
        "",
        " ",
        "0",
        "1",
        "x",
        "true",
        "\0",
        "\ud800",
        "é",
        "\n",
        "</think>",
        "../x",
    ),
    *("/etc/passwd", "a" * 5000, [], [[]], [None], [0], ["x"], {}, {"a": 1}, [{}], [[1, 2], [3]], {"": {}}),
)
PIECES = (
    *(
        b"",
        b"\0",
        b"\n",
        b"\r\n",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b",",
        b":",
        b"\\",
        b"\xff",
        b"\xc3",
        b"\xef\xbb\xbf",
    ),
    *(
        b"null",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"-",
        b"9" * 5000,
        b"[" * DEEP,
        b'{"a":' * DEEP,
        b'"\\ud800"',
        b"#",
    ),
    *(
        b"{}\n",
        b"[]\n",
        b"\x1f\x8b",
        b"PAR1",
        b"=",
        b"[[proposer]]\n",
        b"'",
        b'"""',
        b"\\u0000",
        b"\xed\xa0\x80",
    ),
)


def damaged(rng: Random, content: bytes) -> bytes:
    """The content with a few cuts, insertions, flips, and runs moved or doubled."""
    for _ in range(rng.randint(1, 3)):
        begin = rng.randint(0, len(content))
        end = min(len(content), begin + rng.choice([0, 1, 1, 4, 30, 1000]))
        match rng.randrange(6):
            case 0:
                content = content[:begin]
            case 1:
                content = content[:begin] + content[end:]
            case 2 | 3:
                content = content[:begin] + rng.choice(PIECES) + content[end:]
            case 4:
                content = content[:begin] + content[begin:end] * 2 + content[end:]
            case 5:
                content = content[:begin] + rng.randbytes(rng.randint(0, 8)) + content[end:]
    return content


def _places(value, place=()):
    """The place of every value within a value."""
    yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in inner:
        yield from _places(held, (*place, key))


def misshapen(rng: Random, value):
    """A JSON value some of whose parts are others, missing, in another place, or under another name."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        place = rng.choice(list(_places(value)))
        junk = copy.deepcopy(rng.choice(VALUES))
        if not place:
            if rng.random() < 0.05:
                value = junk
            continue
        holder = value
        for key in place[:-1]:
            holder = holder[key]
        match rng.randrange(8):
            case 0:
                del holder[place[-1]]
            case 1 if isinstance(holder, dict):
                holder[rng.choice(["", "x", "id", "\ud800", "type", "answers"])] = holder.pop(place[-1])
            case 2:
                holder[place[-1]] = copy.deepcopy(value) if len(repr(value)) < 20_000 else junk
            case 3:
                holder[place[-1]] = [holder[place[-1]]]
            case _:
                holder[place[-1]] = junk
    return value


def as_json(value) -> bytes:
    """A value as JSON, and as what is no JSON any more where it holds NaN or half of a surrogate pair."""
    return json.dumps(value).encode()


def json_file(rng: Random, value) -> bytes:
    """A JSON file that is not quite what it was."""
    content = as_json(misshapen(rng, value))
    return damaged(rng, content) if rng.random() < 0.2 else content


def lines_file(rng: Random, rows) -> bytes:
    """A file of JSON lines of which some are not quite what they were."""
    lines = [as_json(row) for row in rows]
    number = rng.randrange(len(lines))
    lines[number] = as_json(misshapen(rng, rows[number]))
    if rng.random() < 0.1:
        lines.insert(rng.randint(0, len(lines)), rng.choice(lines))
    content = b"\n".join(lines) + b"\n"
    return damaged(rng, content) if rng.random() < 0.25 else content
