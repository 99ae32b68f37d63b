"""VisTR: one transformer over all frames of a clip, a query per instance and frame (CVPR 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from vistool.config import VisTRConfig
from vistool.errors import UsageError
from vistool.models.backbone import Backbone, build_backbone
from vistool.nn.deform_conv import DeformConv3x3
from vistool.nn.mlp import MLP
from vistool.nn.positional import sine_position
from vistool.nn.precision import full_precision
from vistool.nn.transformer import Decoder, EncoderLayer
from vistool.structures import FrameClipOutput, FrameFeatures, FrameHeads

# Position codes need pairs of channels on three axes; mask features take dim / 16 channels.
WIDTH_UNIT = 48
# Attention maps (a softmax over heads and cells) have values of about 1/1000, the features beside
# them about 1, and only the maps distinguish instances in the mask head. With the published
# initialisation, equal for both, training takes thousands of steps to make up for that.
MAPS_GAIN = 100.0
# From classes and boxes, the queries whose masks are computed: [B, Q] bool.
Choice = Callable[[FrameHeads], Tensor]


def by_instance(x: Tensor, num_frames: int) -> Tensor:
    """Regroup VisTR's frame-major queries: [B, T*Q, ...] -> [B, Q, T, ...]."""
    return rearrange(x, "b (t q) ... -> b q t ...", t=num_frames)


def group_norm(groups: int, channels: int) -> nn.GroupNorm:
    """GroupNorm with `groups` groups, or fewer if these do not divide the channels."""
    return nn.GroupNorm(math.gcd(groups, channels), channels)


class AttentionMaps(nn.Module):
    """Attention map of every query on its frame: a softmax over heads and cells together (3.3)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, memory: Tensor, padded: Tensor | None) -> Tensor:
        """queries: [B, Q, C]; memory: [B, h, w, C]; padded: [B, h, w] -> [B, Q, heads, h, w]."""
        q = rearrange(self.query(queries), "b q (n c) -> b q n c", n=self.num_heads)
        k = rearrange(self.key(memory), "b h w (n c) -> b n c h w", n=self.num_heads)
        logits = torch.einsum("bqnc,bnchw->bqnhw", q * q.shape[-1] ** -0.5, k)
        if padded is not None:
            logits = logits.masked_fill(padded[:, None, None], -torch.inf)
        return logits.flatten(2).softmax(-1).view_as(logits)


class MaskHead(nn.Module):
    """Encoder output and attention maps -> mask features of every instance on a frame (3.3)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.dim = dim
        widths = [dim // 2, dim // 4, dim // 8, dim // 16]
        inputs = dim + num_heads
        self.conv1 = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.norm1 = group_norm(8, inputs)
        self.conv2 = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.norm2 = group_norm(8, widths[0])
        self.conv3 = nn.Conv2d(widths[0], widths[1], 3, padding=1)
        self.norm3 = group_norm(8, widths[1])
        self.conv4 = nn.Conv2d(widths[1], widths[2], 3, padding=1)
        self.norm4 = group_norm(8, widths[2])
        self.offset = nn.Conv2d(widths[2], 18, 1)
        self.deform = DeformConv3x3(widths[2], widths[3])
        self.norm5 = group_norm(8, widths[3])

    def forward(
        self, memory: Tensor, maps: Tensor, clip: Tensor, laterals: tuple[Tensor, ...]
    ) -> Tensor:
        """Compute mask features on one frame of every clip.

        Args:
            memory: [B, C, h, w].
            maps: [N, heads, h, w], of N instances; clip: [N] int64, the clip of each instance.
            laterals: [B, C / 2, ...], [B, C / 4, ...], [B, C / 8, H, W], coarse to fine.

        Returns: [N, C / 16, H, W].
        """
        stride16, stride8, stride4 = laterals
        x = self.norm1(self._first(memory, maps, clip)).relu()
        x = _joined(self.norm2(self.conv2(x)).relu(), stride16, clip)
        x = _joined(self.norm3(self.conv3(x)).relu(), stride8, clip)
        x = _joined(self.norm4(self.conv4(x)).relu(), stride4, clip)
        return self.norm5(self.deform(x, self.offset(x))).relu()

    def _first(self, memory: Tensor, maps: Tensor, clip: Tensor) -> Tensor:
        """`conv1` of memory and maps concatenated; memory's part is computed once per clip."""
        weight = self.conv1.weight
        shared = F.conv2d(memory, weight[:, : self.dim], self.conv1.bias, padding=1)
        own = F.conv2d(maps, weight[:, self.dim :], padding=1)
        return _joined(own, shared, clip)


def _joined(x: Tensor, lateral: Tensor, clip: Tensor) -> Tensor:
    """Resize x [N, C, h, w] to the size of `lateral` [B, C, H, W], and add its clip's lateral."""
    if x.shape[-2:] != lateral.shape[-2:]:
        x = F.interpolate(x, size=lateral.shape[-2:])
    return x + lateral.index_select(0, clip)


class InstanceHead(nn.Sequential):
    """From an instance's mask features on all frames to its mask, by 3-D convolutions (3.3)."""

    def __init__(self, channels: int) -> None:
        hidden = max(1, channels // 2)
        layers: list[nn.Module] = []
        for channels_in in (channels, hidden, hidden):
            layers += [
                nn.Conv3d(channels_in, hidden, 3, padding=2, dilation=2),
                group_norm(4, hidden),
                nn.ReLU(),
            ]
        super().__init__(*layers, nn.Conv3d(hidden, 1, 1))


class VisTR(nn.Module):
    """Video instance segmentation with transformers; the clip length is part of the weights.

    `encode_frames` runs once per frame and `decode_clips` once per clip, so a frame in several
    overlapping clips goes through the backbone once.

    The published inference script never leaves training mode, so its dropout is active and results
    vary from run to run. Here, evaluation mode has no dropout.
    """

    def __init__(
        self,
        config: VisTRConfig,
        backbone: Backbone,
        *,
        num_classes: int,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        encoder_layers: int,
        decoder_layers: int,
        pre_norm: bool,
        num_queries: int,
        clip_length: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.config = config
        self.dim = dim
        self.clip_length = clip_length
        self.backbone = backbone
        stride4, stride8, stride16, stride32 = backbone.channels
        self.project = nn.Conv2d(stride32, dim, 1)
        self.laterals = nn.ModuleList(
            [
                nn.Conv2d(stride16, dim // 2, 1),
                nn.Conv2d(stride8, dim // 4, 1),
                nn.Conv2d(stride4, dim // 8, 1),
            ]
        )
        self.encoder = nn.ModuleList(
            EncoderLayer(dim, num_heads, feedforward_dim, dropout, pre_norm=pre_norm)
            for _ in range(encoder_layers)
        )
        self.encoder_norm = nn.LayerNorm(dim) if pre_norm else nn.Identity()
        self.decoder = Decoder(
            decoder_layers, dim, num_heads, feedforward_dim, dropout, pre_norm=pre_norm
        )
        self.queries = nn.Embedding(clip_length * num_queries, dim)
        self.class_head = nn.Linear(dim, num_classes + 1)
        self.box_head = MLP(dim, dim, dim, 4)
        self.attention_maps = AttentionMaps(dim, num_heads)
        self.mask_head = MaskHead(dim, num_heads)
        self.instance_head = InstanceHead(dim // 16)
        self.reset_parameters()

    @classmethod
    def from_config(cls, config: VisTRConfig) -> VisTR:
        """Build the model that a configuration describes. Raises: UsageError for an unfit width."""
        dim, heads = config.hidden_dim, config.num_heads
        if dim < 1 or dim % WIDTH_UNIT or dim % heads:
            unit = math.lcm(WIDTH_UNIT, heads)
            raise UsageError(
                f"hidden_dim {dim}: VisTR's width is a multiple of {WIDTH_UNIT} (three axes of "
                f"position codes, a sixteenth for masks) and of its {heads} heads",
                hint=f"choose a multiple of {unit}; the paper's is 384",
            )
        return cls(
            config,
            build_backbone(config.backbone),
            num_classes=len(config.class_names),
            dim=dim,
            num_heads=heads,
            feedforward_dim=config.feedforward_dim,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            pre_norm=config.pre_norm,
            num_queries=config.num_queries,
            clip_length=config.clip_length,
            dropout=config.dropout,
        )

    def reset_parameters(self) -> None:
        """The published initialisation except for MAPS_GAIN; the backbone keeps its own."""
        for part in (self.encoder, self.decoder, self.attention_maps):
            for parameter in part.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)
        for linear in (self.attention_maps.query, self.attention_maps.key):
            nn.init.zeros_(linear.bias)
        for module in [*self.mask_head.children(), *self.laterals]:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.mask_head.conv1.weight[:, self.dim :] *= MAPS_GAIN
        nn.init.zeros_(self.mask_head.offset.weight)
        nn.init.kaiming_uniform_(self.mask_head.deform.weight, nonlinearity="relu")

    def forward(
        self,
        pixels: Tensor,
        padded: Tensor | None = None,
        *,
        auxiliary: bool = False,
        choose: Choice | None = None,
    ) -> FrameClipOutput:
        """Predict the instances of a batch of clips.

        Args:
            pixels: [B, T, 3, H, W], normalised as the configuration says; fewer frames than the
                weights' clip length are repeated from the first on until they fill it.
            padded: [B, T, H, W] bool, True on pixels added at the bottom and the right.
            auxiliary: also return the predictions of the earlier decoder layers, for training.
            choose: selects the queries whose masks are computed (the most expensive part); the
                masks of the others are zero. None: all.

        Returns: as many frames as the weights' clip length; masks at ceil(H / 4) x ceil(W / 4).
        """
        num_frames = pixels.shape[1]
        features = self.encode_frames(
            pixels.flatten(0, 1), None if padded is None else padded.flatten(0, 1)
        )
        return self.decode_clips(features, num_frames, auxiliary=auxiliary, choose=choose)

    def encode_frames(self, pixels: Tensor, padded: Tensor | None = None) -> FrameFeatures:
        """Backbone and projections. pixels: [N, 3, H, W]; padded: [N, H, W] bool."""
        with full_precision(self, pixels.device):
            stride4, stride8, stride16, stride32 = self.backbone(pixels)
            levels = zip(self.laterals, (stride16, stride8, stride4), strict=True)
            laterals = tuple(adapter(level) for adapter, level in levels)
            top = self.project(stride32)
        if padded is not None:
            nearest = F.interpolate(padded[:, None].float(), size=top.shape[-2:])
            padded = nearest[:, 0].bool()
        return FrameFeatures(top=top, laterals=laterals, padded=padded)

    def decode_clips(
        self,
        features: FrameFeatures,
        num_frames: int,
        *,
        auxiliary: bool = False,
        choose: Choice | None = None,
    ) -> FrameClipOutput:
        """Transformer and heads. features: of B*T frames, clip after clip; num_frames: T.

        Raises: UsageError for more frames than the weights' clip length; fewer are repeated.
        """
        top, *laterals = (
            self._whole_clips(level, num_frames) for level in (features.top, *features.laterals)
        )
        padded = None
        if features.padded is not None:
            padded = self._whole_clips(features.padded, num_frames)
        position = self._positions(top, padded)
        padded_cells = None if padded is None else padded.flatten(1)
        cells = rearrange(top, "b t c h w -> b (t h w) c")
        with full_precision(self, cells.device):
            for layer in self.encoder:
                cells = layer(cells, position=position, padded=padded_cells)
            cells = self.encoder_norm(cells)
            decoded = self.decoder(
                repeat(self.queries.weight, "q c -> b q c", b=len(cells)),
                cells,
                memory_position=position,
                padded=padded_cells,
            )
        decoded = [by_instance(queries, self.clip_length) for queries in decoded]
        height, width = top.shape[-2:]
        memory = rearrange(cells, "b (t h w) c -> b t h w c", t=self.clip_length, h=height, w=width)
        heads = [self._heads(queries) for queries in (decoded if auxiliary else decoded[-1:])]
        chosen = None if choose is None else choose(heads[-1])
        return FrameClipOutput(
            class_logits=heads[-1].class_logits,
            boxes=heads[-1].boxes,
            mask_logits=self._masks(decoded[-1], chosen, memory, laterals, padded),
            auxiliary=tuple(heads[:-1]),
        )

    def _whole_clips(self, frames: Tensor, num_frames: int) -> Tensor:
        """[B*L, ...] -> [B, T, ...]: repeat a clip's L frames in a circle up to the weights' T."""
        if num_frames > self.clip_length:
            raise UsageError(
                f"a clip of {num_frames} frames, but these weights are for {self.clip_length}",
                hint=f"choose --clip-length {self.clip_length}",
            )
        clips = frames.unflatten(0, (-1, num_frames))
        if num_frames == self.clip_length:
            return clips
        return clips[:, torch.arange(self.clip_length, device=clips.device) % num_frames]

    def _positions(self, top: Tensor, padded: Tensor | None) -> Tensor:
        """Position codes over time, height and width: [B, T*h*w, C]."""
        batch, num_frames, _, height, width = top.shape
        if padded is None:
            shape = (1, num_frames, height, width)
            padded = torch.zeros(shape, dtype=torch.bool, device=top.device)
        position = sine_position(padded, self.dim // 3).to(top.dtype)
        return rearrange(position, "b c t h w -> b (t h w) c").expand(batch, -1, -1)

    def _heads(self, queries: Tensor) -> FrameHeads:
        """queries: [B, Q, T, C]."""
        return FrameHeads(self.class_head(queries), self.box_head(queries).sigmoid())

    def _masks(
        self,
        queries: Tensor,
        chosen: Tensor | None,
        memory: Tensor,
        laterals: list[Tensor],
        padded: Tensor | None,
    ) -> Tensor:
        """Masks [B, Q, T, H, W], one frame and then B instances at a time, which bounds memory.

        Args:
            queries: [B, Q, T, C]; chosen: [B, Q] bool, None: all; memory: [B, T, h, w, C].
            laterals: [B, T, ...]; padded: [B, T, h, w].
        """
        batch, num_queries = queries.shape[:2]
        if chosen is None:
            every = torch.arange(batch * num_queries, device=queries.device)
            clip, query = every // num_queries, every % num_queries
        else:
            clip, query = chosen.nonzero(as_tuple=True)
        finest = laterals[-1]
        nothing = finest.new_zeros(batch, num_queries, self.clip_length, *finest.shape[-2:])
        if not len(clip):
            return nothing
        frames = []
        for t in range(self.clip_length):
            maps = self.attention_maps(
                queries[:, :, t], memory[:, t], None if padded is None else padded[:, t]
            )
            on_frame = rearrange(memory[:, t], "b h w c -> b c h w")
            levels = tuple(level[:, t] for level in laterals)
            frames.append(self.mask_head(on_frame, maps[clip, query], clip, levels).split(batch))
        drawn = torch.cat(
            [
                self.instance_head(torch.stack(over_time, dim=2))[:, 0]
                for over_time in zip(*frames, strict=True)
            ]
        )
        return nothing.to(drawn.dtype).index_put((clip, query), drawn)
