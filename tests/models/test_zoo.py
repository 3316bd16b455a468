"""Every causal architecture of transformers as a tiny random model: right, or refused.

Losses, drift, answers, adapters and saved models are held to plain logits of each row alone.
"""

import copy

import pytest
import small_models
import torch
import transformers as hf
from optimizer_step import stub_tokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from talr_cli.data.rendering import Rendered
from talr_cli.errors import UserError
from talr_cli.evaluation import generation
from talr_cli.evaluation.continuations import Choices
from talr_cli.evaluation.decoding import Request
from talr_cli.evaluation.drift import predictions
from talr_cli.evaluation.generation import generate_batch
from talr_cli.methods.adapters import Lora
from talr_cli.models import loading, saving, sources
from talr_cli.models.adapter import load_and_merge, merge_adapter
from talr_cli.models.checks import check_loads
from talr_cli.models.config import ModelConfig
from talr_cli.models.head import check_head
from talr_cli.training.base_losses import target_losses
from talr_cli.training.collator import Collator, token_row
from talr_cli.training.joined_rows import attend_by_row, restore_attention, should_join_rows
from talr_cli.training.token_scores import add_token_scores, score_targets

pytestmark = pytest.mark.slow

# What a config calls its sizes. Windows and chunks are shorter than the rows, but longer than the
# shortest rows by which it is tried out how rows may be batched.
SIZES = {
    60: "vocab_size vocab_size_per_layer_input unpadded_vocab_size",
    256: "max_position_embeddings n_positions n_ctx max_seq_len context_length",
    32: "mamba_chunk_size chunk_size attention_chunk_size block_size floor_scale"
    " hidden_size n_embd d_model embedding_size word_embed_proj_dim lru_width",
    48: "intermediate_size ffn_dim decoder_ffn_dim n_inner ffn_hidden_size d_inner dff"
    " intermediate_size_mlp",
    16: "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size qk_head_dim"
    " kv_lora_rank q_lora_rank index_head_dim expert_ffn_hidden_size index_n_heads",
    24: "sliding_window attention_window_size window_size local_attention index_topk",
    8: "head_dim swa_head_dim v_head_dim qk_nope_head_dim qk_rope_head_dim d_head"
    " linear_key_head_dim linear_value_head_dim mamba_d_state mamba_n_heads mamba_d_head state_size"
    " ssm_state_size mamba_num_heads mamba_head_dim hidden_size_per_layer_input"
    " query_pre_attn_scalar router_hidden_size",
    4: "num_attention_heads n_head n_heads attention_heads num_heads decoder_attention_heads"
    " num_experts num_local_experts n_routed_experts moe_num_experts linear_num_value_heads"
    " time_step_rank mamba_dt_rank rotary_dim laurel_rank",
    2: "num_key_value_heads num_kv_heads num_hidden_layers n_layer n_layers num_layers"
    " decoder_layers num_experts_per_tok moe_topk moe_k linear_num_key_heads n_groups",
    1: "n_group topk_group first_k_dense_replace num_dense_layers",
    0: "num_kv_shared_layers attention_dropout hidden_dropout resid_pdrop embd_pdrop attn_pdrop"
    " dropout activation_dropout hidden_dropout_prob attention_probs_dropout_prob"
    " router_jitter_noise input_jitter_noise pad_token_id",
}
NAMED = {name: size for size, names in SIZES.items() for name in names.split()}
# What else some kinds need to be small, or to have each kind of layer.
SWA = {"num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16}
SWA |= {"head_dim": 16, "qk_nope_head_dim": 8, "v_head_dim": 8}
DOTS3 = {f"swa_{name}": size for name, size in SWA.items()} | {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
DOTS3 |= {"num_experts_per_tok": 2, "shared_experts_intermediate_size": 16}
INDEXER = {"n_heads": 4, "kv_heads": 1, "head_dim": 8, "budget": 24, "compress_ratio": 4}
QWEN4 = {f"indexer_{name}": size for name, size in INDEXER.items()} | {"head_dim": 8}
OWN = {
    "bailing_hybrid": {
        "n_group": 2,
        "topk_group": 1,
        "num_local_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
    },
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8},
    "blt": {
        "decoder_config": {"hidden_size_global": 32},
        "encoder_hash_byte_group_vocab": 50,
        "encoder_hash_byte_group_size": [3, 4],
    },
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e4},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    },
    "cpmant": {"dim_ff": 48, "dim_head": 8},
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots3_note": {
        "text_config": DOTS3,
        "vision_config": {
            "hidden_size": 32,
            "num_attention_heads": 4,
            "adapter_in_dim": 32,
            "adapter_out_dim": 32,
        },
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32},
    },
    "dots3_note_text": DOTS3,
    "dory": {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "num_hidden_layers": 3,
        "n_input_layers": 1,
        "n_output_layers": 1,
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "mamba_n_heads": 8},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "got_ocr2": {"vision_config": {"output_channels": 8, "mlp_dim": 48}},
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4, "num_experts_per_token": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "phi4_multimodal": {
        "audio_config": {"num_blocks": 2, "nemo_conv_channels": 16, "ext_pw_out_channel": 32},
    },
    "qwen4_exp": {"text_config": QWEN4},
    "qwen4_exp_text": QWEN4,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [16, 16],
        "axial_pos_embds_dim": [16, 16],
    },
    "roc_bert": {
        "is_decoder": True,
        "pronunciation_embed_dim": 16,
        "pronunciation_vocab_size": 60,
        "shape_embed_dim": 16,
        "shape_vocab_size": 60,
    },
    "xlm": {"emb_dim": 32, "causal": True},
    "xlstm": {"hidden_size": 128, "num_heads": 2},
    "xmod": {"is_decoder": True, "default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "use_mamba_kernels": False,
    },
    "zamba2": {
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "adapter_rank": 4,
        "mamba_d_state": 8,
    },
    "zaya": {"num_experts_per_tok": 1},
}
# transformers makes none of these by itself: of an encoder, of packages that are not here, of a
# draft model without the model that it is for.
ASSISTANT = {
    "text_config": {
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 0,
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
}
UNMADE = {
    "gemma3n": {},
    "gemma4_assistant": ASSISTANT,
    "gemma4_unified_assistant": ASSISTANT,
    "musicgen": {},
    "musicgen_melody": {},
}
LENGTHS = (5, 90, 40)


def small(made_by, own):
    """The values that make a config small, and so its sub-configs; `own` wins, deep down too."""
    default = made_by().to_dict()
    chosen = (one for one in default if default[one] is not None or one == "head_dim")
    sizes = {one: NAMED[one] for one in chosen if one in NAMED}
    # Many configs take no int for a share.
    sizes |= {one: float(sizes[one]) for one in sizes if isinstance(default[one], float)}
    if "kv_lora_rank" in sizes:
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    lists = [one for one in ("layer_types", "mlp_layer_types") if default.get(one)]
    kinds = list(dict.fromkeys(zip(*(default[one] for one in lists), strict=False))) or [()]
    kinds = kinds * (1 if len(kinds) > 1 else 2)
    if lists:
        sizes["num_hidden_layers"] = len(kinds)
        sizes |= dict(zip(lists, map(list, zip(*kinds, strict=True)), strict=True))
    for name, part in made_by.sub_configs.items():
        if default.get(name) is not None:
            kind = default[name].get("model_type")
            if kind in hf.CONFIG_MAPPING:  # else it is a plain part of its model's
                part = hf.CONFIG_MAPPING[kind]
            sizes[name] = {"model_type": kind} | small(part, own.get(name, {}))
    return sizes | {one: size for one, size in own.items() if one not in made_by.sub_configs}


def tiny(kind):
    """A random model."""
    made_by = hf.CONFIG_MAPPING[kind]
    settings = made_by(**small(made_by, OWN.get(kind, {})))
    by = hf.AutoModelForCausalLM.from_config
    with torch.device("meta"):  # one that has other names of sizes may be far too large
        assert by(copy.deepcopy(settings)).num_parameters() < 10**6
    torch.manual_seed(0)
    try:
        model = by(copy.deepcopy(settings), attn_implementation="sdpa")
    except ValueError:
        model = by(settings, attn_implementation="eager")
    model.float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.08 * torch.randn_like(parameter))
    return model


def plain(model, ids):
    """log_probs[T, V] of a row alone."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", UNMADE)
def test_what_cannot_be_made_is_refused(kind, tmp_path):
    settings = hf.CONFIG_MAPPING[kind](**UNMADE[kind])
    settings.save_pretrained(tmp_path)
    source = sources.ModelSource(tmp_path, "", kind)

    def begin_training():
        check_loads(source, ModelConfig(path=str(tmp_path)), to_train=True)
        # Since transformers 5.24 draft models are made, and take no text.
        check_head(hf.AutoModelForCausalLM.from_config(settings))

    with pytest.raises(UserError):
        begin_training()


@pytest.mark.parametrize(
    "kind", [one for one in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if one not in UNMADE]
)
def test_it_is_right_or_refused(kind, tmp_path):
    model = tiny(kind)
    attention = model.config._attn_implementation
    try:
        check_head(model)
    except UserError:
        return
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(7, 60, (length,), generator=draw).tolist() for length in LENGTHS]
    rows = [Rendered(one, [-100, -100, *one[2:]]) for one in ids]
    alone = [plain(model, one) for one in ids]
    losses = torch.cat(
        [
            -p[1:-1].gather(1, torch.tensor(i)[2:, None])[:, 0]
            for p, i in zip(alone, ids, strict=True)
        ]
    )
    close(torch.cat(target_losses(model, rows, None)), losses)
    with torch.inference_mode():
        close(torch.cat(list(predictions(model, ids).log_probs())), torch.cat(alone))
    questions = [
        Choices(one[:-3], [one[-3:], one[-3:-1], [9]]) for one in sorted(ids, key=len, reverse=True)
    ]
    for question, found in zip(questions, small_models.likelihoods(model, questions), strict=True):
        for tokens, total in zip(question.continuations, found, strict=True):
            whole = [*question.text, *tokens]
            own = plain(model, whole)[len(question.text) - 1 : -1]
            close(total, own.gather(1, torch.tensor(tokens)[:, None]).sum().item())
    assert generation._most_cached_tokens(model) > 0
    asked = [Request(tuple(one), 5) for one in ids]
    for one, (answer, _) in zip(ids, generate_batch(model, asked, ()), strict=True):
        for at in range(5):
            assert answer[at] == plain(model, [*one, *answer[:at]])[-1].argmax()
    short = ids[2][:20]  # some models amplify rounding in a row from token to token
    model.save_pretrained(tmp_path / "base")

    def load(name):
        config = ModelConfig(path=str(tmp_path / name), attention=attention)
        source = sources.directory_source(tmp_path / name)
        return loading.load_model(source, config, torch.float32, "cpu").eval()

    fresh = [load("base") for _ in range(2)]
    close(plain(fresh[1], short), plain(model, short))
    trained = Lora(rank=2).wrap(fresh[0], str(tmp_path / "base")).eval()
    trained(input_ids=torch.tensor([short]), use_cache=False).logits.square().sum().backward()
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.grad is not None and parameter.grad.any():
                parameter.add_(0.1 * torch.randn_like(parameter))
    trained.save_pretrained(tmp_path / "adapter")
    adapted = plain(trained, short)
    merged = load_and_merge(fresh[1], sources.directory_source(tmp_path / "adapter"))
    close(plain(merged, short), adapted)
    merged = merge_adapter(trained)
    saving.save_model(merged, stub_tokenizer(), 49, tmp_path / "saved")
    close(plain(load("saved"), short), adapted)
    if should_join_rows(None, model, "cpu", len(rows)):
        add_token_scores(model, ())
        attend_by_row(model)
        batch = Collator(0, padding_free=True)([token_row(row) for row in rows])
        close(-score_targets(model, model, batch)[0].log_probs.detach(), losses)
        restore_attention(model)
