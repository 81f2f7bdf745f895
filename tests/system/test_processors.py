"""Threads are as many as the CPUs that the kernel will really give: by affinity and by the quota of every cgroup."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiw_fsm.system import cgroups, processors

MOUNT = "36 31 0:33 {root} {where} rw,relatime shared:9 - {kind} {kind} rw,{options}\n"
PERIOD = 100_000
UNLIMITED = {1: "-1", 2: "max"}


def mounted(folder: Path, version: int, root: str = "/") -> str:
    """The line of mountinfo of a hierarchy that has the controller cpu."""
    where = str(folder).replace(" ", "\\040")
    kind, options = ("cgroup", "cpu,cpuacct") if version == 1 else ("cgroup2", "nsdelegate")
    return MOUNT.format(root=root, where=where, kind=kind, options=options)


def member(group: str, version: int) -> str:
    """The line of /proc/PID/cgroup."""
    return f"4:cpu,cpuacct:{group}\n" if version == 1 else f"0::{group}\n"


def limit(folder: Path, version: int, quota: str, period: int = PERIOD) -> None:
    """Have a group's folder tell its quota and period, in microseconds."""
    folder.mkdir(parents=True, exist_ok=True)
    if version == 2:
        (folder / "cpu.max").write_text(f"{quota} {period}\n")
        return
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


def quota(groups: str, mounts: str) -> int | None:
    return processors.quota(cgroups.described(groups, mounts, "cpu"))


either = pytest.mark.parametrize("version", [1, 2])


@either
@pytest.mark.parametrize(
    ("written", "whole"), [("200000", 2), ("150000", 1), ("199999", 1), ("50000", 1), ("1000", 1), ("6400000", 64)]
)
def test_a_quota_counts_in_whole_cpus_and_one_at_least(tmp_path: Path, version: int, written: str, whole: int) -> None:
    limit(tmp_path / "job", version, written)
    assert quota(member("/job", version), mounted(tmp_path, version)) == whole


@either
def test_any_group_up_to_the_mount_may_be_the_one_that_limits(tmp_path: Path, version: int) -> None:
    mount = tmp_path / "with a blank"
    for path, written in ((".", UNLIMITED[version]), ("slice", "300000"), ("slice/job", "800000")):
        limit(mount / path, version, written)
    limit(tmp_path, version, "100000")  # no cgroup's any more
    (mount / "slice/job/step").mkdir()  # the controller is not enabled there
    groups, mounts = member("/slice/job/step", version), mounted(mount, version)
    assert quota(groups, mounts) == 3
    limit(mount / "slice", version, UNLIMITED[version])
    assert quota(groups, mounts) == 8
    limit(mount / "slice/job", version, UNLIMITED[version])
    assert quota(groups, mounts) is None


@either
@pytest.mark.parametrize(
    ("root", "group"),
    [
        ("/", "/"),  # its own namespace of cgroups
        ("/docker/4711", "/docker/4711"),  # the host's, of which the container has its own part mounted
        ("/", "/docker/4711"),  # the host's, in which it sees nothing beside its own
        ("/..", "/../job"),  # another's
    ],
)
def test_in_a_container_the_mount_is_its_own_group(tmp_path: Path, version: int, root: str, group: str) -> None:
    limit(tmp_path, version, "200000")
    assert quota(member(group, version), mounted(tmp_path, version, root)) == 2


def test_of_two_versions_at_once_the_narrower_limit_holds(tmp_path: Path) -> None:
    limit(tmp_path / "v1/job", 1, "400000")
    limit(tmp_path / "v2/job", 2, "300000")
    groups = member("/job", 1) + "3:cpuset:/\n" + member("/job", 2)
    mounts = mounted(tmp_path / "v1", 1) + mounted(tmp_path / "v2", 2) + "31 23 0:28 / /sys rw - sysfs sysfs rw\n"
    assert quota(groups, mounts) == 3
    assert quota(groups, mounts.splitlines()[0]) == 4
    assert quota(groups.replace("cpu,cpuacct", "memory"), mounts.splitlines()[0]) is None


@either
@pytest.mark.parametrize("content", [b"", b"max", b"0 100000", b"2e5 100000", b"100000 0", b"-5 7", b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_or_understood_limits_nothing(
    tmp_path: Path, version: int, content: bytes | None
) -> None:
    for name in processors.FILES[version]:
        if content is None:
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_bytes(content)
    assert quota(member("/", version), mounted(tmp_path, version)) is None


@settings(max_examples=50, deadline=None)
@given(groups=st.text(), mounts=st.text(), content=st.binary())
def test_nothing_that_the_kernel_may_ever_write_is_an_error(groups: str, mounts: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "cpu.max").write_bytes(content)
        found = quota(groups + "\n" + member("/", 2), mounts + "\n" + mounted(Path(folder), 2))
    assert found is None or found >= 1


@settings(max_examples=50, deadline=None)
@given(most=st.integers(1, 256), processes=st.integers(1, 64))
def test_processes_that_share_a_machine_get_an_equal_share_each_and_one_at_least(most: int, processes: int) -> None:
    found = processors.share(most, processes)
    assert 1 <= found <= most
    assert found == 1 or found * processes <= len(os.sched_getaffinity(0))


@given(environment=st.dictionaries(st.sampled_from(["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_DYNAMIC"]), st.text()))
def test_how_threads_wait_is_the_users_to_choose(environment: dict[str, str]) -> None:
    chosen = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environment.keys()
    assert processors.wait_policy(environment) == ({} if chosen else processors.WAIT_POLICY)
