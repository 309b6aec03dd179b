"""Remote procedure calls between peers: clients, methods and handlers, typed errors, wire formats."""
