"""A bot that carries a channel into a Janus VideoRoom and back, without transcoding. See docs/sfu_bridge.md."""
