"""WHIP and WHEP endpoints on a channel: encoders join it as participants, players watch them or the room."""

from __future__ import annotations

from ..missing import require

require("webrtc", "server", part="metered_realtime.bridge")
