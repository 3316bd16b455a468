"""TRL's SFTTrainer with one override of `compute_loss`, for every objective.

The minimised loss is sum over targets of weight * -log p, divided by the number of targets in the
optimizer step, over all micro-batches and ranks. It does not know which objective it runs.
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

from talr_cli.methods.base import Objective, Regulariser, Step, TargetTokens
from talr_cli.methods.schedules import Schedule
from talr_cli.models.head import causal_lm
from talr_cli.models.settings import loaded_settings, restore, without_router_loss
from talr_cli.runs.atomic import write_json
from talr_cli.runs.checkpoints import keep_newest
from talr_cli.runs.disk import writing
from talr_cli.runs.manifest import MANIFEST, seal
from talr_cli.training.collator import Collator
from talr_cli.training.compiled import compile_layers, leave_uncompiled
from talr_cli.training.cpu_memory import lower_peak, set_sparse
from talr_cli.training.joined_rows import attend_as_loaded, attend_by_row
from talr_cli.training.rank_batches import RankBatches, RankLoader
from talr_cli.training.rates import StepRates
from talr_cli.training.spent import Meter, Spent
from talr_cli.training.step_statistics import StepStatistics
from talr_cli.training.step_weights import StepWeights
from talr_cli.training.token_scores import add_token_scores, base_tokens, score_targets
from talr_cli.training.validation import ValidationLoss
from talr_cli.training.weight_mean import KeepMean, WeightMean

STATE = "talr_state.json"  # in a checkpoint: what transformers does not know of
OF_ROWS = ("sequence_weight", "base_log_probs", "replay")  # columns that the collator reads


class MethodTrainer(SFTTrainer):
    """SFTTrainer whose loss is weighted token by token by an `Objective`."""

    # compute_loss divides by the targets of the whole step: nothing is left to scale.
    loss_is_scaled_for_ga = True  # type: ignore[assignment]
    model: Any
    train_dataset: Any
    objective: Objective

    def __init__(
        self,
        *args: Any,
        objective: Objective,
        schedule: Schedule | None = None,
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
            schedule: Of the learning rate; without, that of SFTTrainer's arguments.
            mean: Follows the weights, and is in checkpoints.
            load_base: Loads another copy of the base. With it the trainer starts the regulariser,
                once the weights lie where they will be trained; without, it has been started.
            general: The rows that the column `replay` of the training rows points to.
            facts: What the `training` results say about the rows.
            compiled: Whether the decoder layers go through torch.compile.
        """
        self._loaded = loaded_settings(causal_lm(kwargs["model"]))
        super().__init__(*args, **kwargs)
        without_router_loss(causal_lm(self.model))  # TRL has switched it on
        for parameter in self.model.parameters():
            if parameter.requires_grad and isinstance(self.model, PeftModel):
                # TRL makes adapters on a quantised base bf16, which would swallow small updates.
                parameter.data = parameter.data.float()
        # TRL takes no collator of ours for padding-free batches, so it is put in afterwards.
        self.data_collator = Collator(**vars(self.data_collator), general=general)
        self.objective = objective
        self.schedule = schedule
        self._step_loss: Any = 0.0  # what this rank has seen of the step's
        self.regulariser = regulariser
        self._load_base = load_base
        self.mean = mean
        if mean is not None:
            self.add_callback(KeepMean(mean, self._loss_scale))
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

    def leave_model_as_loaded(self) -> None:
        """Undo what training changes about the model beside its weights.

        The fused head and accelerate's autocast are a `forward` of the object: without it the model
        in memory computes as the saved one does.
        """
        model = causal_lm(self.model)
        for part in (self.model, model):
            vars(part).pop("forward", None)
        attend_as_loaded(model)
        leave_uncompiled(model)
        set_sparse(model, sparse=False)
        restore(model, self._loaded)

    def get_train_dataloader(self) -> DataLoader:
        args, rows = self.args, self.train_dataset
        if args.world_size == 1:
            return super().get_train_dataloader()
        place = args.process_index, args.world_size
        batches = RankBatches(len(rows), args.train_batch_size, *place, args.seed)
        memory = {"pin_memory": args.dataloader_pin_memory}
        return RankLoader(rows, batches, self.data_collator, **memory)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.schedule is not None:
            makes_steps: Any = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = StepRates(makes_steps, self.schedule, num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        """transformers' arguments of accelerate, and two that save memory."""
        built = super()._build_accelerator_args(**kwargs)
        for handler in built["kwargs_handlers"]:
            if isinstance(handler, DistributedDataParallelKwargs):
                # DDP then sends the gradients themselves, not copies.
                handler.gradient_as_bucket_view = True
        # Autocast must not keep its copies of the weights until the forward pass ends: each is used
        # once, and together they are half as large as the model.
        built["kwargs_handlers"].append(AutocastKwargs(cache_enabled=False))
        return built

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        self._start_regulariser()
        accelerator = self.accelerator
        if self.is_fsdp_enabled and accelerator.native_amp:
            # accelerate does this for every model but FSDP2's.
            autocast: Any = get_mixed_precision_context_manager(True, accelerator.autocast_handler)
            self.model.forward = convert_outputs_to_fp32(autocast(self.model.forward))
        if isinstance(self.model_wrapped, DistributedDataParallel):
            # Zeroed in place, gradients stay in DDP's buckets; new ones would lie beside them.
            wrapped = self.model_wrapped
            wrapped.zero_grad = partial(wrapped.zero_grad, set_to_none=False)  # type: ignore[method-assign]
        if self.args.device.type == "cpu" and accelerator.num_processes == 1:
            lower_peak(causal_lm(self.model), self.optimizer)
        return prepared

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self._start_regulariser()  # the weights are still the base's
        super()._load_from_checkpoint(*args, **kwargs)

    def _start_regulariser(self) -> None:
        """Before the first step and before a checkpoint is loaded, after FSDP2 has sharded."""
        if self.regulariser is not None and (load := self._load_base) is not None:
            self.regulariser.start(
                self.model, lambda: attend_by_row(load()) if self.padding_free else load()
            )
            self._load_base = None

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The micro-batches of one optimizer step; weights may have to be known before they run."""
        batches, counted = super().get_batch_samples(epoch_iterator, num_batches, device)
        targets: Any = counted
        alone = self.accelerator.num_processes == 1
        self.target_tokens += _targets(batches) if alone else int(targets)
        step = Step(self.state.global_step, self.state.max_steps, self.args.seed)
        score = cache(lambda one: self._score_without_gradient(batches[one]))
        self.weights.start_step(len(batches), score, step)
        return batches, targets

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> torch.Tensor:
        """The targets of an optimizer step, over all ranks, as the collators have counted them."""
        # A number made on the device: one that is copied to it would make the host wait.
        count = torch.full((), _targets(batch_samples), dtype=torch.float32, device=device)
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
        # The model's forward enters autocast by itself; what is computed beside it must as well.
        autocast = self.accelerator.autocast
        with autocast():
            tokens, hidden = score_targets(model, self.model, inputs, self.objective.top_k)
        losses = -tokens.log_probs
        if not model.training:
            self.validation.add(tokens)
            return losses.mean()
        weights, tau = self.weights.of(tokens)
        self.statistics.add(tokens, weights, tau, inputs["input_tokens"])
        self.meter.input_tokens += inputs["input_tokens"]
        # A step without a target is a differentiable zero, not 0 / 0. DDP averages over the ranks,
        # and the count is over all of them.
        targets = torch.as_tensor(num_items_in_batch).clamp(min=1)
        total = (weights * losses).sum()
        if self.schedule is not None and self.schedule.follows_loss:
            self._step_loss = self._step_loss + total.detach() / targets
        if self.regulariser is not None:
            with autocast():
                penalty = self.regulariser.loss(self.model, inputs, hidden)
            if penalty is not None:
                self.statistics.add_penalty(penalty.detach() / targets)
                total = total + penalty
        return total / targets * self.accelerator.num_processes

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        output = super().evaluation_loop(*args, **kwargs)
        metrics = {**(output.metrics or {}), "eval_loss": self.validation.mean()}
        return output._replace(metrics=metrics)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> None:
        """Kept on the device, to be read with the other metrics; transformers would wait for it."""
        self.statistics.grad_norm = super()._get_grad_norm(model, grad_norm)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch; after the last of a step the gradient is whole and not yet clipped."""
        loss = super().training_step(*args, **kwargs)
        if self.regulariser is not None and self.accelerator.sync_gradients:
            # fp16's gradients are scaled up until they are clipped, a penalty's are not.
            self._scale_gradients(divide=True)
            penalty = self.regulariser.add_gradient(self.model)
            self._scale_gradients(divide=False)
            if penalty is not None:
                self.statistics.add_penalty(penalty / self.accelerator.num_processes)
        if self.schedule is not None and self.schedule.follows_loss:
            self._follow_loss(self.schedule)
        return loss

    def _follow_loss(self, schedule: Schedule) -> None:
        """Let the schedule see the loss of the step, once it is whole."""
        if self.accelerator.sync_gradients:
            schedule.observe(float(self.accelerator.reduce(self._step_loss, "sum")))
            self._step_loss = 0.0
            rates: Any = self.lr_scheduler
            rates.ask_again()

    def _scale_gradients(self, divide: bool) -> None:
        """Take fp16's loss scale, a power of two, off the gradients, or put it on again."""
        scale = self._loss_scale()
        if scale is not None:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            torch._foreach_mul_(gradients, scale.reciprocal() if divide else scale)

    def _loss_scale(self) -> torch.Tensor | None:
        """fp16's, on the device; None without one."""
        scaler = self.accelerator.scaler
        return None if scaler is None else scaler._get_scale_async()  # get_scale() would wait

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = [*self._signature_columns, *OF_ROWS]  # type: ignore[assignment,misc]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.model.training:
            logs["weighted_loss"] = logs.pop("loss")
            logs |= self.statistics.flush(self.accelerator, self._loss_scale())
            # With too large a scale the gradient is no number: the step was left out and the scale
            # halved. Where even 1 is too large, it is one that diverges.
            if logs.get("loss_scale", 0) >= 1 and not math.isfinite(logs.get("grad_norm", 0)):
                del logs["grad_norm"]
        super().log(logs, start_time)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self.meter.start()
        return super().train(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As transformers does; and the manifest, once every rank has written its part."""
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        with writing(folder):
            if self.args.should_save:
                (folder / MANIFEST).unlink(missing_ok=True)  # written again, it is not whole
            super()._save_checkpoint(model, trial)
            state = {
                "schedule": {} if self.schedule is None else self.schedule.state(),
                "tau": self.weights.temperature.state(),
                "target_tokens": self.target_tokens,
                "spent": asdict(self.meter.read()),
                # a run that goes on with the same two ends with the same bits
                "rows_at_once": self.args.per_device_train_batch_size,
                "checkpointing": bool(self.args.activation_checkpointing),
            }
            if self.mean is not None:
                self.mean.save(folder, self.args.should_save)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                write_json(folder / STATE, state)
                seal(folder)
                keep_newest(folder.parent)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            state = json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8"))
            if self.schedule is not None:
                self.schedule.restore(state["schedule"])
            if self.mean is not None:
                self.mean.load(Path(checkpoint), self.model)
            self.weights.temperature.restore(state["tau"])
            self.target_tokens = state["target_tokens"]
            self.meter.restore(Spent(**state["spent"]))


def _targets(batches: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(batch["targets"]["at"]) for batch in batches)
