"""Makes random models, rows and trainers: no file and no network is needed."""

import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpu.measuring import Options

# (tokens, targets) of 24 rows of MedCalc-Bench, spread evenly over the lengths of 761 training rows
# with the tokenizer of SmolLM2; means 1061 and 261.
LENGTHS = (
    (262, 98), (301, 108), (367, 141), (455, 224), (558, 137), (634, 269), (683, 134), (766, 230),
    (819, 397), (861, 226), (923, 183), (982, 176), (1047, 192), (1086, 111), (1145, 303),
    (1201, 402), (1272, 408), (1343, 138), (1414, 475), (1540, 134), (1638, 130), (1779, 134),
    (1956, 320), (2307, 154),
)  # fmt: skip
_QWEN = {
    "vocab_size": 151936, "num_key_value_heads": 2, "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}  # fmt: skip
BARS_ARE_FOR = "Qwen2.5-3B"
# The largest model's shape that a GPU of so many GiB trains whole with AdamW in fp32.
SHAPES = (
    (70, BARS_ARE_FOR, {
        **_QWEN, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16,
    }),
    (38, "Qwen2.5-1.5B", {
        **_QWEN, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12,
    }),
    (0, "Qwen2.5-0.5B", {
        **_QWEN, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14,
    }),
)  # fmt: skip
SMALL = {
    "vocab_size": 2048, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}  # fmt: skip
ANY_ORDER = "trainer.deterministic=false"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def random_rows(count: int, vocabulary: int, scale: float = 1.0) -> list[Any]:
    """Rows of random tokens, whose lengths are MedCalc's times `scale`; the targets come last."""
    from talr_cli.data.rendering import Rendered

    draw = random.Random(5)
    rows = []
    for _ in range(count):
        tokens, targets = (max(4, int(scale * length)) for length in draw.choice(LENGTHS))
        ids = [draw.randrange(10, vocabulary) for _ in range(tokens)]
        rows.append(Rendered(ids, [-100] * (tokens - targets) + ids[tokens - targets :]))
    return rows


def byte_tokenizer() -> Any:
    """A tokenizer whose tokens are bytes, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<end>"]  # the first is what a Qwen2's tokenizer adds without it
    words = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={word: n for n, word in enumerate(words)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=special[0], eos_token=special[1]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def shape_for(options: Options) -> tuple[str, dict[str, Any]]:
    """(name, settings) of the largest model that this GPU has the memory for."""
    import torch

    if options.small:
        return "small", SMALL
    gib = torch.cuda.mem_get_info()[1] / 2**30 if options.device == "cuda" else 0
    return next((name, settings) for least, name, settings in SHAPES if gib >= least)


def random_model(settings: dict[str, Any], device: str, sharpness: float = 1.0) -> Any:
    """A Qwen2 in fp32 that bf16 holds exactly, made on the device.

    A GPU draws other numbers than a CPU: where two devices are compared, one of them makes both.

    Args:
        sharpness: Its matrices are multiplied by this: a fresh model predicts all tokens alike.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2ForCausalLM(Qwen2Config(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(sharpness)
            parameter.copy_(parameter.bfloat16())
    return model


def saved_model(folder: Path) -> Path:
    """A random model of two layers on disk, with the tokenizer of bytes.

    Its heads are 64 wide: some kernels do not take narrower ones.
    """
    tokenizer = byte_tokenizer()
    settings = {**SMALL, "vocab_size": len(tokenizer), "hidden_size": 256}
    model = random_model(settings, "cpu")
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_trainer(
    typed: Sequence[str],
    model: Any,
    rows: Sequence[Any],
    device: str,
    load_base: Callable[[Any], Any],
) -> Any:
    """The trainer that `talr train` makes for these overrides; TRL's own for method=trl-LOSS."""
    from transformers import PrinterCallback

    from talr_cli.config import composition
    from talr_cli.models.frozen import round_layers
    from talr_cli.models.sources import ModelSource
    from talr_cli.run.make import setting_of
    from talr_cli.runs.run_directory import RunDirectory
    from talr_cli.training import loop

    method = next(one.partition("=")[2] for one in typed if one.startswith("method="))
    of_trl = method.startswith("trl-")
    given = [one for one in typed if not (of_trl and one.startswith("method="))]
    config = composition.load(
        "train", ["logger=none", "model=tiny", "trainer.checkpoint_every_epoch=false", *given]
    )
    folder = Path(tempfile.mkdtemp())
    setting = setting_of(config, device)
    if getattr(config.adapter, "base_dtype", None) == "auto" and setting.autocast_dtype is not None:
        model = round_layers(model, setting.autocast_dtype)
    tokenizer = byte_tokenizer()
    if of_trl:
        trainer = trl_trainer(setting, folder, method.removeprefix("trl-"), model, tokenizer, rows)
    else:
        # No name of the model: what FLOW keeps of its losses is not to be found again.
        source = ModelSource(folder, str(folder), "random")
        trainer = loop.make_trainer(
            setting,
            model,
            tokenizer,
            config.parts,
            loop.TrainingData(rows, [], []),
            RunDirectory(folder),
            source,
            load_base,
            str(folder),
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def trl_trainer(
    setting: Any, folder: Path, loss: str, model: Any, tokenizer: Any, rows: Sequence[Any]
) -> Any:
    """TRL's own trainer with the same setting as ours, and one of its losses (`nll`, `dft`)."""
    from datasets import Dataset
    from trl import SFTTrainer

    from talr_cli.runs.run_directory import RunDirectory
    from talr_cli.training import loop

    arguments = loop.trainer_arguments(setting, RunDirectory(folder))
    arguments.loss_type = loss
    return SFTTrainer(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(loop.token_columns(rows)),
    )


def train(trainer: Any, typed: Sequence[str], device: str) -> None:
    """Train with sums in a fixed order, as `talr train` by default; TRL's own trainer as it is."""
    from talr_cli.models.head import causal_lm
    from talr_cli.training.determinism import deterministic_sums

    of_trl = any(one.startswith("method=trl-") for one in typed)
    with deterministic_sums(
        not of_trl and ANY_ORDER not in typed, causal_lm(trainer.model), device
    ):
        trainer.train()


def in_some_order(
    measure: Callable[[Sequence[str]], dict[str, Any]], typed: Sequence[str]
) -> dict[str, Any]:
    """What `measure` finds; if an operation has no fixed order, in any order, and why."""
    from talr_cli.training.determinism import NoFixedOrderError

    try:
        return measure(typed)
    except NoFixedOrderError as error:
        refused = str(error)[:200]
    # Not in the handler: the exception's frames keep the model.
    return {**measure((*typed, ANY_ORDER)), "refused": refused}
