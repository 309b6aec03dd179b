"""FFmpeg as a WHIP client, by the muxer in PyAV's wheel: numbered pictures in H.264, a click each second in Opus.

    python -m benchmarks.whip.source URL TOKEN SECONDS [CERT_FILE KEY_FILE]

Prints how many pictures it has sent. PyAV holds the interpreter's lock while the muxer waits for its answer, so that it
needs a process of its own.
"""

from __future__ import annotations

import sys
import time
from array import array
from fractions import Fraction

import av

from metered_realtime.media.sources.pattern import Pattern

FPS, RATE = 25, 48_000
PACKET = RATE // 50
CLICK = 0.01  # seconds
WIDTH, HEIGHT = 640, 480


def publish(url: str, token: str, seconds: float, options: dict[str, str]) -> int:
    """Publish at the pace of a live source. Return the number of pictures."""
    pattern = Pattern(WIDTH, HEIGHT)
    with av.open(url, "w", format="whip", options={"authorization": token, **options}) as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.max_b_frames = 0
        video.codec_context.gop_size = 2 * FPS  # as streaming services ask for: the muxer makes none on request
        video.options = {"preset": "ultrafast", "tune": "zerolatency", "profile": "baseline"}
        sound = container.add_stream("libopus", rate=RATE, layout="stereo")
        sound.options = {"application": "lowdelay"}
        container.start_encoding()  # connects
        began, heard = time.monotonic(), 0
        for number in range(round(seconds * FPS)):
            frame = pattern.frame(number)
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(video.encode(frame))
            while heard < (number + 1) * RATE // FPS:
                container.mux(sound.encode(_sound(heard)))
                heard += PACKET
            time.sleep(max(0.0, began + (number + 1) / FPS - time.monotonic()))
    return round(seconds * FPS)


def _sound(place: int) -> av.AudioFrame:
    """Return the 20 ms at a place: silence, and a click of 1 kHz when a second begins."""
    samples = array("h", bytes(4 * PACKET))
    if place % RATE == 0:
        for index in range(round(CLICK * RATE)):
            samples[2 * index] = samples[2 * index + 1] = 20_000 if index // 24 % 2 else -20_000
    frame = av.AudioFrame("s16", "stereo", PACKET)
    frame.planes[0].update(samples.tobytes())
    frame.sample_rate, frame.pts, frame.time_base = RATE, place, Fraction(1, RATE)
    return frame


if __name__ == "__main__":
    certificate = dict(zip(("cert_file", "key_file"), sys.argv[4:], strict=False))
    print(publish(sys.argv[1], sys.argv[2], float(sys.argv[3]), certificate), flush=True)
