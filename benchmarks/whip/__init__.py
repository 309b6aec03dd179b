"""How well an encoder is seen through the bridge: FFmpeg's WHIP client, browsers in the channel, and WHEP players.

FFmpeg publishes 640x480@25 in H.264, each picture with its number, and Opus with a click when a second begins. Two room
pages in Chromium receive it from the channel; a third page plays it by WHEP. In each page the numbers of the pictures
are read as they are rendered, and the clicks as they are played. Told are the share of the pictures that were shown,
how far click and picture of the same moment are apart, how soon players in Chromium and in Firefox have their first
picture, with and without the mixed room, and what every process costs.

    python -m benchmarks.whip --seconds 60
"""
