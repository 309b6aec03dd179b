"""The wire format of signalling: frames, names, and limits on the cost of a message."""
