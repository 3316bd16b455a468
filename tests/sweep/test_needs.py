"""What a plan says of disk, memory and time, against sums done by hand."""

import json

import pytest
from safetensors.torch import load_file
from synthetic_study import results

from talr_cli.config import composition
from talr_cli.models.device_memory import machine_memory
from talr_cli.models.shape import Matrix, Shape
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.sweep import needs, show
from talr_cli.sweep.grid import expand_grid
from talr_cli.sweep.jobs import Job
from talr_cli.sweep.needs import ModelSize
from talr_cli.sweep.plan import find_models, is_finished, make_jobs


def job(tmp_path, name, *overrides, command="train", **more):
    config = composition.load("train", [f"runs_dir={tmp_path}/runs", "model=tiny", *overrides])
    folder = tmp_path / "runs" / "default" / "tiny__medcalc-mini" / name
    return Job(command, tuple(overrides), config, RunDirectory(folder), **more)


def test_the_size_of_a_model_is_read_from_its_files(tiny_source):
    tensors = load_file(tiny_source.directory / "model.safetensors").values()
    found = needs.model_size(tiny_source)
    assert found.parameters == sum(tensor.numel() for tensor in tensors)
    assert {tensor.element_size() for tensor in tensors} == {found.bytes_each}


def needed_disk(jobs, keep, workers=1):
    sizes = {one.directory.path: ModelSize(1000, 2) for one in jobs}
    return needs.estimate_disk(jobs, sizes, keep, workers)


def test_disk_counts_what_is_kept_and_what_is_written_meanwhile(tmp_path):
    sft, talr = job(tmp_path, "sft-lr1"), job(tmp_path, "talr-lr1", "method=talr")
    meanwhile = 2000 + 3 * 12 * 1000  # a model of 1000 numbers in 2 bytes; checkpoints
    assert needed_disk([sft, talr], "final") == 2 * 2000 + meanwhile
    assert needed_disk([talr], "final") == 2000 + meanwhile
    assert needed_disk([sft, talr], "none") == meanwhile
    assert needed_disk([sft, talr], "none", workers=2) == 2 * meanwhile
    average = job(tmp_path, "averaging-lr1", "method=averaging", depends_on=sft.directory)
    assert needed_disk([sft, talr, average], "none") == 2000 + meanwhile
    lora = job(tmp_path, "lora-lr1", "method=lora", "trainer.save_dtype=float32")
    assert needed_disk([lora], "final") == 4000 + 4000
    assert needs.estimate_disk([sft], {sft.directory.path: None}, "final", 1) is None


def write_results(directory, method, seconds, training):
    one = results(method, model="tiny", dataset="medcalc-mini", id=method)
    for part in ("general", "domain"):
        one[part]["seconds"] = seconds
    directory.path.mkdir(parents=True)
    directory.write_results({**one, "training": training})


def test_time_is_that_of_finished_runs_and_else_unknown(tmp_path):
    finished, slow = job(tmp_path, "sft-lr1"), job(tmp_path, "talr-lr1", "method=talr")
    sft, talr, base = (job(tmp_path, f"{name}-lr2") for name in ("sft", "talr", "base"))
    base = Job("eval", (), base.config, base.directory)
    average = job(tmp_path, "averaging-lr2", "method=averaging", depends_on=sft.directory)
    assert needs.estimate_seconds([sft], 1) is None
    timed = {"steps": 10, "resumed_from_step": 0}
    write_results(finished.directory, "sft", 5, {**timed, "seconds": 100})
    write_results(slow.directory, "talr", 15, {**timed, "seconds": 300})
    evaluation = (2 * 5 + 2 * 15) / 2
    assert needs.estimate_seconds([sft], 1) == pytest.approx(100 + evaluation)
    assert needs.estimate_seconds([sft, talr], 2) == pytest.approx(400 / 2 + evaluation)
    assert needs.estimate_seconds([base, average], 1) == pytest.approx(2 * evaluation)
    # A point of a training took a part of its time.
    early = job(tmp_path, "sft-lr1-at0.5")
    write_results(early.directory, "sft", 10, {**timed, "seconds": 50})
    scored = early.directory.read_results()
    scored["weights"]["taken"] = {"at": 0.5, "of": "sft-lr1"}
    early.directory.write_results(scored)
    assert needs.estimate_seconds([sft], 1) == pytest.approx(100 + (10 + 30 + 20) / 3)


@pytest.mark.parametrize(
    ("method", "in_the_end"), [("sft", ""), ("averaging", "only to be averaged")]
)
def test_points_that_a_finished_training_is_given_cost_what_is_left_of_them(
    method, in_the_end, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    typed = ["model=tiny", "eval=false", "lr=1e-3", "score_at=[0.25,0.5]", f"method={method}"]
    grid = expand_grid(typed, None)
    run, *_ = make_jobs(grid, find_models(grid, fetch=False), None)
    early, late = (directory for _, directory in run.points)
    assert needs.remaining_work(run) == (1.0, 3)

    def is_trained(directory):
        directory.model.mkdir(parents=True)
        directory.training.write_text(json.dumps({"training": {}, "weights": {}}))
        directory.write_status("trained")

    is_trained(run.directory)
    assert needs.remaining_work(run) == (0.5, 2)
    assert not is_finished(run)
    assert show._shares(run) == "2 of its points: trained again to 0.5 of its steps"
    is_trained(late)
    assert needs.remaining_work(run) == (0.25, 1)
    is_trained(early)
    assert needs.remaining_work(run) == (0.0, 0)
    assert is_finished(run)
    assert show._shares(run) == in_the_end


def model(numbers):
    """A model of so many numbers, nearly all in its layers."""
    return Shape(numbers, 2, 2, 64, 4, 64, 32, 128, 100, 256, [Matrix("q_proj", 64, 64, 2)], True)


def test_a_model_that_cannot_fit_is_named(tmp_path):
    memory = machine_memory()
    full, lora = job(tmp_path, "sft-lr1", "device=cpu"), job(tmp_path, "lora", "method=lora")
    for numbers, lacks in ((memory // 16 - 10**6, 0), (memory // 16 + 10**6, 1)):
        shapes = {one.directory.path: model(int(numbers)) for one in (full, lora)}
        found = needs.find_missing([full], shapes)
        assert len(found) == lacks
    assert "adapter=lora" in found[0]
    assert needs.find_missing([lora], shapes) == []


def test_memory_is_stated_for_the_run_that_takes_the_most(tmp_path):
    small, kl = job(tmp_path, "sft-lr1", "device=cpu"), job(tmp_path, "kl-lr1", "method=kl")
    shapes = {one.directory.path: model(10**8) for one in (small, kl)}
    stated = needs.describe_memory([small, kl], shapes)
    assert "kl" in stated
    assert "max_length=4096" in stated
    assert needs.describe_memory([small], {small.directory.path: None}) is None


def test_memory_of_another_machine_is_the_configured_one(tmp_path):
    one = job(tmp_path, "sft-lr1", "trainer.batch_size=8")
    shapes = {one.directory.path: model(10**9)}
    unknown, small = needs.Cluster(1, None), needs.Cluster(1, 15e9)
    assert needs.find_missing([one], shapes, unknown) == []
    # Weights, gradient and Adam's two moments: 16 bytes a weight.
    (lacks,) = needs.find_missing([one], shapes, small)
    assert "14.0 GiB is what each GPU there has" in lacks
    assert needs.find_missing([one], shapes, needs.Cluster(1, 17e9)) == []
    small = {one.directory.path: model(10**7)}
    stated = needs.describe_memory([one], small, unknown)
    assert "1 of 8 rows at once with layers computed again; up to" in stated
    assert "with 8), if all had max_length=4096 tokens; with slurm.gpu_memory=GIB" in stated
    known = needs.describe_memory([one], shapes, needs.Cluster(1, 80 * 2**30))
    assert f"{0.92 * 80:.1f} GiB are usable" in known
    shared = needs.describe_memory([one], shapes, needs.Cluster(1, 80 * 2**30), runs_per_gpu=2)
    assert f"{0.92 * 40:.1f} GiB are usable, as 2 runs share it" in shared


def test_wandb_without_a_login_is_noted(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    one = job(tmp_path, "sft-lr1")
    assert "offline" in needs.notes([one], [])[0]
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert needs.notes([one], []) == []
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example:8080/")
    assert "offline" in needs.notes([one], [])[0]
    (tmp_path / "netrc").write_text("machine wandb.example:8080 login user password secret\n")
    assert needs.notes([one], []) == []
    (tmp_path / "netrc").write_bytes(b"machine \xff\xfe\n")
    assert "offline" in needs.notes([one], [])[0]
    one.config.logger.name = "none"
    (tmp_path / "netrc").unlink()
    assert needs.notes([one], []) == []
    assert json.dumps(needs.notes([one], ["org/name"])).count("org/name") == 1


def test_runs_that_names_do_not_tell_apart_are_noted(tmp_path):
    alike = ("method=talr", "lr=1e-5", "logger=none")
    jobs = [
        job(
            tmp_path,
            f"talr-s{seed}-{number}",
            *alike,
            f"seed={seed}",
            f"objective.w_min={w}",
        )
        for number, (seed, w) in enumerate([(0, 0.1), (1, 0.1), (0, 0.2), (1, 0.2)])
    ]
    (note,) = needs.notes(jobs, [])
    assert note.startswith("runs of the same name differ in objective.w_min:")
    assert needs.notes(jobs[:2], []) == []
