"""A study on disk that was never run: results.json and metrics.jsonl with the keys of real ones."""

import itertools
import math
import re

import numpy
from conftest import jsonl

from talr_cli.printable import rate_text
from talr_cli.runs.places import IDENTITY
from talr_cli.runs.plain_yaml import to_yaml
from talr_cli.runs.results import SCHEMA
from talr_cli.runs.run_directory import RunDirectory

METHODS = ["sft", "talr", "flow", "dft", "eaft", "l2", "lora", "averaging", "infosft", "deft"]
RATES = [1e-6, 5e-6, 1e-5, 5e-5]


def results(method, lr=1e-6, seed=0, domain=(0.3, 0.03), general=(0.4, 0.04), **run):
    """What evaluation.results writes; a score that is None was not measured."""
    base = method == "base"
    if base:
        lr = seed = None
    run = {
        "id": "00000000",
        "study": "s",
        "model": "small",
        "dataset": "medcalc",
        "base": "ba5eba5e",
        "method": method,
        "lr": lr,
        "seed": seed,
        "checkpoint": "runs/s/model",
        **run,
    }
    return {
        "schema": SCHEMA,
        "run": run,
        "scoring": "12345678",
        "general": general
        and {
            "score": general[0],
            "stderr": general[1],
            "n": 343,
            "formula": "mean of tasks",
            "suite": "mini",
            "tasks": {},
            "limit": None,
            "seconds": 36.0,
        },
        "domain": domain
        and {
            "metric": "accuracy",
            "scorer": "MedCalcScorer",
            "score": domain[0],
            "stderr": domain[1],
            "n": 72,
            "items": None,
            "items_hash": "d0d0d0d0",
            "limit": None,
            "seconds": 36.0,
        },
        "drift": {
            "cross_entropy": {"score": 2.5, "stderr": 0.01, "n": 24},
            "kl_from_base": {"score": 0.0 if base else 0.01, "stderr": 0.001, "n": 64},
        },
        "training": None if base else training(),
        "weights": None if base else {"save_dtype": "bfloat16", "changed_share": 0.9},
        "versions": {"talr": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
    }


def scored(method, domain, tasks, **run):
    """`results` with items: `domain` are the scores of its rows, `tasks` those of each task."""

    def section(scores):
        n, p = len(scores), float(numpy.mean(scores))
        items = {str(number): float(score) for number, score in enumerate(scores)}
        return {
            "score": p,
            "stderr": math.sqrt(p * (1 - p) / max(1, n - 1)),
            "n": n,
            "items": items,
        }

    one = results(method, **run)
    one["domain"].update(section(domain))
    sections = {
        name: {
            "metric": "acc,none",
            "version": 1.0,
            "items_hash": f"hash of {name}",
            "all": {},
            **section(scores),
        }
        for name, scores in tasks.items()
    }
    one["general"].update(
        score=float(numpy.mean([task["score"] for task in sections.values()])),
        stderr=math.hypot(*(task["stderr"] for task in sections.values())) / len(sections),
        n=sum(task["n"] for task in sections.values()),
        tasks=sections,
    )
    return one


def training(seconds=1800.0, steps=100, resumed=0, device="NVIDIA H100 80GB HBM3", processes=1):
    """The `training` part, as training.loop.train returns it."""
    return {
        "steps": steps,
        "epochs": 3.0,
        "rows": 48,
        "target_tokens": 11412,
        "seconds": seconds,
        "tokens_per_second": 1000.0,
        "peak_memory_gib": 4.437,
        "device": device,
        "processes": processes,
        "resumed_from_step": resumed,
    }


BASE = results("base", domain=(0.21, 0.03), general=(0.46, 0.03))


def study(runs, seeds=1, methods=METHODS):
    """The base model and `runs` tuned ones: a grid of methods, rates and seeds."""
    generator = numpy.random.default_rng(0)
    rates = RATES if runs <= len(methods) * len(RATES) * seeds else [*RATES, 1e-4, 5e-4]
    grid = itertools.product(methods, rates, range(seeds))
    tuned = []
    for number, (method, lr, seed) in enumerate(itertools.islice(grid, runs)):
        strength = math.log10(lr) + 6  # 0 .. 2
        shift = methods.index(method) / len(methods)
        domain = 0.22 + 0.1 * strength - 0.03 * strength**2 + 0.03 * shift
        general = 0.46 - 0.06 * strength * (1.2 - shift)
        noise = 0.01 * generator.standard_normal(2)
        one = results(
            method,
            lr,
            seed,
            (domain + noise[0], 0.03),
            (general + noise[1], 0.02),
            id=f"{number:08x}",
        )
        if method == "averaging":
            one["weights"]["averaged"] = {"alpha": 0.5, "of": f"sft-lr{rate_text(lr)}-s{seed}"}
        tuned.append(one)
    return [BASE, *tuned]


def metrics(one, steps=100):
    """The rows of a training that learns, the faster the higher the rate."""
    run = one["run"]
    generator = numpy.random.default_rng(run["seed"])
    talr = run["method"] == "talr"
    for step in range(1, steps + 1):
        progress = 1 - math.exp(-step * (math.log10(run["lr"]) + 7) / steps)
        loss = 1.2 - 0.9 * progress + 0.1 * generator.standard_normal()
        row = {
            "step": step,
            "grad_norm": 1.0,
            "lr": run["lr"],
            "weighted_loss": loss,
            "loss": max(loss, 0.05),
            "target_tokens": 130,
            "hard_token_share": 0.3 - 0.25 * progress,
            "weight_mean": 1.0 if run["method"] in ("sft", "l2", "lora") else 0.6 + 0.3 * progress,
            "epoch": step / steps * 3,
        }
        yield {**row, "tau": 1 - 0.8 * progress} if talr else row
        if step % (steps // 2) == 0:
            yield {"step": step, "validation_loss": 1.3 - progress, "epoch": step / steps * 3}


def write_study(runs_dir, runs, steps=100):
    """A run directory for each of the results; averaged models have no metrics of their own."""
    for one in runs:
        run = one["run"]
        directory = RunDirectory.for_run(
            runs_dir,
            study="s",
            model=run["model"],
            dataset=run["dataset"],
            method=run["method"],
            lr=run["lr"],
            seed=run["seed"],
            identity=run["id"],
        )
        directory.path.mkdir(parents=True)
        directory.write_results(one)
        if one["training"] and "averaged" not in one["weights"]:
            rows = jsonl(metrics(one, steps))
            directory.metrics.write_text(rows)


def write_config(run, config):
    """Give the run in a directory a config, below the identity that its name shows."""
    shown = re.search(r"[0-9a-f]{8}$", run.name)
    identity = (shown[0] if shown else "0" * 8) * 8
    (run / "config.yaml").write_text(f"{IDENTITY}{identity}\n{to_yaml(config)}")
