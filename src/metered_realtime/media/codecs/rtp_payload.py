"""The size of an RTP payload, such that every path carries the packet, relays included."""

from __future__ import annotations

PATH_MTU = 1_280
"""Bytes of a packet that every link carries (RFC 8200 section 5). Mobile and tunnelled paths carry little more, and
often drop longer packets silently."""

IP_AND_UDP = 40 + 8
"""Headers of IPv6 and UDP."""

RELAY = 20 + 24 + 4 + 3
"""Bytes that TURN adds in a Send or Data indication (RFC 8656 section 12): its header, XOR-PEER-ADDRESS with an IPv6
address, the header of DATA, and its padding. A TURN channel adds 4, but the relay of the other end is unknown here."""

MAX_DATAGRAM = PATH_MTU - IP_AND_UDP - RELAY
"""Bytes of SRTP in one datagram."""

RTP_HEADER = 12

EXTENSIONS = 20
"""Header extensions (RFC 8285): a mid of up to 8 characters, the time of sending and the audio level."""

RETRANSMISSION = 2
"""The original sequence number in front of a retransmitted payload (RFC 4588 section 4)."""

SRTP_TAG = 16
"""The authentication tag of AES-GCM (RFC 7714 section 14.2). That of HMAC-SHA1 has 10 bytes."""

MAX_PAYLOAD = MAX_DATAGRAM - RTP_HEADER - EXTENSIONS - RETRANSMISSION - SRTP_TAG
"""Bytes of an RTP payload, including VP8's descriptor and the headers of H.264's fragments. aiortc uses 1,300."""
