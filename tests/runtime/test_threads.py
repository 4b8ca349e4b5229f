from __future__ import annotations

import pytest

from icclip.runtime.threads import ThreadChoice, choose_threads, container_quota, default_threads


@pytest.fixture
def cpus(tmp_path, monkeypatch):
    """Four processors on two cores."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / "cpus" / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    return tmp_path / "cpus"


@pytest.fixture
def groups(tmp_path):
    (tmp_path / "groups").mkdir()
    return tmp_path / "groups"


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own"
    path.write_text("0::/\n")
    return path


def test_cores_count_and_not_hyper_threads(cpus, groups, own, tmp_path):
    assert choose_threads(cpus, groups, own, {}) == ThreadChoice(2, "physical cores")
    assert choose_threads(tmp_path / "untold", groups, own, {}).count == 4


@pytest.mark.parametrize(
    ("limit", "threads"),
    [("100000 100000", 1), ("150000 100000", 2), ("max 100000", 2), ("10000 100000", 1), ("900000 100000", 2)],
)
def test_a_quota_of_version_2(cpus, groups, own, limit, threads):
    (groups / "cpu.max").write_text(limit + "\n")
    assert choose_threads(cpus, groups, own, {}).count == threads


def test_the_reason_is_told(cpus, groups, own):
    (groups / "cpu.max").write_text("50000 100000\n")
    assert str(choose_threads(cpus, groups, own, {})) == "1 thread (the container's quota of 0.5 CPUs)"
    assert str(choose_threads(cpus, groups, own, {"OMP_NUM_THREADS": "6"})) == "6 threads (OMP_NUM_THREADS)"


def test_the_smallest_of_nested_groups_counts(groups, own):
    own.write_text("0::/kubepods.slice/pod1.slice/container.scope\n")
    nested = groups / "kubepods.slice/pod1.slice/container.scope"
    nested.mkdir(parents=True)
    (nested / "cpu.max").write_text("max 100000\n")
    (nested.parent / "cpu.max").write_text("150000 100000\n")
    (nested.parents[1] / "cpu.max").write_text("800000 100000\n")
    assert container_quota(groups, own) == 1.5


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_a_quota_of_version_1(groups, own, mount):
    own.write_text("5:memory:/x\n4:cpu,cpuacct:/docker/abc\n")
    folder = groups / mount / "docker/abc"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert container_quota(groups, own) is None
    (folder / "cpu.cfs_quota_us").write_text("250000\n")
    assert container_quota(groups, own) == 2.5


def test_inside_a_container_the_path_may_be_the_hosts(groups, own):
    own.write_text("4:cpu:/docker/that/is/not/here\n0::/../../elsewhere\n")
    (groups / "cpu").mkdir()
    (groups / "cpu/cpu.cfs_quota_us").write_text("300000")
    (groups / "cpu/cpu.cfs_period_us").write_text("100000")
    assert container_quota(groups, own) == 3
    (groups / "cpu.max").write_text("200000 100000")
    assert container_quota(groups, own) == 2


@pytest.mark.parametrize("text", ["", "nonsense", "100000", "-5 100000", "100000 0", "a b"])
def test_quotas_that_make_no_sense_are_none(groups, own, text):
    (groups / "cpu.max").write_text(text)
    assert container_quota(groups, own) is None


@pytest.mark.parametrize(
    ("variable", "threads"), [("3", 3), ("4,2", 4), (" 5 ", 5), ("0", 2), ("-1", 2), ("many", 2), ("", 2)]
)
def test_omp_num_threads_is_respected(cpus, groups, own, variable, threads):
    assert choose_threads(cpus, groups, own, {"OMP_NUM_THREADS": variable}).count == threads


def test_this_machine_has_at_least_one():
    assert default_threads() >= 1
