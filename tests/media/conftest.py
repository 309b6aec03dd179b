"""Sources and sinks of media."""

from tests.support.media_fixtures import clip, feed_track, no_task_left, no_thread_left
from tests.support.peer_fixtures import room

__all__ = ["clip", "feed_track", "no_task_left", "no_thread_left", "room"]
