"""What docstrings, comments and documents refer to exists: sections of the method, documents, files, modules and names."""

import ast
import functools
import importlib.util
import io
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from cord_jax.search.slots import SubBatch

ROOT = Path(__file__).parent.parent
PACKAGES = ("cord_jax", "models", "launch", "benchmarks", "tests")
CODE = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
DOCUMENTS = [*sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("*.md"))]

# "method, section 3.7", "docs/method.md, sections 3.4 to 3.6 and 3.16"; a line may end anywhere in it.
_SECTION = re.compile(
    r"\b(method|design|\w+\.md)`?,\s+sections?\s+(\d+(?:\.\d+)?(?:(?:,\s+|\s+and\s+|\s+to\s+)\d+(?:\.\d+)?)*)"
)
_DOCUMENT = re.compile(r"\bdocs/\w+\.md\b")
_QUOTED = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(rf"(?:{'|'.join(PACKAGES)}|docs)/[\w./]*")
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_FILE = re.compile(r".*\.(?:json|jsonl|gz|toml|md|txt|py|png|jinja|safetensors|model|bin|cfg|sbatch|html)")
# Stands for any name: `models/families/NAME.py`, `launch.JOB`.
_ANY = re.compile(r"[A-Z]{2,}")
# What the method defines ahead of the program.
_NOT_YET = re.compile(r"^> Not yet part of the program: .*$", re.MULTILINE)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of the docstrings and comments of a module, or of all lines of a document."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield 1, re.sub(r"```.*?```", "", source, flags=re.DOTALL)
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if (text := ast.get_docstring(node)) is not None:
                yield node.body[0].lineno, text
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


@functools.cache
def sections() -> frozenset[str]:
    """The numbers of the method's sections."""
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    return frozenset(re.findall(r"^##+ (\d+(?:\.\d+)?)\.? ", text, re.MULTILINE))


@functools.cache
def modules() -> dict[str, dict[str, frozenset[str]]]:
    """Module -> its names -> theirs, where they are classes; all by their text alone."""
    found, imported = {}, []
    for path in CODE:
        parts = path.relative_to(ROOT).with_suffix("").parts
        tree = ast.parse(path.read_text(encoding="utf-8"))
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        imported += [(name, node) for node in tree.body if isinstance(node, ast.ImportFrom)]
        found[name] = {bound: members for node in tree.body for bound, members in _bound(node)}
        if name == "cord_jax":  # names that are imported when they are asked for
            home = next(n for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "_HOME")
            found[name] |= dict.fromkeys(ast.literal_eval(home.value), frozenset())
    for name, node in imported:
        for alias in node.names:
            if members := found.get(node.module, {}).get(alias.name):
                found[name][alias.asname or alias.name] = members
    for name in list(found):
        package, _, module = name.rpartition(".")
        if package in found:
            found[package].setdefault(module, frozenset())
    return found


def _bound(node: ast.stmt) -> Iterator[tuple[str, frozenset[str]]]:
    """The names that a statement of a module binds, each with its members."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield node.name, frozenset()
    elif isinstance(node, ast.ClassDef):
        inside = {name for part in node.body for name, _ in _bound(part)}
        inside |= {
            n.attr
            for n in ast.walk(node)
            if isinstance(n, ast.Attribute)
            and isinstance(n.ctx, ast.Store)
            and ast.unparse(n.value) == "self"
        }
        yield node.name, frozenset(inside)
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        for alias in node.names:
            yield (alias.asname or alias.name).split(".")[0], frozenset()
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for part in ast.walk(target):
                if isinstance(part, ast.Name):
                    yield part.id, frozenset()
    elif isinstance(node, (ast.If, ast.Try, ast.With)):
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.stmt):
                yield from _bound(part)


def holds(module: str, names: list[str]) -> bool:
    """Whether a module has a name, and that name a member."""
    known = modules()[module]
    if not names or _ANY.fullmatch(names[0]):
        return True
    if names[0] in known:
        members = known[names[0]]
        return len(names) == 1 or not members or names[1] in members
    # A member of one of its classes, told by the module's name: `config.resolved`.
    return len(names) == 1 and any(names[0] in members for members in known.values())


def exists(reference: str) -> bool | None:
    """Whether a dotted name is one of ours; None if it is not about us."""
    head, *rest = reference.split(".")
    if head in PACKAGES:
        names = reference.split(".")
        longest = max(n for n in range(1, len(names) + 1) if n == 1 or ".".join(names[:n]) in modules())
        return holds(".".join(names[:longest]), names[longest:])
    matching = [name for name in modules() if name.split(".")[-1] == head]
    if matching:
        return any(holds(name, rest) or f"{name}.{rest[0]}" in modules() for name in matching)
    classes = [known[head] for known in modules().values() if known.get(head)]
    if classes:
        return any(rest[0] in members for members in classes)
    return None


def is_foreign(reference: str) -> bool:
    """Whether a dotted name begins with a library's, a builtin's or a file's name."""
    head = reference.split(".")[0]
    aliases = ("jnp", "lax", "nnx", "np", "pl")
    return head in aliases or head in sys.stdlib_module_names or importlib.util.find_spec(head) is not None


@functools.cache
def variables(path: Path) -> frozenset[str]:
    """Arguments and local variables of a module, whose attributes its docstrings may speak of."""
    if path.suffix != ".py" or not path.exists():
        return frozenset()
    found = set()
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            found |= {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
            found |= {
                node.id
                for node in ast.walk(function)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
    return frozenset(found)


def complaints(path: Path) -> Iterator[str]:
    """One line for every reference that leads nowhere."""
    own = variables(path)
    for line, text in texts(path):
        where = f"{path.relative_to(ROOT)}:{line}"
        ahead = {quoted for line in _NOT_YET.findall(text) for quoted in _QUOTED.findall(line)}
        for document, numbers in _SECTION.findall(text):
            if document not in ("method", "method.md"):
                yield f"{where}: {document} has no section {numbers}; docs/method.md has"
            elif missing := set(re.findall(r"\d+(?:\.\d+)?", numbers)) - sections():
                yield f"{where}: the method has no section {', '.join(sorted(missing))}"
        for document in _DOCUMENT.findall(text):
            if not (ROOT / document).is_file():
                yield f"{where}: there is no {document}"
        for quoted in _QUOTED.findall(text):
            if _PATH.fullmatch(quoted):
                known = Path(*(part for part in Path(quoted).parts if not _ANY.match(Path(part).stem)))
                if not (ROOT / known).exists():
                    yield f"{where}: there is no {quoted}"
            elif _DOTTED.fullmatch(quoted) and not _FILE.fullmatch(quoted) and quoted not in ahead:
                known = quoted.split(".")[0] in own or exists(quoted)
                if known is False or (known is None and not is_foreign(quoted)):
                    yield f"{where}: `{quoted}` is nothing that there is"


@pytest.mark.parametrize("path", [*CODE, *DOCUMENTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_references_resolve(path):
    assert not list(complaints(path))


def test_stale_references_are_seen(monkeypatch):
    stale = {
        "method, section 3.99": "section 3.99",
        "design, section 3.7": "design",
        "docs/nothing.md": "docs/nothing.md",
        "`models/nothing.py`": "models/nothing.py",
        "`cord_jax.search.nothing`": "cord_jax.search.nothing",
        "`models.Decoder.nothing`": "models.Decoder.nothing",
        "`kv_cache.nothing`": "kv_cache.nothing",
        "`planning.granularity`": "planning.granularity",
    }
    for text, told in stale.items():
        path = ROOT / "tests" / "_stale.py"
        monkeypatch.setattr(
            sys.modules[__name__], "texts", lambda _, text=text: iter([(1, f"As in {text}, or so.")])
        )
        found = list(complaints(path))
        assert len(found) == 1 and told in found[0], (text, found)


def test_the_selector_of_the_tour_works():
    document = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    block = next(b for b in re.findall(r"```python\n(.*?)```", document, re.DOTALL) if "Shortest" in b)
    selector: dict = {"__name__": "shortest"}
    exec(textwrap.dedent(block), selector)
    rng = np.random.default_rng(0)
    rows, rounds, places, proposers = 2, 3, 2, 2
    candidates = places * proposers
    thinking_nmj = rng.integers(1, 9, (rows, rounds, candidates))
    node_nb = np.array([[1, 7], [0, 5]])
    length_rj = rng.integers(1, 9, (rows, candidates))
    scores = selector["scorer"](None)(
        SimpleNamespace(
            candidates=candidates, num_proposers=proposers, meta=0, readers=[SimpleNamespace(vocabulary=0)]
        ),
        (),
        SimpleNamespace(
            tree=SimpleNamespace(thinking_nmj=jnp.asarray(thinking_nmj)),
            frontier=SimpleNamespace(node_nb=jnp.asarray(node_nb)),
        ),
        SubBatch(jnp.arange(rows), jnp.ones(rows, bool)),
        SimpleNamespace(length_urj=jnp.asarray(length_rj)[None]),
    )
    for row in range(rows):
        # Node 0 is the empty trace; the others are numbered by round and candidate.
        so_far = [0, *thinking_nmj[row].reshape(-1)]
        for j in range(candidates):
            assert scores.score_rj[row, j] == -(so_far[node_nb[row, j // proposers]] + length_rj[row, j])
