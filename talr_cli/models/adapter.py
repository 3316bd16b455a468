"""PEFT adapters on disk: finds the base that an adapter belongs to, and merges it into that base.

A merged model computes the same as base and adapter. Names and shapes are checked: an adapter of
another base, or one that does not change weights, is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from talr_cli.errors import UserError
from talr_cli.models.config import ModelConfig
from talr_cli.models.sources import ModelSource, find_model, resolve_model
from talr_cli.runs.atomic import read_json_object


def is_adapter(source: ModelSource) -> bool:
    """Whether the folder has an adapter and not a whole model."""
    return (source.directory / "adapter_config.json").exists()


def resolve_base(source: ModelSource, config: ModelConfig) -> ModelSource:
    """The base model that an adapter's folder names.

    Raises:
        UserError: It names none, or one that cannot be found or is an adapter itself.
    """
    file = source.directory / "adapter_config.json"
    remedy = "give another copy of the adapter"
    named = read_json_object(file, remedy)
    path = named.get("base_model_name_or_path")
    if not isinstance(path, str) or not path:
        raise UserError(f"{file} names no base_model_name_or_path: {remedy}")
    if path == config.path:
        base = resolve_model(config)
    else:
        named_config = ModelConfig(
            path=path,
            revision=named.get("revision"),
            trust_remote_code=config.trust_remote_code,
        )
        try:
            base = find_model(named_config)
        except UserError as error:
            reason = str(error).removeprefix(f"model.path={path} ")
            raise UserError(
                f"the base that {file} names, {path}: {reason}; where it lies elsewhere, write "
                "that into base_model_name_or_path"
            ) from error
    if is_adapter(base):
        raise UserError(f"the base that {file} names, {path}, is an adapter itself: merge it first")
    return base


def full_model_source(source: ModelSource, config: ModelConfig) -> ModelSource:
    """The source itself, or the base if it is an adapter."""
    return resolve_base(source, config) if is_adapter(source) else source


def weights_identity(source: ModelSource, config: ModelConfig) -> str:
    """Identifies the weights that `load_model` loads: the fingerprint, with an adapter's base."""
    base = full_model_source(source, config)
    return source.fingerprint if base is source else f"{source.fingerprint} on {base.fingerprint}"


def load_and_merge(model: Any, adapter: ModelSource) -> Any:
    """Load an adapter and merge it into `model`, which must not be used afterwards.

    Raises:
        UserError: The adapter does not fit this model.
    """
    from peft import PeftModel

    _resize_embedding(model, adapter)
    with quiet_peft():
        adapted = PeftModel.from_pretrained(model, str(adapter.directory))
    _check_names(adapted, adapter)
    read_weights(adapted, adapter.directory)
    return merge_adapter(adapted)


def read_weights(adapted: Any, folder: Path) -> None:
    """Copy the weights of the adapter in `folder` into `adapted`, by their names.

    PEFT 0.21 also loads them, but first renames them as transformers renames a model's weights, and
    passes in silence over those that it then does not find (Laguna's shared experts).
    """
    import torch
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import load_file

    held = get_peft_model_state_dict(adapted, save_embedding_layers=True)
    with torch.no_grad():
        for name, stored in load_file(folder / "adapter_model.safetensors").items():
            held[name].copy_(stored)


def merge_adapter(adapted: Any) -> Any:
    """Merge an adapter into its model, and return that; `adapted` must not be used afterwards.

    If head and embedding are tied and the adapter changes either, they are untied first. PEFT would
    add both changes to the shared matrix.
    """
    if any(map(has_adapter, _embedding_and_head(adapted))):
        _separate_head(adapted)
    model = adapted.merge_and_unload()
    mark_untied(model)
    return model


def untie(model: Any) -> Any:
    """Give the model a head of its own, with the weights of the embedding if they were tied."""
    _separate_head(model)
    mark_untied(model)
    return model


def is_tied(model: Any) -> bool:
    """Whether head and embedding share their matrix."""
    embedding, head = (getattr(one, "base_layer", one) for one in _embedding_and_head(model))
    return embedding.weight is head.weight


def _separate_head(model: Any) -> None:
    """Copy the matrix that head and embedding share, if they do."""
    import torch

    if is_tied(model):
        embedding, head = (getattr(one, "base_layer", one) for one in _embedding_and_head(model))
        head.weight = torch.nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)


def _embedding_and_head(model: Any) -> tuple[Any, Any]:
    return model.get_input_embeddings(), model.get_output_embeddings()


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Suppress a warning while PEFT puts an adapter on a model.

    PEFT 0.21 uses a deprecated name of transformers 5.23 to ask about gradient checkpointing. The
    answer is the same by either name.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        yield


def has_adapter(module: Any) -> bool:
    """Whether an adapter changes this module."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


def mark_untied(model: Any) -> bool:
    """Correct a config that ties head and embedding although they differ; returns whether it did.

    A program that ties them by the config later (lm-eval, vLLM, a resumed training) would compute
    with another model.
    """
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    pairs = (map(model.get_parameter_or_buffer, names) for names in tied.items())
    if all(one is other for one, other in pairs):
        return False
    model.config.tie_word_embeddings = False
    model.config.get_text_config().tie_word_embeddings = False
    return True


def check_adapter(model: Any, adapter: ModelSource) -> None:
    """Refuse an adapter that does not fit `model`, which is on the meta device.

    An adapter that cannot be created without the model's weights is checked when it is loaded.

    Raises:
        UserError: It changes the input instead of weights, or names or shapes do not fit.
    """
    from peft import PeftConfig, get_peft_model

    config = PeftConfig.from_pretrained(str(adapter.directory))
    if config.is_prompt_learning:
        raise UserError(
            f"the adapter {adapter.origin} ({config.peft_type.value}) adds to what the model "
            "reads, not to its weights: it cannot be merged, and is not scored here"
        )
    _resize_embedding(model, adapter)
    try:
        with quiet_peft():
            adapted = get_peft_model(model, config)
    except (NotImplementedError, RuntimeError):
        return
    _check_names(adapted, adapter)


def _resize_embedding(model: Any, adapter: ModelSource) -> None:
    """Resize the embedding to its size in training, if the adapter contains its rows.

    Raises:
        UserError: The adapter lacks the rows of the embedding or of the head.
    """
    import torch

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(one): name for name, one in model.named_modules() if one in (embedding, head)}
    rows = {
        names[id(one)]: _embedding_rows(adapter, f"base_model.model.{names[id(one)]}.")
        for one in (embedding, head)
    }
    wanted = {count for count in rows.values() if count is not None} - {len(embedding.weight)}
    if not wanted:
        return
    is_tied = embedding.weight is head.weight
    if len(wanted) > 1 or (None in rows.values() and not is_tied):
        raise UserError(
            f"the adapter {adapter.origin} was trained on an embedding of {max(wanted)} rows, its "
            f"base has {len(embedding.weight)}: grow the base (resize_token_embeddings, "
            "save_pretrained) and name that one in adapter_config.json"
        )
    with torch.random.fork_rng():
        model.resize_token_embeddings(wanted.pop(), mean_resizing=False)


def _embedding_rows(adapter: ModelSource, prefix: str) -> int | None:
    """How many rows the embedding or head has in the adapter's file; None if it is not there."""
    shapes = _shapes(adapter)
    own = [name for name in shapes if name.startswith(prefix) and name.endswith("weight")]
    return next((shapes[name][0] for name in own if "lora_" not in name), None)


def _shapes(adapter: ModelSource) -> dict[str, list[int]]:
    from safetensors import safe_open

    with safe_open(adapter.directory / "adapter_model.safetensors", "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def _check_names(adapted: Any, adapter: ModelSource) -> None:
    import torch
    from peft.utils import get_peft_model_state_dict

    layers = [one.base_layer for one in adapted.modules() if has_adapter(one)]
    ends = [getattr(one, "base_layer", one) for one in _embedding_and_head(adapted)]
    matrices = [one.weight for one in layers if isinstance(one, torch.nn.Linear)]
    own = [id(one) for one in matrices if all(one is not end.weight for end in ends)]
    if len(set(own)) < len(own):
        raise UserError(
            f"the adapter {adapter.origin} changes layers of its base that share a matrix, each in "
            "a way of its own: it cannot be merged, and is not scored here"
        )
    stored = _shapes(adapter).keys()
    # PEFT decides by rules of its own whether it saves the embedding, too.
    made = [
        get_peft_model_state_dict(adapted, save_embedding_layers=also).keys()
        for also in (False, True)
    ]
    if stored in made:
        return
    different = sorted(stored ^ made[0])
    where = "its file" if different[0] in stored else "the model"
    raise UserError(
        f"the adapter {adapter.origin} does not fit its base: {len(different)} weights are in "
        f"one of the two only, such as {different[0]}, which is in {where} only"
    )
