"""What somebody who has never used Hydra types, and what is said to type instead."""

import importlib

import pytest

from talr_cli import api
from talr_cli.errors import UserError
from talr_cli.printable import command_line

TYPED = {
    # as other tools have it
    ("train", "--lr", "1e-5"): "(values have no dashes: lr=1e-5)",
    ("train", "--learning-rate=1e-5"): "(values have no dashes: lr=1e-5)",
    ("sweep", "--epochs", "3"): "(values have no dashes: trainer.epochs=3)",
    ("train", "--dry-run"): "--dry-run (`talr sweep` has it)",
    ("train", "--run", "--cfg", "job"): "--run and --cfg exclude each other",
    ("eval", "-m", "seed=0,1", "--cfg=job"): "--multirun and --cfg exclude each other",
    ("train", "--resolve", "lr=1e-5"): "--resolve belongs to --cfg job",
    ("train", "--experimental-rerun", "x"): "to go on with a run, repeat its command",
    ("train", "--package", "trainer"): "--package belongs to --cfg job",
    ("train", "--cfg", "job", "--package", "x"): "--package x: package 'x' not found in config",
    ("train", "--run"): "--run is what a command does anyway",
    ("list", "--multirun"): "only `talr train` has --multirun",
    ("search", "-m", "lr=1e-6,1e-5"): "only `talr train` has --multirun",
    ("train", "hydra.mode=MULTIRUN"): "only `talr train` has --multirun",
    ("list", "--config-name", "train"): "your own groups go into --config-dir",
    ("train", "--config-dir", "nosuch"): "--config-dir nosuch is not a directory",
    ("sweep", "lr=1e-5,1e-4", "--cfg", "job"): "`talr train lr=1e-5,1e-4 --cfg job` prints",
    ("train", "--foo"): "unrecognized arguments: --foo; see",
    # around the equals sign
    ("train", "lr", "1e-5"): "(did you mean lr=1e-5?)",
    ("sweep", "lr", "1e-5"): "(did you mean lr=1e-5?)",
    ("train", "method", "=", "sft"): "(did you mean method=sft?)",
    ("train", "method", "=sft"): "(did you mean method=sft?)",
    ("train", "method=", "sft"): "(did you mean method=sft?)",
    ("train", "dataset=jsonl", "dataset.train=my", "rows.csv"): (
        '(did you mean "dataset.train=my rows.csv"?)'
    ),
    ("sweep", "lr=1e-5,", "1e-4"): "(did you mean lr=1e-5,1e-4?)",
    ("export", "sft-lr1e-5"): "(did you mean run=sft-lr1e-5?)",
    ("eval", "sft-lr1e-5"): "(did you mean ckpt=sft-lr1e-5?)",
    # one's own model and rows in the place of a choice
    ("train", "model=org/name"): "for a folder or a hub model, type model.path=org/name",
    ("train", "model=/folder/name"): "model.path=/folder/name",
    ("train", "dataset=rows.csv"): "dataset=jsonl dataset.train=rows.csv dataset.test=FILE",
    ("train", "dataset=org/rows"): "dataset=jsonl dataset.hub_id=org/rows dataset.test_split=test",
    ("train", "experiment=paper/esc"): "experiment=paper/esc does not exist (did you mean paper/",
    ("train", "method=SFT"): "(did you mean sft?)",
    ("eval", "suite.metrics.mine=acc"): "to add a key, type +suite.metrics.mine=VALUE",
    (
        "eval",
        "suite.tasks=[mine,mini_python]",
    ): "no metric for mine: type +suite.metrics.mine=",
    ("sweep", "suite.shots.mmlu=5"): "+suite.shots.mmlu=VALUE",
    ("train", "LR=1e-5"): "(did you mean lr?)",
    # a value of what is not chosen
    ("train", "dataset.train=rows.csv"): "dataset.train is a value of dataset=jsonl, which is not",
    ("train", "objective.w_min=0.1"): "objective.w_min is a value of objective=talr, which",
    ("sweep", "dataset=jsonl", "dataset.trian=rows.csv"): "(did you mean dataset.train?)",
    (
        "train",
        "dataset=jsonl",
        "dataset.text_column=text",
    ): "text_column is not a config value;",
    ("report", "dataset.train=rows.csv"): "dataset.train is not a config value; see",
    # lists and signs
    ("train", "+experiment=demo"): "experiment has a value already: type experiment=demo",
    ("train", "++method=talr"): "method has a value already: type method=talr",
    ("train", "++trainer.max_step=3"): "(did you mean trainer.max_steps?)",
    ("train", "suite.tasks=mini_python"): "is a list: write it in brackets, suite.tasks=[VALUE]",
    ("train", "suite.tasks=[mini_pyhton]"): "(did you mean mini_python?)",
    ("sweep", "lr=interval(1e-6,1e-4)"): "a sweep takes values, lr=a,b; `talr search` takes",
    ("train", "method=sft,talr"): "`talr sweep` takes several values",
    ("train", "lr=0,5"): "lr=0,5 has a comma: write a list in [], and a decimal with a point",
    ("sweep", "seed=[0,1]", "--dry-run"): "a whole number; for several values, `talr sweep` takes",
    ("train", "lr=1e-5,"): "'lr=1e-5,' cannot be read (mismatched input '<EOF>')",
    ("train", "dataset=jsonl", "dataset.train=a=b/c.jsonl"): "there is no file a=b/c.jsonl, and",
    # a value of another type, in words of its own
    (
        "train",
        "lr=1e-5 1e-4",
    ): "lr=1e-5 1e-4 is not a number; for several values, `talr sweep` takes lr=a,b; see",
    ("sweep", "seed=0..2"): "takes seed=a,b or seed=range(a,b); see",
    ("train", "limit=10%"): "limit=10% is not a whole number; see",
    ("train", "objective=talr", "objective.tau=.inf"): "objective.tau=.inf is not a number",
    ("train", "dataset.train_rows=1e400"): "dataset.train_rows=inf is not a whole number",
    ("train", "dataset.name={a: 1}"): "dataset.name={'a': 1} is not a text",
    ("train", "study=[1]"): "study=[1] is not a text; see",
    ("train", "score_suite='5'"): "suite=5 does not exist; the choices are",
    ("train", "score_suite={a: 1}"): "score_suite={'a': 1} must be the name of a suite",
    ("train", "model.random_init=5"): "model.random_init is a mapping",
    ("train", "model.key_mapping=5"): "add to it by +model.key_mapping.NAME=VALUE",
    ("train", "model.key_mapping={a: b}"): "type +model.key_mapping.NAME=VALUE",
    ("train", "quiet=maybe"): "quiet=maybe is not true or false; see",
    ("train", "seed=null"): "seed cannot be null; see",
    ("train", "model=tiny", "study=my/study"): "study='my/study' must be a folder name",
    # names of others
    ("train", "lr:1e-5"): "(did you mean lr=1e-5?)",
    ("train", "model_path=folder"): "(did you mean model.path?)",
    ("train", "train=rows.jsonl"): "(did you mean dataset.train?)",
    ("train", "adapter=lora", "adapter.r=8"): "(did you mean adapter.rank?)",
    ("sweep", "rank=8"): "adapter.rank",
    ("eval", "lora_rank=8"): "lora_rank is not a config value; see",
    ("report", "learning_rate=1"): "learning_rate is not a config value; see",
    ("train", "~seed"): "seed cannot be deleted: give it another value",
    ("train", "model.quantize=nf4"): "(did you mean adapter.base_dtype?)",
    ("train", "adapter=qlora"): "(that is adapter=lora adapter.base_dtype=nf4)",
    ("train", "model=llama"): "(did you mean llama3.2-1b?)",
    ("train", "model=own"): "for a folder or a hub model, type model.path=own",
    ("train", "dataset=csv"): "for your own rows, type dataset=jsonl",
    ("sweep", "dry_run=true"): "`talr sweep ... --dry-run` shows the plan",
    ("sweep", "--dryrun"): "(did you mean --dry-run, which `talr sweep` has?)",
    ("train", "config_dir=mine"): "but an option, --config-dir FOLDER",
    ("recommend", "tickets"): "(did you mean study=tickets?)",
}


@pytest.mark.parametrize("typed", TYPED, ids=command_line)
def test_a_beginners_mistake_names_what_to_type(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my rows.csv").touch()
    (tmp_path / "own").mkdir()
    command, *arguments = typed
    with pytest.raises(UserError) as error:
        importlib.import_module(f"talr_cli.commands.{command}").main(arguments)
    assert TYPED[typed] in str(error.value)
    assert "hydra" not in str(error.value).lower()


def test_of_a_key_typed_twice_it_is_said_which_value_counts(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    for command, typed in (
        ("sweep", ["lr=1e-6", "lr=2e-6", "method=nosuch", "--dry-run"]),
        ("train", ["lr=1e-6", "seed=1", "lr=2e-6", "seed=1", "method=nosuch"]),
    ):
        with pytest.raises(UserError, match="method=nosuch does not exist"):
            importlib.import_module(f"talr_cli.commands.{command}").main(typed)
    grid, run = [record.getMessage() for record in caplog.records]
    assert run == "lr=2e-6 counts, as it is typed after lr=1e-6"
    assert grid == f"{run}; for both, type lr=1e-6,2e-6"


def test_a_command_is_written_as_it_may_be_typed():
    words = ["talr", "eval", "dataset.train='my rows.csv'", "a b", "c='$d'", "lr=1e-5"]
    assert command_line(words) == (
        """talr eval "dataset.train='my rows.csv'" 'a b' 'c='"'"'$d'"'"'' lr=1e-5"""
    )


def test_the_api_gives_the_same_hints():
    with pytest.raises(UserError, match="did you mean lr=1e-5"):
        api.train("lr", "1e-5")
    with pytest.raises(UserError, match="is not a text of the form key=value"):
        api.train(["lr=1e-5"])
