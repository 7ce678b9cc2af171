"""Additions, concatenations, products and gates: channels that several layers write or read."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patterns.registry import DEATHS, Made, Net, dead, image, kill, pattern, unread


@pattern(each=("both", "both-unread", "one", "one-unread", "opposite"), kept=("one", "opposite"))
def residual_add(how: str) -> Made:
    net = Net(
        lambda s, x: s.c(F.relu(s.a(x) + s.b(x))), a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(3, 8, 3), c=nn.Conv2d(8, 4, 1)
    )
    if "unread" in how:
        unread(net.c, (0, 3, 4))
    kill(net.a, (0, 3, 4))
    if how == "opposite":
        kill(net.b, (1, 2))
    elif "both" in how:
        kill(net.b, (0, 3, 4), 0.4)
    return net, image()


def residual(shift: float, inplace: bool) -> Net:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = s.relu(s.stem(x))
        out = s.bn(s.b(s.relu(s.a(h))))
        if inplace:
            out += h
        else:
            out = out + h
        return s.head(s.relu(out).mean((2, 3)))

    net = Net(forward, stem=nn.Conv2d(3, 6, 3), a=nn.Conv2d(6, 5, 3, padding=1), b=nn.Conv2d(5, 6, 3, padding=1),
              bn=nn.BatchNorm2d(6), relu=nn.ReLU(inplace), head=nn.Linear(6, 3))  # fmt: skip
    kill(net.bn, range(6), shift)
    return net


@pattern(each={"zero": 0.0, "constant": 0.5})
def dead_residual_branch(shift: float) -> Made:
    return residual(shift, inplace=False), image()


@pattern(each={"zero": 0.0, "constant": 0.5})
def dead_residual_branch_added_in_place(shift: float) -> Made:
    return residual(shift, inplace=True), image()


@pattern(each=("plain", "inplace"))
def part_of_a_residual_branch(how: str) -> Made:
    net = residual(0.3, how == "inplace")
    with torch.no_grad():
        net.bn.weight[:3] = 1.0
    kill(net.a, (0, 2), 0.2)
    kill(net.stem, (1, 4, 5), -0.1)
    return net, image()


@pattern(each={"zero": 0.0, "constant": 0.5})
def dead_first_layer_of_a_residual_branch(bias: float) -> Made:
    """The second layer adds a constant that zero padding does not touch."""
    net = Net(lambda s, x: s.head(s.stem(x) + s.b(F.relu(s.a(s.stem(x))))), stem=nn.Conv2d(3, 6, 3), a=nn.Conv2d(6, 5, 3, padding=1),
              b=nn.Conv2d(5, 6, 1), head=nn.Conv2d(6, 2, 1))  # fmt: skip
    kill(net.a, range(5), bias)
    return net, image()


@pattern(each=("both", "main", "shortcut", "stream"), kept=("main", "shortcut"))
def projection_shortcut(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.stem(x))
        h = F.relu(s.bn(s.a(h)) + s.shortcut_bn(s.shortcut(h)))
        return s.head(h)

    net = Net(forward, stem=nn.Conv2d(3, 6, 3), a=nn.Conv2d(6, 8, 3, 2, 1), bn=nn.BatchNorm2d(8),
              shortcut=nn.Conv2d(6, 8, 1, 2), shortcut_bn=nn.BatchNorm2d(8), head=nn.Conv2d(8, 3, 1))  # fmt: skip
    if how in ("both", "main"):
        kill(net.bn, (0, 3), 0.2)
    if how in ("both", "shortcut"):
        kill(net.shortcut_bn, (0, 3), 0.1)
    if how == "stream":
        kill(net.stem, (1, 5))
    return net, image()


@pattern(each=DEATHS)
def chain_of_residual_blocks(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = s.stem(x)
        for block in s.blocks:
            h = h + block(h)
        return s.head(h)

    net = Net(forward, stem=nn.Linear(4, 8), head=nn.Linear(8, 3),
              blocks=nn.ModuleList(nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 8)) for _ in range(3)))  # fmt: skip
    for block in net.blocks:
        dead(block[0], block[2], (0, 3), how)
    return net, torch.randn(5, 4)


@pattern(each={"parameter": False, "vector": True})
def branch_scaled_by_zero(vector: bool) -> Made:
    """LayerScale, and ReZero with one number."""
    net = Net(lambda s, x: s.head(s.stem(x) + s.gamma * s.b(F.gelu(s.a(s.stem(x))))), stem=nn.Linear(4, 8), a=nn.Linear(8, 6),
              b=nn.Linear(6, 8), head=nn.Linear(8, 3), gamma=nn.Parameter(torch.zeros(8 if vector else 1)))  # fmt: skip
    return net, torch.randn(5, 4)


@pattern(each=("scale", "stream"), kept=("scale",))
def layer_scale(how: str) -> Made:
    net = Net(lambda s, x: s.head(s.stem(x) + s.gamma * s.b(F.gelu(s.a(s.stem(x))))), stem=nn.Linear(4, 8), a=nn.Linear(8, 6),
              b=nn.Linear(6, 8), head=nn.Linear(8, 3), gamma=nn.Parameter(torch.rand(8) + 0.5))  # fmt: skip
    with torch.no_grad():
        net.gamma[:3] = 0
    if how == "stream":
        kill(net.stem, (0, 1))
    return net, torch.randn(5, 4)


@pattern(each=DEATHS)
def dense_concatenation(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        features = [s.stem(x)]
        for layer in s.layers:
            features.append(F.relu(layer(torch.cat(features, 1))))
        return s.head(torch.cat(features, 1))

    net = Net(forward, stem=nn.Conv2d(3, 4, 1), layers=nn.ModuleList(nn.Conv2d(4 + 3 * i, 3, 1) for i in range(3)),
              head=nn.Conv2d(13, 2, 1))  # fmt: skip
    if how == "unread":
        for reader in (net.layers[1], net.layers[2], net.head):
            unread(reader, (2, 4, 6))
    else:
        kill(net.stem, (2,), 0.5 if how == "constant" else 0)
        kill(net.layers[0], (0, 2), 0.5 if how == "constant" else 0)
    return net, image()


@pattern(each=("zero", "constant"))
def concatenation_with_a_dead_branch(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        return s.head(F.relu(torch.cat([s.a(x), s.c(F.relu(s.b(x))), s.d(F.max_pool2d(x, 3, 1, 1))], 1)))

    net = Net(forward, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1), c=nn.Conv2d(4, 5, 3, padding=1), d=nn.Conv2d(3, 3, 1),
              head=nn.Conv2d(12, 2, 1))  # fmt: skip
    dead(net.c, net.head, range(5), how)
    return net, image()


@pattern()
def concatenation_with_itself() -> Made:
    net = Net(
        lambda s, x: s.head(torch.cat([h := s.stem(x), h, F.relu(h)], 1)), stem=nn.Linear(4, 6), head=nn.Linear(18, 3)
    )
    kill(net.stem, (0, 4))
    return net, torch.randn(5, 4)


@pattern()
def concatenation_with_the_input() -> Made:
    net = Net(lambda s, x: s.head(torch.cat([x, s.stem(x)], 1)), stem=nn.Linear(4, 6), head=nn.Linear(10, 3))
    kill(net.stem, (0, 4), 0.3)
    unread(net.head, (1,))
    return net, torch.randn(5, 4)


@pattern(each=("zero", "unread"))
def skip_connection_of_a_unet(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        high = F.relu(s.down(x))
        low = F.relu(s.low(F.max_pool2d(high, 2)))
        return s.head(torch.cat([high, s.up(low)], 1))

    net = Net(forward, down=nn.Conv2d(3, 6, 3, padding=1), low=nn.Conv2d(6, 8, 3, padding=1), up=nn.ConvTranspose2d(8, 5, 2, 2),
              head=nn.Conv2d(11, 2, 3, padding=1))  # fmt: skip
    kill(net.low, (0, 7))
    if how == "unread":
        unread(net.head, (1, 7))
    else:
        kill(net.down, (1, 3))
        kill(net.up, (1, 2))
    return net, image(size=8)


@pattern(each=("zero", "constant"), kept=("constant",))
def product_of_two_features(how: str) -> Made:
    """Zero times anything is zero: the factor goes too."""
    net = Net(lambda s, x: s.c(s.a(x) * s.b(x)), a=nn.Linear(4, 8), b=nn.Linear(4, 8), c=nn.Linear(8, 3))
    dead(net.a, net.c, (0, 3, 4), how)
    return net, torch.randn(5, 4)


@pattern()
def product_of_a_feature_and_a_gate() -> Made:
    net = Net(lambda s, x: s.c(torch.sigmoid(s.a(x)) * s.b(x)), a=nn.Linear(4, 8), b=nn.Linear(4, 8), c=nn.Linear(8, 3))
    kill(net.b, (0, 3, 4))
    kill(net.a, (1,), -0.5)
    return net, torch.randn(5, 4)


POINTWISE = {
    "sub": torch.sub,
    "div": lambda a, b: a / (1 + b * b),
    "maximum": torch.maximum,
    "where": lambda a, b: torch.where(a > 0, a, b),
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=2.0),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "hypot": torch.hypot,
}


@pattern(each=POINTWISE)
def pointwise_of_two(function: object) -> Made:
    net = Net(lambda s, x: s.c(function(s.a(x), s.b(x))), a=nn.Linear(4, 8), b=nn.Linear(4, 8), c=nn.Linear(8, 3))  # type: ignore[operator]
    kill(net.a, (0, 3, 4))
    kill(net.b, (0, 3, 4))
    return net, torch.randn(5, 4)


@pattern(each=("features", "squeezed", "gate-unread", "constant"))
def squeeze_and_excite(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.conv(x))
        gate = torch.sigmoid(s.up(F.relu(s.down(h.mean((2, 3), keepdim=True)))))
        return s.head(h * gate)

    net = Net(forward, conv=nn.Conv2d(3, 8, 3), down=nn.Conv2d(8, 4, 1), up=nn.Conv2d(4, 8, 1), head=nn.Conv2d(8, 3, 1))
    if how == "squeezed":
        kill(net.down, (0, 2), 0.3)
    elif how == "gate-unread":
        unread(net.head, (1, 2, 7))
        unread(net.down, (1, 2, 7))
    else:
        kill(net.conv, (1, 2, 7), 0.3 if how == "constant" else 0)
        if how == "constant":
            kill(net.up, (1, 2, 7), 0.2)
    return net, image()


@pattern(each=("features", "whole-gate"))
def squeeze_and_excite_with_hard_sigmoid(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.hardswish(s.conv(x))
        return s.head(h * F.hardsigmoid(s.up(F.relu(s.down(F.adaptive_avg_pool2d(h, 1))))))

    net = Net(forward, conv=nn.Conv2d(3, 8, 3), down=nn.Conv2d(8, 4, 1), up=nn.Conv2d(4, 8, 1), head=nn.Conv2d(8, 3, 1))
    if how == "features":
        kill(net.conv, (1, 2, 7))
    else:
        kill(net.up, range(8), 0.5)
    return net, image()


@pattern(smaller=None)
def channel_attention_by_a_convolution_over_channels() -> Made:
    """ECA: the channels are positions of a 1-d convolution, so none can go without shifting its neighbours."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.conv(x))
        gate = s.eca(h.mean((2, 3)).unsqueeze(1)).squeeze(1).sigmoid()
        return s.head(h * gate[:, :, None, None])

    net = Net(forward, conv=nn.Conv2d(3, 8, 3), eca=nn.Conv1d(1, 1, 3, padding=1), head=nn.Conv2d(8, 3, 1))
    kill(net.conv, (1, 2, 7))
    return net, image()


@pattern(smaller=None)
def spatial_attention_over_mean_and_max_of_channels() -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.conv(x))
        gate = s.gate(torch.cat([h.mean(1, keepdim=True), h.amax(1, keepdim=True)], 1)).sigmoid()
        return s.head(h * gate)

    net = Net(forward, conv=nn.Conv2d(3, 8, 3), gate=nn.Conv2d(2, 1, 3, padding=1), head=nn.Conv2d(8, 3, 1))
    kill(net.conv, (1, 2, 7))
    return net, image()


@pattern(each=("zero", "unread"))
def gate_of_one_channel(how: str) -> Made:
    net = Net(lambda s, x: s.c(s.a(x) * torch.sigmoid(s.gate(x))), a=nn.Conv2d(3, 8, 3, padding=1), gate=nn.Conv2d(3, 1, 1),
              c=nn.Conv2d(8, 2, 1))  # fmt: skip
    dead(net.a, net.c, (0, 3), how)
    return net, image()


@pattern(each=("both", "value", "gate", "unread"), kept=("gate",))
def glu(how: str) -> Made:
    net = Net(lambda s, x: s.c(F.glu(s.a(x), 1)), a=nn.Conv2d(3, 12, 1), c=nn.Conv2d(6, 2, 1))
    if how == "unread":
        unread(net.c, (0, 3))
    else:
        kill(net.a, {"both": (0, 3, 6, 9), "value": (0, 3), "gate": (6, 9)}[how])
    return net, image()


@pattern(each=("both", "value", "gate", "unread", "crossed"))
def swiglu_in_one_layer(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        gate, value = s.a(x).chunk(2, -1)
        return s.c(F.silu(gate) * value)

    net = Net(forward, a=nn.Linear(4, 12), c=nn.Linear(6, 3))
    if how == "unread":
        unread(net.c, (0, 3))
    else:
        kill(net.a, {"both": (0, 3, 6, 9), "value": (6, 9), "gate": (0, 3), "crossed": (0, 9)}[how])
    return net, torch.randn(2, 5, 4)


@pattern(each=("gate", "value"))
def swiglu_in_two_layers(how: str) -> Made:
    net = Net(lambda s, x: s.c(F.silu(s.gate(x)) * s.value(x)), gate=nn.Linear(4, 6, bias=False), value=nn.Linear(4, 6, bias=False),
              c=nn.Linear(6, 3, bias=False))  # fmt: skip
    kill(getattr(net, how), (0, 3))
    return net, torch.randn(2, 5, 4)


@pattern(each=("first", "second", "both"))
def several_heads(how: str) -> Made:
    net = Net(lambda s, x: (s.first(F.relu(s.stem(x))), s.second(F.relu(s.stem(x)))), stem=nn.Linear(4, 8), first=nn.Linear(8, 3),
              second=nn.Linear(8, 2))  # fmt: skip
    kill(net.stem, (5,))
    if how != "second":
        unread(net.first, (0, 1))
    if how != "first":
        unread(net.second, (0, 1))
    return net, torch.randn(5, 4)


@pattern()
def several_inputs() -> Made:
    net = Net(
        lambda s, x, y: s.head(torch.cat([s.a(x), s.b(y)], 1) * 2),
        a=nn.Linear(4, 6),
        b=nn.Linear(3, 6),
        head=nn.Linear(12, 2),
    )
    kill(net.a, (0, 2))
    kill(net.b, (3,), 0.4)
    return net, (torch.randn(5, 4), torch.randn(5, 3))


@pattern()
def an_input_that_is_not_needed() -> Made:
    net = Net(
        lambda s, x, y: s.head(s.a(x) + s.c(F.relu(s.b(y)))),
        a=nn.Linear(4, 6),
        b=nn.Linear(3, 5),
        c=nn.Linear(5, 6),
        head=nn.Linear(6, 2),
    )
    kill(net.c, range(6), 0.3)
    return net, {"x": torch.randn(5, 4), "y": torch.randn(5, 3)}


@pattern()
def dict_in_and_out() -> Made:
    def forward(s: Net, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
        h = F.relu(s.conv(image)) * scale[:, None, None, None]
        return {"map": s.head(h), "vector": s.fc(h.mean((2, 3)))}

    net = Net(forward, conv=nn.Conv2d(3, 8, 3), head=nn.Conv2d(8, 2, 1), fc=nn.Linear(8, 3))
    kill(net.conv, (0, 6))
    return net, {"image": image(), "scale": torch.rand(2) + 1}


@pattern(smaller=None)
def a_feature_that_is_also_an_output() -> Made:
    net = Net(lambda s, x: (h := F.relu(s.a(x)), s.b(h)), a=nn.Linear(4, 8), b=nn.Linear(8, 3))
    kill(net.a, (0, 6))
    return net, torch.randn(5, 4)


@pattern()
def one_of_two_outputs_is_constant() -> Made:
    net = Net(
        lambda s, x: (s.a2(F.relu(s.a(x))), s.b2(F.relu(s.b(x)))),
        a=nn.Linear(4, 8),
        a2=nn.Linear(8, 3),
        b=nn.Linear(4, 8),
        b2=nn.Linear(8, 2),
    )
    kill(net.a, range(8))
    kill(net.b, (0, 2))
    return net, torch.randn(5, 4)


@pattern(each=("zero", "unread"))
def a_module_called_twice(how: str) -> Made:
    net = Net(
        lambda s, x: s.head(F.relu(s.b(F.relu(s.b(F.relu(s.a(x))))))),
        a=nn.Linear(4, 8),
        b=nn.Linear(8, 8),
        head=nn.Linear(8, 3),
    )
    unread(net.b, (1, 5))
    if how == "zero":
        kill(net.b, (1, 5))
        kill(net.a, (1, 5))
    else:
        unread(net.head, (1, 5))
    return net, torch.randn(5, 4)


@pattern(smaller=None)
def a_module_called_twice_on_different_constants() -> Made:
    net = Net(lambda s, x: s.b(s.a(x)) + s.b(F.relu(s.c(x))), a=nn.Linear(4, 8), b=nn.Linear(8, 3), c=nn.Linear(4, 8))
    kill(net.a, (1, 5), 0.5)
    kill(net.c, (1, 5), -0.5)
    return net, torch.randn(5, 4)


@pattern()
def a_siamese_encoder() -> Made:
    net = Net(
        lambda s, x, y: s.head((s.b(F.relu(s.a(x))) - s.b(F.relu(s.a(y)))).abs()),
        a=nn.Linear(4, 8),
        b=nn.Linear(8, 6),
        head=nn.Linear(6, 1),
    )
    kill(net.a, (1, 5))
    kill(net.b, (0,), 0.3)
    return net, (torch.randn(5, 4), torch.randn(5, 4))


@pattern()
def a_pyramid_of_features() -> Made:
    """Lateral connections and upsampling of a feature pyramid."""

    def forward(s: Net, x: Tensor) -> list[Tensor]:
        fine = F.relu(s.a(x))
        coarse = F.relu(s.b(fine))
        top = s.lateral2(coarse)
        return [s.out(s.lateral1(fine) + F.interpolate(top, scale_factor=2.0)), s.out(top)]

    net = Net(forward, a=nn.Conv2d(3, 6, 3, padding=1), b=nn.Conv2d(6, 8, 3, 2, 1), lateral1=nn.Conv2d(6, 5, 1), lateral2=nn.Conv2d(8, 5, 1),
              out=nn.Conv2d(5, 2, 3, padding=1))  # fmt: skip
    kill(net.a, (1, 5))
    kill(net.lateral1, (0, 3))
    kill(net.lateral2, (0, 3))
    return net, image(size=8)


@pattern(each=("zero", "unread"))
def highway(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = s.stem(x)
        t = torch.sigmoid(s.gate(h))
        return s.head(t * torch.tanh(s.b(h)) + (1 - t) * h)

    net = Net(forward, stem=nn.Linear(4, 8), gate=nn.Linear(8, 8), b=nn.Linear(8, 8), head=nn.Linear(8, 3))
    if how == "zero":
        kill(net.stem, (0, 3))
        kill(net.b, (0, 3))
    else:
        for layer in (net.gate, net.b, net.head):
            unread(layer, (0, 3))
    return net, torch.randn(5, 4)


@pattern(each=("softmax", "sum", "mean", "maximum"))
def choice_between_paths(how: str) -> Made:
    """Selective kernels: paths of equal channels, weighed by each other and added up."""

    def forward(s: Net, x: Tensor) -> Tensor:
        paths = torch.stack([s.a(x), s.b(x)], 1)
        if how == "softmax":
            weights = s.choose(paths.sum(1).mean((2, 3), keepdim=True)).unflatten(1, (2, -1)).softmax(1)
            return s.c((paths * weights).sum(1))
        return s.c({"sum": paths.sum(1), "mean": paths.mean(1), "maximum": paths.amax(1)}[how])

    layers = {"a": nn.Conv2d(3, 8, 1), "b": nn.Conv2d(3, 8, 3, padding=1), "c": nn.Conv2d(8, 2, 1)}
    net = Net(forward, **layers, **({"choose": nn.Conv2d(8, 16, 1)} if how == "softmax" else {}))
    for layer in (net.a, net.b):
        kill(layer, (1, 5, 6))
    return net, image()


@pattern(each=("mean", "softmax"))
def reduction_inside_groups_of_channels(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        groups = s.a(x).unflatten(1, (-1, 2))
        return s.b(groups.mean(2) if how == "mean" else groups.softmax(2)[:, :, 0])

    net = Net(forward, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(4, 2, 1))
    kill(net.a, (2, 3))
    unread(net.b, (1,) if how == "softmax" else ())
    return net, image()
