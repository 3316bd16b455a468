"""An exported run is what was evaluated, loads without us, and says what it is."""

import shutil

import pytest
import yaml
from command_line import SMALL, same, talr, train
from conftest import config
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from talr_cli.fields import plain
from talr_cli.report.model_card import _front_matter

OURS = ("lr=1e-3", "method=lora", "suite.drift=false")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A run and its base model, both scored."""
    folder = tmp_path_factory.mktemp("study")
    small = [one for one in SMALL if not one.startswith("trainer.")]
    done = talr("eval", *small, "suite.drift=false", cwd=folder)
    assert done.returncode == 0, done.stderr
    return train(*OURS, cwd=folder)


def export(run, out, cwd):
    return talr("export", f"run={run}", f"out={out}", cwd=cwd, logger=None)


def test_an_export_is_a_plain_checkpoint_with_its_template_and_a_card(study, tmp_path):
    done = export(study, "shipped", tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "shipped"
    assert same(load_file(study / "model/model.safetensors"), load_file(out / "model.safetensors"))
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.generate(ids, max_new_tokens=2, do_sample=False).shape[1] > ids.shape[1]
    card = (out / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert "base_model" not in head
    assert "Random weights, fine-tuned on medcalc-mini" in card
    assert "license" not in head
    assert "medcalc-mini" in card
    assert "- method: lora" in card
    assert "talr train model=tiny" in card
    assert card.count("| general: ") == 5  # the mean and four tasks
    assert "base model was not scored" not in card
    assert "At most the first 2 items of each task were scored." in card  # a quick look says so
    assert "mini_arithmetic, acc |" in card
    assert ",none" not in card
    assert "Of the test rows only" not in card
    # The whole code of the card runs, from the folder it names.
    code = card.split("```python\n")[1].split("```")[0].replace("512", "2")
    exec(compile(code.replace('"shipped"', repr(str(out))), "card", "exec"), {})


def test_a_folder_with_the_name_of_the_run_is_not_taken_for_it(study):
    cwd = study.parents[3]
    (cwd / "lora").mkdir()
    done = export("lora", "shipped", cwd)
    assert done.returncode == 0, done.stderr


def test_the_base_model_is_named_where_it_has_a_name(tmp_path):
    head = yaml.safe_load(_front_matter(plain(config("train"))).strip("-"))
    assert head["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "base_model" not in _front_matter(plain(config("train", f"model.path={tmp_path}")))


def test_an_export_without_a_model_names_the_command_that_makes_it_again(study, tmp_path):
    shutil.copytree(study.parents[2], tmp_path / "runs")
    run = tmp_path / study.relative_to(study.parents[3])
    before = load_file(run / "model/model.safetensors")
    shutil.rmtree(run / "model")
    done = export(run, "shipped", tmp_path)
    assert done.returncode == 2
    assert not (tmp_path / "shipped").exists()
    command = done.stderr.partition("train it with `talr train ")[2].partition("`")[0]
    again = talr("train", *command.split(), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert export(run, "shipped", tmp_path).returncode == 0
    assert same(before, load_file(tmp_path / "shipped/model.safetensors"))


def test_an_export_overwrites_nothing(study, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    done = export(study, "mine", tmp_path)
    assert done.returncode == 2
    assert "exists" in done.stderr
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


def test_exporting_what_is_no_trained_run_is_refused(study, tmp_path):
    base = next(study.parent.glob("base-*"))
    assert "not a trained model" in export(base, "shipped", tmp_path).stderr
    assert "there is no run in runs" in export("nowhere", "shipped", tmp_path).stderr
    assert "out is required" in talr("export", f"run={study}", cwd=tmp_path, logger=None).stderr
