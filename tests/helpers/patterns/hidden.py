"""What one look at the outputs does not show: values that follow sizes, state, rare inputs, small differences."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patterns.registry import Made, Net, image, kill, pattern, unread

SPREADS = {
    "softmax": lambda h: h.softmax(-1),
    "norm": lambda h: h.norm(dim=-1, keepdim=True),
    "logsumexp": lambda h: h.logsumexp(-1, keepdim=True),
    "sum": lambda h: h.sum(-1, keepdim=True),
    "prod": lambda h: h.prod(-1, keepdim=True),
    "cumsum": lambda h: h.cumsum(-1),
    "ones": lambda h: h @ h.new_ones(h.shape[-1], 1),
    "count": lambda h: h * torch.ones_like(h).sum(-1, keepdim=True),
    "batch": lambda h: h.norm(dim=0, keepdim=True).expand_as(h),
    "whole": lambda h: h / h.numel(),
}


@pattern(each=SPREADS, smaller=None)
def constants_that_follow_the_size(spread: object) -> Made:
    """A layer that is dead as a whole carries constants, but which ones depends on the number of positions."""
    net = Net(
        lambda s, x: s.b(spread(F.relu(s.a(x)))) + s.c(x).mean(-1, keepdim=True),  # type: ignore[operator]
        a=nn.Conv1d(3, 8, 1),
        b=nn.Conv1d(8, 2, 1),
        c=nn.Conv1d(3, 2, 1),
    )
    kill(net.a, range(8), 0.5)
    return net, torch.randn(2, 3, 6)


@pattern(each=("batch", "length", "both"), smaller=None)
def sizes_of_the_input_as_numbers(how: str) -> Made:
    """Python integers that the trace writes down as literals."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.a(x))
        h = h / len(x) if how == "batch" else h * x.shape[-1] if how == "length" else h / x[:, 0].numel()
        return s.b(h)

    net = Net(forward, a=nn.Conv1d(3, 8, 1), b=nn.Conv1d(8, 2, 1))
    kill(net.a, (0, 5), 0.5)
    return net, torch.randn(2, 3, 6)


@pattern(smaller=None)
def grid_of_coordinates() -> Made:
    """CoordConv: a buffer made in the forward for the size of the image; all its readers but one are zero there."""

    def forward(s: Net, x: Tensor) -> Tensor:
        grid = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype, device=x.device).expand(len(x), 1, *x.shape[2:])
        return s.b(F.relu(s.a(torch.cat([x, grid], 1))))

    net = Net(forward, a=nn.Conv2d(4, 8, 1), b=nn.Conv2d(8, 2, 1))
    with torch.no_grad():
        net.a.weight[[0, 5], :3] = 0
    return net, image()


@pattern(each=("counter", "memory"), smaller=None)
def constant_that_changes_from_call_to_call(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.a(x))
        if how == "counter":
            s.state += 1
            return s.b(h * s.state)
        before = s.state.clone()
        s.state.mul_(0.5).add_(h.mean(), alpha=0.5)
        return s.b(h + before)

    net = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 2), state=torch.ones(()))
    kill(net.a, (0, 5), 0.5)
    return net, torch.randn(5, 4)


HIDDEN = {
    "width": lambda s, h: h / h.shape[-1],
    "arange": lambda s, h: h * torch.arange(h.shape[-1]),
    "order": lambda s, h: h.view(len(h), 4, -1).transpose(1, 2).flatten(1),
    "slice": lambda s, h: torch.cat([h[:, 4:], h[:, :4]], 1),
}


@pattern(each=HIDDEN, smaller=None)
def difference_behind_a_small_scale(trick: object) -> Made:
    """LayerScale as it is initialised: a wrong branch hardly moves the outputs."""
    net = Net(
        lambda s, x: s.c(x) + s.gamma * s.b(trick(s, F.relu(s.a(x)))),  # type: ignore[operator]
        a=nn.Linear(4, 8),
        b=nn.Linear(8, 3),
        c=nn.Linear(4, 3),
        gamma=nn.Parameter(torch.full((3,), 1e-6)),
    )
    kill(net.a, (1, 2, 4))
    return net, torch.randn(5, 4)


@pattern(each=HIDDEN, smaller=None)
def difference_on_rare_inputs(trick: object) -> Made:
    """Only inputs that no test draws go through the branch."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.a(x))
        return torch.where(x[:, :1] > 50, s.b(trick(s, h)), s.c(x))  # type: ignore[operator]

    net = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 3), c=nn.Linear(4, 3))
    kill(net.a, (1, 2, 4))
    return net, torch.randn(5, 4)


@pattern(each=HIDDEN, smaller=None)
def small_output_beside_a_large_one(trick: object) -> Made:
    net = Net(
        lambda s, x: torch.cat([s.c(x) * 1e6, s.b(trick(s, F.relu(s.a(x))))], 1),  # type: ignore[operator]
        a=nn.Linear(4, 8),
        b=nn.Linear(8, 3),
        c=nn.Linear(4, 3),
    )
    kill(net.a, (1, 2, 4))
    return net, torch.randn(5, 4)


@pattern(smaller=None)
def head_of_zeros_at_the_start() -> Made:
    """Outputs are constant, so that numbers prove nothing about what is before them."""
    net = Net(
        lambda s, x: (s.head(h := s.b(F.relu(s.a(x)) / s.a(x).shape[1])), h.detach() * 1e-7),
        a=nn.Linear(4, 8),
        b=nn.Linear(8, 6),
        head=nn.Linear(6, 3),
    )
    kill(net.a, (1, 2))
    kill(net.head, range(3))
    return net, torch.randn(5, 4)


@pattern(each=("rows", "batch-of-one", "long"), smaller=None)
def branch_on_the_shape(how: str) -> Made:
    """Another batch size or length takes another way, with layers of its own."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.a(x))
        other = {"rows": len(x) > 4, "batch-of-one": len(x) == 1, "long": x.shape[1] > 6}[how]
        return s.c(h) if other else s.b(h)

    net = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 3), c=nn.Linear(8, 3))
    unread(net.b, (0, 5))
    kill(net.a, (1,), 0.3)
    return net, torch.randn(2, 5, 4)


@pattern(smaller=None)
def loop_as_long_as_the_input() -> Made:
    """The trace unrolls it for the length of the example."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 8)
        for step in range(x.shape[1]):
            h = torch.tanh(s.a(x[:, step]) + s.u(h))
        return s.b(h)

    net = Net(forward, a=nn.Linear(4, 8), u=nn.Linear(8, 8), b=nn.Linear(8, 3))
    kill(net.a, (0, 5))
    kill(net.u, (0, 5))
    return net, torch.randn(2, 3, 4)


@pattern(smaller=None)
def last_steps_of_the_input_only() -> Made:
    """What the example's length never reaches: a table that is read further for a longer input."""

    def forward(s: Net, x: Tensor) -> Tensor:
        return s.b(F.relu(s.a(x) + s.table[: x.shape[1]]))

    net = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 3), table=nn.Parameter(torch.randn(9, 8)))
    kill(net.a, (0, 5))
    with torch.no_grad():
        net.table[:5, [0, 5]] = 0
    return net, torch.randn(2, 5, 4)


@pattern(smaller=None)
def rows_of_an_embedding_that_the_example_does_not_use() -> Made:
    """Zero for the tokens of the example, and for no others."""
    net = Net(lambda s, x: s.b(F.gelu(s.embed(x))), embed=nn.Embedding(11, 8), b=nn.Linear(8, 3))
    with torch.no_grad():
        net.embed.weight[:5, [0, 5]] = 0
    return net, torch.tensor([[0, 1, 2], [2, 4, 3]])


@pattern(smaller=None)
def experts_that_the_example_does_not_choose() -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        chosen = (x[:, 0] > 40).long()
        return s.b(F.relu(torch.einsum("bi,bio->bo", x, s.experts[chosen])))

    net = Net(forward, experts=nn.Parameter(torch.randn(2, 4, 8)), b=nn.Linear(8, 3))
    with torch.no_grad():
        net.experts[0, :, [0, 5]] = 0
    return net, torch.randn(5, 4)


@pattern(smaller=None)
def feature_whose_size_another_asks_for() -> Made:
    """The map is dead as a whole, and yet gives the size to which another is stretched."""

    def forward(s: Net, x: Tensor) -> Tensor:
        skip = s.skip(x)
        low = F.max_pool2d(F.relu(s.low(x)), 2)
        return s.head(F.interpolate(low, size=skip.shape[2:]) + skip)

    net = Net(forward, skip=nn.Conv2d(3, 6, 1), low=nn.Conv2d(3, 6, 3, padding=1), head=nn.Conv2d(6, 2, 1))
    kill(net.skip, range(6), 0.3)
    return net, image()


@pattern(smaller=None)
def constant_map_added_to_a_vector() -> Made:
    """The constant has the size of the image, what it is added to does not; then sums over positions."""

    def forward(s: Net, x: Tensor) -> Tensor:
        return s.head((s.a(x).amax((2, 3), keepdim=True) + s.b(x)).sum((2, 3)))

    net = Net(forward, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(3, 6, 1), head=nn.Linear(6, 2))
    kill(net.b, range(6), 0.3)
    return net, image()


@pattern()
def module_called_twice_of_which_once_for_nothing() -> Made:
    net = Net(
        lambda s, x: s.head(s.a(x)) + s.dead(F.relu(s.head(s.a(2 * x)))),
        a=nn.Linear(4, 8),
        head=nn.Linear(8, 3),
        dead=nn.Linear(3, 3),
    )
    kill(net.a, (0, 5))
    kill(net.dead, range(3), 0.4)
    return net, torch.randn(5, 4)


@pattern(smaller=None)
def equalised_learning_rate() -> Made:
    """The weight is scaled by its fan-in whenever it is used."""

    class Equalised(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight * self.weight.shape[1] ** -0.5, self.bias)

    net = Net(lambda s, x: s.b(F.relu(s.a(x))), a=Equalised(4, 8), b=Equalised(8, 3))
    kill(net.a, (0, 5))
    return net, torch.randn(5, 4)


@pattern(each=("mean", "norm", "weight"), smaller=None)
def weights_as_outputs(how: str) -> Made:
    """A penalty that the network returns beside its result."""
    outs = {
        "mean": lambda s: s.a.weight.mean(),
        "norm": lambda s: s.a.weight.square().sum(),
        "weight": lambda s: s.a.weight.clone(),
    }
    net = Net(lambda s, x: (s.b(F.relu(s.a(x))), outs[how](s)), a=nn.Linear(4, 8), b=nn.Linear(8, 3))
    kill(net.a, (0, 5))
    return net, torch.randn(5, 4)


@pattern(smaller=None)
def module_that_remembers_its_activation() -> Made:
    class Remembers(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.last = super().forward(x)
            return self.last

    net = Net(lambda s, x: s.b(F.relu(s.a(x))), a=Remembers(4, 8), b=nn.Linear(8, 3))
    kill(net.a, (0, 5))
    return net, torch.randn(5, 4)


@pattern(smaller=None)
def thresholds_at_zero() -> Made:
    """Zeros of both signs, and steps at exactly zero."""
    net = Net(
        lambda s, x: s.b((s.a(x) >= 0).to(x.dtype)) + s.c(torch.sign(s.a(x))),
        a=nn.Linear(4, 8),
        b=nn.Linear(8, 3),
        c=nn.Linear(8, 3),
    )
    kill(net.a, (0, 5), 0.0)
    with torch.no_grad():
        net.a.weight[0] = -0.0
        net.a.bias[5] = -0.0
    return net, torch.randn(5, 4)


@pattern(smaller=None)
def zeros_that_become_infinite() -> Made:
    """One over zero: infinite, and then clamped."""
    net = Net(lambda s, x: s.b((1 / s.a(x)).clamp(-3, 3)), a=nn.Linear(4, 8), b=nn.Linear(8, 3))
    kill(net.a, (0, 5))
    return net, torch.randn(5, 4)


@pattern(smaller=None)
def zero_times_something_infinite() -> Made:
    """A product with zero is zero only where the other factor is finite."""
    net = Net(
        lambda s, x: s.b(torch.nan_to_num(s.a(x) * (1 / s.c(x).relu()), 0.7, 2.0, -2.0)),
        a=nn.Linear(4, 8),
        b=nn.Linear(8, 3),
        c=nn.Linear(4, 8),
    )
    kill(net.a, (0, 5))
    return net, torch.randn(5, 4)
