"""Connections whose program carries the descriptions: for media servers, SFUs and whatever has no channel."""

from __future__ import annotations

from ...missing import require

require("webrtc", part="OneShotConnection")
