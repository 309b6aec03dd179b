"""Publishing to and playing from media servers over HTTP: WHIP (RFC 9725) and WHEP (draft-ietf-wish-whep)."""

from __future__ import annotations

from ..missing import require

require("whip", part="metered_realtime.whip")
