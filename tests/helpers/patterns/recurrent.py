"""Recurrent layers and embeddings."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patterns.registry import DEATHS, Made, Net, kill, pattern, trained, unread

CELLS = {"LSTM": (nn.LSTM, 4), "GRU": (nn.GRU, 3), "RNN": (nn.RNN, 1)}


def silence(cell: nn.RNNBase, hidden: tuple[int, ...], layer: str = "l0") -> None:
    """Everything that writes these hidden units at zero, in every gate: they stay at their initial zero."""
    gates = cell.weight_ih_l0.shape[0] // cell.hidden_size
    rows = [gate * cell.hidden_size + unit for gate in range(gates) for unit in hidden]
    with torch.no_grad():
        for name, tensor in cell.named_parameters():
            if name.endswith(layer):
                tensor[rows] = 0


@pattern(each={f"{name}-{how}": (name, how) for name in CELLS for how in ("input", "hidden", "unread", "after")})
def recurrent(name: str, how: str) -> Made:
    kind, _ = CELLS[name]
    net = Net(
        lambda s, x: s.head(s.cell(s.embed(x))[0]),
        embed=nn.Linear(4, 6),
        cell=kind(6, 8, batch_first=True),
        head=nn.Linear(8, 3),
    )
    if how == "input":
        kill(net.embed, (0, 3))
    elif how == "after":
        with torch.no_grad():
            net.cell.weight_ih_l0[:, [0, 3]] = 0
    else:
        silence(net.cell, (1, 5)) if how == "hidden" else unread(net.head, (1, 5))
        with torch.no_grad():
            net.cell.weight_hh_l0[:, [1, 5]] = 0
    return net, torch.randn(2, 5, 4)


@pattern(each=("layers", "bidirectional", "last-state"))
def lstm(how: str) -> Made:
    both = how == "bidirectional"
    cell = nn.LSTM(4, 6, num_layers=2 if how == "layers" else 1, bidirectional=both, batch_first=True)
    net = Net(
        lambda s, x: s.head(out[1][0][-1] if how == "last-state" else out[0][:, -1]) if (out := s.cell(x)) else None,
        cell=cell,
        head=nn.Linear(12 if both else 6, 3),
    )
    silence(cell, (0, 4))
    return net, torch.randn(2, 5, 4)


WAYS = (
    "equal",
    "unequal",
    "unread",
    "states",
    "states-unequal",
    "returned",
    "given",
    "given-ones",
    "unbatched",
    "subclass",
)


@pattern(
    each={f"{name}-{how}": (name, how) for name in CELLS for how in WAYS},
    kept=[f"{name}-{how}" for name in CELLS for how in ("states-unequal", "returned", "given-ones", "subclass")],
)
def layers_in_both_directions(name: str, how: str) -> Made:
    """All cells of a module have one width: where their states are met, only equally many units can go."""
    kind, _ = CELLS[name]
    kind = type(f"My{name}", (kind,), {}) if how == "subclass" else kind

    def forward(s: Net, x: Tensor) -> Any:
        start = None
        if how.startswith("given"):
            make = torch.ones if how == "given-ones" else torch.zeros
            start = make(4, len(x), s.cell.hidden_size, dtype=x.dtype, device=x.device)
            start = (start, start) if name == "LSTM" else start
        out, last = s.cell(s.embed(x), start)
        last = last[0] if isinstance(last, tuple) else last
        result = s.head(out[..., -1, :])
        if how == "returned":
            return result, last
        return result + s.state(last[-1]) if how.startswith("states") else result

    net = Net(
        forward,
        embed=nn.Linear(4, 5),
        cell=kind(5, 6, num_layers=2, bidirectional=True, batch_first=True, dropout=0.1),
        head=nn.Linear(12, 3),
        state=nn.Linear(6, 3) if how.startswith("states") else None,
    )
    deaths = {"l0": (0, 4), "l0_reverse": (1, 2), "l1": (3, 4), "l1_reverse": (0, 5)}
    if how in ("unequal", "states-unequal", "subclass"):
        deaths = {"l0": (0, 4, 5), "l1_reverse": (1,)}
    if how == "unread":
        with torch.no_grad():
            unread(net.head, (1, 2, 7, 11))
            net.cell.weight_hh_l1[:, [1, 2]] = 0
            net.cell.weight_hh_l1_reverse[:, [1, 5]] = 0
    else:
        for end, units in deaths.items():
            silence(net.cell, units, end)
    return net, torch.randn(6, 4) if how == "unbatched" else torch.randn(2, 5, 4)


@pattern(each=("learned", "learned-nonzero", "handed-on"), kept=("learned-nonzero",))
def initial_state(how: str) -> Made:
    """A start that is learned, or that another recurrent layer ends with."""

    def forward(s: Net, x: Tensor) -> Tensor:
        start = s.encoder(x)[1] if how == "handed-on" else s.start.expand(1, len(x), -1).contiguous()
        return s.head(s.cell(x, start)[0])

    net = Net(
        forward,
        encoder=nn.GRU(4, 6, batch_first=True),
        cell=nn.GRU(4, 6, batch_first=True),
        start=nn.Parameter(torch.randn(1, 1, 6)),
        head=nn.Linear(6, 3),
    )
    if how == "handed-on":
        del net.start
    else:
        del net.encoder
    silence(net.cell, (0, 4))
    if how == "handed-on":
        silence(net.encoder, (0, 4))
    elif how == "learned":
        with torch.no_grad():
            net.start[..., [0, 4]] = 0
    return net, torch.randn(2, 5, 4)


@pattern()
def lstm_over_convolution() -> Made:
    net = Net(
        lambda s, x: s.head(s.cell(F.relu(s.conv(x)).transpose(1, 2))[0].mean(1)),
        conv=nn.Conv1d(3, 8, 3),
        cell=nn.LSTM(8, 6, batch_first=True),
        head=nn.Linear(6, 2),
    )
    kill(net.conv, (0, 5))
    kill(net.head, (1,))
    return net, torch.randn(2, 3, 9)


@pattern(each=("hidden", "input", "hidden-literal", "hidden-default", "unread"), kept=("hidden-literal",))
def cell_in_a_loop(how: str) -> Made:
    """The first state as wide as the cell says, or as the code says, which then cannot follow the cut."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = None if how == "hidden-default" else x.new_zeros(len(x), 6 if "literal" in how else s.cell.hidden_size)
        for step in range(3):
            h = s.cell(s.embed(x[:, step]), h)
        return s.head(h)

    net = Net(forward, embed=nn.Linear(4, 5), cell=nn.GRUCell(5, 6), head=nn.Linear(6, 2))
    if how == "input":
        kill(net.embed, (0, 3))
    elif how == "unread":
        unread(net.head, (1, 2))
        with torch.no_grad():
            net.cell.weight_hh[:, [1, 2]] = 0
    else:
        with torch.no_grad():
            for tensor in net.cell.parameters():
                tensor[[0, 6, 12]] = 0
    return net, torch.randn(2, 3, 4)


def silence_cell(cell: nn.RNNCellBase, hidden: tuple[int, ...]) -> None:
    """As `silence`, for one cell."""
    rows = [row for row in range(len(cell.weight_ih)) if row % cell.hidden_size in hidden]
    with torch.no_grad():
        for tensor in cell.parameters():
            tensor[rows] = 0


@pattern(each=("lstm", "lstm-ones", "rnn", "rnn-relu", "read"), kept=("lstm-ones",))
def cells_in_turns(how: str) -> Made:
    """Two cells, one behind the other; units whose state starts at one do not stay at zero."""

    def forward(s: Net, x: Tensor) -> Any:
        start = torch.ones if "ones" in how else torch.zeros
        h, c = (start(len(x), s.first.hidden_size, dtype=x.dtype, device=x.device) for _ in range(2))
        second = None
        for step in range(3):
            if isinstance(s.first, nn.LSTMCell):
                h, c = s.first(x[:, step], (h, c))
            else:
                h = s.first(x[:, step], h)
            second = s.second(h, second)
        return s.head(second) + s.gate(c if how == "read" else second)

    first = (
        nn.LSTMCell(4, 6) if "rnn" not in how else nn.RNNCell(4, 6, nonlinearity="relu" if "relu" in how else "tanh")
    )
    net = Net(
        forward,
        first=first,
        second=nn.GRUCell(6, 5),
        head=nn.Linear(5, 2),
        gate=nn.Linear(6 if how == "read" else 5, 2),
    )
    silence_cell(net.first, (0, 4))
    if how != "lstm-ones":
        silence_cell(net.second, (1,))
    return net, torch.randn(2, 3, 4)


@pattern()
def recurrence_by_hand() -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = torch.tanh(s.a(x[:, 0]))
        for step in range(1, 3):
            h = torch.tanh(s.a(x[:, step]) + s.u(h))
        return s.head(h)

    net = Net(forward, a=nn.Linear(4, 8), u=nn.Linear(8, 8), head=nn.Linear(8, 2))
    kill(net.a, (0, 5))
    kill(net.u, (0, 5))
    return net, torch.randn(2, 3, 4)


def tokens(vocabulary: int = 11, length: int = 5) -> Tensor:
    return torch.cat([torch.randint(0, vocabulary, (2, length)), torch.tensor([[0], [vocabulary - 1]])], 1)


@pattern(each=DEATHS)
def embedding(how: str) -> Made:
    net = Net(lambda s, x: s.b(F.gelu(s.embed(x))), embed=nn.Embedding(11, 8), b=nn.Linear(8, 3))
    with torch.no_grad():
        if how == "unread":
            unread(net.b, (0, 5))
        else:
            net.embed.weight[:, [0, 5]] = 0.4 if how == "constant" else 0
    return net, tokens()


@pattern(each=("both", "padding"))
def sum_of_embeddings(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        return s.b(s.embed(x) + s.position(torch.arange(x.shape[1], device=x.device)))

    net = Net(
        forward,
        embed=nn.Embedding(11, 8, padding_idx=0 if how == "padding" else None),
        position=nn.Embedding(6, 8),
        b=nn.Linear(8, 3),
    )
    with torch.no_grad():
        net.embed.weight[:, [0, 5]] = 0
        net.position.weight[:, [0, 5]] = 0
    return net, tokens()


@pattern(each=("zero", "unread"))
def embedding_tied_with_the_head(how: str) -> Made:
    embed, head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
    head.weight = embed.weight
    net = Net(
        lambda s, x: s.head(s.embed(x) + s.b(torch.tanh(s.a(s.embed(x))))),
        embed=embed,
        a=nn.Linear(8, 6),
        b=nn.Linear(6, 8),
        head=head,
    )
    with torch.no_grad():
        embed.weight[:, [0, 5]] = 0
    kill(net.b, (0, 5), 0.3)
    if how == "unread":
        kill(net.a, (1,), 0.3)
    return net, tokens()


@pattern(each=("sum", "mean", "max", "weighted", "unread", "constant", "mean-constant"))
def bag_of_embeddings(how: str) -> Made:
    """Rows of a table are added up; a constant column adds up to the length of the bag."""
    mode = how.removesuffix("-constant") if how in ("mean", "max", "mean-constant") else "sum"

    def forward(s: Net, x: Tensor) -> Tensor:
        weights = x.to(s.b.weight.dtype) / 7 if how == "weighted" else None
        return s.b(s.embed(x, per_sample_weights=weights))

    net = Net(forward, embed=nn.EmbeddingBag(11, 8, mode=mode), b=nn.Linear(8, 3))
    with torch.no_grad():
        if how == "unread":
            unread(net.b, (0, 5))
        else:
            net.embed.weight[:, [0, 5]] = 0
            if "constant" in how:
                net.embed.weight[:, 5] = 0.3
    return net, tokens()


@pattern()
def embedding_by_one_hot() -> Made:
    net = Net(
        lambda s, x: s.b(torch.relu(s.a(F.one_hot(x, 11).to(s.a.weight.dtype)))), a=nn.Linear(11, 8), b=nn.Linear(8, 3)
    )
    kill(net.a, (0, 5))
    return net, tokens()


@pattern()
def categorical_and_numerical_inputs() -> Made:
    def forward(s: Net, **inputs: Any) -> Tensor:
        return s.b(F.relu(s.a(torch.cat([s.embed(inputs["kind"]), inputs["number"]], 1))))

    net = Net(forward, embed=nn.Embedding(7, 4), a=nn.Linear(7, 8), b=nn.Linear(8, 2))
    with torch.no_grad():
        net.embed.weight[:, 1] = 0
    kill(net.a, (0, 6), 0.2)
    return net, {"kind": torch.tensor([0, 6, 3]), "number": torch.randn(3, 3)}


class Selective(nn.Module):
    """A state-space layer: each inner channel has states of its own, all share what writes and reads them."""

    def __init__(self, width: int, inner: int, states: int, rank: int) -> None:
        super().__init__()
        self.states, self.rank = states, rank
        self.into, self.out = nn.Linear(width, 2 * inner), nn.Linear(inner, width)
        self.conv = nn.Conv1d(inner, inner, 3, padding=2, groups=inner)
        self.mixed, self.step = nn.Linear(inner, rank + 2 * states, bias=False), nn.Linear(rank, inner)
        self.decay, self.skip = nn.Parameter(torch.rand(inner, states)), nn.Parameter(torch.rand(inner))

    def forward(self, x: Tensor) -> Tensor:
        u, z = self.into(x).chunk(2, -1)
        u = torch.nn.functional.silu(self.conv(u.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
        step, b, c = self.mixed(u).split([self.rank, self.states, self.states], -1)
        step = torch.nn.functional.softplus(self.step(step))
        decay = torch.exp(-step[..., None] * self.decay.exp())
        written = step[..., None] * b[:, :, None] * u[..., None]
        state, seen = torch.zeros_like(written[:, 0]), []
        for t in range(x.shape[1]):
            state = decay[:, t] * state + written[:, t]
            seen.append((state * c[:, t, None]).sum(-1))
        y = torch.stack(seen, 1) + u * self.skip
        out: Tensor = self.out(y * torch.nn.functional.silu(z))
        return out


@pattern(each=("inner", "states"), kept=("states",))
def selective_state_space(how: str) -> Made:
    net = trained(Selective(4, 8, 3, 2))
    if how == "inner":
        kill(net.into, (1, 4, 9, 12))
        kill(net.conv, (1, 4))
    else:
        with torch.no_grad():
            net.mixed.weight[[3, 6]] = 0
    return net, torch.randn(2, 3, 4)


@pattern(each={"zeros": torch.zeros_like, "ones": torch.ones_like, "full": lambda h: torch.full_like(h, 0.5)})
def state_made_in_the_shape_of_a_feature(start: Callable[[Tensor], Tensor]) -> Made:
    """The state is as wide as the feature, and what is added to it as wide as the state."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = torch.relu(s.a(x))
        z = start(h)
        for _ in range(2):
            z = z * h + s.b(torch.cat([h, z], 1))
        return s.c(z)

    net = Net(forward, a=nn.Linear(5, 8), b=nn.Linear(16, 8), c=nn.Linear(8, 3))
    kill(net.a, (0, 1, 5))
    kill(net.b, (0, 1, 5))
    unread(net.b, (8, 9, 13))
    return net, torch.randn(4, 5)


@pattern(each=("state first", "state last"))
def state_that_is_read_by_positions(order: str) -> Made:
    """A selective scan: each channel has a state of four numbers, read with weights that the input computes."""

    def forward(s: Net, x: Tensor) -> Tensor:
        state = F.relu(s.a(x))[..., None] * s.write(x)[..., None, :]
        state, read = state.cumsum(1), s.read(x)
        y = state @ read[..., None] if order == "state first" else (read[..., None, :] @ state.mT).mT
        return s.b(y[..., 0])

    net = Net(forward, a=nn.Linear(5, 8), write=nn.Linear(5, 4), read=nn.Linear(5, 4), b=nn.Linear(8, 3))
    kill(net.a, (0, 1, 5))
    return net, torch.randn(2, 6, 5)
