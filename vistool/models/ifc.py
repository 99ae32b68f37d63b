"""IFC: the frames of a clip exchange information through a few memory tokens (NeurIPS 2021)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from vistool.config import IFCConfig
from vistool.errors import UsageError
from vistool.models.backbone import Backbone, build_backbone
from vistool.nn.mlp import MLP
from vistool.nn.positional import sine_position
from vistool.nn.precision import full_precision
from vistool.nn.transformer import Decoder, EncoderLayer
from vistool.structures import ClipOutput, FrameFeatures

# Noise that separates the spare queries from the first group, in its standard deviations.
SPARE_NOISE = 0.5
NORM_GROUPS = 32  # groups of channels in the mask head's GroupNorm


class Encoder(nn.Module):
    """Blocks of two layers: within each frame, then among the frames' memory tokens (3.1)."""

    def __init__(
        self, num_blocks: int, dim: int, num_heads: int, feedforward_dim: int, dropout: float
    ) -> None:
        super().__init__()

        def layers() -> nn.ModuleList:
            return nn.ModuleList(
                EncoderLayer(dim, num_heads, feedforward_dim, dropout) for _ in range(num_blocks)
            )

        self.frame_layers = layers()
        self.exchange_layers = layers()

    def forward(
        self,
        cells: Tensor,
        memory: Tensor,
        *,
        position: Tensor,
        padded: Tensor | None,
        num_frames: int,
    ) -> tuple[Tensor, Tensor]:
        """Encode B*T frames, clip after clip.

        Args:
            cells: [B*T, S, C], the frames' cells; memory: [B*T, M, C], their memory tokens.
            position: [B*T, S + M, C]; padded: [B*T, S + M] bool.
            num_frames: T.

        Returns: cells and memory, same shapes.
        """
        num_cells = cells.shape[1]
        for within_frame, exchange in zip(self.frame_layers, self.exchange_layers, strict=True):
            tokens = torch.cat([cells, memory], dim=1)
            tokens = within_frame(tokens, position=position, padded=padded)
            cells, memory = tokens[:, :num_cells], tokens[:, num_cells:]
            # Token m of a frame attends only to the tokens m of the clip's frames.
            memory = rearrange(memory, "(b t) m c -> (b m) t c", t=num_frames)
            memory = exchange(memory)
            memory = rearrange(memory, "(b m) t c -> (b t) m c", m=tokens.shape[1] - num_cells)
        return cells, memory


class MaskHead(nn.Module):
    """Fuse the stride-32 encoder output with two finer levels into a stride-8 feature map (3.2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.norm1 = nn.GroupNorm(NORM_GROUPS, dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, dim)
        self.conv3 = nn.Conv2d(dim, dim, 3, padding=1)
        self.norm3 = nn.GroupNorm(NORM_GROUPS, dim)
        self.depthwise = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.pointwise = nn.Conv2d(dim, dim, 1)

    def forward(self, top: Tensor, laterals: tuple[Tensor, ...]) -> Tensor:
        """top: [N, C, h, w]; laterals: [N, C, ...] at strides 16 and 8. Returns the stride-8 size.

        As in the published model, there is no ReLU after the first two norms.
        """
        stride16, stride8 = laterals
        x = self.norm1(self.conv1(top))
        x = F.interpolate(x, size=stride16.shape[-2:]) + stride16
        x = self.norm2(self.conv2(x))
        x = F.interpolate(x, size=stride8.shape[-2:]) + stride8
        x = self.norm3(self.conv3(x)).relu()
        return self.pointwise(self.depthwise(x).relu()).relu()


class IFC(nn.Module):
    """Inter-frame Communication Transformer; any clip length, any picture size.

    `encode_frames` runs once per frame and `decode_clips` once per clip, so a frame in several
    overlapping clips goes through the backbone once.
    """

    def __init__(
        self,
        config: IFCConfig,
        backbone: Backbone,
        *,
        num_classes: int,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        encoder_layers: int,
        decoder_layers: int,
        num_queries: int,
        num_memory_tokens: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.config = config
        self.dim = dim
        self.backbone = backbone
        stride8, stride16, stride32 = backbone.channels[1:]
        self.project = nn.Conv2d(stride32, dim, 1)
        self.laterals = nn.ModuleList([nn.Conv2d(stride16, dim, 1), nn.Conv2d(stride8, dim, 1)])
        self.memory_tokens = nn.Parameter(torch.empty(num_memory_tokens, dim))
        self.memory_positions = nn.Parameter(torch.empty(num_memory_tokens, dim))
        self.encoder = Encoder(encoder_layers, dim, num_heads, feedforward_dim, dropout)
        self.decoder = Decoder(decoder_layers, dim, num_heads, feedforward_dim, dropout)
        self.queries = nn.Embedding(num_queries, dim)
        self.spare_queries: nn.Parameter | None = None
        self.class_head = MLP(dim, dim, num_classes + 1)
        self.mask_head = MaskHead(dim)
        self.mask_kernel = MLP(dim, dim, dim, dim)
        self.reset_parameters()

    @classmethod
    def from_config(cls, config: IFCConfig) -> IFC:
        """Build the model that a configuration describes. Raises: UsageError for an unfit width."""
        dim, heads = config.hidden_dim, config.num_heads
        if dim < 1 or dim % NORM_GROUPS or dim % heads:
            raise UsageError(
                f"hidden_dim {dim}: IFC's width is a multiple of {NORM_GROUPS} (groups that are "
                f"normalised together) and of its {heads} heads",
                hint=f"choose a multiple of {math.lcm(NORM_GROUPS, heads)}; the paper's is 256",
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
            num_queries=config.num_queries,
            num_memory_tokens=config.num_memory_tokens,
            dropout=config.dropout,
        )

    def reset_parameters(self) -> None:
        """The published initialisation; the backbone keeps its own."""
        for part in (self.encoder, self.decoder):
            for parameter in part.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)
        for tokens in (self.memory_tokens, self.memory_positions):
            nn.init.kaiming_normal_(tokens, mode="fan_out", nonlinearity="relu")
        for module in [*self.mask_head.modules(), *self.laterals]:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def add_query_groups(self, groups: int) -> None:
        """Add groups of queries for training, up to `groups` in all.

        In training mode every group detects all instances independently, so the rest of the model
        learns from more matched pairs (Chen et al., "Group DETR", ICCV 2023). New groups start near
        the first one. Only the first group is used for prediction and saved.
        """
        spare = self.queries.weight.detach().repeat(groups - 1, 1)
        noise = SPARE_NOISE * spare.std() * torch.randn_like(spare)
        self.spare_queries = nn.Parameter(spare + noise)

    def forward(
        self, pixels: Tensor, padded: Tensor | None = None, *, auxiliary: bool = False
    ) -> ClipOutput:
        """Predict the instances of a batch of clips.

        Args:
            pixels: [B, T, 3, H, W], normalised as the configuration says.
            padded: [B, T, H, W] bool, True on pixels added at the bottom and the right.
            auxiliary: also return the predictions of the earlier decoder layers, for training.

        Returns: masks at ceil(H / 8) x ceil(W / 8); in training mode, each clip is repeated for
            every group of queries.
        """
        num_frames = pixels.shape[1]
        features = self.encode_frames(
            pixels.flatten(0, 1), None if padded is None else padded.flatten(0, 1)
        )
        return self.decode_clips(features, num_frames, auxiliary=auxiliary)

    def encode_frames(self, pixels: Tensor, padded: Tensor | None = None) -> FrameFeatures:
        """Backbone and projections. pixels: [N, 3, H, W]; padded: [N, H, W] bool."""
        step = self.backbone.strides[-1]
        with full_precision(self, pixels.device):
            _, stride8, stride16, stride32 = self.backbone(pixels)
            return FrameFeatures(
                top=self.project(stride32),
                laterals=(self.laterals[0](stride16), self.laterals[1](stride8)),
                # Cell i covers pixels from step * i on; it is valid if its first pixel is.
                padded=None if padded is None else padded[:, ::step, ::step],
            )

    def decode_clips(
        self, features: FrameFeatures, num_frames: int, *, auxiliary: bool = False
    ) -> ClipOutput:
        """Transformer and heads. features: of B*T frames, clip after clip; num_frames: T."""
        cells = rearrange(features.top, "n c h w -> n (h w) c")
        memory = repeat(self.memory_tokens, "m c -> n m c", n=len(cells))
        cell_position = self._cell_positions(features)
        memory_position = repeat(self.memory_positions, "m c -> n m c", n=len(cells))
        padded = memory_padded = None
        if features.padded is not None:
            padded = features.padded.flatten(1)
            memory_padded = padded.new_zeros(memory.shape[:2])

        def by_clip(x: Tensor) -> Tensor:
            return rearrange(x, "(b t) ... -> b t ...", t=num_frames).flatten(1, 2)

        with full_precision(self, cells.device):
            cells, memory = self.encoder(
                cells,
                memory,
                position=torch.cat([cell_position, memory_position], dim=1),
                padded=_joined(padded, memory_padded),
                num_frames=num_frames,
            )
            queries = self._query_groups()
            groups = len(queries)

            def for_groups(x: Tensor) -> Tensor:
                return by_clip(x).repeat_interleave(groups, dim=0)

            decoded = self.decoder(
                queries.repeat(len(cells) // num_frames, 1, 1),
                torch.cat([for_groups(cells), for_groups(memory)], dim=1),
                memory_position=torch.cat(
                    [for_groups(cell_position), for_groups(memory_position)], dim=1
                ),
                padded=_joined(
                    None if padded is None else for_groups(padded),
                    None if memory_padded is None else for_groups(memory_padded),
                ),
            )
        mask_features = self._mask_features(cells, features, num_frames)
        mask_features = mask_features.repeat_interleave(groups, dim=0)
        outputs = [
            ClipOutput(
                class_logits=self.class_head(queries),
                mask_logits=torch.einsum(
                    "bqc,btchw->bqthw", self.mask_kernel(queries), mask_features
                ),
            )
            for queries in (decoded if auxiliary else decoded[-1:])
        ]
        return replace(outputs[-1], auxiliary=tuple(outputs[:-1]))

    def _query_groups(self) -> Tensor:
        """The groups of queries: [G, Q, C]; G is 1 except in training."""
        queries = self.queries.weight[None]
        if self.spare_queries is None or not self.training:
            return queries
        return torch.cat([queries, self.spare_queries.unflatten(0, (-1, queries.shape[1]))])

    def _cell_positions(self, features: FrameFeatures) -> Tensor:
        """[N, h*w, C]; computed once and expanded if no frame is padded."""
        padded = features.padded
        if padded is None:
            height, width = features.top.shape[-2:]
            padded = torch.zeros(1, height, width, dtype=torch.bool, device=features.top.device)
        position = sine_position(padded, self.dim // 2).to(features.top.dtype)
        return rearrange(position, "n c h w -> n (h w) c").expand(len(features), -1, -1)

    def _mask_features(self, cells: Tensor, features: FrameFeatures, num_frames: int) -> Tensor:
        """[B, T, C, h, w] at stride 8."""
        height, width = features.top.shape[-2:]
        top = rearrange(cells, "n (h w) c -> n c h w", h=height, w=width)
        maps = self.mask_head(top, features.laterals)
        return rearrange(maps, "(b t) c h w -> b t c h w", t=num_frames)


def _joined(cells: Tensor | None, memory: Tensor | None) -> Tensor | None:
    """Concatenate the padding of cells and memory tokens; None if nothing is padded."""
    return None if cells is None or memory is None else torch.cat([cells, memory], dim=1)
