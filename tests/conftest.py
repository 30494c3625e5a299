"""Eight simulated devices, a cache of compiled programs, the order of tests, real problem sets and vocabularies."""

import os
from pathlib import Path

import hypothesis
import pytest

# Before jax starts. The tests compare with torch on the CPU, and shard over eight simulated devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".cache" / "compiled")
)
# LLVM's optimizations are left out: the tests compile for longer than they compute.
for flag in ("--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"):
    if flag.partition("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"

# No test depends on how fast it runs.
hypothesis.settings.register_profile(
    "project", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("project")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Skips modules that need torch where it is not installed."""
    report = yield
    if report.failed and "No module named 'torch'" in str(report.longrepr):
        report.outcome, report.longrepr = "skipped", (str(collector.path), None, "Skipped: needs torch")
    return report


def pytest_collection_modifyitems(items):
    """Begins with the tests that take longest, or one process would end with one of them while the others are done."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real problem sets and vocabularies: the directory $CORD_SHARED, else `../shared` beside the repository.

    They are not part of the project; a test that needs them is skipped where they are absent.
    """
    path = Path(os.environ.get("CORD_SHARED", REPOSITORY.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no real data: neither $CORD_SHARED nor {path} is a directory")
    return path
