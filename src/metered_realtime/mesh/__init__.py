"""WebRTC peers on aiortc: `MeteredPeer`, `RemotePeer`, `DataChannel` and what is under them."""
