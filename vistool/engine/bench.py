"""How fast a model is on this machine, and what it takes: frames a second, memory, operations."""

from __future__ import annotations

import copy
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from vistool.config import PredictConfig
from vistool.engine.device import autocast, choose_device
from vistool.engine.predict.job import check_settings
from vistool.engine.predict.segment import Segmenter, clip_settings
from vistool.errors import UsageError
from vistool.models.checkpoints.files import LoadedModel, load_model
from vistool.models.ifc import IFC
from vistool.models.vistr import VisTR
from vistool.ops.features import concatenate_features, split_features
from vistool.ops.pixels import input_size, normalise, resize
from vistool.progress import OnProgress, silent
from vistool.structures import Size, VideoFrame

MIN_SIDE = 16  # pixels of a frame
PICTURES = 8  # different frames, seen in turns
LEAST = 3  # measurements, however long one takes
WARM_UP = 2  # clips that do not count
CLASS_BIAS = re.compile(r"class_head\..*\bbias|class_head\.bias")
SURE = 1000.0  # of a class, as a logit


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What `bench` found; times of the parts are medians.

    An operation is a multiplication with an addition.
    """

    model: str
    device: str
    threads: int  # of the CPU
    precision: str
    torch: str
    frame: Size  # of the video
    seen: Size  # of what the model sees of it
    clip_length: int
    clip_stride: int
    parameters: int
    frames: int  # that were timed
    frames_per_second: float  # of the whole way from decoded frames to tracks
    encode_ms: float  # a frame through the backbone
    decode_ms: float  # a clip through transformer and heads
    encode_operations: int  # a frame
    decode_operations: int  # a clip
    memory_mb: float | None  # at the most: of the GPU, or of this process; None: not known

    @property
    def operations_per_frame(self) -> int:
        """Frames are encoded once, and decoded in every clip they lie in."""
        return self.encode_operations + self.decode_operations // self.clip_stride


def bench(
    model: str | LoadedModel,
    config: PredictConfig,
    *,
    frame: Size,
    seconds: float,
    on_progress: OnProgress = silent,
) -> BenchReport:
    """Run a model over frames of noise that moves, for about so many seconds after a warm-up.

    Every query counts as an instance, as in a video that is full of them; noise as such has none,
    and a model that finds nothing is spared much of its work.

    Args: config: size, clips, device, precision and batch, as for `predict`.

    Raises: UsageError for settings that do not fit, WeightsError, OutOfMemoryError.
    """
    check_settings(config)
    if not 0 < seconds < math.inf or min(frame) < MIN_SIDE:
        raise UsageError(
            f"{seconds:g} seconds of {frame.width}x{frame.height}: nothing to measure",
            hint=f"at least {MIN_SIDE}x{MIN_SIDE} pixels, and more than 0 seconds",
        )
    device = choose_device(config.device)
    loaded = load_model(model) if isinstance(model, str) else model
    network = _finding_everywhere(loaded.model).to(device)
    length, stride = clip_settings(network.config, config)
    if length is None:
        raise UsageError(
            "clip length all: there is no video to take as one clip",
            hint="--clip-length takes a number of frames here",
        )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    segmenter = Segmenter(network, config, device)
    pictures = _pictures(frame)
    frames, elapsed = _whole_way(segmenter, pictures, seconds, on_progress)

    pixels, group = network.config.pixels, segmenter.batch
    seen = input_size(frame, segmenter.short_side, network.config.test_long_side, pixels)
    one = normalise(resize(pictures[0], seen)[None].to(device), pixels)
    with torch.no_grad(), autocast(device, segmenter.dtype):
        together = one.expand(group, -1, -1, -1)
        features = split_features(network.encode_frames(one))[0]
        clip = concatenate_features([features] * length)
        encode_ms = _median_ms(lambda: network.encode_frames(together), device, seconds / 10)
        decode_ms = _median_ms(lambda: network.decode_clips(clip, length), device, seconds / 10)
    memory_mb = _peak_memory_mb(device)
    encoding, decoding = _model_operations(network, seen, length)
    return BenchReport(
        model=loaded.header.path.stem,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        precision=str(segmenter.dtype).removeprefix("torch."),
        torch=str(torch.__version__),
        frame=frame,
        seen=seen,
        clip_length=length,
        clip_stride=stride,
        parameters=sum(p.numel() for p in network.parameters()),
        frames=frames,
        frames_per_second=frames / elapsed,
        encode_ms=encode_ms / group,
        decode_ms=decode_ms,
        encode_operations=encoding,
        decode_operations=decoding,
        memory_mb=memory_mb,
    )


def _finding_everywhere(model: IFC | VisTR) -> IFC | VisTR:
    """A copy that is sure of its first class in every query."""
    changed = copy.deepcopy(model).eval()
    biases = [x for name, x in changed.named_parameters() if CLASS_BIAS.fullmatch(name)]
    with torch.no_grad():
        biases[-1][0] += SURE
    return changed


def _model_operations(model: IFC | VisTR, seen: Size, length: int) -> tuple[int, int]:
    """Of a frame and of a clip; of shapes alone, which takes neither time nor memory."""
    # As in training, where a model leaves autocast alone, which knows nothing of this device.
    shapes = copy.deepcopy(model).to("meta").train()
    frame = torch.zeros(1, 3, *seen, device="meta")
    with torch.no_grad():
        clip = concatenate_features(split_features(shapes.encode_frames(frame)) * length)
    return (
        operations(lambda: shapes.encode_frames(frame)),
        operations(lambda: shapes.decode_clips(clip, length)),
    )


@torch.no_grad()
def operations(call: Callable[[], object]) -> int:
    """Multiplications with an addition in the matrix products and convolutions of a call."""
    # Attention in one piece would go uncounted: torch's for inference, and fused kernels.
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), _Operations() as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    return counter.floating // 2


class _Operations(TorchDispatchMode):
    """Counts by torch's own formulas; its FlopCounterMode trips over parameters that are views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.floating = 0  # additions counted beside multiplications

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        count_of = flop_registry.get(func.overloadpacket)
        if count_of is not None:
            self.floating += int(count_of(*args, **(kwargs or {}), out_val=result))
        return result


def _pictures(frame: Size) -> list[np.ndarray]:
    """Coarse noise, [H, W, 3] uint8, that moves a little from one to the next."""
    coarse = np.random.default_rng(0).integers(0, 256, (frame.height // 16 + 1, 64, 3), np.uint8)
    noise = np.tile(coarse.repeat(16, axis=0), (1, frame.width // 64 + 1, 1))
    first = noise[: frame.height, : frame.width]
    return [np.ascontiguousarray(np.roll(first, 4 * n, axis=1)) for n in range(PICTURES)]


def _whole_way(
    segmenter: Segmenter, pictures: list[np.ndarray], seconds: float, on_progress: OnProgress
) -> tuple[int, float]:
    """How many frames became final, and in how many seconds."""
    stride = segmenter.clip_stride

    def decoded() -> Iterator[VideoFrame]:
        for number in count():
            yield VideoFrame(number, number / 25, pictures[number % PICTURES])

    marks: list[float] = []  # when a clip was through, and the frames that it made final came
    with closing(segmenter.frames(decoded())) as frames:
        for number, _ in enumerate(frames):
            if number % stride:
                continue
            marks.append(time.perf_counter())
            if len(marks) <= WARM_UP:
                continue
            passed = marks[-1] - marks[WARM_UP]
            on_progress("measuring", min(round(passed), round(seconds)), round(seconds))
            if passed >= seconds and len(marks) > WARM_UP + LEAST:
                break
    return stride * (len(marks) - 1 - WARM_UP), marks[-1] - marks[WARM_UP]


def _median_ms(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Of calls for about so long."""
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    times: list[float] = []
    while len(times) < LEAST or sum(times) < seconds:
        begun = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return float(np.median(times)) * 1000


def _peak_memory_mb(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
