"""Eight simulated devices, a cache of compiled programs, real problem sets and vocabularies."""

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
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

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


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real problem sets and vocabularies: the directory $CORD_SHARED, else `../shared` beside the repository.

    They are not part of the project; a test that needs them is skipped where they are absent.
    """
    path = Path(os.environ.get("CORD_SHARED", REPOSITORY.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no real data: neither $CORD_SHARED nor {path} is a directory")
    return path
