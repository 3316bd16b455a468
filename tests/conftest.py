"""Shared fixtures: the tokenizer of the small model, tiny random models, and the real data."""

import gc
import json
import logging
import os
import signal
import sys
from pathlib import Path

os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# lm_eval sets it when it is imported. A forked command (command_line.py) would else differ by it.
os.environ.setdefault("HF_XET_HIGH_PERFORMANCE", "1")

import pytest
from hypothesis import settings
from optimizer_step import toy

from talr_cli.config import composition
from talr_cli.data.rendering import Renderer
from talr_cli.models import sources
from talr_cli.models.tokenizer import load_tokenizer

# How long an example takes is no fault of it: the machine may be busy.
settings.register_profile("any_machine", deadline=None)
settings.load_profile("any_machine")

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_finish():
    """What was imported stays: each training collects garbage, and need not look through that."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _logs_are_seen(caplog):
    caplog.set_level(logging.INFO, "talr_cli")


@pytest.fixture(scope="session")
def tiny_config():
    return composition.load("train", ["model=tiny"]).model


@pytest.fixture(scope="session")
def tiny_source(tiny_config):
    """The random 2-layer model on disk, with the real tokenizer of SmolLM2."""
    return sources.resolve_model(tiny_config)


@pytest.fixture(scope="session")
def tokenizer(tiny_source, tiny_config):
    return load_tokenizer(tiny_source, tiny_config)


@pytest.fixture(scope="session")
def renderer(tokenizer):
    return Renderer(tokenizer, {})


@pytest.fixture
def toy_model():
    """A 2-layer model with a vocabulary of 50, for exact arithmetic."""
    return toy()


@pytest.fixture
def real_data():
    if not REAL_DATA.is_dir():
        pytest.skip("the real data sets are not here")
    return REAL_DATA


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """The current folder of a user, whose modules no other test finds imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


@pytest.fixture
def no_hub(monkeypatch):
    """The hub cannot be reached, and is not waited for; the variable is read at import only."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def config(command="train", *overrides):
    """The typed config of a command."""
    return composition.load(command, list(overrides))


def jsonl(rows):
    """The text of a JSONL file."""
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def ctrl_c():
    """An interrupt is one, as on a terminal: xdist and a shell's background have it ignored."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)
