"""What no way to decode can beat: a token reads the weights once, and the keys and values of its rows.

Weights count without the table of input embeddings, of which a token reads one row (a table that is also the
output layer is read whole), and without the vision tower, which only a prompt needs.
"""

from sparsemm.models.base import LoadedModel


def weights_read(loaded: LoadedModel) -> int:
    """Bytes of weights that a token reads."""
    model = loaded.model
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    parts = {id(one): one for one in (*model.get_decoder().parameters(), *head.parameters())}
    if head.weight is not table:
        parts.pop(id(table), None)
    return sum(one.nbytes for one in parts.values())


def limits(weights: int, cache: int, copy_gb_per_s: float, ms: float | None) -> dict[str, float | None]:
    """Milliseconds of reading that many bytes, and its shares of what was measured.

    Args:
        weights: bytes read for a token.
        cache: bytes of keys and values read for a token of every row, in the middle of the answer.
        copy_gb_per_s: measured bandwidth of a copy, reads and writes both counted.
        ms: measured for a token; None where it could not be.
    """
    per_ms = copy_gb_per_s * 1e6
    limit = (weights + cache) / per_ms
    return {
        "limit_ms": limit,
        "limit_share": None if ms is None else limit / ms,
        "weight_limit_share": None if ms is None else weights / per_ms / ms,
    }


def beyond(key: str, share: float | None) -> str | None:
    """What to say of a share of the limit that cannot be; None where it can."""
    if share is None or share <= 1:
        return None
    return (
        f"{key}={share:.1%}: above what a copy reaches. Part of what is read was in a cache of the chip, or "
        "the copy was slow: measure again on a machine that does nothing else."
    )
