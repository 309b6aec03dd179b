"""Names that people and programs give themselves, made fit to be shown. The room page has the same rules (names.js)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

MAX_NAME = 80
"""Characters of a name: what fits on the tile of a participant."""

MAX_READ = 4 * MAX_NAME
"""Characters of a name that are looked at: controls among them are removed before the name is cut."""

JOINERS = "\u200c\u200d"
"""Format characters that some scripts need."""

UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Categories of characters that are removed: controls, also those that turn the direction of the text around them."""

VISIBLE = frozenset("LNPS")
"""First letters of the categories of which a name needs a character: letters, numbers, punctuation, symbols."""


def shown_name(name: object) -> str | None:
    """Return a name in one line without controls, at most `MAX_NAME` long. None if nothing of it can be seen."""
    if not isinstance(name, str):
        return None
    kept = (it for it in name[:MAX_READ] if it in JOINERS or unicodedata.category(it) not in UNSHOWN)
    clean = "".join(kept).strip()[:MAX_NAME]
    return clean if any(unicodedata.category(it)[0] in VISIBLE for it in clean) else None


def name_in(sources: Iterable[Mapping[str, Any] | None]) -> str | None:
    """Return the first name in several bags of metadata, which have it as `name` or `displayName`."""
    for source in sources:
        if source is not None:
            said = source.get("name")
            name = shown_name(said if said is not None else source.get("displayName"))
            if name is not None:
                return name
    return None
