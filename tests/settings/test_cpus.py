"""How many processes serve clients by default: as many as there is time for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.cpus import usable_cpus

FILES = {
    "a container": {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"},
    "half a CPU more": {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"},
    "a service": {
        "proc/self/cgroup": "0::/system.slice/gateway.service\n",
        "sys/fs/cgroup/system.slice/gateway.service/cpu.max": "200000 100000\n",
        "sys/fs/cgroup/system.slice/cpu.max": "max 100000\n",
    },
    "a slice around it": {
        "proc/self/cgroup": "0::/system.slice/gateway.service\n",
        "sys/fs/cgroup/system.slice/gateway.service/cpu.max": "max 100000\n",
        "sys/fs/cgroup/system.slice/cpu.max": "200000 100000\n",
    },
    "the path of the host": {
        "proc/self/cgroup": "0::/docker/0123\n",
        "sys/fs/cgroup/cpu.max": "200000 100000\n",
    },
    "the first version": {
        "proc/self/cgroup": "5:cpuset:/\n4:cpu,cpuacct:/docker/0123\n0::/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    },
}
FREE = {
    "nothing is said": {"proc/self/cgroup": "0::/\n"},
    "no groups": {},
    "no limit": {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
    "no limit in the first version": {
        "proc/self/cgroup": "1:cpu:/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    },
    "something else": {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "who knows\n"},
}


def placed(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize("files", FILES.values(), ids=FILES)
def test_a_quota_counts(files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host may have many CPUs of which a control group has the time of two; what is left of one counts as one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert usable_cpus(placed(tmp_path, files)) == 2


@pytest.mark.parametrize("files", FREE.values(), ids=FREE)
def test_without_a_quota_all_count(files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those on which the process may run, which may be fewer than there are."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    assert usable_cpus(placed(tmp_path, files)) == 6


def test_there_is_always_one(tmp_path: Path) -> None:
    """A tenth of a CPU is served by one process, and one CPU is not made two by a large quota."""
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "10000 100000\n"}
    assert usable_cpus(placed(tmp_path, files)) == 1
