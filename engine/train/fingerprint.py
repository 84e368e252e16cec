"""What tells a list of training images from another, so that a resumed run knows its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def fingerprint(count: int, parts: Iterable[bytes]) -> dict:
    """{"count": images, "digest": of their names and labels}.

    Args:
        parts: names and labels, in the order of the list or in any that is always the same.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return {"count": count, "digest": digest.hexdigest()}
