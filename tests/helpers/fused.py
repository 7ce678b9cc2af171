"""Attention in the style of a small GPT beside a feed-forward layer: one layer for queries, keys and values."""

import torch
from torch import nn


class Fused(nn.Module):
    """The width of a head is that of the input over the number of heads, so no head can go; hidden units can."""

    def __init__(self, width=8, heads=2, hidden=48):
        super().__init__()
        self.width, self.heads = width, heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2, self.head = nn.Linear(width, hidden), nn.Linear(hidden, width), nn.Linear(width, 3)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (
            part.view(b, t, self.heads, c // self.heads).transpose(1, 2) for part in self.qkv(x).split(self.width, 2)
        )
        y = ((q @ k.transpose(-2, -1)) * k.shape[-1] ** -0.5).softmax(-1) @ v
        x = x + self.proj(y.transpose(1, 2).contiguous().view(b, t, c))
        return self.head((x + self.fc2(torch.relu(self.fc1(x)))).mean(1))
