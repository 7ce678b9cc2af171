"""Mixtures of experts whose weights lie in one parameter of three axes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patterns.registry import Made, Net, pattern


@pattern(
    each=("einsum", "matmul", "left", "gated", "bias", "one", "unread", "each", "gated-each", "bias-each"),
    kept=("one", "unread"),
)
def hidden_units_of_experts(how: str) -> Made:
    """A hidden unit that is dead in all experts goes; where each has dead ones of its own, as many go as all have.

    One expert that needs all of its units keeps those of the others.
    """
    of_its_own = how.endswith("each")
    how = how.partition("-")[0]

    def forward(s: Net, x: Tensor) -> Tensor:
        weights = s.router(x).softmax(-1)
        if how == "matmul":
            y = (F.silu(x @ s.up) @ s.down).movedim(0, 1)
        elif how == "left":
            y = (s.down.mT @ F.silu(s.up.mT @ x.t())).permute(2, 0, 1)
        elif how == "gated":
            gate, up = (x @ s.both).chunk(2, -1)
            y = ((F.silu(gate) * up) @ s.down).movedim(0, 1)
        else:
            h = torch.einsum("bd,edf->bef", x, s.up)
            y = torch.einsum("bef,efd->bed", F.silu(h + s.shift if how == "bias" else h), s.down)
        return (y * weights[..., None]).sum(1)

    net = Net(forward, up=nn.Parameter(torch.randn(3, 4, 8)), both=nn.Parameter(torch.randn(3, 4, 16)),
              down=nn.Parameter(torch.randn(3, 8, 4)), shift=nn.Parameter(torch.randn(3, 8)), router=nn.Linear(4, 3))  # fmt: skip
    with torch.no_grad():
        if how == "unread":
            net.down[:, [1, 4]] = 0
        elif of_its_own:
            for expert, units in enumerate(([1, 4], [0, 6, 7], [2, 3])):
                net.up[expert, :, units], net.shift[expert, units] = 0, 0
                net.both[expert, :, units] = 0
        else:
            experts = slice(1) if how == "one" else slice(None)
            net.up[experts, :, [1, 4]], net.shift[experts, [1, 4]] = 0, 0
            net.both[experts, :, [1, 4]] = 0
            net.both[experts, :, [9, 12]] = 0
    for name in {"up", "both", "shift"} - {"gated": {"both"}, "bias": {"up", "shift"}}.get(how, {"up"}):
        delattr(net, name)
    return net, torch.randn(5, 4)
