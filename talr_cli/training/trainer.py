"""TRL's SFTTrainer with one override of `compute_loss` for all objectives.

The loss is the sum over targets of weight * -log p, divided by the number of targets in the
optimizer step, over all micro-batches and ranks. The trainer does not know which objective it runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import (
    AutocastKwargs,
    DistributedDataParallelKwargs,
    convert_outputs_to_fp32,
    get_mixed_precision_context_manager,
)
from peft import PeftModel
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from trl import SFTTrainer

from talr_cli import ranks
from talr_cli.methods.base import Objective, Regulariser, Step, TargetTokens
from talr_cli.methods.schedules import Schedule
from talr_cli.models.adapter import read_weights
from talr_cli.models.head import causal_lm
from talr_cli.models.settings import loaded_settings, restore_settings, without_router_loss
from talr_cli.runs.atomic import write_json
from talr_cli.runs.checkpoints import remove_old
from talr_cli.runs.disk import explain_write_errors
from talr_cli.runs.manifest import MANIFEST, seal
from talr_cli.training.collator import Collator
from talr_cli.training.compiled import compile_layers, undo_compilation
from talr_cli.training.cpu_memory import lower_peak, set_sparse_embedding
from talr_cli.training.joined_rows import attend_by_row, restore_attention
from talr_cli.training.rank_batches import RankBatches, RankLoader
from talr_cli.training.rates import StepRates
from talr_cli.training.spent import Meter, Spent
from talr_cli.training.step_statistics import StepStatistics
from talr_cli.training.step_weights import StepWeights
from talr_cli.training.token_scores import add_token_scores, base_tokens, score_targets
from talr_cli.training.validation import ValidationLoss
from talr_cli.training.weight_mean import UpdateMean, WeightMean

STATE = "talr_state.json"  # the file in a checkpoint with what transformers does not save
COLLATED_COLUMNS = ("sequence_weight", "base_log_probs", "replay")  # which the collator reads


class MethodTrainer(SFTTrainer):
    """SFTTrainer whose loss is weighted token by token by an `Objective`."""

    # compute_loss divides by the targets of the whole step, so transformers must not scale again.
    loss_is_scaled_for_ga = True  # type: ignore[assignment]
    model: Any
    train_dataset: Any
    objective: Objective

    def __init__(
        self,
        *args: Any,
        objective: Objective,
        schedule: Schedule,
        regulariser: Regulariser | None = None,
        mean: WeightMean | None = None,
        load_base: Callable[[], Any] | None = None,
        general: Sequence[dict[str, Any]] = (),
        facts: Mapping[str, float] | None = None,
        compiled: bool = False,
        **kwargs: Any,
    ) -> None:
        """The arguments that are not SFTTrainer's own.

        Args:
            mean: The moving average of the weights; updated here and saved in checkpoints.
            load_base: Loads another copy of the base. With it, the trainer starts the regulariser
                as soon as the weights are where they will be trained; without it, the regulariser
                must have been started.
            general: The rows to which the column `replay` of the training rows refers.
            facts: What is added to the `training` results.
            compiled: Whether to compile the decoder layers with torch.compile.
        """
        self._loaded = loaded_settings(causal_lm(kwargs["model"]))
        super().__init__(*args, **kwargs)
        without_router_loss(causal_lm(self.model))  # which TRL has switched on
        for parameter in self.model.parameters():
            if parameter.requires_grad and isinstance(self.model, PeftModel):
                # TRL casts adapters on a quantised base to bf16, which would swallow small updates.
                parameter.data = parameter.data.float()
        # TRL refuses a custom collator for padding-free batches, so it is replaced afterwards.
        self.data_collator = Collator(**vars(self.data_collator), general=general)
        self.objective = objective
        self.schedule = schedule
        self._step_loss: Any = 0.0  # this rank's share of the current step's loss, so far
        self.regulariser = regulariser
        self._load_base = load_base
        self.mean = mean
        if mean is not None:
            self.add_callback(UpdateMean(mean, self._loss_scale))
        if self.padding_free:
            attend_by_row(causal_lm(self.model))
        self.weights = StepWeights(objective, self.accelerator)
        self.statistics = StepStatistics()
        self.validation = ValidationLoss(self.accelerator)
        self.meter = Meter(self.accelerator)
        self.target_tokens = 0
        self.facts = dict(facts or {})
        add_token_scores(self.model, objective.outputs)
        if compiled:
            compile_layers(causal_lm(self.model))

    def restore_model(self) -> None:
        """Undo what training has changed about the model besides its weights."""
        model = causal_lm(self.model)
        for part in (self.model, model):  # the fused head and autocast replaced `forward`
            vars(part).pop("forward", None)
        restore_attention(model)
        undo_compilation(model)
        set_sparse_embedding(model, sparse=False)
        restore_settings(model, self._loaded)

    def get_train_dataloader(self) -> DataLoader:
        args, rows = self.args, self.train_dataset
        if args.world_size == 1:
            return super().get_train_dataloader()
        rank, ranks = args.process_index, args.world_size
        batches = RankBatches(len(rows), args.train_batch_size, rank, ranks, args.seed)
        return RankLoader(rows, batches, self.data_collator, pin_memory=args.dataloader_pin_memory)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        scheduled: Any = self.optimizer if optimizer is None else optimizer
        self.lr_scheduler = StepRates(scheduled, self.schedule, num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        """The arguments that transformers gives accelerate, and two more that save memory."""
        built = super()._build_accelerator_args(**kwargs)
        for handler in built["kwargs_handlers"]:
            if isinstance(handler, DistributedDataParallelKwargs):
                # Then DDP sends the gradients themselves, not copies.
                handler.gradient_as_bucket_view = True
        # By default autocast caches its bf16 copies of the weights during the forward pass. Each is
        # used only once, and together they are half as large as the model.
        built["kwargs_handlers"].append(AutocastKwargs(cache_enabled=False))
        return built

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        self._start_regulariser()
        accelerator = self.accelerator
        if self.is_fsdp_enabled and accelerator.native_amp:
            # accelerate does this for all models but those under FSDP2.
            autocast: Any = get_mixed_precision_context_manager(True, accelerator.autocast_handler)
            self.model.forward = convert_outputs_to_fp32(autocast(self.model.forward))
        if isinstance(self.model_wrapped, DistributedDataParallel):
            # Zeroed in place, gradients stay in DDP's buckets; new ones would need more memory.
            wrapped = self.model_wrapped
            wrapped.zero_grad = partial(wrapped.zero_grad, set_to_none=False)  # type: ignore[method-assign]
        if self.args.device.type == "cpu" and accelerator.num_processes == 1:
            lower_peak(causal_lm(self.model), self.optimizer)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._start_regulariser()  # the weights are still the base's
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if isinstance(self.model, PeftModel) and not self.is_fsdp_enabled:
            read_weights(self.model, Path(resume_from_checkpoint))

    def _start_regulariser(self) -> None:
        """Start it after FSDP2 has sharded the model, but before a checkpoint is loaded."""
        if self.regulariser is not None and (load := self._load_base) is not None:
            self.regulariser.start(
                self.model, lambda: attend_by_row(load()) if self.padding_free else load()
            )
            self._load_base = None

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The micro-batches of one optimizer step, whose weights may need a forward pass first."""
        batches, counted = super().get_batch_samples(epoch_iterator, num_batches, device)
        targets: Any = counted
        is_alone = self.accelerator.num_processes == 1
        # int(targets) makes the host wait for the device, so a single process counts here.
        self.target_tokens += _count_targets(batches) if is_alone else int(targets)
        step = Step(self.state.global_step, self.state.max_steps, self.args.seed)
        score = cache(lambda index: self._score_without_gradient(batches[index]))
        self.weights.start_step(len(batches), score, step)
        return batches, targets

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> torch.Tensor:
        """The number of targets of an optimizer step over all ranks, counted by the collators."""
        # full() creates the number on the device; copying it there would make the host wait.
        count = torch.full((), _count_targets(batch_samples), dtype=torch.float32, device=device)
        return self.accelerator.gather(count).sum()

    def _prepare_input(self, data: Any) -> Any:
        if isinstance(data, torch.Tensor):
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def _score_without_gradient(self, batch: Any) -> TargetTokens:
        inputs = self._prepare_inputs(dict(batch))
        if self.objective.sees_only_base:
            return base_tokens(inputs)
        training = self.model.training
        self.model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            tokens, _ = score_targets(self.model_wrapped, self.model, inputs, self.objective.top_k)
        self.model.train(training)
        return tokens

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The weighted loss in training; the plain mean loss in validation."""
        # The model's forward enters autocast by itself; whatever else is computed here does not.
        autocast = self.accelerator.autocast
        with autocast():
            tokens, hidden = score_targets(model, self.model, inputs, self.objective.top_k)
        losses = -tokens.log_probs
        if not model.training:
            self.validation.add(tokens)
            return losses.mean()
        weights, tau = self.weights.next_weights(tokens)
        self.statistics.add(tokens, weights, tau, inputs["input_tokens"])
        self.meter.input_tokens += inputs["input_tokens"]
        # The loss of a step without targets is a differentiable zero, not 0 / 0. The count is over
        # all ranks and DDP averages over them, hence the factor num_processes below.
        targets = torch.as_tensor(num_items_in_batch).clamp(min=1)
        total = (weights * losses).sum()
        if self.schedule.follows_loss:
            self._step_loss = self._step_loss + total.detach() / targets
        if self.regulariser is not None:
            with autocast():
                penalty = self.regulariser.loss(self.model, inputs, hidden)
            if penalty is not None:
                self.statistics.add_penalty(penalty, targets, "loss")
                total = total + penalty
        return total / targets * self.accelerator.num_processes

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        output = super().evaluation_loop(*args, **kwargs)
        metrics = {**(output.metrics or {}), "eval_loss": self.validation.mean()}
        return output._replace(metrics=metrics)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> None:
        """Keep the norm on the device, to be read with the other metrics without another wait."""
        self.statistics.grad_norm = super()._get_grad_norm(model, grad_norm)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run a micro-batch; after the last of a step the gradient is complete but not clipped."""
        loss = super().training_step(*args, **kwargs)
        if self.regulariser is not None and self.accelerator.sync_gradients:
            # With fp16 the gradients are scaled until they are clipped; the penalty's is not.
            self._scale_gradients(divide=True)
            penalty = self.regulariser.add_gradient(self.model)
            self._scale_gradients(divide=False)
            if penalty is not None:
                self.statistics.add_penalty(penalty, self.args.world_size, "add_gradient")
        if self.schedule.follows_loss and self.accelerator.sync_gradients:
            self.schedule.observe(float(self.accelerator.reduce(self._step_loss, "sum")))
            self._step_loss = 0.0
            rates: Any = self.lr_scheduler
            rates.refresh()
        return loss

    def _scale_gradients(self, divide: bool) -> None:
        """Divide the gradients by fp16's loss scale, a power of two, or multiply them by it."""
        scale = self._loss_scale()
        if scale is not None:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            torch._foreach_mul_(gradients, scale.reciprocal() if divide else scale)

    def _loss_scale(self) -> torch.Tensor | None:
        """The loss scale of fp16, on the device; None without one."""
        scaler = self.accelerator.scaler
        return None if scaler is None else scaler._get_scale_async()  # get_scale() would wait

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = [*self._signature_columns, *COLLATED_COLUMNS]  # type: ignore[assignment,misc]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.model.training:
            logs["weighted_loss"] = logs.pop("loss")
            logs |= self.statistics.flush(self.accelerator, self.objective, self._loss_scale())
            # With too large a loss scale the gradient is not finite: the step was skipped and the
            # scale halved. If even a scale of 1 is too large, the training diverges.
            if logs.get("loss_scale", 0) >= 1 and not math.isfinite(logs.get("grad_norm", 0)):
                del logs["grad_norm"]
        super().log(logs, start_time)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self.meter.start()
        return super().train(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Add what transformers does not save, then the manifest, once all ranks have written."""
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        with explain_write_errors(folder):
            if self.args.should_save:
                (folder / MANIFEST).unlink(missing_ok=True)  # if one exists, it is rewritten
            super()._save_checkpoint(model, trial)
            state = {
                "schedule": self.schedule.state(),
                "tau": self.weights.temperature.state(),
                "target_tokens": self.target_tokens,
                "spent": asdict(self.meter.read()),
                # A run must resume with the same two, to end with the same bits.
                "rows_at_once": self.args.per_device_train_batch_size,
                "checkpointing": bool(self.args.activation_checkpointing),
            }
            if self.mean is not None:
                self.mean.save(folder, self.args.should_save)
            ranks.wait_for_all()
            if self.args.should_save:
                write_json(folder / STATE, state)
                seal(folder)
                remove_old(folder.parent)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            state = json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8"))
            self.schedule.restore(state["schedule"])
            if self.mean is not None:
                self.mean.load(Path(checkpoint), self.model)
            self.weights.temperature.restore(state["tau"])
            self.target_tokens = state["target_tokens"]
            self.meter.restore(Spent(**state["spent"]))


def _count_targets(batches: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(batch["targets"]["at"]) for batch in batches)
