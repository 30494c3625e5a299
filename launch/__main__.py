"""`python -m launch`: the jobs, one a line."""

import ast
import pkgutil
from pathlib import Path

import launch
from launch import common


def jobs() -> dict[str, str]:
    """The first line of each entry point's docstring, by name."""
    found = {}
    for module in pkgutil.iter_modules(launch.__path__):
        if module.name in ("__main__", "common"):
            continue
        text = (Path(launch.__path__[0]) / f"{module.name}.py").read_text(encoding="utf-8")
        if "common.run(" in text:
            found[module.name] = (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
    return found


def show() -> int:
    """Prints the jobs."""
    print(common.version())
    for name, summary in jobs().items():
        print(f"  python -m launch.{name:16} {summary}")
    return 0


if __name__ == "__main__":
    common.leave(show)
