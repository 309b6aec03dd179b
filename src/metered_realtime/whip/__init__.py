"""Publishing to and playing from media servers over HTTP: WHIP (RFC 9725) and WHEP (draft-ietf-wish-whep)."""
