"""The REST control plane of a server."""
