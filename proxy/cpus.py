"""How many CPUs this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_cpus(files: Path = Path("/")) -> int:
    """Those that it may run on, and no more than its control groups let it have time of: a container with a quota of
    two on a large host has two. files: where `sys` and `proc` are.
    """
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, _quotas(files))]))


def _quotas(files: Path) -> Iterator[float]:
    """The CPUs' worth of time that each control group around this process may have; none where nothing is said."""
    try:
        lines = (files / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Within a container the path is that of the host, and what holds is at the root.
        inside = PurePosixPath(path.lstrip("/"))
        for group in (inside, *inside.parents):
            if controllers:  # the first version, in which each controller is a tree of its own
                tree = files / "sys/fs/cgroup/cpu" / group
                words = f"{_text(tree / 'cpu.cfs_quota_us')} {_text(tree / 'cpu.cfs_period_us')}".split()
            else:
                words = _text(files / "sys/fs/cgroup" / group / "cpu.max").split()
            if len(words) == 2 and (quota := _number(words[0])) > 0 and (period := _number(words[1])) > 0:
                yield quota / period


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _number(word: str) -> int:
    """0 for what is none, such as `max`."""
    return int(word) if word.isascii() and word.isdigit() else 0
