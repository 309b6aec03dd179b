"""How many bytes of a frame go into one RTP packet: so many that every path carries it, relays included."""

from __future__ import annotations

PATH_MTU = 1_280
"""Bytes of a packet that every link carries (RFC 8200 section 5). Mobile and tunnelled paths have little more, and what
is longer is often lost without a word."""

IP_AND_UDP = 40 + 8
"""Headers of IPv6 and UDP."""

RELAY = 20 + 24 + 4 + 3
"""What TURN adds in a Send or Data indication (RFC 8656 section 12): its header, XOR-PEER-ADDRESS with an IPv6 address,
the header of DATA, and its padding. On a channel it is 4 bytes, but who relays for the other end is not known here."""

MAX_DATAGRAM = PATH_MTU - IP_AND_UDP - RELAY
"""Bytes of SRTP in one datagram."""

RTP_HEADER = 12

EXTENSIONS = 20
"""Header extensions (RFC 8285) with a mid of up to 8 characters, the time of sending and the level of sound."""

RETRANSMISSION = 2
"""The original sequence number in front of what is sent again (RFC 4588 section 4)."""

SRTP_TAG = 16
"""That of AES-GCM (RFC 7714 section 14.2). With HMAC-SHA1 it is 10."""

MAX_PAYLOAD = MAX_DATAGRAM - RTP_HEADER - EXTENSIONS - RETRANSMISSION - SRTP_TAG
"""Bytes of an RTP payload, VP8's descriptor and the headers of H.264's fragments included. aiortc has 1,300."""
