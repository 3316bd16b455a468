"""What torch's kernel for rows of different lengths computes, with its signature, on a CPU."""

import torch


def kernel(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1),
    enable_gqa=False,
):  # fmt: skip
    """[T, heads, D] -> the same, from the formula."""
    assert cu_seq_q is cu_seq_k
    assert cu_seq_q.dtype == torch.int32
    shared = query.shape[1] // key.shape[1]
    assert enable_gqa == (shared > 1)
    lengths = cu_seq_q.diff().tolist()
    assert max_q == max_k == max(lengths)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    before, after = window_size
    rows = []
    for q, k, v in zip(*(one.split(lengths) for one in (query, key, value)), strict=True):
        k, v = (one.repeat_interleave(shared, dim=1) for one in (k, v))
        scores = torch.einsum("ihd,jhd->hij", q.float(), k.float()) * scale
        place = torch.arange(len(q))
        ahead = place[None] - place[:, None]
        hidden = (ahead > after) if after >= 0 else torch.zeros_like(ahead, dtype=torch.bool)
        if before >= 0:
            hidden = hidden | (ahead < -before)
        chances = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        rows.append(torch.einsum("hij,jhd->ihd", chances, v.float()))
    return torch.cat(rows).to(query.dtype)
