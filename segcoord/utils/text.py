"""Long lists in messages, cut to their first items."""

from collections.abc import Iterable


def join_first(items: Iterable[object], limit: int) -> str:
    """Join the first items with commas and count the rest: `a, b and 3 more`."""
    texts = [str(item) for item in items]
    rest = len(texts) - limit
    return ", ".join(texts[:limit]) + (f" and {rest} more" if rest > 0 else "")


def first_lines(items: Iterable[object], limit: int) -> str:
    """Put the first items on a line each and count the rest: `... and 3 more`."""
    texts = [str(item) for item in items]
    if len(texts) > limit:
        texts[limit:] = [f"... and {len(texts) - limit} more"]
    return "\n".join(texts)
