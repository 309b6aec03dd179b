"""What accepts connections: the socket, TLS, and the networks that clients come from."""
