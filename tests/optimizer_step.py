"""One optimizer step of the real trainer on a toy model, and full-logits references for it."""

import torch
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig

from talr_cli.methods.base import Step
from talr_cli.methods.objectives import Deft, Dft, Eaft, Flow, InfoSft, Sft, TailSft, Talr
from talr_cli.methods.schedules import Constant
from talr_cli.training.trainer import MethodTrainer

PAD = 0


def toy(dtype=torch.float32, layers=2):
    """A 2-layer model with a vocabulary of 50; in float64 it computes so throughout."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            # eager attention takes its softmax in fp32
            attn_implementation="eager" if dtype == torch.float32 else "sdpa",
        )
    ).to(dtype)
    if dtype == torch.float64:
        for module in list(model.modules()):
            for name, child in module.named_children():
                if "RMSNorm" in type(child).__name__:  # Llama's own computes in fp32
                    setattr(module, name, torch.nn.RMSNorm(16, child.variance_epsilon, dtype=dtype))
    return model


def rows(count=16, seed=0):
    """Ragged rows: a prompt, then targets; some with a single target. What the base said, made up.

    Weights as FLOW's; the targets' log-probabilities are near those of a model that knows nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.Generator().manual_seed(seed + 1)
    made = []
    for number in range(count):
        prompt = int(torch.randint(1, 9, (), generator=generator))
        answer = 1 if number % 5 == 0 else int(torch.randint(2, 12, (), generator=generator))
        ids = torch.randint(1, 50, (prompt + answer,), generator=generator).tolist()
        made.append(
            {
                "input_ids": ids,
                "labels": [-100] * prompt + ids[prompt:],
                "sequence_weight": 0.2 + 0.05 * number,
                "base_log_probs": (-4 - torch.randn(answer, generator=drawn)).tolist(),
            }
        )
    return made


def reference(model, row):
    """(-log p of each target, log-probabilities over the vocabulary) of a row, in float64."""
    ids = torch.tensor([row["input_ids"]])
    log_probs = model(ids).logits[0, :-1].double().log_softmax(-1)
    labels = torch.tensor(row["labels"])[1:]
    log_probs, labels = log_probs[labels != -100], labels[labels != -100]
    return -log_probs.gather(1, labels[:, None])[:, 0], log_probs


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def reference_gradient(model, batch, weigh, penalty=None):
    """Gradient and value of sum(w * l) / N (+ penalty), written from the formula."""
    model.zero_grad()
    scored = [reference(model, row) for row in batch]
    count = sum(len(losses) for losses, _ in scored)
    weights = weigh([(nll.detach(), q.detach()) for nll, q in scored], batch)
    total = sum((w * nll).sum() for w, (nll, _) in zip(weights, scored, strict=True)) / count
    if penalty is not None:
        total = total + penalty(model, batch, scored, count)
    total.backward()
    return gradient(model).clone(), total.item()


def talr_weights(scored, batch):
    means = sorted(float(losses.detach().mean()) for losses, _ in scored)
    tau = means[(len(means) - 1) // 2]
    return [torch.exp(-losses / tau).clamp(min=0.01) for losses, _ in scored]


def eaft_weights(scored, batch):
    weights = []
    for _, log_probs in scored:
        top = log_probs.exp().sort(descending=True).values[:, :20]
        top = top / top.sum(1, keepdim=True)
        weights.append(-(top * top.log()).sum(1) / torch.tensor(20.0).log())
    return weights


def full_entropy_weights(scored, batch):
    return [-(q.exp() * q).sum(1) / 3.0 for _, q in scored]


def infosft_weights(scored, batch):
    ceiling = torch.logit(torch.tensor(0.93, dtype=torch.float64))
    return [
        (-losses).exp() * (1 - torch.logit((-losses).exp()) / ceiling).relu()
        for losses, _ in scored
    ]


def talr_base_weights(scored, batch):
    losses = [-torch.tensor(row["base_log_probs"], dtype=torch.float64) for row in batch]
    return talr_weights([(one, None) for one in losses], batch)


def shuffled_weights(scored, batch):
    """Those of talr, joined in the order in which the trainer takes the rows, and dealt out."""
    order = list(SeedableRandomSampler(range(len(batch)), data_seed=42))
    counts = [len(scored[number][0]) for number in order]
    joined = torch.cat([talr_weights(scored, batch)[number] for number in order])
    places = torch.arange(len(joined))
    step = Step(number=0, total=1, seed=42)
    dealt = joined[Talr(shuffle_weights=True).step_weights(places, None, step)].split(counts)
    return [dealt[order.index(number)] for number in range(len(batch))]


def tailsft_weights(scored, batch):
    """Three in five rows stay: those whose loss has fallen least since the base."""
    fallen = [
        -sum(row["base_log_probs"]) / len(row["base_log_probs"]) - float(losses.mean())
        for row, (losses, _) in zip(batch, scored, strict=True)
    ]
    count = len(batch) - round(0.4 * len(batch))
    stay = sorted(range(len(batch)), key=lambda number: fallen[number])[:count]
    targets = [len(losses) for losses, _ in scored]
    share = sum(targets[number] for number in stay) / sum(targets)
    return [
        torch.full_like(losses, (number in stay) / share)
        for number, (losses, _) in enumerate(scored)
    ]


def normalised_weights(scored, batch):
    """TALR's, with mean 1 over the targets of the step."""
    weights = talr_weights(scored, batch)
    mean = torch.cat(weights).mean()
    return [one / mean for one in weights]


# name -> (objective, weights of the reference)
OBJECTIVES = {
    "sft": (Sft(), lambda scored, batch: [torch.ones_like(nll) for nll, _ in scored]),
    "talr": (Talr(tau_estimator="exact"), talr_weights),
    "talr-base": (Talr(probabilities="base"), talr_base_weights),
    "talr-shuffled": (Talr(tau_estimator="exact", shuffle_weights=True), shuffled_weights),
    "talr-normalised": (Talr(tau_estimator="exact", normalise=True), normalised_weights),
    "tailsft": (TailSft(fraction=0.4, schedule="static"), tailsft_weights),
    "flow": (
        Flow(),
        lambda scored, batch: [
            torch.full_like(nll, row["sequence_weight"])
            for (nll, _), row in zip(scored, batch, strict=True)
        ],
    ),
    "dft": (Dft(), lambda scored, batch: [(-nll).exp() for nll, _ in scored]),
    "eaft": (Eaft(), eaft_weights),
    "eaft-full": (Eaft(top_k=None, scale=3.0), full_entropy_weights),
    "infosft": (InfoSft(), infosft_weights),
    "deft": (
        Deft(),
        lambda scored, batch: [(-nll * q.exp().square().sum(1)).exp() for nll, q in scored],
    ),
}


def sft_config(folder, **given):
    """TRL's arguments for rows that come as token ids, in fp32 on the CPU; `given` wins."""
    usual = {
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return SFTConfig(output_dir=str(folder), **{**usual, **given})


def trainer_gradient(
    model,
    batch,
    objective,
    folder,
    micro,
    padding_free=False,
    regulariser=None,
    schedule=None,
    ranks=1,
    **arguments,
):
    """Gradient and loss that the trainer accumulates in one optimizer step over `batch`."""
    arguments = sft_config(
        folder,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=len(batch) // micro // ranks,
        max_steps=1,
        learning_rate=0.0,
        max_grad_norm=0.0,
        padding_free=padding_free,
        **arguments,
    )
    seen = {}

    class Catching(MethodTrainer):
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            seen["loss"] = seen.get("loss", 0.0) + float(loss)
            seen["gradient"] = gradient(self.model).clone()
            return loss

    model.zero_grad()
    trainer = Catching(
        model=model,
        args=arguments,
        objective=objective,
        regulariser=regulariser,
        schedule=schedule or Constant(),
        processing_class=stub_tokenizer(),
        train_dataset=Dataset.from_list(batch),
    )
    trainer.train()
    trainer.restore_model()
    return seen["gradient"], seen["loss"]


def stub_tokenizer():
    """The smallest tokenizer that the trainer takes; rows come as token ids."""
    vocabulary = {"<pad>": PAD, "</s>": 49, **{f"w{i}": i for i in range(1, 49)}}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, "<pad>")),
        pad_token="<pad>",
        eos_token="</s>",
    )


def relative(actual, expected):
    return float((actual - expected).norm() / expected.norm())
