"""Clocks, timelines, renditions and limits of media."""
