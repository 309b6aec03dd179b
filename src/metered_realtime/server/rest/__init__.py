"""The REST API of a server."""
