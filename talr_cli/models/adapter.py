"""A PEFT adapter on disk: which base it belongs to, and that base with the adapter merged in.

A merged model computes what base and adapter did. Names and shapes are checked; an adapter of
another base, or one that changes no weights, is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from talr_cli.errors import UserError
from talr_cli.models.config import ModelConfig
from talr_cli.models.sources import ModelSource, find, resolve
from talr_cli.runs.atomic import read_object


def is_adapter(source: ModelSource) -> bool:
    return (source.directory / "adapter_config.json").exists()


def resolve_base(source: ModelSource, config: ModelConfig) -> ModelSource:
    """The base model that an adapter's folder names: the `model` config's where it is that one."""
    file = source.directory / "adapter_config.json"
    remedy = "give another copy of the adapter"
    named = read_object(file, remedy)
    path = named.get("base_model_name_or_path")
    if not isinstance(path, str) or not path:
        raise UserError(f"{file} names no base_model_name_or_path: {remedy}")
    if path == config.path:
        base = resolve(config)
    else:
        named_config = ModelConfig(
            path=path,
            revision=named.get("revision"),
            trust_remote_code=config.trust_remote_code,
        )
        try:
            base = find(named_config)
        except UserError as error:
            reason = str(error).removeprefix(f"model.path={path} ")
            raise UserError(
                f"the base that {file} names, {path}: {reason}; where it lies elsewhere, write "
                "that into base_model_name_or_path"
            ) from error
    if is_adapter(base):
        raise UserError(f"the base that {file} names, {path}, is an adapter itself: merge it first")
    return base


def whole(source: ModelSource, config: ModelConfig) -> ModelSource:
    """Where whole weights lie: the source itself, or an adapter's base."""
    return resolve_base(source, config) if is_adapter(source) else source


def content(source: ModelSource, config: ModelConfig) -> str:
    """Identifies the weights that `load_model` gives: an adapter's with those of its base."""
    base = whole(source, config)
    return source.fingerprint if base is source else f"{source.fingerprint} on {base.fingerprint}"


def merged(model: Any, adapter: ModelSource) -> Any:
    """The model with an adapter added to its weights; `model` is used up.

    Raises:
        UserError: The adapter is not one of this model.
    """
    from peft import PeftModel

    _grow(model, adapter)
    with peft_quiet():
        adapted = PeftModel.from_pretrained(model, str(adapter.directory))
    _check_names(adapted, adapter)
    return merge(adapted)


def merge(adapted: Any) -> Any:
    """The plain model inside an adapter, with its change merged in; `adapted` is used up.

    Where head and embedding are one matrix and the adapter changes either, they become two: PEFT
    would add both changes to the one matrix.
    """
    if any(map(is_changed, _ends(adapted))):
        _part(adapted)
    model = adapted.merge_and_unload()
    say_untied(model)
    return model


def untied(model: Any) -> Any:
    """The model with a head of its own, which is as the embedding where the two were one matrix."""
    _part(model)
    say_untied(model)
    return model


def is_tied(model: Any) -> bool:
    """Whether head and embedding are one matrix."""
    embedding, head = (getattr(one, "base_layer", one) for one in _ends(model))
    return embedding.weight is head.weight


def _part(model: Any) -> None:
    """Make two of the one matrix that head and embedding may be."""
    import torch

    if is_tied(model):
        embedding, head = (getattr(one, "base_layer", one) for one in _ends(model))
        head.weight = torch.nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)


def _ends(model: Any) -> tuple[Any, Any]:
    return model.get_input_embeddings(), model.get_output_embeddings()


@contextmanager
def peft_quiet() -> Iterator[None]:
    """Inside, PEFT puts an adapter on a model, and its user hears nothing of what it asks for.

    PEFT 0.21 asks transformers 5.23 by an earlier name whether layers are computed again. The
    answer is the same by either name.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        yield


def is_changed(module: Any) -> bool:
    """Whether an adapter changes this module."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


def say_untied(model: Any) -> bool:
    """Whether head and embedding differ where the config ties them; it no longer does afterwards.

    Whoever ties them by the config later (lm-eval, vLLM, a training that goes on) would compute
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
    """Refuse an adapter whose weights do not fit this model, which has no weights itself.

    An adapter that cannot be made without the model's weights is judged when it is loaded.
    """
    from peft import PeftConfig, get_peft_model

    config = PeftConfig.from_pretrained(str(adapter.directory))
    if config.is_prompt_learning:
        raise UserError(
            f"the adapter {adapter.origin} ({config.peft_type.value}) adds to what the model "
            "reads, not to its weights: it cannot be merged, and is not scored here"
        )
    _grow(model, adapter)
    try:
        with peft_quiet():
            adapted = get_peft_model(model, config)
    except (NotImplementedError, RuntimeError):
        return
    _check_names(adapted, adapter)


def _grow(model: Any, adapter: ModelSource) -> None:
    """Resize the embedding to the rows it had in training, where the adapter has all of them.

    Raises:
        UserError: It lacks those of the embedding or of the head.
    """
    import torch

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(one): name for name, one in model.named_modules() if one in (embedding, head)}
    rows = {
        names[id(one)]: _rows(adapter, f"base_model.model.{names[id(one)]}.")
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


def _rows(adapter: ModelSource, prefix: str) -> int | None:
    """How many rows the embedding or head in the adapter's file has; None: it is not there."""
    shapes = _shapes(adapter)
    own = [name for name in shapes if name.startswith(prefix) and name.endswith("weight")]
    return next((shapes[name][0] for name in own if "lora_" not in name), None)


def _shapes(adapter: ModelSource) -> dict[str, list[int]]:
    from safetensors import safe_open

    with safe_open(adapter.directory / "adapter_model.safetensors", "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def _check_names(adapted: Any, adapter: ModelSource) -> None:
    from peft.utils import get_peft_model_state_dict

    stored = _shapes(adapter).keys()
    # By rules of its own PEFT may have saved the embedding too.
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
