"""A disk that is really full: every command says so in a line, leaves nothing half, and goes on when there is room."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cord_jax.storage import REMEDY
from tests.conftest import REPOSITORY
from tests.launch.miniature_jobs import FLAGS, Job, names_in

PAGE = 4096
# No file beside those of a finished run may have such a name.
UNFINISHED = (".tmp", "unfinished", "orbax-checkpoint-tmp")


class Disk:
    """A small file system in memory, most of which a file fills."""

    def __init__(self, path: Path):
        path.mkdir()
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", path], capture_output=True)
        if made.returncode:
            pytest.skip("needs the right to mount a file system")
        self.path, self._filler = path, path / "filler"

    def leave(self, size: int) -> None:
        """Fills the disk but for so many bytes."""
        self._filler.unlink(missing_ok=True)
        free = os.statvfs(self.path).f_bavail * PAGE
        with open(self._filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(PAGE, free - size))

    def close(self) -> None:
        """Takes it away."""
        subprocess.run(["umount", "-l", self.path], check=True)


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path / "disk")
    yield made
    made.close()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    made: dict[str, Job] = {}

    def job(name: str) -> Job:
        if name not in made:
            made[name] = Job(
                name, tmp_path_factory.mktemp(name), **FLAGS[name](tmp_path_factory.mktemp("in"))
            )
        return made[name]

    return job


def sizes_of(most: int):
    """Bytes that are left free: none, a page, and four times as many each time."""
    yield 0
    size = PAGE
    while size < most:
        yield size
        size *= 4
    yield most


def where(errors: str, disk: Path) -> str:
    """The file that an error names, without what is random in its name."""
    line = next(line for line in errors.splitlines() if line.startswith("error: "))
    assert "No space left on device" in line or "ENOSPC" in line, line
    assert REMEDY in line, line
    return line.removeprefix("error: ").replace(f"{disk}/", "").split(":")[0][:60]


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAGS)
def test_a_long_job_goes_on_when_there_is_room(jobs, disk, capsys, name):
    job, output_dir, hit = jobs(name), disk.path / "out", []
    for size in sizes_of(64 << 20):
        disk.leave(size)
        with job.start(output_dir) as process:
            _, errors = process.communicate(timeout=900)
        assert "Traceback" not in errors, errors
        left = [n for n in names_in(disk.path) if any(word in n for word in UNFINISHED)]
        if process.returncode == 0:
            hit.append(f"{size >> 10} KiB: done" + (", no report" if "report: not written" in errors else ""))
            if not left and "report: not written" not in errors and "not be saved" not in errors:
                break
            assert not left, left
            continue
        assert process.returncode == 2, errors
        assert len([line for line in errors.splitlines() if line.startswith("error: ")]) == 1, errors
        hit.append(f"{size >> 10} KiB: {where(errors, disk.path)}")
        assert not left, left
    counts = job.same_as_whole(output_dir)
    with capsys.disabled():
        print(f"\n{name}: {'; '.join(hit)}; {counts}")


RUNS = {
    "report": lambda run, disk: (["--runs", run, "--output", disk / "page.html"], "page.html"),
    "publish": lambda run, disk: (
        ["--run", run, "--license", "cc0-1.0", "--output_dir", disk / "out"],
        "out",
    ),
    "preferences": lambda run, disk: (["--run", run, "--margin", "0", "--output_dir", disk / "out"], "out"),
    "rescore": lambda run, disk: (["--run", run, "--beam_width", "2", "--output_dir", disk / "out"], "out"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_what_is_made_of_a_run_is_made_when_there_is_room(jobs, disk, tmp_path, capsys, name):
    run, hit = jobs("synthesize").whole, []
    arguments, made = RUNS[name](run, disk.path)
    command = [sys.executable, "-m", f"launch.{name}", *map(str, arguments)]
    for size in sizes_of(8 << 20):
        disk.leave(size)
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        left = [n for n in names_in(disk.path) if any(word in n for word in UNFINISHED)]
        assert not left, left
        if done.returncode == 0:
            hit.append(f"{size >> 10} KiB: done")
            break
        assert done.returncode == 2, done.stderr
        hit.append(f"{size >> 10} KiB: {where(done.stderr, disk.path)}")
    arguments, _ = RUNS[name](run, tmp_path)
    subprocess.run([*command[:3], *map(str, arguments)], cwd=REPOSITORY, capture_output=True, check=True)
    ours, theirs = disk.path / made, tmp_path / made
    if ours.is_dir():
        assert names_in(ours) == names_in(theirs)
    for file in [ours] if ours.is_file() else [path for path in ours.rglob("*") if path.is_file()]:
        if file.name not in ("summary.json", "log.txt", "config.json"):
            assert file.read_bytes() == (theirs / file.relative_to(ours)).read_bytes(), file
    with capsys.disabled():
        print(f"\n{name}: {'; '.join(hit)}")
