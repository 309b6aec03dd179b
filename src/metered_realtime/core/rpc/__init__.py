"""RPC decisions without I/O: messages and their chunks, the calling end and the called end."""
