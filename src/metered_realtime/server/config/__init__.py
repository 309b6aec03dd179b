"""The configuration file of a server."""
