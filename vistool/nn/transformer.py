"""The transformer layers of both models; positions are added to queries and keys only.

A layer normalises its output (both papers' models), or with `pre_norm` its input.
"""

from __future__ import annotations

from torch import Tensor, nn


class FeedForward(nn.Module):
    """Two linear layers with ReLU and dropout between, added to the input."""

    def __init__(self, dim: int, hidden: int, dropout: float, *, pre_norm: bool = False) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        y = self.norm(x) if self.pre_norm else x
        y = x + self.dropout(self.linear2(self.dropout(self.linear1(y).relu())))
        return y if self.pre_norm else self.norm(y)


class Attention(nn.Module):
    """Multi-head attention, added to the query."""

    def __init__(self, dim: int, num_heads: int, dropout: float, *, pre_norm: bool = False) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attend = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        position: Tensor | None = None,
        memory_position: Tensor | None = None,
        padded: Tensor | None = None,
    ) -> Tensor:
        """x: [B, N, C] attends to memory: [B, S, C], or to itself; positions: in the same shapes.

        padded: [B, S] bool, True on cells to ignore.
        """
        y = self.norm(x) if self.pre_norm else x
        if memory is None:
            memory, memory_position = y, position
        query = y if position is None else y + position
        key = memory if memory_position is None else memory + memory_position
        mixed, _ = self.attend(query, key, memory, key_padding_mask=padded, need_weights=False)
        y = x + self.dropout(mixed)
        return y if self.pre_norm else self.norm(y)


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        dropout: float,
        *,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        self.self_attention = Attention(dim, num_heads, dropout, pre_norm=pre_norm)
        self.feedforward = FeedForward(dim, feedforward_dim, dropout, pre_norm=pre_norm)

    def forward(
        self, x: Tensor, *, position: Tensor | None = None, padded: Tensor | None = None
    ) -> Tensor:
        """x, position: [B, N, C]; padded: [B, N] bool. Returns [B, N, C]."""
        x = self.self_attention(x, position=position, padded=padded)
        return self.feedforward(x)


class DecoderLayer(nn.Module):
    """Self-attention among the queries, cross-attention to the memory, then feed-forward."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        dropout: float,
        *,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        self.self_attention = Attention(dim, num_heads, dropout, pre_norm=pre_norm)
        self.cross_attention = Attention(dim, num_heads, dropout, pre_norm=pre_norm)
        self.feedforward = FeedForward(dim, feedforward_dim, dropout, pre_norm=pre_norm)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        position: Tensor,
        memory_position: Tensor,
        padded: Tensor | None = None,
    ) -> Tensor:
        """x, position: [B, Q, C]; memory, memory_position: [B, S, C]; padded: [B, S] bool."""
        x = self.self_attention(x, position=position)
        x = self.cross_attention(
            x, memory, position=position, memory_position=memory_position, padded=padded
        )
        return self.feedforward(x)


class Decoder(nn.Module):
    """A stack of decoder layers; one shared norm is applied to every layer's output."""

    def __init__(
        self,
        num_layers: int,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        dropout: float,
        *,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(dim, num_heads, feedforward_dim, dropout, pre_norm=pre_norm)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        queries: Tensor,
        memory: Tensor,
        *,
        memory_position: Tensor,
        padded: Tensor | None = None,
    ) -> list[Tensor]:
        """Decode learned queries from zero.

        Args:
            queries: [B, Q, C] learned embeddings, the positions of a target that starts at 0.
            memory, memory_position: [B, S, C].
            padded: [B, S] bool.

        Returns: one normalised [B, Q, C] per layer, in order.
        """
        x = queries.new_zeros(queries.shape)
        outputs = []
        for layer in self.layers:
            x = layer(x, memory, position=queries, memory_position=memory_position, padded=padded)
            outputs.append(self.norm(x))
        return outputs
