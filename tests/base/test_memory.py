"""Tests of what a process may use of the machine: memory and cores, of a container its share."""

import gc
import os
import pathlib
import platform
import re
import subprocess
import sys

import pytest

import imagenet_input
from utils.base import memory

ROOT = pathlib.Path(__file__).parents[2]
MACHINE = memory.free_memory("/nowhere")
LIMITS = {
    "version 2": (
        {"max": "3000", "current": "1200", "stat": "file 900\ninactive_file 400\n"},
        2200,
    ),
    "no cache": ({"max": "3000", "current": "1200", "stat": ""}, 1800),
    "used up": ({"max": "3000", "current": "3500", "stat": "inactive_file 100\n"}, 0),
    "no limit": ({"max": "max\n", "current": "1200", "stat": "inactive_file 4\n"}, None),
    "version 1": (
        {
            "limit_in_bytes": "3000",
            "usage_in_bytes": "2999",
            "stat": "inactive_file 7\ntotal_inactive_file 5\n",
        },
        6,
    ),
    "version 1, no limit": (
        {
            "limit_in_bytes": str(2**63 - 4096),
            "usage_in_bytes": "1",
            "stat": "total_inactive_file 0\n",
        },
        None,
    ),
    "no such files": ({}, None),
}


def test_what_fits():
    assert memory.fits_bytes(0)
    assert not memory.fits_bytes(memory.free_memory() + 1)
    assert memory.free_memory() > 0


@pytest.mark.parametrize("kind", LIMITS)
def test_the_limit_of_a_container_is_the_memory(tmp_path, kind):
    contents, expected = LIMITS[kind]
    folder = tmp_path / "memory" if kind.startswith("version 1") else tmp_path
    folder.mkdir(exist_ok=True)
    for name, text in contents.items():
        (folder / f"memory.{name}").write_text(text)
    found = memory.free_memory(str(tmp_path))
    if expected is None:  # the machine's, which changes from moment to moment
        assert 0.5 * MACHINE < found < 2 * MACHINE
    else:
        assert found == expected


@pytest.fixture
def many_cores(monkeypatch):
    """A machine that lets this process use 16 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 16),
        ({"cpu.max": "max 100000\n"}, 16),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 16),
        ({"cpu.max": "unlike anything\n"}, 16),
        ({"cpu.max": "100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
    ],
)
def test_cores_are_those_of_the_affinity_and_of_the_container(
    tmp_path, many_cores, files, expected
):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory.cores(str(tmp_path)) == expected


def test_a_machine_without_affinity_has_all_its_cores(monkeypatch, many_cores):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert memory.cores("/nowhere") == 64


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a call of Linux")
def test_the_input_follows_the_affinity():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        images = imagenet_input.ImageNetInput(True, False, False, data_dir="null")
        assert images.num_parallel_calls == 2
    finally:
        os.sched_setaffinity(0, before)


def test_cores_are_counted_in_one_place():
    counting = re.compile(r"cpu_count|sched_getaffinity|SC_NPROCESSORS")
    paths = [*ROOT.glob("*.py"), *ROOT.glob("utils/**/*.py")]
    assert [p.name for p in paths if counting.search(p.read_text())] == ["memory.py"]


@pytest.mark.parametrize("enabled", [True, False])
def test_no_collection_leaves_the_collector_as_it_was(enabled):
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(KeyError), memory.no_collection():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


# Prints the pages that the kernel cleared while a thread of a program allocated, and freed, 32
# times more memory than glibc keeps for it by default.
ALLOCATING = """
import ctypes, os, resource, threading
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: huge pages would hide the difference
os.sched_getaffinity = lambda process: set(range({cores}))
from utils.base import program

def allocate():
    for _ in range(32):
        b"x" * (40 << 20)

def main(argv):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

program.run(main, ["prog"])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc")
@pytest.mark.parametrize(
    ("cores", "setting", "keeps"),
    [
        (2, {}, True),
        (64, {}, False),
        (2, {"MALLOC_ARENA_MAX": "4"}, False),
        (2, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"}, False),
    ],
)
def test_programs_use_freed_memory_again(cores, setting, keeps):
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("MALLOC", "GLIBC"))}
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATING.format(cores=cores)],
        cwd=ROOT,
        text=True,
        timeout=60,
        env={**environment, **setting},
        stdout=subprocess.PIPE,
        check=True,
    )
    once = (40 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert int(done.stdout) < 4 * once if keeps else int(done.stdout) > 16 * once
