"""Opening sources with FFmpeg, with helpful errors that contain no credentials."""

from __future__ import annotations

import errno

import av
from av.container import InputContainer

from .stream_choice import LIMITS, chosen_streams, obstacle


def open_source(
    file: str,
    *,
    shown: str,
    hint: str,
    format: str | None = None,
    options: dict[str, str] | None = None,
    timeout: float | tuple[float, float] | None = None,
) -> InputContainer:
    """Open a file, stream or device that has audio or video.

    `timeout` is in seconds, for opening and each read; a pair gives one for each. Errors name the source as `shown` and
    end with `hint`. Pictures and streams beyond `stream_choice.LIMITS` are not probed.

    Raises:
        ValueError: it is not media, or has neither audio nor video.
        OSError: it cannot be opened.
    """
    try:
        container = av.open(file, "r", format=format, options=LIMITS | (options or {}), timeout=timeout)
    except (av.FFmpegError, ValueError) as exc:
        # `from None`: the text of the original error may contain a URL with credentials.
        raise described(exc, shown, hint) from None
    chosen = chosen_streams(container)
    for stream in chosen.values():
        stream.codec_context.options = {"max_pixels": LIMITS["max_pixels"]}
    if not chosen:
        reasons = [f"its {it.type} is {obstacle(it)}" for it in container.streams if it.type in ("audio", "video")]
        container.close()
        raise ValueError(f"{shown!r} has neither audio nor video" + "".join(f"; {it}" for it in reasons[:3]))
    return container


def described(error: Exception, shown: str, hint: str) -> Exception:
    """Return FFmpeg's error as an error about `shown`: ValueError if the data is not media, else OSError."""
    if not isinstance(error, av.FFmpegError):
        return ValueError(f"cannot open {shown!r}: {hint}") if isinstance(error, ValueError) else error
    reason = f"{error.strerror or type(error).__name__}: {hint}"
    if isinstance(error, av.InvalidDataError | av.EOFError):
        return ValueError(f"cannot read {shown!r}: {reason}")
    number = error.errno if error.errno is not None and error.errno in errno.errorcode else errno.EIO
    return OSError(number, reason, shown)


def without_credentials(url: str) -> str:
    """Return the URL without user, password, query and fragment, which often contain a camera's secrets.

    Everything up to the last "@" is removed: passwords are often not percent-encoded and may contain any character.
    """
    scheme, _, rest = url.partition("://")
    place = rest.rpartition("@")[2].partition("?")[0].partition("#")[0]
    return f"{scheme}://{place}"
