"""FFmpeg as a WHIP client, by the muxer in PyAV's wheel: numbered pictures in H.264, and a tone in Opus.

`python -m tests.bridge.ffmpeg_whip URL TOKEN SECONDS GOP [CERT_FILE KEY_FILE]` publishes, and prints how many pictures
it has sent.
"""

from __future__ import annotations

import sys
import time
from fractions import Fraction

import av

from metered_realtime.media.sources.pattern import Pattern

FPS, RATE = 25, 48_000
PACKET = RATE // 50


def publish(url: str, token: str, seconds: float, *, gop: int = 250, options: dict[str, str] | None = None) -> int:
    """Publish for some seconds at the pace of a live source. Return the number of pictures. Blocks."""
    pattern = Pattern(320, 240)
    chosen = {"authorization": token, **(options or {})}
    with av.open(url, "w", format="whip", options=chosen) as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = pattern.width, pattern.height, "yuv420p"
        video.codec_context.gop_size = gop
        video.codec_context.max_b_frames = 0
        video.options = {"preset": "ultrafast", "tune": "zerolatency", "profile": "baseline"}
        sound = container.add_stream("libopus", rate=RATE, layout="stereo")
        began, heard = time.monotonic(), 0
        count = round(seconds * FPS)
        for number in range(count):
            frame = pattern.frame(number)
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(video.encode(frame))
            while heard / RATE < (number + 1) / FPS:
                quiet = av.AudioFrame(format="s16", layout="stereo", samples=PACKET)
                quiet.planes[0].update(bytes(PACKET * 4))
                quiet.sample_rate, quiet.pts, quiet.time_base = RATE, heard, Fraction(1, RATE)
                container.mux(sound.encode(quiet))
                heard += PACKET
            time.sleep(max(0.0, began + (number + 1) / FPS - time.monotonic()))
    return count


if __name__ == "__main__":
    # PyAV holds the interpreter's lock while the muxer waits for the answer: it needs a process of its own.
    certificate = dict(zip(("cert_file", "key_file"), sys.argv[5:], strict=False))
    sent = publish(sys.argv[1], sys.argv[2], float(sys.argv[3]), gop=int(sys.argv[4]), options=certificate)
    print(sent, flush=True)
