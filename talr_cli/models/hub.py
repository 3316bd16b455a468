"""What to do where the hub does not give what was asked for."""

from __future__ import annotations


def remedy(error: BaseException) -> str | None:
    """What to do about a refusal that is not about the name; None where it may be.

    Args:
        error: What the hub's client, or a library that uses it, has raised.
    """
    from huggingface_hub.errors import HfHubHTTPError

    statuses = []
    at: BaseException | None = error
    while at is not None:  # `datasets` hides where its own error comes from
        if isinstance(at, HfHubHTTPError):
            statuses.append(at.response.status_code)
        at = at.__cause__ or at.__context__
    if 429 in statuses:
        return (
            "the hub has had too many requests from here, so wait some minutes and type it again, "
            "or log in by `hf auth login`, with which it takes more"
        )
    if any(status >= 500 for status in statuses):
        return "the hub has a fault, so type it again later"
    return None
