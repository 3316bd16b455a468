"""sft against TRL's own SFTTrainer, from rows of messages to weights, as its users call it."""

import pytest
import torch
from conftest import config
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PrinterCallback
from trl import SFTConfig, SFTTrainer

from talr_cli.data.base import Example
from talr_cli.data.encoding import encode_all
from talr_cli.data.rendering import Renderer
from talr_cli.models.tokenizer import load_tokenizer
from talr_cli.run.make import setting_of
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.training.loop import TrainingData, make_trainer

# Nothing behind the token that ends a turn: white space there is a target of TRL's.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LONGEST = 40


def message(role, words):
    return {
        "role": role,
        "content": " ".join(["oak", "iron", "seven", "river"][n % 4] for n in words),
    }


def conversations(count=12):
    """Rows with a system prompt, with earlier turns, longer than LONGEST; one by its prompt."""
    found = []
    for n in range(count):
        prompt = [message("user", range(n, 2 * n + 3))]
        if n % 3 == 0:
            prompt.insert(0, message("system", range(n, n + 4)))
        if n % 4 == 1:
            prompt += [message("assistant", range(2)), message("user", range(1, 5))]
        found.append((prompt, message("assistant", range(0, 1 + n * n, 2))))
    return found


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_sft_has_the_losses_gradient_norms_and_weights_of_trl(
    adapter, tiny_source, tiny_config, tmp_path
):
    tokenizer = load_tokenizer(tiny_source, tiny_config)
    tokenizer.chat_template = TEMPLATE

    def model():
        return AutoModelForCausalLM.from_pretrained(tiny_source.directory, dtype=torch.float32)

    rows = conversations()
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = SFTTrainer(
        model=model(),
        args=SFTConfig(
            output_dir=str(tmp_path),
            learning_rate=1e-2,
            lr_scheduler_type="cosine",
            warmup_steps=0.5,  # of 6 steps: nothing to round
            weight_decay=0.1,
            max_grad_norm=0.2,
            num_train_epochs=2,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_length=LONGEST,
            seed=3,
            logging_steps=1,
            bf16=False,
            activation_checkpointing=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(
            [{"prompt": prompt, "completion": [answer]} for prompt, answer in rows]
        ),
        peft_config=lora if adapter == "lora" else None,
    )
    theirs.remove_callback(PrinterCallback)
    theirs.train()

    chosen = config(
        "train",
        *("model=tiny", "method=sft", f"adapter={adapter}", "lr=1e-2", "seed=3", "logger=none"),
        *("trainer.epochs=2", "trainer.batch_size=4", "trainer.micro_batch_size=1"),
        *("trainer.max_grad_norm=0.2", "trainer.checkpoint_every_epoch=false"),
        *("trainer.precision=fp32", "optimizer.weight_decay=0.1", "schedule.warmup_share=0.5"),
        *(("adapter.rank=8", "adapter.alpha=16") if adapter == "lora" else ()),
    )
    examples = [
        Example(str(n), tuple(prompt), answer["content"]) for n, (prompt, answer) in enumerate(rows)
    ]
    encoded = encode_all(examples, Renderer(tokenizer, {}), LONGEST)
    assert encoded.cut
    assert len(encoded.rows) == len(theirs.train_dataset)
    assert len(encoded.rows) % 4, "the last batch is a smaller one"
    ours = make_trainer(
        setting_of(chosen, "cpu"),
        model(),
        tokenizer,
        chosen.parts,
        TrainingData(encoded.rows, [], []),
        RunDirectory(tmp_path / "run"),
        tiny_source,
        lambda dtype: model(),
        str(tiny_source.directory),
    )
    ours.remove_callback(PrinterCallback)
    ours.train()

    steps, expected = (
        [one for one in trainer.state.log_history if "grad_norm" in one]
        for trainer in (ours, theirs)
    )
    assert [one["weighted_loss"] for one in steps] == pytest.approx(
        [one["loss"] for one in expected]
    )
    for key in ("grad_norm", "learning_rate"):
        found = [one[key] for one in steps]
        assert found == pytest.approx([one[key] for one in expected], rel=1e-4)
    trained, wanted = ours.model.state_dict(), theirs.model.state_dict()
    start = model().state_dict()
    assert trained.keys() == wanted.keys()
    moved = [
        name for name in wanted if name not in start or not torch.equal(wanted[name], start[name])
    ]
    assert len(moved) > 10
    for name in moved:
        torch.testing.assert_close(trained[name], wanted[name], rtol=0, atol=1e-4)
