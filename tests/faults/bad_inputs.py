"""Command lines with something wrong in them, each with the words of which one must be said.

`ROWS` are by kind; the first of each kind stands for it in the fast tests. A row may name inputs,
which `make_inputs` writes into the folder that the command runs in, and {ckpt}, the folder of the
broken checkpoints of `make_checkpoints`.
"""

import json
import os
import shutil
from dataclasses import dataclass

from conftest import jsonl

TINY = (
    *("model=tiny", "logger=none", "device=cpu", "dataset.train_rows=4", "dataset.test_rows=2"),
    *("trainer.max_steps=1", "trainer.batch_size=2", "domain.max_new_tokens=3", "suite.limit=1"),
    *("suite.tasks=[mini_knowledge]", "suite.drift=false"),
)
EVAL = tuple(one for one in TINY if not one.startswith("trainer"))
OWN_ROWS = (*(one for one in TINY if not one.startswith("dataset")), "dataset=jsonl")
_MANY = ",".join(f"{number}e-6" for number in range(1, 101))
SWEEP = ("sweep", *TINY, "--dry-run")
UNKNOWN_TASK = ("suite.tasks=[no_such_task]", "+suite.metrics.no_such_task=acc")


@dataclass(frozen=True)
class Row:
    """`arguments` of talr; one of `named` must be in what it prints."""

    kind: str
    arguments: tuple[str, ...]
    named: tuple[str, ...]

    @property
    def name(self):
        return f"{self.kind}: {' '.join(self.arguments[-2:])}"[:100]


def _train(*changes):
    return ("train", *TINY, *changes)


def _own(train="good.jsonl", *changes):
    return ("train", *OWN_ROWS, f"dataset.train={train}", "dataset.test=test.jsonl", *changes)


def _scored(scorer):
    return _own("good.jsonl", f"dataset.scorer={scorer}")


def _part(name):
    return _train("--config-dir", "mine", f"objective={name}")


def _eval(how):
    return ("eval", *EVAL, f"ckpt={{ckpt}}/{how}")


def _base(how):
    return _train(f"model.path={{ckpt}}/{how}", "model.random_init=null")


_KINDS = {
    "names": [
        (_train("trainer.epoch=3"), "did you mean trainer.epochs?"),
        (_train("leraning_rate=1e-5"), "did you mean lr?"),
        (_train("suite.taks=[a]"), "did you mean suite.tasks?"),
        (_train("methid=sft"), "did you mean method?"),
        (_train("model=tinyy"), "did you mean tiny?"),
        (_train("--dry-rnu"), "--dry-rnu"),
        (_train("+steps=3"), "steps is not a config value"),
        (_train("+trainer.warmup=3"), "trainer.warmup is not a config value"),
        (_train("~lr"), "lr"),
        (("trian",), "(did you mean train?)"),
        (("report", "studdy=x"), "did you mean study?"),
        (_train("method=sft", "objective.tau=2"), "objective.tau"),
    ],
    "values": [
        (_train("lr=quick"), "lr"),
        (_train("lr="), "lr"),
        (_train("lr=nan"), "lr"),
        (_train("lr=-inf"), "lr"),
        (_train("seed=-1"), "seed"),
        (_train("seed=99999999999999999999"), "seed"),
        (_train("seed=[1]"), "seed"),
        (_train("eval=maybe"), "eval"),
        (_train("trainer.epochs=0"), "trainer.epochs"),
        (_train("trainer.max_steps=2.5"), "trainer.max_steps"),
        (_train("trainer.micro_batch_size=0"), "micro_batch_size"),
        (_train("trainer.max_length=4"), "max_length"),
        (_train("schedule=linaer"), "did you mean linear?"),
        (_train("trainer.schedule=linear"), "did you mean schedule?"),
        (_train("trainer.warmup_share=0.1"), "did you mean schedule.warmup_share?"),
        (_train("schedule=finch", "schedule.decay=1"), "schedule.decay"),
        (_train("device=gpu"), "device"),
        (_train("limit=0"), "limit"),
        (_train("dataset.test_rows=0"), "test_rows"),
        (_train("study=${nothing}"), "nothing"),
        (_train("study=${oc.env:NO_SUCH_VARIABLE}"), "NO_SUCH_VARIABLE"),
        (_train("lr=1e-5,2e-5"), "lr"),
        (_train("method=averaging", "merge.alphas=[1.5]"), "merge.alphas", "alpha"),
        (_train("method=lora", "adapter.rank=0"), "adapter.rank"),
        (_train("method=lora", "adapter.target_modules=[nothing]"), "arget modules"),
        (_train("method=replay", "replay.share=2"), "replay.share"),
        (_train("replay=self", "replay.samples=2", "replay.temperature=0"), "replay.samples"),
        (("recommend", "max_general_loss=-1"), "max_general_loss"),
        (("analyze", "model=tiny", "max_length=1"), "max_length"),
    ],
    "files of rows": [
        (_own("empty.jsonl"), "empty.jsonl"),
        (_own("spaces.jsonl"), "spaces.jsonl"),
        (_own("header.csv"), "header.csv"),
        (_own("words.jsonl"), "words.jsonl:1"),
        (_own("latin.jsonl"), "latin.jsonl:1"),
        (_own("utf16.jsonl"), "utf16.jsonl"),
        (_own("torn.json"), "torn.json"),
        (_own("fake.parquet"), "fake.parquet"),
        (_own("fake.jsonl.gz"), "fake.jsonl.gz"),
        (_own("roles.jsonl"), "roles.jsonl:1"),
        (_own("unanswered.jsonl"), "unanswered.jsonl:1"),
        (_own("half.jsonl"), "half.jsonl:1"),
        (_own("absent.jsonl"), "absent.jsonl"),
        (_own("rows.doc"), "rows.doc"),
        (_own("a_folder"), "a_folder"),
        (_own("good.jsonl", "dataset.test=empty.jsonl"), "empty.jsonl"),
        (_own("good.jsonl", "dataset.test=good.jsonl"), "test"),
        (_own("good.jsonl", "dataset.on_bad_row=hide"), "on_bad_row"),
        (("train", *OWN_ROWS), "dataset.train"),
        (("train", *OWN_ROWS, "dataset=medcalc", "dataset.path=good.jsonl"), "good.jsonl"),
        (_train("method=replay", "replay.path=absent.jsonl"), "absent.jsonl"),
    ],
    "scorers": [
        (_scored("judges_a.raises"), "KeyError"),
        (_scored("judges_a.leaves"), "SystemExit"),
        (_scored("judges_a.says_maybe"), "'maybe'"),
        (_scored("judges_a.says_nothing"), "None"),
        (_scored("judges_a.says_two"), "2"),
        (_scored("judges_a.takes_one"), "judges_a.takes_one"),
        (_scored("judges_a.absent"), "absent is not there"),
        (_scored("judges_a"), "judges_a"),
        (_scored("no_such_module.judge"), "no_such_module"),
        (_scored("judges_torn.judge"), "judges_torn"),
        (_scored("7"), "dataset.scorer"),
        (_scored("[exact_match]"), "dataset.scorer"),
        (_scored("{tolerance: 1}"), "dataset.scorer"),
        (_scored("{_target_: judges_a.Absent}"), "judges_a.Absent"),
        (_scored("numeric"), "answer", "numeric"),
    ],
    "checkpoints": [
        (_eval("torn_weights"), "torn_weights"),
        (_eval("flipped_header"), "flipped_header"),
        (_eval("a_shard_missing"), "a_shard_missing"),
        (_eval("torn_config"), "torn_config"),
        (_eval("another_kind"), "another_kind"),
        (_eval("an_encoder"), "an_encoder"),
        (_eval("a_layer_more"), "a_layer_more"),
        (_eval("a_layer_less"), "a_layer_less"),
        (_eval("wider"), "wider"),
        (_eval("torn_tokenizer"), "torn_tokenizer"),
        (_eval("no_tokenizer"), "no_tokenizer"),
        (_eval("no_template"), "no_template"),
        (_eval("torn_template"), "torn_template"),
        (_eval("refusing_template"), "refusing_template"),
        (_eval("reaching_template"), "reaching_template"),
        (_eval("torn_adapter"), "torn_adapter"),
        (_eval("baseless_adapter"), "baseless_adapter"),
        (_eval("strange_adapter"), "strange_adapter"),
        (_eval("strange_ends"), "strange_ends"),
        (_eval("own_code"), "own_code"),
        (_eval("absent"), "absent"),
        (_eval("torn_weights/config.json"), "config.json"),
        (_base("torn_weights"), "torn_weights"),
        (_base("a_layer_more"), "a_layer_more"),
        (_base("no_template"), "no_template"),
        (_base("strange_adapter"), "strange_adapter"),
    ],
    "models": [
        (_train("model.random_init.num_attention_heads=3"), "num_attention_heads"),
        (_train("model.random_init.hidden_size=large"), "hidden_size"),
        (_train("+model.random_init.nothing=1"), "nothing"),
        (_train("+model.random_init.vocab_size=1"), "vocab_size"),
        (_train("model.architecture=NoModel"), "NoModel"),
        (_train("model.architecture=logging"), "logging"),
        (_train("model.attention=none_such"), "attention"),
        (_train("+model.template_arguments.tools=1"), "template_arguments.tools"),
        (_train("model.chat_template=absent.jinja"), "absent.jinja"),
        (_train("model.path=null"), "model.path"),
        (_train("model.path=a_folder", "model.random_init=null"), "a_folder"),
        (_train("model.path=good.jsonl", "model.random_init=null"), "good.jsonl"),
        (_train("suite.backend=vllm", "suite.vllm_python=absent"), "interpreter absent"),
    ],
    "parts of the user's own": [
        (_part("raises"), "no weights today"),
        (_part("short"), "shape"),
        (_part("negative"), "negative"),
        (_part("no_tensor"), "list"),
        (_part("absent_class"), "parts_a.Absent"),
        (_part("no_dataclass"), "parts_a.Plain"),
        (_part("other_kind"), "objective"),
        (_part("no_target"), "_target_"),
        (_part("unknown_value"), "sharpness"),
        (_part("torn"), "torn.yaml"),
        (_part("tab"), "tab.yaml"),
        (_train("--config-dir", "absent"), "absent"),
        (_train("--config-dir", "good.jsonl"), "good.jsonl"),
    ],
    "suites": [
        (_train(*UNKNOWN_TASK), "no_such_task"),
        ((*SWEEP, *UNKNOWN_TASK), "no_such_task"),
        (_train("suite.tasks=[]"), "suite.tasks"),
        (_train("suite.tasks=[mini_knowledge,mini_knowledge]"), "mini_knowledge"),
        (_train("suite.tasks=[unmeasured]"), "unmeasured"),
        (_train("suite.tasks=mini_knowledge"), "suite.tasks"),
        (_train("suite.task_dir=absent"), "absent"),
        (_train("suite.data_dir=absent"), "absent"),
        (_train("domain.answer_by=likelihood"), "likelihood"),
        (_train("suite.batch_size=some"), "suite.batch_size"),
    ],
    "places": [
        (_train("runs_dir=good.jsonl/runs"), "good.jsonl"),
        (_train("runs_dir=/proc/runs"), "/proc/runs"),
        (_train(f"study={'x' * 300}"), "study"),
        (_train("study=../up"), "study"),
        (_train("study='.'"), "study"),
        (_train("study='two words'"), "study"),
        (("export", "run=a_folder", "out=new"), "a_folder"),
        (("export", "run=absent", "out=new"), "absent"),
        (("export",), "run"),
        (("compare", "one"), "two runs are needed"),
        (("compare", "one", "two", "flips=absent/f"), "absent"),
        (("compare", "one", "two", "three"), "three"),
        (("report", "study=absent"), "absent"),
        (("recommend", "study=absent"), "absent"),
        (("report", "runs_dir=good.jsonl"), "good.jsonl"),
        (("analyze", "model=tiny", "ckpt=absent"), "absent"),
    ],
    "sweeps": [
        ((*SWEEP, "seed=range(0,0)"), "seed=range(0,0)"),
        ((*SWEEP, "method=glob(zz*)"), "zz*"),
        ((*SWEEP, "seed=range(0,100)", f"lr={_MANY}"), "10000"),
        ((*SWEEP, "seed=range(0,1000000000)"), "may have 1000"),
        ((*SWEEP, "lr=1e-6,0"), "lr"),
        ((*SWEEP, "method=sft,tlar"), "tlar"),
        ((*SWEEP, "hydra.launcher.partition=a"), "hydra.launcher.partition"),
        ((*SWEEP, "launcher=cluster"), "launcher"),
        ((*SWEEP, "workers=0"), "workers"),
        ((*SWEEP, "keep=all"), "keep"),
        ((*SWEEP, "dataset=jsonl", "dataset.train=absent.jsonl"), "absent.jsonl", "test_rows"),
        (("sweep", *TINY, "--config-dir"), "--config-dir"),
        (("sweep", *TINY, "--dryrun"), "--dryrun"),
    ],
}  # fmt: skip
ROWS = [Row(kind, words, tuple(named)) for kind, rows in _KINDS.items() for words, *named in rows]
FIRST = [Row(kind, rows[0][0], tuple(rows[0][1:])) for kind, rows in _KINDS.items()]

_JUDGES = """
def raises(output, reference): return reference["no such key"]
def leaves(output, reference): raise SystemExit(3)
def says_maybe(output, reference): return "maybe"
def says_nothing(output, reference): return None
def says_two(output, reference): return 2
def takes_one(output): return True
"""
_PARTS = """
from dataclasses import dataclass
from talr_cli.methods.base import Objective

@dataclass
class Raises(Objective):
    def weights(self, tokens, tau): raise RuntimeError("no weights today")

@dataclass
class Short(Objective):
    def weights(self, tokens, tau): return tokens.log_probs[1:].exp()

@dataclass
class Negative(Objective):
    def weights(self, tokens, tau): return tokens.log_probs

@dataclass
class NoTensor(Objective):
    def weights(self, tokens, tau): return [1.0 for _ in tokens.log_probs]

class Plain: ...

@dataclass
class Other: ...
"""
_OBJECTIVES = {
    "raises": "_target_: parts_a.Raises\n",
    "short": "_target_: parts_a.Short\n",
    "negative": "_target_: parts_a.Negative\n",
    "no_tensor": "_target_: parts_a.NoTensor\n",
    "absent_class": "_target_: parts_a.Absent\n",
    "no_dataclass": "_target_: parts_a.Plain\n",
    "other_kind": "_target_: parts_a.Other\n",
    "no_target": "tau: 1\n",
    "unknown_value": "_target_: talr_cli.methods.objectives.Sft\nsharpness: 2\n",
    "torn": "_target_: [parts_a\n",
    "tab": "_target_:\n\t- parts_a\n",
}


def make_inputs(folder):
    """The files that rows name."""
    good = [{"prompt": f"{n} and {n}?", "completion": str(2 * n)} for n in range(6)]
    said = {"messages": [{"role": "user", "content": "hello"}]}
    files = {
        "good.jsonl": _lines(good),
        "test.jsonl": _lines([{"prompt": f"{n} twice?", "completion": "many"} for n in range(3)]),
        "empty.jsonl": b"",
        "spaces.jsonl": b"\n   \n\n",
        "header.csv": b"prompt,completion\n",
        "words.jsonl": b"not json\n" + _lines(good),
        "latin.jsonl": '{"prompt": "größe?", "completion": "1"}\n'.encode("latin-1") + _lines(good),
        "utf16.jsonl": _lines(good).decode().encode("utf-16"),
        "torn.json": json.dumps(good).encode()[:-9],
        "fake.parquet": b"PAR1 and then nothing",
        "fake.jsonl.gz": b"\x1f\x8b\x08 and then nothing",
        "roles.jsonl": _lines([{"messages": [{"role": "robot", "content": "a"}]}, *good]),
        "unanswered.jsonl": _lines([said, *good]),
        "half.jsonl": b'{"prompt": "\\ud800", "completion": "1"}\n' + _lines(good),
        "rows.doc": _lines(good),
        "judges_a.py": _JUDGES.encode(),
        "judges_torn.py": b"def judge(:\n",
        "parts_a.py": _PARTS.encode(),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "a_folder").mkdir()
    objectives = folder / "mine" / "objective"
    objectives.mkdir(parents=True)
    for name, text in _OBJECTIVES.items():
        (objectives / f"{name}.yaml").write_text(text)


def _lines(rows):
    return jsonl(rows).encode()


def make_checkpoints(whole, to):
    """Copies of the checkpoint `whole`, each broken in one way, without a manifest that tells."""
    names = [one.name for one in whole.iterdir() if one.suffix in (".json", ".jinja")]
    names = [name for name in names if name != "source.json"]
    weights = (whole / "model.safetensors").read_bytes()
    config = json.loads((whole / "config.json").read_text())

    def copy(how, *without):
        folder = to / how
        folder.mkdir(parents=True)
        for name in {*names, "model.safetensors"} - set(without):
            os.link(whole / name, folder / name)
        return folder

    def other(how, name, content):
        content = content if isinstance(content, bytes) else content.encode()
        (copy(how, name) / name).write_bytes(content)

    def changed(how, **values):
        other(how, "config.json", json.dumps({**config, **values}))

    def adapter(how, text):
        folder = to / how
        folder.mkdir(parents=True)
        os.link(whole / "model.safetensors", folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(text)

    other("torn_weights", "model.safetensors", weights[: len(weights) // 3])
    other("flipped_header", "model.safetensors", weights[:16] + b"\x00" + weights[17:])
    shards = copy("a_shard_missing", "model.safetensors")
    shutil.copy(whole / "model.safetensors", shards / "model-00001-of-00002.safetensors")
    index = {"model.norm.weight": "model-00002-of-00002.safetensors"}
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    other("torn_config", "config.json", json.dumps(config)[:-20])
    changed("another_kind", model_type="unheard_of")
    changed("an_encoder", model_type="bert", architectures=["BertModel"])
    changed("a_layer_more", num_hidden_layers=config["num_hidden_layers"] + 1)
    changed("a_layer_less", num_hidden_layers=config["num_hidden_layers"] - 1)
    changed("wider", intermediate_size=2 * config["intermediate_size"])
    other("torn_tokenizer", "tokenizer.json", "{")
    copy("no_tokenizer", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    copy("no_template", "chat_template.jinja")
    other("torn_template", "chat_template.jinja", "{% for message in %}")
    other("refusing_template", "chat_template.jinja", "{{ raise_exception('never') }}")
    other("reaching_template", "chat_template.jinja", "{{ ''.__class__.__mro__ }}")
    adapter("torn_adapter", '{"peft_type":')
    adapter("baseless_adapter", '{"peft_type": "LORA"}')
    strange = {"base_model_name_or_path": str(whole), "r": 2, "target_modules": ["q_proj"]}
    adapter(
        "strange_adapter", json.dumps({"peft_type": "LORA", "task_type": "CAUSAL_LM"} | strange)
    )
    other("strange_ends", "generation_config.json", '{"eos_token_id": "the end", "num_beams": []}')
    own = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    changed("own_code", model_type="of_their_own", auto_map=own)
    code = f"import pathlib\npathlib.Path({str(to / 'EXECUTED')!r}).touch()\n"
    (to / "own_code" / "code.py").write_text(code + "class Config: ...\nclass Model: ...\n")


def fault(row, run, folder):
    """What is wrong with how talr takes the row, in words; None where it is as it should be.

    Args:
        run: As `in_process.talr_here`.
        folder: With the inputs, and `ckpt` beside it; nothing may change there.
    """
    words = [one.replace("{ckpt}", str(folder.parent / "ckpt")) for one in row.arguments]
    before = _listing(folder.parent)
    code, said = run(*words, cwd=folder)
    # A busy machine has lines of progress too: "planning: 0:30 so far".
    lines = [line for line in said.splitlines() if line.strip() and not line.endswith(" so far")]
    if code != 2:
        return f"exit code {code}: {said[-500:]}"
    if len(lines) > 3 or "Traceback" in said:
        return f"{len(lines)} lines: {said[-2000:]}"
    if not any(word in lines[-1] for word in row.named):
        return f"{' or '.join(row.named)} is not in: {lines[-1]}"
    changed = _listing(folder.parent).items() ^ before.items()
    return f"on disk: {sorted({path for path, _ in changed})}" if changed else None


def _listing(folder):
    seen = {}
    for path in folder.rglob("*"):
        if "__pycache__" not in path.parts:
            found = path.lstat()
            seen[str(path)] = found.st_size, 0 if path.is_dir() else found.st_mtime_ns
    return seen
