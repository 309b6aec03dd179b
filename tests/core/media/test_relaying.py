"""What relays decide: how tracks stay in sync, and whether a source makes key frames on request."""

from __future__ import annotations

import pytest

from metered_realtime.core.media.key_frame_answers import ANSWER_TIME, PROBE_AFTER, KeyFrameAnswers
from metered_realtime.core.media.relay_sync import RelaySync
from metered_realtime.core.media.sender_clock import SenderClock


def test_pictures_are_placed_with_the_sound_of_their_moment() -> None:
    group, sound_reports, picture_reports = RelaySync(), SenderClock(), SenderClock()
    sound, picture = group.join("audio", sound_reports), group.join("video", picture_reports)
    sound_reports.note_report(0.0, 1_000.0)
    picture_reports.note_report(7.0, 1_000.0)  # its own time began 7 s earlier
    for number in range(50):
        moment = number / 25
        sound.note_frame(moment, 500.0 + moment + 0.02)
        picture.note_frame(7.0 + moment, 500.0 + moment + 0.10)  # encoding and pacing took 80 ms longer
    assert sound.correction == 0.0
    assert picture.correction == pytest.approx(-0.08, abs=0.001)


@pytest.mark.parametrize("wrong_by", [3.0, -100.0])
def test_false_reports_move_nothing(wrong_by: float) -> None:
    group, sound_reports, picture_reports = RelaySync(), SenderClock(), SenderClock()
    sound, picture = group.join("audio", sound_reports), group.join("video", picture_reports)
    sound_reports.note_report(0.0, 1_000.0)
    picture_reports.note_report(0.0, 1_000.0 + wrong_by)
    sound.note_frame(0.0, 500.0)
    picture.note_frame(0.0, 500.0)
    assert picture.correction == 0.0


def test_without_reports_or_sound_pictures_stay_where_they_arrive() -> None:
    group, reports = RelaySync(), SenderClock()
    picture = group.join("video", reports)
    picture.note_frame(0.0, 500.0)
    reports.note_report(0.0, 1_000.0)
    sound = group.join("audio", SenderClock())
    sound.note_frame(0.0, 501.0)
    picture.note_frame(1.0, 501.0)
    assert picture.correction == 0.0
    sound.leave()


def test_a_source_that_answers_is_found_out() -> None:
    answers = KeyFrameAnswers()
    assert not answers.picture(0.0, is_key=True)
    assert not answers.picture(PROBE_AFTER / 2, is_key=False)
    assert answers.picture(PROBE_AFTER, is_key=False), "it is to be asked"
    answers.asked(PROBE_AFTER)
    answers.picture(PROBE_AFTER + 0.1, is_key=True)
    assert answers.answers is True


def test_a_source_that_does_not_answer_is_found_out() -> None:
    answers = KeyFrameAnswers()
    answers.picture(0.0, is_key=True)
    answers.asked(1.0)
    answers.picture(1.0 + ANSWER_TIME / 2, is_key=False)
    assert answers.answers is None
    answers.picture(1.1 + ANSWER_TIME, is_key=False)
    assert answers.answers is False
    answers.asked(5.0)
    answers.picture(5.1, is_key=True)
    assert answers.answers is True, "it may begin to answer"


def test_the_first_key_frame_answers_nothing() -> None:
    answers = KeyFrameAnswers()
    answers.asked(0.0)
    answers.picture(0.1, is_key=True)
    assert answers.answers is None
