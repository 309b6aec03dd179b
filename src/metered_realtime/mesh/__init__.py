"""WebRTC peers: `MeteredPeer` and `RemotePeer`."""
