"""The name that all metrics begin with."""

PREFIX = "metered_realtime"
