"""Windows: streaming gives the windows of the whole video, and final frames stay final."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vistool.errors import UsageError
from vistool.tracking.windows import StreamingWindows, clip_windows

lengths = st.integers(0, 40)


@st.composite
def clip_and_stride(draw: st.DrawFn) -> tuple[int, int]:
    clip_length = draw(st.integers(1, 12))
    return clip_length, draw(st.integers(1, clip_length))


def stream(length: int, clip_length: int | None, stride: int) -> list[tuple[range, int]]:
    """Every step of a stream: its window (or empty), and the number of final frames."""
    windows = StreamingWindows[int](clip_length, stride)
    steps = []
    for frame in range(length):
        window = windows.push(frame)
        if window is not None:
            assert window.items == tuple(window.frame_ids)
        steps.append((window.frame_ids if window else range(0), windows.final_before))
    window = windows.finish()
    steps.append((window.frame_ids if window else range(0), windows.final_before))
    return steps


@given(lengths, clip_and_stride())
def test_windows_cover_the_video_and_stay_inside(length: int, setting: tuple[int, int]) -> None:
    clip_length, stride = setting
    windows = list(clip_windows(length, clip_length, stride))
    assert {frame for w in windows for frame in w} == set(range(length))
    assert all(len(w) == min(clip_length, length) for w in windows)
    assert [w.start for w in windows] == sorted({w.start for w in windows})
    assert [w.start for w in windows[:-1]] == list(range(0, stride * len(windows[:-1]), stride))


@given(lengths, clip_and_stride())
def test_the_stream_has_the_windows_of_the_whole_video(
    length: int, setting: tuple[int, int]
) -> None:
    streamed = [window for window, _ in stream(length, *setting) if len(window)]
    assert streamed == list(clip_windows(length, *setting))


@given(lengths, clip_and_stride(), st.integers(0, 40))
def test_no_frame_called_final_is_covered_again(
    length: int, setting: tuple[int, int], more: int
) -> None:
    before = 0
    for window, final in stream(length, *setting):
        assert not len(window) or window.start >= before
        assert final >= before
        before = final
    assert before == length


@settings(deadline=None)
@given(lengths, clip_and_stride())
def test_frames_are_final_as_early_as_the_unknown_end_allows(
    length: int, setting: tuple[int, int]
) -> None:
    """For every frame that is not yet final, some longer video exists that covers it again."""
    for pushed, (_, final) in enumerate(stream(length, *setting)[:-1], start=1):
        so_far = [w for w in clip_windows(200, *setting) if w.stop <= pushed]
        later = {
            frame
            for end in range(pushed, pushed + setting[0] + setting[1] + 1)
            for w in list(clip_windows(end, *setting))[len(so_far) :]
            for frame in w
        }
        assert final == min([*later, pushed])


def test_without_a_clip_length_the_video_is_one_window() -> None:
    steps = stream(7, None, 1)
    assert [w for w, _ in steps if len(w)] == [range(7)]
    assert [final for _, final in steps] == [0] * 7 + [7]


@pytest.mark.parametrize(("clip_length", "stride"), [(5, 6), (5, 0), (0, 1)])
def test_windows_that_lose_frames_or_stand_still_are_refused(clip_length: int, stride: int) -> None:
    with pytest.raises(UsageError, match=r"clip (stride|length) \d"):
        list(clip_windows(10, clip_length, stride))
    with pytest.raises(UsageError):
        StreamingWindows[int](clip_length, stride)
