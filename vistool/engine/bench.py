"""Measure a model on this machine: frames per second, memory and operations."""

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
PICTURES = 8  # different frames, used in turn
MIN_CALLS = 3  # the least number of measurements, even if they take longer than requested
WARM_UP = 2  # clips that are not measured
CLASS_BIAS = re.compile(r"class_head\..*\bbias|class_head\.bias")
CONFIDENT = 1000.0  # a logit


@dataclass(frozen=True, slots=True)
class BenchReport:
    """The results of `bench`; times of the parts are medians.

    An operation is one multiplication with one addition.
    """

    model: str
    device: str
    threads: int  # of the CPU
    precision: str
    torch: str
    frame: Size  # of the video
    seen: Size  # of the model's input
    clip_length: int
    clip_stride: int
    parameters: int
    frames: int  # number of timed frames
    frames_per_second: float  # from decoded frames to tracks
    encode_ms: float  # per frame, in the backbone
    decode_ms: float  # per clip, in transformer and heads
    encode_operations: int  # per frame
    decode_operations: int  # per clip
    memory_mb: float | None  # peak of the GPU, or of this process; None: unknown

    @property
    def operations_per_frame(self) -> int:
        """Operations per frame, which is encoded once and decoded in every clip that has it."""
        return self.encode_operations + self.decode_operations // self.clip_stride


def bench(
    model: str | LoadedModel,
    config: PredictConfig,
    *,
    frame: Size,
    seconds: float,
    on_progress: OnProgress = silent,
) -> BenchReport:
    """Run a model over frames of moving noise and measure it.

    The model is changed to predict an instance for every query, the largest amount of work. It
    would predict none in noise, and then skip much of the work.

    Args:
        config: size, clips, device, precision and batch, as for `predict`.
        frame: the size of the video.
        seconds: of measurement, after a warm-up.

    Raises: UsageError for settings that do not fit the model, WeightsError, OutOfMemoryError.
    """
    check_settings(config)
    if not 0 < seconds < math.inf or min(frame) < MIN_SIDE:
        raise UsageError(
            f"{seconds:g} seconds of {frame.width}x{frame.height}: nothing to measure",
            hint=f"at least {MIN_SIDE}x{MIN_SIDE} pixels, and more than 0 seconds",
        )
    device = choose_device(config.device)
    loaded = load_model(model) if isinstance(model, str) else model
    network = _confident_in_every_query(loaded.model).to(device)
    length, stride = clip_settings(network.config, config)
    if length is None:
        raise UsageError(
            "clip length all: there is no video that could be one clip",
            hint="give --clip-length as a number of frames",
        )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    segmenter = Segmenter(network, config, device)
    pictures = _pictures(frame)
    frames, elapsed = _time_frames(segmenter, pictures, seconds, on_progress)

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


def _confident_in_every_query(model: IFC | VisTR) -> IFC | VisTR:
    """A copy that predicts its first class for every query."""
    changed = copy.deepcopy(model).eval()
    biases = [x for name, x in changed.named_parameters() if CLASS_BIAS.fullmatch(name)]
    with torch.no_grad():
        biases[-1][0] += CONFIDENT
    return changed


def _model_operations(model: IFC | VisTR, seen: Size, length: int) -> tuple[int, int]:
    """Operations per frame and per clip, from shapes only, without computing anything."""
    # In training mode, because only then models do not use autocast, which lacks the meta device.
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
    """The operations in the matrix products and convolutions of a call."""
    # Fused attention kernels would not be counted.
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), _Operations() as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    return counter.floating // 2


class _Operations(TorchDispatchMode):
    """Counts with torch's formulas; its FlopCounterMode fails for parameters that are views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.floating = 0  # multiplications and additions

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        count_of = flop_registry.get(func.overloadpacket)
        if count_of is not None:
            self.floating += int(count_of(*args, **(kwargs or {}), out_val=result))
        return result


def _pictures(frame: Size) -> list[np.ndarray]:
    """Pictures of coarse noise, [H, W, 3] uint8, shifted a little from one to the next."""
    coarse = np.random.default_rng(0).integers(0, 256, (frame.height // 16 + 1, 64, 3), np.uint8)
    noise = np.tile(coarse.repeat(16, axis=0), (1, frame.width // 64 + 1, 1))
    first = noise[: frame.height, : frame.width]
    return [np.ascontiguousarray(np.roll(first, 4 * n, axis=1)) for n in range(PICTURES)]


def _time_frames(
    segmenter: Segmenter, pictures: list[np.ndarray], seconds: float, on_progress: OnProgress
) -> tuple[int, float]:
    """The number of frames that became final, and the seconds it took."""
    stride = segmenter.clip_stride

    def decoded() -> Iterator[VideoFrame]:
        for number in count():
            yield VideoFrame(number, number / 25, pictures[number % PICTURES])

    marks: list[float] = []  # times at which a clip was done and its first final frame arrived
    with closing(segmenter.frames(decoded())) as frames:
        for number, _ in enumerate(frames):
            if number % stride:
                continue
            marks.append(time.perf_counter())
            if len(marks) <= WARM_UP:
                continue
            passed = marks[-1] - marks[WARM_UP]
            on_progress("measuring", min(round(passed), round(seconds)), round(seconds))
            if passed >= seconds and len(marks) > WARM_UP + MIN_CALLS:
                break
    return stride * (len(marks) - 1 - WARM_UP), marks[-1] - marks[WARM_UP]


def _median_ms(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The median time of a call, in milliseconds, measured for about `seconds`."""
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    times: list[float] = []
    while len(times) < MIN_CALLS or sum(times) < seconds:
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
