"""The data structures that the stages pass on to each other, with their shapes.

B batch, T frames of a clip, Q queries, N instances, K classes, H x W pixels or cells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypedDict

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor


class RLE(TypedDict):
    """A mask as compressed COCO run-length code: column-major runs of background and object."""

    size: list[int]  # [height, width]
    counts: str


class Size(NamedTuple):
    """A picture's size in pixels; every size in vistool is (height, width)."""

    height: int
    width: int


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One decoded frame."""

    index: int  # position among the decoded frames of the source, from 0
    time: float  # presentation time stamp, seconds from the first frame of the source
    image: np.ndarray  # [H, W, 3] uint8, RGB, upright


@dataclass(frozen=True, slots=True)
class FrameFeatures:
    """Backbone features of N frames, computed once per frame and shared by overlapping clips."""

    top: Tensor  # [N, C, h, w] at stride 32, projected to the transformer's width
    laterals: tuple[Tensor, ...]  # [N, C', h', w'], coarse to fine: for the mask head
    padded: Tensor | None  # [N, h, w] bool at stride 32, True on padding; None: no padding

    def __len__(self) -> int:
        return len(self.top)


@dataclass(frozen=True, slots=True)
class ClipOutput:
    """A model's output for a batch of clips; `auxiliary` holds the earlier decoder layers."""

    class_logits: Tensor  # [B, Q, K + 1], "no object" last
    mask_logits: Tensor  # [B, Q, T, h, w], > 0 is inside
    auxiliary: tuple[ClipOutput, ...] = ()

    def __post_init__(self) -> None:
        if self.class_logits.shape[:2] != self.mask_logits.shape[:2]:
            raise ValueError(
                f"class logits {tuple(self.class_logits.shape)} and mask logits "
                f"{tuple(self.mask_logits.shape)} differ in batch or queries"
            )


@dataclass(frozen=True, slots=True)
class FrameHeads:
    """Class and box of every instance on every frame, from one decoder layer of VisTR."""

    class_logits: Tensor  # [B, Q, T, K + 1], "no object" last
    boxes: Tensor  # [B, Q, T, 4] centre x, centre y, width, height, as fractions of the frame


@dataclass(frozen=True, slots=True)
class FrameClipOutput:
    """VisTR's output for a batch of clips; only the last decoder layer has masks."""

    class_logits: Tensor  # [B, Q, T, K + 1], "no object" last
    boxes: Tensor  # [B, Q, T, 4] centre x, centre y, width, height, as fractions of the frame
    mask_logits: Tensor  # [B, Q, T, h, w], > 0 is inside
    auxiliary: tuple[FrameHeads, ...] = ()

    def __post_init__(self) -> None:
        shapes = [x.shape[:3] for x in (self.class_logits, self.boxes, self.mask_logits)]
        if len(set(shapes)) > 1:
            raise ValueError(f"{shapes}: batch, queries or frames differ")


@dataclass(frozen=True, slots=True)
class ClipTarget:
    """The ground truth of one clip: N instances on T frames.

    `exhaustive` marks the classes whose instances are all labelled in this clip. Predictions of
    other classes may be unlabelled objects and are not penalised.
    """

    labels: Tensor  # [N] int64 in [0, K)
    masks: Tensor  # [N, T, H, W] bool, on the padded canvas of the batch
    exhaustive: Tensor  # [K] bool
    present: Tensor | None = None  # [N, T] bool; None: where masks are not empty
    boxes: Tensor | None = None  # [N, T, 4] as in FrameHeads, or zeros; None: around the masks
    # Regions to ignore: they may contain unlabelled instances of a class; None: no regions.
    regions: Tensor | None = None  # [R, T, H, W] bool
    region_labels: Tensor | None = None  # [R] int64 in [0, K)

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.masks):
            raise ValueError(f"{len(self.labels)} labels but {len(self.masks)} masks")


@dataclass(frozen=True, slots=True)
class ClipPrediction:
    """A model's prediction for one clip of T frames: N instances."""

    frame_ids: tuple[int, ...]  # positions among the model's input frames, increasing, length T
    class_probs: Tensor  # [N, K], without "no object", so a row sums to less than 1
    mask_logits: Tensor  # [N, T, h, w] at the model's resolution; > 0 is inside
    present: Tensor | None = None  # [N, T] bool, False: not on that frame; None: on all

    def __post_init__(self) -> None:
        if self.present is not None and self.present.shape != self.mask_logits.shape[:2]:
            raise ValueError(
                f"presence {tuple(self.present.shape)}, masks {tuple(self.mask_logits.shape)}"
            )
        if self.mask_logits.shape[1] != len(self.frame_ids):
            raise ValueError(
                f"masks of {self.mask_logits.shape[1]} frames for {len(self.frame_ids)} frame ids"
            )
        if len(self.class_probs) != len(self.mask_logits):
            raise ValueError(f"{len(self.class_probs)} classes, {len(self.mask_logits)} masks")


@dataclass(frozen=True, slots=True)
class FrameTracks:
    """The final tracks of one frame, which no later clip covers."""

    frame_id: int  # position among the model's input frames
    track_ids: tuple[int, ...]  # increasing, counted from 1 over the whole video
    mask_logits: Tensor  # [N, h, w], the mean over the clips that have the track on this frame


@dataclass(frozen=True, slots=True)
class Track:
    """One object over a video, with its most likely class.

    >>> vistool.Track(1, 3, "cat", 0.9, frames=[0, 1, 5])
    Track(id=1, class_id=3, class_name='cat', score=0.9)
    """

    id: int  # from 1, the same on all frames
    class_id: int  # its category id in results files
    class_name: str
    score: float  # in [0, 1]; while a video is streamed, class and score are those so far
    # Positions of the frames where it has a mask, increasing.
    frames: Sequence[int] = field(default=(), repr=False, hash=False)


class Instance(NamedTuple):
    """One track on one frame.

    >>> with vistool.predict("squares.mp4", model=model) as video:
    ...     track, segmentation = video.frames[0].instances[0]
    >>> track.class_name, vistool.decode_mask(segmentation).shape
    ('red', (96, 160))
    """

    track: Track
    segmentation: RLE


class TrackSegmentation(TypedDict):
    """One entry of a YouTube-VIS results file: one track with one class."""

    video_id: int
    category_id: int
    score: float
    segmentations: list[RLE | None]  # one entry per decoded frame of the video
