"""The connection to one remote peer: `RTCPeerConnection`, offers, sections and ICE servers."""
