"""How long tests wait for what has to happen."""

PATIENCE = 90.0
"""Seconds after which a wait counts as hung. It only bounds a hang: a busy machine stays far below it."""
