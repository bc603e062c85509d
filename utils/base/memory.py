"""Tells how much memory and how many cores this process may use, in a container its share of them.

It also changes how memory is freed where the default costs time: by glibc's `malloc`, from which
TensorFlow takes its tensors, and by Python's garbage collector.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import pathlib
from collections.abc import Iterator

CGROUP = "/sys/fs/cgroup"
# Files of limit, use and statistics, and the name of cached files; of versions 2 and 1.
_MEMORY_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
# Microseconds of computing that the group gets in each period, and the period, likewise.
_CPU_FILES = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_MOST_CORES_OF_ONE_ARENA = 16


def keep_freed_memory() -> None:
    """Has `malloc` use freed memory again instead of giving it back to the kernel.

    Call it before other threads start, because each of them takes an arena of its own.

    Every step allocates tensors of the same sizes. glibc gives large ones back when they are freed,
    and the kernel clears all their pages before the process gets them again: that took a quarter of
    a step of A1, and half of one of 128 images, where TensorFlow does without oneDNN, which keeps
    its memory itself. All threads share one arena: further ones consist of pieces of 64 MB, each of
    which glibc gives back when it is empty, whatever it is told. With many cores threads would wait
    for each other, so such machines are left alone, and so is a `malloc` that the user has set up.
    """
    if cores() > _MOST_CORES_OF_ONE_ARENA or any(
        name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ
    ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is None:
        return
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)  # never
    mallopt(_M_TOP_PAD, 64 << 20)  # asks the kernel seldom; what is not used takes no memory


def free_memory(cgroup: str = CGROUP) -> int:
    """Returns the bytes of memory that are free; in a container, of its share; 0 if unknown.

    Args:
      cgroup: the folder where Linux tells the limits of this process's group.
    """
    try:
        machine = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        machine = 0
    return max(0, min([machine, *_left_of_limits(cgroup)]))


def _left_of_limits(cgroup: str) -> Iterator[int]:
    for *names, cached in _MEMORY_FILES:
        # Without a limit the files are missing, or the limit is not a number.
        with contextlib.suppress(OSError, ValueError):
            limit, used, statistics = (_read(cgroup, name) for name in names)
            caches = dict(line.split(maxsplit=1) for line in statistics.splitlines())
            # Cached files count as used memory, but give way to other data.
            yield int(limit) - int(used) + int(caches.get(cached, 0))


def fits_bytes(size: int) -> bool:
    """Whether so many bytes fit in a quarter of the free memory."""
    return size <= free_memory() / 4


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Returns a block in which Python does not look for unreachable cycles of objects.

    The graphs of TensorFlow are hundreds of thousands of objects, each search looks at all of them
    again, and a tenth of the time of an export were such searches.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def cores(cgroup: str = CGROUP) -> int:
    """Returns how many cores this process may use, at least 1; a share of a core counts as one.

    More threads only take memory, and the kernel slows a container that computes more.

    Args:
      cgroup: the folder where Linux tells the limits of this process's group.
    """
    if hasattr(os, "sched_getaffinity"):
        machine = len(os.sched_getaffinity(0))
    else:
        machine = os.cpu_count() or 1
    return min([machine, *_core_limits(cgroup)])


def _core_limits(cgroup: str) -> Iterator[int]:
    for names in _CPU_FILES:
        # Without a limit the files are missing, or the quota is "max" or -1.
        with contextlib.suppress(OSError, ValueError):
            quota, period = (int(n) for name in names for n in _read(cgroup, name).split())
            if quota > 0 and period > 0:
                yield math.ceil(quota / period)


def _read(cgroup: str, name: str) -> str:
    return pathlib.Path(cgroup, name).read_text("utf-8")
