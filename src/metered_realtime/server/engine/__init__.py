"""What the nodes of a server share: peers, channels, messages of the last minute, and counts."""
