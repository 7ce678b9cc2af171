"""Programs are run node by node: what each computes, what is kept meanwhile, and what is said when it fails."""

import weakref

import pytest
import torch
from torch import Tensor, fx, nn

from ssl_prune.errors import GraphError
from ssl_prune.graph.export.interpreter import Execution, Interpretation
from ssl_prune.graph.export.program import Program, export
from ssl_prune.graph.rules import has_rule
from ssl_prune.utils.tensors import named_tensors


class Written(nn.Module):
    """A buffer that is written, a literal, a view of what is laid out otherwise, and two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        h = self.linear(x) * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) * scale
        self.mean.mul_(0.9).add_(h.mean(0))
        return (h - self.mean).t().reshape(-1, 3), h


def chain(length: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(length)))


def execution(net: nn.Module, inputs: object) -> Execution:
    return Execution(export(net, inputs, has_rule), named_tensors(net), inputs)


def test_it_computes_what_the_network_does_and_writes_into_nothing():
    net, inputs = Written().eval(), (torch.randn(3, 4), 0.5)
    with torch.no_grad():
        got = execution(net, inputs).run()
        assert not net.mean.any()
        expected = net(*inputs)
    for wanted, value in zip(expected, got[-2:], strict=True):
        torch.testing.assert_close(value, wanted)


def test_a_view_of_what_is_laid_out_otherwise_is_a_copy():
    net = nn.Flatten()
    program = export(net, torch.randn(2, 3, 4), lambda node: False)
    x = torch.randn(2, 4, 3).mT
    assert torch.equal(Execution(program, {}, x).run()[0], x.reshape(2, -1))


@pytest.mark.parametrize("walk", ["run", "steps"])
def test_a_value_is_dropped_after_its_last_use(walk: str):
    made: list[weakref.ref[Tensor]] = []
    most = 0

    class Watched(Execution):
        def call_function(self, target, args, kwargs):
            nonlocal most
            value = super().call_function(target, args, kwargs)
            made.append(weakref.ref(value))
            most = max(most, sum(ref() is not None for ref in made))
            return value

    net, x = chain(20), torch.randn(2, 4)
    watched = Watched(export(net, x, has_rule), named_tensors(net), x)
    with torch.no_grad():
        if walk == "run":
            watched.run()
        else:
            for node in watched.graph.nodes:
                watched.step(node)
    assert len(made) == 20
    assert most == 2  # what is read and what is written


def test_steps_give_what_a_run_gives():
    net, x = chain(3), torch.randn(2, 4)
    whole, parts = execution(net, x), execution(net, x)
    *_, last = [parts.step(node) for node in parts.graph.nodes]
    assert torch.equal(last[0], whole.run()[0])
    assert torch.equal(last[0], net(x))


def test_an_error_is_raised_as_it_is():
    class Fails(Interpretation):
        def placeholder(self, target, args, kwargs):
            raise GraphError(f"{self.node.name} is none of ours")

    with pytest.raises(GraphError) as caught:
        Fails(export(chain(1), torch.randn(2, 4), has_rule)).run()
    assert str(caught.value).endswith("is none of ours")  # nothing is added to the text


def test_a_node_of_another_kind_is_refused():
    graph = fx.Graph()
    graph.output(graph.get_attr("weight"))
    with pytest.raises(GraphError, match=r"a get_attr node .* has no rule here"):
        Execution(Program(graph, {}, {}, (), frozenset()), {}, ()).run()
