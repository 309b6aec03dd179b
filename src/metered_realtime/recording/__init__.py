"""Recording tracks, participants and whole channels to files."""

from __future__ import annotations

from ..missing import require

require("webrtc", part="metered_realtime.recording")
