"""The rules for `If-Match` on requests that change an ICE session (RFC 9725 section 4.3)."""

from __future__ import annotations

from .refusals import RefusedRequestError


def is_restart(if_match: str | None, ufrag: str | None, current_ufrag: str | None, etag: str) -> bool:
    """Return whether a fragment restarts ICE: its user fragment, `ufrag`, is not the remote's current one.

    A restart is for any ICE session, `*`; candidates are for the current one, whose strong entity tag is `etag`.
    Clients that know no entity tags, such as whip-whep's player, are served too: the current user fragment names the
    ICE session as well.

    Raises:
        RefusedRequestError: `If-Match` is missing, or names another ICE session than the current one.
    """
    if if_match is None:
        if ufrag is not None and ufrag == current_ufrag:
            return False
        raise RefusedRequestError("precondition_required", f"give the current entity tag, {etag}, or * to restart ICE")
    tags = [tag.strip() for tag in if_match.split(",")]
    if "*" not in tags and etag not in tags:
        raise RefusedRequestError("precondition_failed")
    return ufrag is not None and ufrag != current_ufrag
