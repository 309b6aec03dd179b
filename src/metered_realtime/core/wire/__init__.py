"""What the wire carries: frames of signalling, names, and what a message may cost."""
