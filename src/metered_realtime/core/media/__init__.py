"""Decisions about media: clocks, timelines, renditions, rates and limits."""
