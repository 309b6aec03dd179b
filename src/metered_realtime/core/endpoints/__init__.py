"""What WHIP and WHEP endpoints decide without I/O: refusals, fragments, links, and who may have a session."""
