"""A video through a model: frames in, final frames with tracks out, in bounded memory.

Decoding runs in one thread, the model in a second; the caller's thread does the rest.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vistool.config import ModelConfig, PredictConfig
from vistool.engine.device import autocast, choose_dtype, unless_out_of_memory
from vistool.errors import OutOfMemoryError, UsageError
from vistool.formats.threads import prefetch
from vistool.models.vistr import VisTR
from vistool.ops.features import concatenate_features, split_features
from vistool.ops.pixels import input_size, normalise, resize
from vistool.structures import (
    ClipOutput,
    FrameClipOutput,
    FrameFeatures,
    FrameTracks,
    Size,
    VideoFrame,
)
from vistool.tracking.postprocess import clip_prediction, likely
from vistool.tracking.stitch import TrackStitcher
from vistool.tracking.windows import StreamingWindows, Window, check_stride

Output = ClipOutput | FrameClipOutput

PRIOR_CLIPS = 2  # what a track's score starts from ("mask-aware")
AHEAD = 4  # frames beyond a batch that may wait between two threads
# Frames together: more than one is not faster on a CPU, whose caches they do not share well.
BATCHES = {"cpu": 1, "cuda": 16}


class ClipModel(Protocol):
    """The methods of a model that runs on videos."""

    @property
    def config(self) -> ModelConfig:
        """Class names, pixels, sizes and the clip length to run with unless told otherwise."""

    def encode_frames(self, pixels: Tensor) -> FrameFeatures:
        """Do what a frame needs once. pixels: [N, 3, H, W], normalised."""

    def decode_clips(self, features: FrameFeatures, num_frames: int) -> Output:
        """Predict the clips of B*T frames, clip after clip; num_frames: T."""


@dataclass(frozen=True, slots=True)
class SegmentedFrame:
    """One frame of the video with the tracks on it, which will not change any more."""

    index: int  # position among the decoded frames of the source
    time: float  # seconds from the first frame of the source
    size: Size  # of the decoded frame; the tracks' masks are smaller
    tracks: FrameTracks | None  # None: the model did not see this frame
    class_probs: Tensor  # [N, K] of these tracks, the mean over their clips so far
    picture: np.ndarray | None  # [H, W, 3] uint8 RGB; None: not kept


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A decoded frame, reduced to what is needed from here on."""

    index: int
    time: float
    size: Size
    image: Tensor | None  # [h, w, 3] uint8 at the model's input size; None: not to be seen
    picture: np.ndarray | None  # the frame as it was decoded, if it is kept


def clip_settings(model: ModelConfig, config: PredictConfig) -> tuple[int | None, int]:
    """Clip length (None: the whole video) and clip stride, the model's own where none is asked for.

    Raises: UsageError if frames would be lost between clips, or if the model has but one length.
    """
    fixed = not model.takes_any_clip_length
    if fixed and config.clip_length not in (None, model.clip_length):
        raise UsageError(
            f"clip length {config.clip_length}: these weights see {model.clip_length} frames at "
            "once, no more and no fewer",
            hint="leave the clip length out; a longer video is cut into clips that overlap",
        )
    if config.clip_length == "all":
        return None, 1
    length = config.clip_length or model.clip_length
    usual = model.clip_stride or max(1, length // 2)
    stride = config.clip_stride or min(usual, length)
    check_stride(length, stride)
    return length, stride


class Segmenter:
    """Runs a model over one video; `frames` may be called once."""

    def __init__(
        self,
        model: ClipModel,
        config: PredictConfig,
        device: torch.device,
        *,
        keep_pictures: bool = False,
    ) -> None:
        """Set up for one video.

        Args:
            model: in evaluation mode, on `device`.
            keep_pictures: hand on every frame as it was decoded.

        Raises: UsageError for unfit settings.
        """
        self.clip_length, self.clip_stride = clip_settings(model.config, config)
        self.short_side = config.size or model.config.test_short_side
        self.device = device
        self.dtype = choose_dtype(config.precision, device)
        self._model = model
        self._keep_pictures = keep_pictures
        self.batch = config.batch or BATCHES[device.type]
        self._frame_stride = config.frame_stride
        self._scoring = model.config.scoring
        self._stitcher = TrackStitcher(
            len(model.config.class_names),
            prior_clips=PRIOR_CLIPS if self._scoring == "mask-aware" else 0,
        )
        self._windows: StreamingWindows[FrameFeatures] = StreamingWindows(
            self.clip_length, self.clip_stride
        )
        self._waiting: deque[_Prepared] = deque()

    def class_probs(self) -> Tensor:
        """Mean class probabilities of all tracks so far: [P, K] float32, row i is track i + 1."""
        return self._stitcher.class_probs()

    def frames(self, decoded: Iterable[VideoFrame]) -> Generator[SegmentedFrame, None, None]:
        """Every decoded frame, in order, as soon as no later clip can change it.

        Raises: OutOfMemoryError with a setting that would fit, and whatever `decoded` raises.
        """
        return prefetch(self._segmented(decoded), depth=AHEAD + self.batch)

    def _segmented(self, decoded: Iterable[VideoFrame]) -> Iterator[SegmentedFrame]:
        with contextlib.closing(prefetch(self._prepared(decoded), AHEAD + self.batch)) as prepared:
            for group in self._groups(prepared):
                self._waiting.extend(group)
                images = [frame.image for frame in group if frame.image is not None]
                pushed = [self._windows.push(features) for features in self._encode(images)]
                self._track([window for window in pushed if window is not None])
                yield from self._final()
        last = self._windows.finish()
        self._track([last] if last else [])
        yield from self._final()

    def _prepared(self, decoded: Iterable[VideoFrame]) -> Iterator[_Prepared]:
        model = self._model.config
        for position, frame in enumerate(decoded):
            size = Size(*frame.image.shape[:2])
            image = None
            if position % self._frame_stride == 0:
                target = input_size(size, self.short_side, model.test_long_side, model.pixels)
                image = resize(frame.image, target)
            kept = frame.image if self._keep_pictures else None
            yield _Prepared(frame.index, frame.time, size, image, kept)

    def _groups(self, prepared: Iterable[_Prepared]) -> Iterator[list[_Prepared]]:
        """Successive frames, as many as the model is to see at once, and those between them."""
        group: list[_Prepared] = []
        seen = 0
        for frame in prepared:
            group.append(frame)
            seen += frame.image is not None
            if seen == self.batch:
                yield group
                group, seen = [], 0
        if group:
            yield group

    def _final(self) -> Iterator[SegmentedFrame]:
        """Hand out the frames that nothing can change, with the unseen ones between them."""
        for tracks in self._stitcher.pop_final(self._windows.final_before):
            class_probs = self._stitcher.class_probs(tracks.track_ids)
            yield self._handed_out(tracks, class_probs)
            while self._waiting and self._waiting[0].image is None:
                yield self._handed_out(None, class_probs[:0])

    def _handed_out(self, tracks: FrameTracks | None, class_probs: Tensor) -> SegmentedFrame:
        frame = self._waiting.popleft()
        return SegmentedFrame(
            frame.index, frame.time, frame.size, tracks, class_probs, frame.picture
        )

    @torch.inference_mode()
    def _encode(self, images: Sequence[Tensor]) -> list[FrameFeatures]:
        """Features of every frame; images: [h, w, 3] uint8, all of one size."""

        def attempt() -> list[FrameFeatures]:
            with autocast(self.device, self.dtype):
                pixels = torch.stack(list(images)).to(self.device)
                features = self._model.encode_frames(normalise(pixels, self._model.config.pixels))
                return split_features(features)

        encoded = unless_out_of_memory(attempt) if images else []
        if encoded is not None:
            return encoded
        if self.clip_length is None and len(self._windows) > 1:
            smaller = f"--clip-length {len(self._windows) // 2}"
        elif len(images) > 1:
            smaller = "--batch 1"
        else:
            smaller = f"--size {self.short_side // 2}"
        what = f"{len(images)} frames, with the features of {len(self._windows)} before them,"
        raise self._too_large(what, f"try {smaller}")

    @torch.inference_mode()
    def _track(self, windows: Sequence[Window[FrameFeatures]]) -> None:
        """Predict clips of one length and hand them to the stitcher in order."""
        together = max(1, self.batch // len(windows[0].items)) if windows else 1
        for first in range(0, len(windows), together):
            clips = windows[first : first + together]
            output = self._decode([clip.items for clip in clips])
            for b, clip in enumerate(clips):
                prediction = clip_prediction(output, clip.frame_ids, b, self._scoring)
                self._stitcher.add(prediction)

    def _decode(self, clips: Sequence[tuple[FrameFeatures, ...]]) -> Output:
        """Predict clips of one length together."""

        def attempt(num_frames: int) -> Output:
            with autocast(self.device, self.dtype):
                frames = [frame for clip in clips for frame in clip[:num_frames]]
                features = concatenate_features(frames)
                if isinstance(self._model, VisTR) and self._scoring == "mask-aware":
                    choose = partial(likely, num_frames=num_frames)
                    return self._model.decode_clips(features, num_frames, choose=choose)
                return self._model.decode_clips(features, num_frames)

        length = len(clips[0])
        output = unless_out_of_memory(partial(attempt, length))
        if output is not None:
            return output
        if len(clips) > 1:
            raise self._too_large(f"{len(clips)} clips of {length} frames", f"try --batch {length}")
        # The hint names only a length that has been tried.
        shorter = length // 2 if self._model.config.takes_any_clip_length else 0
        while shorter and unless_out_of_memory(partial(attempt, shorter)) is None:
            shorter //= 2
        fits = f"--clip-length {shorter} fits" if shorter else f"try --size {self.short_side // 2}"
        raise self._too_large(f"a clip of {length} frames", fits)

    def _too_large(self, what: str, hint: str) -> OutOfMemoryError:
        side = f"a short side of {self.short_side} pixels"
        return OutOfMemoryError(
            f"{what} at {side} did not fit in the memory of {self.device}", hint=hint
        )
