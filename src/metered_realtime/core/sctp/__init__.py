"""SCTP's queues (RFC 9260): what is sent and sent again, and what arrives in what order."""
