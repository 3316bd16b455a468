"""Memory limits as Linux shows them: files of the same form, in both versions."""

import pytest

from talr_cli.models.control_group import memory_limits


def tree(tmp_path, groups, files):
    (tmp_path / "groups").write_text(groups)
    for group, values in files.items():
        folder = tmp_path / "mount" / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in values.items():
            (folder / name).write_text(text)
    return list(memory_limits(tmp_path / "groups", tmp_path / "mount"))


def unified(most, taken, files=0):
    stat = f"anon {taken - files}\nfile {files}\ninactive_file {files // 4}\n"
    stat += f"active_file {files - files // 4}\n"
    return {"memory.max": f"{most}\n", "memory.current": f"{taken}\n", "memory.stat": stat}


def of_version_1(most, taken, files=0):
    stat = f"cache {files}\ninactive_file 0\ntotal_inactive_file {files}\ntotal_active_file 0\n"
    return {
        "memory.limit_in_bytes": f"{most}\n",
        "memory.usage_in_bytes": f"{taken}\n",
        "memory.stat": stat,
    }


def test_limits_of_a_slurm_job_above_its_task_are_found(tmp_path):
    """What it has read from files is free again as soon as it is needed."""
    job = "system.slice/slurmstepd.scope/job_7"
    files = {
        f"{job}/step_0/user/task_0": unified("max", 300),
        f"{job}/step_0": unified(900, 300),
        job: unified(1000, 500, files=200),
        "system.slice": unified("max", 5000),
    }
    found = tree(tmp_path, f"0::/{job}/step_0/user/task_0\n", files)
    assert found == [(900, 600), (1000, 700)]


def test_a_container_sees_its_own_group_as_the_root(tmp_path):
    assert tree(tmp_path, "0::/\n", {"": unified(1000, 400)}) == [(1000, 600)]


@pytest.mark.parametrize("group", ["slurm/uid_0/job_7/step_batch/task_0", ""])
def test_limits_of_version_1_are_in_the_tree_for_memory(tmp_path, group):
    """Where its path is that of the host, and not to be seen, the root is the container's."""
    groups = (
        "9:name=systemd:/\n5:cpu,cpuacct:/\n4:memory:/slurm/uid_0/job_7/step_batch/task_0\n0::/\n"
    )
    root = of_version_1(2**63 - 4096, 9000)
    files = {"memory": root, f"memory/{group}": of_version_1(1000, 800, files=500)}
    found = tree(tmp_path, groups, files)
    assert found[0] == (1000, 700)
    assert all(most > 2**60 for most, _ in found[1:])


def test_there_are_no_limits_without_control_groups(tmp_path):
    assert list(memory_limits(tmp_path / "none", tmp_path)) == []
    assert tree(tmp_path, "0::/a\n", {"a": {"memory.max": "max\n"}}) == []
