"""One encoder for many receivers, and packets passed on as they are."""
