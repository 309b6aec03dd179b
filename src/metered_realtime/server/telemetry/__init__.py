"""Traces of what the server does, for OpenTelemetry."""
