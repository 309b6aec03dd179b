"""What the other end of a `OneShotConnection` describes: checked before anything changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...core.negotiation.ice_fragment import IceFragment
from ...core.negotiation.sdp import DescriptionKind, SdpError
from ...errors import NegotiationFailedError
from ..remote_description import RemoteDescription, admit


@dataclass(frozen=True, slots=True)
class KnownRemote:
    """The description of the other end that is in use."""

    ufrag: str
    sdp: str

    @staticmethod
    def of(remote: RemoteDescription, own: str) -> KnownRemote:
        """Return what is known after a description has met that of this end, which decides who begins DTLS."""
        setup = "passive" if "a=setup:active" in own else "active"
        return KnownRemote(remote.ufrag, remote.sdp.replace("a=setup:actpass", f"a=setup:{setup}"))

    def restarted(self, fragment: IceFragment) -> str:
        """Return the description with the ICE credentials and candidates of a fragment.

        Raises:
            NegotiationFailedError: the fragment has no credentials.
        """
        try:
            return fragment.apply_to(self.sdp)
        except SdpError as error:
            raise _unusable("fragment", error) from error


def usable_description(kind: DescriptionKind, sdp: str, known_mids: Sequence[str]) -> RemoteDescription:
    """Check a description of the other end. `known_mids` are the mids of the sections so far, in order.

    Raises:
        NegotiationFailedError: it cannot be used, or none of its sections can.
    """
    try:
        description = admit(kind, sdp, known_mids)
    except SdpError as error:
        raise _unusable(kind, error) from error
    if len(description.declined) == len(description.mids):
        reason = next(iter(description.unusable.values()), "the other end declined them")
        raise NegotiationFailedError(f"no section of the {kind} can be used: {reason}")
    return description


def usable_answer(sdp: str, mids: Sequence[str], kinds: Sequence[str]) -> RemoteDescription:
    """Check the answer to an offer with these mids and kinds of sections.

    Raises:
        NegotiationFailedError: it cannot be used, or its sections are not those of the offer.
    """
    answer = usable_description("answer", sdp, mids)
    answered = [(it.mid, it.kind) for it in answer.sections]
    offered = list(zip(mids, kinds, strict=True))
    if answered != offered:
        raise NegotiationFailedError(f"the answer has sections {answered!r}, the offer {offered!r}")
    return answer


def usable_fragment(text: str) -> IceFragment:
    """Read a fragment of the other end.

    Raises:
        NegotiationFailedError: it cannot be used.
    """
    try:
        return IceFragment.parse(text)
    except SdpError as error:
        raise _unusable("fragment", error) from error


def _unusable(what: str, error: SdpError) -> NegotiationFailedError:
    return NegotiationFailedError(f"the {what} of the other end cannot be used: {error}")
