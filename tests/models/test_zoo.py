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
from talr_cli.evaluation.continuations import Choices
from talr_cli.evaluation.decoding import Request
from talr_cli.evaluation.drift import predictions
from talr_cli.evaluation.generation import generate_batch
from talr_cli.methods.adapters import Lora
from talr_cli.models import saving, sources
from talr_cli.models.adapter import load_and_merge, merge_adapter
from talr_cli.models.head import check_head
from talr_cli.training.base_losses import target_losses
from talr_cli.training.collator import Collator, token_row
from talr_cli.training.joined_rows import attend_by_row, restore_attention, should_join_rows
from talr_cli.training.token_scores import add_token_scores, score_targets

pytestmark = pytest.mark.slow

# What a config calls its sizes. Windows and chunks are shorter than the rows, but longer than the
# shortest rows by which it is tried out how rows may be batched.
SIZES = {
    60: "vocab_size vocab_size_per_layer_input",
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
OWN = {
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "mamba_n_heads": 8},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [16, 16],
        "axial_pos_embds_dim": [16, 16],
    },
    "zamba": {
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "use_mamba_kernels": False,
    },
    "zaya": {"num_experts_per_tok": 1},
}
LENGTHS = (5, 90, 40)


def tiny(kind):
    """A random model; skips a kind that needs more than these sizes."""
    made_by = hf.CONFIG_MAPPING[kind]
    try:
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
        settings = made_by(**sizes | OWN.get(kind, {}))
        by = hf.AutoModelForCausalLM.from_config
        with torch.device("meta"):  # one that has other names of sizes may be far too large
            assert by(copy.deepcopy(settings)).num_parameters() < 10**6
        torch.manual_seed(0)
        try:
            model = by(copy.deepcopy(settings), attn_implementation="sdpa")
        except ValueError:
            model = by(settings, attn_implementation="eager")
        with torch.no_grad():
            model.float().eval()(torch.tensor([[7, 8, 9]]))
    except Exception as error:
        pytest.skip(f"{type(error).__name__}: {error}"[:200])
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


@pytest.mark.parametrize("kind", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
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
    asked = [Request(tuple(one), 5) for one in ids]
    for one, (answer, _) in zip(ids, generate_batch(model, asked, ()), strict=True):
        for at in range(5):
            assert answer[at] == plain(model, [*one, *answer[:at]])[-1].argmax()
    short = ids[2][:20]  # some models amplify rounding in a row from token to token
    model.save_pretrained(tmp_path / "base")
    by = hf.AutoModelForCausalLM.from_pretrained
    fresh = [by(tmp_path / "base", attn_implementation=attention).eval() for _ in range(2)]
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
    close(plain(by(tmp_path / "saved", attn_implementation=attention).eval(), short), adapted)
    if should_join_rows(None, model, "cpu", len(rows)):
        add_token_scores(model, ())
        attend_by_row(model)
        batch = Collator(0, padding_free=True)([token_row(row) for row in rows])
        close(-score_targets(model, model, batch)[0].log_probs.detach(), losses)
        restore_attention(model)
