"""Python around the layers: branches, widths that the code asks for, writes in place, hooks, things export refuses."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from patterns.registry import Made, Net, chain, image, kill, pattern, trained, unread


def perceptron(forward: Any, **more: Any) -> Net:
    net = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 3), **more)
    kill(net.a, (0, 5, 6))
    return net


@pattern(smaller=None)
def branch_that_the_example_does_not_take() -> Made:
    """A module behind a condition on the shape is never seen, and must not be left at the wrong width."""
    net = perceptron(lambda s, x: s.b(F.relu(s.a(x))) if len(x) != 7 else s.c(F.relu(s.a(x))), c=nn.Linear(8, 3))
    return net, torch.randn(2, 4)


@pattern()
def branch_that_only_training_takes() -> Made:
    net = perceptron(lambda s, x: s.b(F.relu(s.a(x))) if not s.training else s.b(F.relu(s.a(x))) + 1)
    return net, torch.randn(2, 4)


@pattern(smaller=None)
def module_that_only_training_uses() -> Made:
    """GoogLeNet's second head: the trace never reaches it."""

    def forward(s: Net, x: Tensor) -> Any:
        h = F.relu(s.a(x))
        return (s.b(h), s.auxiliary(h)) if s.training else s.b(h)

    return perceptron(forward, auxiliary=nn.Linear(8, 3)), torch.randn(2, 4)


@pattern()
def module_that_nothing_uses() -> Made:
    return perceptron(lambda s, x: s.b(F.relu(s.a(x))), spare=nn.Linear(5, 5)), torch.randn(2, 4)


@pattern(
    smaller=None, each=("rsqrt", "division", "arange", "linspace", "assert", "literal-view", "one-hot", "new-ones")
)
def code_that_asks_for_its_width(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.a(x))
        if how == "rsqrt":
            h = h * h.shape[1] ** -0.5
        elif how == "division":
            h = h / h.size(1)
        elif how == "arange":
            h = h * torch.arange(h.shape[1], device=h.device)
        elif how == "linspace":
            h = h + torch.linspace(0, 1, h.shape[1], dtype=h.dtype, device=h.device)
        elif how == "assert":
            assert h.shape[1] == 8, "eight channels"
        elif how == "literal-view":
            h = h.view(-1, 2, 4).flip(1).reshape(-1, 8)
        elif how == "one-hot":
            h = h * F.one_hot(torch.tensor(3), h.shape[1])
        else:
            h = h + x.new_ones(8)
        return s.b(h)

    return perceptron(forward), torch.randn(2, 4)


@pattern()
def code_that_asks_for_its_width_harmlessly() -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.a(x))
        batch, width = h.shape
        return s.b(h.view(batch, 1, width).expand(batch, 2, width).reshape(batch * 2, width))

    return perceptron(forward), torch.randn(2, 4)


@pattern(smaller=None)
def noise_of_a_fixed_seed() -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = s.a(x)
        return s.b(h * torch.randn(h.shape[1], generator=torch.Generator().manual_seed(0), dtype=h.dtype))

    return perceptron(forward), torch.randn(2, 4)


WRITES = {
    "slice-zero": lambda h: h[:, :4].zero_(),
    "slice-set": lambda h: h[:, :4].fill_(0.5),
    "select-add": lambda h: h.select(1, 2).add_(1.0),
    "chunk-add": lambda h: h.chunk(2, 1)[0].add_(h.chunk(2, 1)[1]),
    "alias-mul": lambda h: h.view(-1).mul_(2.0),
    "relu": lambda h: F.relu_(h),
    "transposed": lambda h: h.t()[1].sub_(h.t()[0]),
    "index-put": lambda h: h.index_fill_(1, torch.tensor([1, 2]), 0.3),
    "masked-fill": lambda h: h.masked_fill_(h < 0, -0.1),
}


@pattern(each=WRITES, kept=[name for name in WRITES if name not in ("relu", "alias-mul", "masked-fill")])
def writes_in_place(write: Any) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = s.a(x)
        write(h)
        return s.b(h)

    return perceptron(forward), torch.randn(3, 4)


@pattern()
def write_into_a_feature_that_is_read_before() -> Made:
    """`out += x` must not change what was read from `out` before."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = s.a(x)
        before = h * 2
        h += s.c(x)
        return s.b(F.relu(h) + before)

    net = perceptron(forward, c=nn.Linear(4, 8))
    kill(net.c, (0, 5))
    return net, torch.randn(3, 4)


@pattern(smaller=None)
def write_into_the_input() -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        x.mul_(2)
        return s.b(F.relu(s.a(x)))

    return perceptron(forward), torch.randn(3, 4)


@pattern(smaller=None, each=("if", "item", "loop", "nonzero"))
def control_flow_on_data(how: str) -> Made:
    """`torch.export` refuses it."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.a(x))
        if how == "if":
            return s.b(h) if x.sum() > 0 else s.b(-h)
        if how == "item":
            return s.b(h * float(x.abs().max()))
        if how == "loop":
            while h.norm() > 1:
                h = h / 2
            return s.b(h)
        return s.b(h[x[:, 0] > 0])

    return perceptron(forward), torch.randn(4, 4)


@pattern(smaller=None, each=("function", "straight-through"))
def own_autograd_function(how: str) -> Made:
    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return torch.round(x * 8) / 8 if how == "straight-through" else x.clamp(min=0) * 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient

    return perceptron(lambda s, x: s.b(Rounded.apply(s.a(x)))), torch.randn(3, 4)


@pattern(each=("checkpoint", "no-grad", "detach", "contiguous"))
def wrappers_of_the_forward(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        if how == "checkpoint":
            return s.b(checkpoint(lambda x: F.relu(s.a(x)), x, use_reentrant=False))
        if how == "no-grad":
            with torch.no_grad():
                h = s.a(x)
            return s.b(h)
        h = s.a(x).detach() if how == "detach" else s.a(x).t().contiguous().t()
        return s.b(h)

    return perceptron(forward), torch.randn(3, 4)


@pattern(smaller=None, each=("forward", "pre"))
def hooks(how: str) -> Made:
    """A hook is code that no attribute shows; a copy of the module keeps it."""
    net = perceptron(lambda s, x: s.b(F.relu(s.a(x))))
    if how == "forward":
        net.a.register_forward_hook(lambda module, inputs, output: output + 0.3)
    else:
        net.b.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    return net, torch.randn(3, 4)


@pattern(each=("tuple", "list", "named", "nested", "none"))
def structured_output(how: str) -> Made:
    makers: dict[str, Any] = {
        "tuple": lambda y: (y, y * 2),
        "list": lambda y: [y, y * 2],
        "named": lambda y: {"one": y, "two": y * 2},
        "nested": lambda y: {"a": (y, [y * 2])},
        "none": lambda y: (y, None),
    }
    return perceptron(lambda s, x: makers[how](s.b(F.relu(s.a(x))))), torch.randn(3, 4)


@pattern()
def optional_argument() -> Made:
    def forward(s: Net, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        h = F.relu(s.a(x)) * scale
        return s.b(h if mask is None else h * mask)

    return perceptron(forward), {"x": torch.randn(3, 4), "scale": 2.0}


@pattern()
def boolean_mask() -> Made:
    return perceptron(lambda s, x, mask: s.b(F.relu(s.a(x)) * mask)), (
        torch.randn(3, 4),
        torch.tensor([[True], [False], [True]]),
    )


class OwnLinear(nn.Module):
    """A layer of one's own, with an attribute that states its width and is never asked for."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.out = out
        self.weight = nn.Parameter(torch.randn(features, out))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


@pattern(each=("zero", "unread", "constant"))
def layers_of_ones_own(how: str) -> Made:
    net = chain(OwnLinear(4, 8), nn.ReLU(), OwnLinear(8, 3))
    with torch.no_grad():
        if how == "unread":
            net[2].weight[[0, 5]] = 0
        else:
            net[0].weight[:, [0, 5]] = 0
            net[0].bias[[0, 5]] = 0.4 if how == "constant" else 0
    return net, torch.randn(3, 4)


class Subclass(nn.Linear):
    """A layer that adds something to PyTorch's own."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x)) * 1.5


@pattern()
def subclass_of_a_layer() -> Made:
    net = chain(Subclass(4, 8), Subclass(8, 6), nn.Linear(6, 2))
    kill(net[0], (0, 5), 0.2)
    kill(net[1], (1,), 0.2)
    return net, torch.randn(3, 4)


@pattern()
def module_that_states_its_width_and_checks_it() -> Made:
    """PyTorch's batch norm asks only the number of axes; this one asks for the number of channels it was told."""

    class Checked(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.width = width
            self.hidden = nn.Linear(width, 5)
            self.out = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] != self.width:
                raise ValueError(f"expected {self.width} channels")
            return self.out(F.relu(self.hidden(x)))

    net = chain(nn.Linear(4, 8), nn.ReLU(), Checked(8))
    kill(net[0], (0, 5))
    kill(net[2].hidden, (1, 2))
    return net, torch.randn(3, 4)


@pattern(smaller=None)
def scripted_module() -> Made:
    net = trained(nn.Sequential(nn.Linear(4, 8), nn.ReLU()))
    kill(net[0], (0, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises against scripts; networks that have some are still about
        script = torch.jit.script(net)
    return Net(lambda s, x: s.b(s.script(x)), script=script, b=nn.Linear(8, 3)), torch.randn(3, 4)


@pattern(each=("lazy", "identity", "flatten"))
def modules_without_weights(how: str) -> Made:
    middle = {"lazy": nn.LazyBatchNorm1d(), "identity": nn.Identity(), "flatten": nn.Flatten()}[how]
    net = nn.Sequential(nn.Linear(4, 8), middle, nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        net.eval()(torch.randn(3, 4))
    trained(net)
    kill(net[0], (0, 5))
    return net, torch.randn(3, 4)


@pattern()
def loop_over_scales() -> Made:
    """Atrous pyramid: one input, several dilations, and a pooled branch that is stretched to the image."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.stem(x))
        parts = [branch(h) for branch in s.branches]
        parts.append(F.interpolate(s.pooled(h.mean((2, 3), keepdim=True)), size=h.shape[2:], mode="bilinear"))
        return s.head(F.relu(torch.cat(parts, 1)))

    net = Net(forward, stem=nn.Conv2d(3, 6, 1), branches=nn.ModuleList(nn.Conv2d(6, 4, 3, padding=d, dilation=d) for d in (1, 2)), pooled=nn.Conv2d(6, 4, 1),
              head=nn.Conv2d(12, 2, 1))  # fmt: skip
    kill(net.stem, (0, 3))
    kill(net.branches[1], (1, 2), -0.1)
    kill(net.pooled, (0,), 0.0)
    return net, image()


@pattern()
def detector_head() -> Made:
    """Boxes and classes from one feature map, flattened to a list of candidates."""

    def forward(s: Net, x: Tensor) -> dict[str, Tensor]:
        h = F.silu(s.stem(x))
        boxes = s.boxes(h).permute(0, 2, 3, 1).reshape(len(x), -1, 4)
        return {"boxes": boxes.exp(), "scores": s.scores(h).flatten(2).transpose(1, 2).sigmoid()}

    net = Net(forward, stem=nn.Conv2d(3, 8, 3, padding=1), boxes=nn.Conv2d(8, 8, 1), scores=nn.Conv2d(8, 5, 1))
    kill(net.stem, (0, 3))
    unread(net.boxes, (1,))
    unread(net.scores, (1,))
    return net, image()


@pattern()
def variational_autoencoder() -> Made:
    def forward(s: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = s.encode(F.relu(s.a(x))).chunk(2, 1)
        return s.decode(torch.tanh(s.b(mean))), spread.exp()

    net = Net(forward, a=nn.Linear(4, 8), encode=nn.Linear(8, 6), b=nn.Linear(3, 8), decode=nn.Linear(8, 4))
    kill(net.a, (0, 5), 0.1)
    kill(net.b, (2,), 0.1)
    return net, torch.randn(3, 4)


class Pieces(nn.Module):
    """Lengths of the pieces of a split are kept in an attribute."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 12), nn.Conv1d(3, 3, 1), nn.Linear(6, 2)
        self.sizes = kind([6, 3, 3])
        self.seen, self.pair = (
            torch.ones(3),
            (torch.ones(3), torch.ones(3)),
        )  # no numbers that could be compared with it

    def forward(self, x: Tensor) -> Tensor:
        gate, same, mixed = self.a(x).split(self.sizes, -1)
        mixed = self.b(mixed.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.c(gate.sigmoid() * torch.cat([same, mixed], -1))
        return out


@pattern(each={"tuple": tuple, "list": list})
def split_sizes_in_an_attribute(kind: type) -> Made:
    net = trained(Pieces(kind))
    kill(net.a, (0, 7, 8, 1))
    unread(net.c, (0, 1, 2))
    return net, torch.randn(2, 5, 4)


@pattern()
def value_without_elements() -> Made:
    net = Net(lambda s, x: s.b(torch.cat([s.a(x[:, :0]), s.a(x)], 1)), a=nn.Linear(4, 8), b=nn.Linear(8, 3))
    kill(net.a, (0, 5))
    return net, torch.randn(2, 5, 4)


class Cascade(nn.Module):
    """Pieces of one length, which an attribute holds, and layers between them of other widths that were equal."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 4
        self.a, self.c = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 2, 1)
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        pieces = self.a(x).split(self.width, 1)
        made = [torch.relu(layer(piece)) for layer, piece in zip(self.layers, pieces, strict=False)]
        out: Tensor = self.c(torch.cat([*made, pieces[-1]], 1))
        return out


@pattern()
def split_by_a_number_in_an_attribute() -> Made:
    net = trained(Cascade())
    kill(net.a, (0, 5, 9))
    kill(net.layers[0], (1, 2))
    return net, image()
