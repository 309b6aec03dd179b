"""WHIP and WHEP endpoints on a channel: encoders join it as participants, players watch them or the room."""
