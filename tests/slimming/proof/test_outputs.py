"""What the proof runs: the example, fresh inputs, other sizes, and the same in few runs of a large network."""

import copy

import pytest
import torch
from torch import nn

from ssl_prune.errors import SlimError
from ssl_prune.slimming.proof.differences import finite_error, relative_error
from ssl_prune.slimming.proof.outputs import Expected, fresh_inputs, verify


class Fixed(nn.Module):
    """Takes one size, and with `batch` one size of batch."""

    def __init__(self, net, shape, batch=None):
        super().__init__()
        self.net, self.shape, self.batch = net, shape, batch

    def forward(self, x):
        if x.shape[1:] != self.shape or self.batch not in (None, len(x)):
            raise ValueError(f"got {x.shape}")
        return self.net(x)


class Otherwise(nn.Module):
    """The network, but wrong wherever `where` says so."""

    def __init__(self, net, where):
        super().__init__()
        self.net, self.where = net, where

    def forward(self, x):
        return self.net(x) + (1.0 if self.where(x) else 0.0)


def images():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).eval()


X = torch.randn(1, 3, 48, 48)


def test_a_small_network_is_run_on_everything():
    trials = [(what, tuple(x.shape)) for what, x, _ in Expected(images(), X)]
    assert trials == [
        ("the example", (1, 3, 48, 48)),
        *((f"fresh input {seed}", (1, 3, 48, 48)) for seed in range(3)),
        ("twice the batch", (2, 3, 48, 48)),
        ("another image size", (1, 3, 64, 64)),
    ]


def test_a_large_network_is_run_on_two_smaller_images_in_one_batch():
    trials = [(what, tuple(x.shape)) for what, x, _ in Expected(images(), X, slow=True)]
    assert trials == [("the example", (1, 3, 48, 48)), ("a batch of another image size", (2, 3, 32, 32))]


def test_a_large_network_of_one_size_is_run_on_the_example_and_a_fresh_input_in_one_batch():
    ((what, x, outputs),) = Expected(Fixed(images(), X.shape[1:]), X, slow=True)
    assert what == "the example and a fresh input in one batch"
    assert torch.equal(x[:1], X)
    assert not torch.equal(x[1:], X)
    torch.testing.assert_close(outputs[0][:1], images()(X))


def test_a_large_network_of_one_batch_is_run_on_each():
    trials = [what for what, _, _ in Expected(Fixed(images(), X.shape[1:], batch=1), X, slow=True)]
    assert trials == ["the example", "fresh input 0"]


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("net", [images(), Fixed(images(), X.shape[1:]), Fixed(images(), X.shape[1:], 1)])
@pytest.mark.parametrize(
    "where",
    [
        lambda x: any(torch.equal(row, X[0]) for row in x),
        lambda x: not all(torch.equal(row, X[0]) for row in x),
    ],
    ids=["on the example", "beside it"],
)
def test_a_difference_is_found(net, where, slow):
    assert verify(net, net, X, 1e-4, Expected(net, X, slow)).holds
    assert not verify(net, Otherwise(net, where), X, 1e-4, Expected(net, X, slow)).holds


@pytest.mark.parametrize("slow", [False, True])
def test_a_difference_at_another_batch_size_is_found(slow):
    wrong = Otherwise(images(), lambda x: len(x) > 1)
    assert not verify(images(), wrong, X, 1e-4, Expected(images(), X, slow)).holds


@pytest.mark.parametrize("slow", [False, True])
def test_a_difference_at_another_size_is_found(slow):
    wrong = Otherwise(images(), lambda x: x.shape[-1] != 48)
    assert not verify(images(), wrong, X, 1e-4, Expected(images(), X, slow)).holds


@pytest.mark.parametrize("slow", [False, True])
def test_a_size_at_which_the_network_has_no_finite_outputs_is_left_out(slow):
    class Scaled(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) / (0.0 if x.shape[-1] != 48 else 1.0)

    assert all(x.shape[-1] == 48 for _, x, _ in Expected(Scaled(), X, slow))


@pytest.mark.parametrize("slow", [False, True])
def test_outputs_that_are_not_finite_are_refused(slow):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, 2))
    with torch.no_grad():
        net[1].weight[0, 0] = torch.nan
    with pytest.raises(SlimError, match="not finite"):
        verify(net, net, X, 1e-4, Expected(net, X, slow))


SWITCHES = [
    (torch.backends.cudnn.conv, "tf32"),
    (torch.backends.cudnn.conv, "none"),
    (torch.backends.cuda.matmul, "tf32"),
    (torch.backends.mkldnn.conv, "bf16"),
    (torch.backends.mkldnn.matmul, "bf16"),
    (torch.backends, "tf32"),
]


@pytest.mark.parametrize(("switch", "precision"), SWITCHES)
def test_a_proof_asks_for_full_float32_and_puts_back_what_was_set(switch, precision):
    places = [getattr(getattr(torch.backends, b), o) for b in ("cudnn", "mkldnn") for o in ("conv", "rnn")]
    places += [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, torch.backends]

    def state():
        return [place.fp32_precision for place in places]

    before, seen = state(), []
    net = nn.Sequential(nn.Conv2d(1, 2, 1))
    net[0].register_forward_pre_hook(lambda m, args: seen.extend(state()[:-1]))
    try:
        switch.fp32_precision = precision
        now = state()
        assert verify(net, net, torch.randn(1, 1, 4, 4), 1e-4).holds
        assert set(seen) <= {"ieee", "none"}
        assert state() == now
    finally:
        for place, was in zip(places[::-1], before[::-1], strict=True):
            place.fp32_precision = was
    assert state() == before


precisions: set[str] = set()  # of no network, which is left as it was


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_products_that_training_may_shorten_are_whole_in_a_proof(precision):
    was = torch.get_float32_matmul_precision()
    net = nn.Sequential(nn.Linear(2, 2))

    def look(module, args):
        globals()["precisions"] = {*precisions, torch.get_float32_matmul_precision()}

    net[0].register_forward_pre_hook(look)
    precisions.clear()
    torch.set_float32_matmul_precision(precision)
    try:
        assert verify(net, net, torch.randn(1, 2), 1e-4).holds
        assert precisions == {"highest"}
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(was)


@pytest.mark.parametrize(("share", "holds"), [(0.9, True), (1.1, False), (5.0, False)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_tolerance_is_the_largest_error_relative_to_the_outputs(share, holds, scale):
    net = nn.Linear(3, 2).double()
    other = copy.deepcopy(net)
    with torch.no_grad():
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            p.mul_(scale)
            q.copy_(p * (1 + share * 1e-3))
    proof = verify(net, other, torch.randn(2, 3).double(), 1e-3)
    assert proof.holds == holds
    assert proof.max_error == pytest.approx(share * 1e-3, rel=1e-6)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_infinitely_wrong(wrong):
    net = nn.Linear(3, 2)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.bias[1] = wrong
    x = torch.randn(2, 3)
    assert relative_error(net(x), other(x)) == float("inf")
    assert not verify(net, other, x, 1e9).holds


COMPLEX = torch.tensor([1 + 1j, 2 - 1j])


def test_an_imaginary_part_counts():
    assert relative_error(COMPLEX, COMPLEX) == 0
    assert relative_error(COMPLEX, COMPLEX + 1j) == pytest.approx(1 / 5**0.5)

    class Turned(nn.Module):
        def forward(self, x):
            return x + 1j

    assert not verify(nn.Identity(), Turned(), COMPLEX, 0.1).holds


def test_an_imaginary_part_that_is_not_finite_is_refused():
    x = COMPLEX * torch.tensor(complex(1, torch.inf))
    with pytest.raises(SlimError, match="not finite"):
        verify(nn.Identity(), nn.Identity(), x, 1e-4)


def test_an_error_without_a_text_is_no_proof():
    class Bare(nn.Module):
        def forward(self, x):
            raise AssertionError

    assert "raises AssertionError" in verify(nn.Identity(), Bare(), torch.ones(1, 2), 1e-4).failure


def test_fresh_inputs_leave_what_is_not_finite_where_it_is():
    x = torch.tensor([[0.0, -torch.inf, torch.nan], [torch.inf, 3.0, 4.0]])
    fresh = fresh_inputs(x, 0)
    finite = x.isfinite()
    assert torch.equal(fresh.isfinite(), finite)
    torch.testing.assert_close(fresh[~finite], x[~finite], equal_nan=True)
    assert not bool((fresh == x)[finite].any())
    nothing = torch.full((3,), -torch.inf)
    assert torch.equal(fresh_inputs(nothing, 0), nothing)


def test_fresh_complex_inputs_are_drawn_in_both_parts():
    x = torch.complex(torch.randn(2000), 100 + 10 * torch.randn(2000))
    fresh = fresh_inputs(x, 0)
    assert fresh.dtype == x.dtype
    for part, like in ((fresh.real, x.real), (fresh.imag, x.imag)):
        assert part.std().item() == pytest.approx(like.std().item(), rel=0.1)
        assert part.mean().item() == pytest.approx(like.mean().item(), abs=1)
        assert not bool((part == like).any())


@pytest.mark.parametrize("wrong", [5.0, -torch.inf, torch.nan])
def test_what_is_infinite_in_both_does_not_differ(wrong):
    x, y = torch.tensor([1.0, torch.inf, torch.nan]), torch.tensor([1.0, wrong, torch.nan])
    assert finite_error(x, x) == 0
    assert finite_error(x, y) == finite_error(y, x) == torch.inf


class Boxes(nn.Module):
    """Widths of boxes, which have a place in a table only where the right side is right of the left one."""

    def __init__(self, most=10):
        super().__init__()
        self.table, self.fc, self.most = nn.Embedding(8, 4), nn.Linear(4, 2), most

    def forward(self, boxes, x):
        if float(x.abs().max()) > self.most:
            raise ValueError("out of its domain")
        return self.fc(self.table(boxes[:, 1] - boxes[:, 0]) + x)


@pytest.mark.parametrize("slow", [False, True])
def test_integers_that_depend_on_each_other_stay_where_others_are_refused(slow):
    net = Boxes().eval()
    inputs = torch.tensor([[0, 7], [6, 7], [0, 1]]), torch.randn(3, 4)
    trials = list(Expected(net, inputs, slow))
    fresh = [given for what, given, _ in trials if what.startswith("fresh")]
    assert fresh
    for boxes, x in fresh:
        assert torch.equal(boxes, inputs[0])
        assert not torch.equal(x, inputs[1])
    other = copy.deepcopy(net)
    assert verify(net, other, inputs, 1e-6, Expected(net, inputs, slow)).holds
    with torch.no_grad():
        other.fc.bias += 1
    assert not verify(net, other, inputs, 1e-6, Expected(net, inputs, slow)).holds


def test_a_network_that_takes_the_example_alone_is_refused():
    inputs, net = (torch.tensor([[0, 7]]), torch.zeros(1, 4)), Boxes(most=0).eval()
    with pytest.raises(SlimError, match=r"Boxes: the network does not take other inputs .*out of its domain"):
        verify(net, net, inputs, 1e-6)
