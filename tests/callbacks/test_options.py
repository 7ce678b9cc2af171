"""Every option of every callback acts, or is refused by name: none is lost, in no company of other callbacks."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ssl_prune import callbacks, cost
from ssl_prune._lightning import pl
from ssl_prune.callbacks import L1, Budget, Distill, GroupLasso, Penalise, Shrink, Slim, SparsityMonitor
from ssl_prune.penalties import GroupLasso as GroupLassoPenalty
from ssl_prune.penalties import GroupMCP
from ssl_prune.schedules import Linear
from ssl_prune.scores import Magnitude


class Net(nn.Module):
    """With `prepared`: an input that nothing reads, and units that are zero, nearly zero, and constants that cancel."""

    def __init__(self, prepared=False):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU())
        self.head = nn.Linear(6, 3)
        if prepared:
            with torch.no_grad():
                first, second = self.body[0], self.body[2]
                first.weight[:, 3] = 0
                first.weight[:3], first.bias[:3] = 0, 0
                second.weight[[0, 5]], second.bias[[0, 5]] = 0.0, 0.3
                self.head.weight[:, [0, 5]] = torch.tensor([200.0, -200.0])
                first.weight[3] *= 1e-3
                first.bias[3] = 1e-3

    def forward(self, x):
        return self.head(self.body(x))


class Lit(pl.LightningModule):
    def __init__(self, prepared=False):
        super().__init__()
        self.net, self.rate = Net(prepared), 0.0 if prepared else 0.02
        self.example_input_array = torch.randn(1, 4, generator=torch.Generator().manual_seed(3))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9)


def loader():
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(40, 4, generator=generator), torch.randint(0, 3, (40,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=2)


PENALTY = {
    "strength": 0.3,
    "solver": "subgradient",
    "schedule": Linear(end="10it"),
    "include": "body*",
    "exclude": "head",
    "preconditioned": True,
    "threshold": 0.05,
    "freeze_at": "0.5",
    "target_groups": 17,  # of 18 neurons
    "module": "net.body",
}

OPTIONS = {
    L1: PENALTY,
    GroupLasso: {**PENALTY, "granularity": "weight", "factors": 3, "size_norm": "sqrt", "l1_ratio": 0.5},
    Penalise: {**PENALTY, "granularity": "weight", "factors": 3, "penalty": GroupMCP(gamma=2.0)},
    Distill: {"weight": 0.5, "temperature": 4.0, "start": "0.7", "module": "net.body"},
    Budget: {
        "macs": 0.4,
        "params": 0.4,
        "latency": 0.55,
        "latency_ms": 1.9e6,
        "window": ("0.1", "0.6"),
        "min_keep_ratio": 0.6,
        "round_to": 4,
        "score": Magnitude(),
        "cost_exponent": 0.0,
        "every": 1,
        "lookahead": "0.2",
        "latency_batch": 2,
        "path": "budget.json",
        "metric": "val_loss",
    },
    Slim: {
        "path": "net.safetensors",
        "exports": ("state_dict",),
        "exact": False,
        "tolerance": 1e-7,
        "columns": True,
        "threshold": 1e-2,
        "round_to": 4,
        "module": "net.body",
        "latency_batch": 2,
    },
    Shrink: {
        "every_n_epochs": 2,
        "every_n_steps": 3,
        "min_gain": 0.9,
        "round_to": 4,
        "tolerance": 1e-7,
        "module": "net.body",
    },
    SparsityMonitor: {"prog_bar": False, "module": "net.body"},
}


@dataclass(frozen=True)
class Context:
    """A callback with some options, in the company of others.

    `refused` are the options that cannot act there, `changed` the values that others take there, and `only` the options
    that are of interest there; None: all.
    """

    kind: type
    options: dict = field(default_factory=dict)
    company: Callable = list
    refused: tuple = ()
    changed: dict = field(default_factory=dict)
    only: tuple | None = None
    epochs: int = 1
    steps: int = 20  # an epoch


def lasso():
    return [GroupLasso("coupled")]


def zeros():
    return [GroupLasso("neuron", 3.0)]


SUBGRADIENT = {"solver": "subgradient"}
SLIM = tuple(OPTIONS[Slim].keys() - {"exact"})  # which acts where the proof fails
BUDGET = {"macs": 0.6, "window": (0, "0.9")}
CONTEXTS = {
    "L1, proximal": Context(L1, {"strength": 0.05}, refused=("threshold",), changed={"target_groups": 97}),
    "L1, subgradient": Context(
        L1,
        {"strength": 0.05, **SUBGRADIENT},
        refused=("preconditioned",),
        changed={"solver": "proximal"},
        only=tuple(PENALTY.keys() - {"target_groups"}),
    ),
    "GroupLasso, proximal": Context(
        GroupLasso, {"granularity": "neuron", "strength": 3.0}, refused=("threshold", "factors")
    ),
    "GroupLasso, gating": Context(
        GroupLasso,
        {"granularity": "neuron", "strength": 5.0, "solver": "gating"},
        refused=("preconditioned", "l1_ratio"),
        only=("preconditioned", "l1_ratio", "threshold", "factors", "size_norm", "freeze_at"),
    ),
    "Penalise, proximal": Context(
        Penalise,
        {"penalty": GroupLassoPenalty("sqrt"), "granularity": "neuron", "strength": 1.0},
        refused=("threshold", "factors"),
    ),
    "Penalise, gating": Context(
        Penalise,
        {"penalty": GroupLassoPenalty(), "granularity": "neuron", "strength": 5.0, "solver": "gating"},
        refused=("preconditioned", "penalty"),
        only=("preconditioned", "penalty", "threshold", "factors"),
    ),
    "GroupLasso, subgradient": Context(
        GroupLasso,
        {"granularity": "neuron", "strength": 0.1, **SUBGRADIENT},
        refused=("preconditioned", "factors"),
        changed={"solver": "proximal"},
        only=tuple(OPTIONS[GroupLasso].keys() - {"target_groups"}),
    ),
    "GroupLasso, single entries": Context(
        GroupLasso,
        {"granularity": "weight", "strength": 0.05},
        refused=("size_norm", "l1_ratio"),
        only=("size_norm", "l1_ratio"),
    ),
    "GroupLasso, L1 alone": Context(
        GroupLasso,
        {"granularity": "neuron", "strength": 0.05, "l1_ratio": 1.0},
        refused=("size_norm",),
        only=("size_norm",),
    ),
    "GroupLasso, beside a Budget": Context(
        GroupLasso,
        {"granularity": "coupled"},
        company=lambda: [Budget(**BUDGET)],
        refused=tuple({*OPTIONS[GroupLasso]} - {"include", "exclude", "module"}),
        changed={"include": "body.0", "exclude": "body.0"},
        epochs=2,
    ),
    "Budget": Context(Budget, BUDGET, lasso, refused=("latency_batch", "metric"), epochs=2),
    "Budget, latency": Context(
        Budget,
        {"latency": 0.9, **BUDGET},
        lasso,
        only=("latency_batch", "latency", "latency_ms"),
        epochs=2,
    ),
    "Budget, path": Context(Budget, {"path": "budget.json", **BUDGET}, lasso, only=("metric",), epochs=2),
    "Distill": Context(Distill, {"start": "0.2"}),
    "Distill, beside a Budget": Context(Distill, {}, lambda: [*lasso(), Budget(**BUDGET)], epochs=2),
    "Distill, no time left": Context(
        Distill,
        {"start": "0.2"},
        lambda: [*lasso(), Budget(macs=0.6, window=(0, "1.0"))],
        refused=("start",),
        changed={"start": None},
        only=("start",),
    ),
    "Slim, no path": Context(Slim, {"path": None}, steps=4, refused=("exports",), only=SLIM),
    "Slim, path": Context(Slim, {"path": "a.safetensors"}, steps=4, only=("path", "exports")),
    "Slim, no tolerance": Context(
        Slim, {"path": "a.safetensors", "exports": ("state_dict",), "tolerance": 1e-7}, steps=4, only=("exact",)
    ),
    "Slim, not exact": Context(
        Slim, {"path": None, "exact": False}, steps=4, refused=("tolerance",), only=("tolerance",)
    ),
    "Shrink": Context(Shrink, epochs=3, steps=4),
    "SparsityMonitor": Context(SparsityMonitor, company=zeros),
}


def outcome(trainer, folder, name, option=None):
    """All that a run leaves: weights, logged values, files, and what the callback found."""
    context = CONTEXTS[name]
    options = dict(context.options)
    if option is not None:
        options[option] = value_of(context, option)
    lit = module(context.kind)
    callback = context.kind(**options)
    settings = {"default_root_dir": folder, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    settings["limit_train_batches"] = context.steps
    run = trainer(callback, *context.company(), epochs=context.epochs, **settings)
    run.fit(lit, loader(), loader())
    found = {name: value.tolist() for name, value in lit.state_dict().items()}
    found["logged"] = {k: float(v) for k, v in run.callback_metrics.items()}
    found["bar"] = {k: float(v) for k, v in run.progress_bar_metrics.items()}
    found["files"] = {p.name: content(p) for p in folder.rglob("*") if p.is_file()}
    if isinstance(callback, Slim):
        report = callback.report
        found["network"] = str(callback.result.model), report.batch, report.latency, report.slim.layers
    if isinstance(callback, Shrink):
        found["history"] = [entry[:-1] for entry in callback.history]  # the last are seconds
    return found


KNOWN = {}  # a network is traced once


def module(kind):
    prepared = kind in (Slim, Shrink)
    if kind is Shrink:
        return Lit(prepared)
    lit = KNOWN.setdefault(prepared, Lit(prepared))
    lit.load_state_dict(Lit(prepared).state_dict())
    return lit


def value_of(context, option):
    return context.changed.get(option, OPTIONS[context.kind][option])


def content(path):
    if path.suffix == ".json":  # without what is only rounding
        data = json.loads(path.read_text(), parse_float=lambda number: round(float(number), 3))
        data.get("slim", {}).pop("refused", None)
        return data
    return {k: t.shape for k, t in load_file(path).items()} if path.suffix == ".safetensors" else None


@pytest.fixture(autouse=True)
def times(monkeypatch):
    """A pass takes as long as it has multiplications, and a while in any case; a budget decides less often."""

    monkeypatch.setattr("ssl_prune.callbacks._budget_solver.DECISIONS", 4)

    def seconds(model, inputs, *_, **__):
        return cost(model, inputs).macs + 1000.0

    def compare(first, second, inputs, **_):
        return seconds(first, inputs), seconds(second, inputs)

    monkeypatch.setattr("ssl_prune.sizes.latency_model.latency", seconds)
    monkeypatch.setattr("ssl_prune.sizes.layer_latency._seconds", seconds)
    monkeypatch.setattr("ssl_prune.budget.problem.latency", seconds)
    monkeypatch.setattr("ssl_prune.budget.measure.compare_latency", compare)
    monkeypatch.setattr("ssl_prune.callbacks.slim.compare_latency", compare)


BEFORE = {}  # context -> the outcome without the option


@pytest.fixture
def before(trainer, tmp_path):
    def look(name):
        if name not in BEFORE:
            BEFORE[name] = outcome(trainer, tmp_path / "before", name)
        return BEFORE[name]

    return look


def declared(kind):
    return set(inspect.signature(kind.__init__).parameters) - {"self"}


CASES = [
    (name, option)
    for name, context in CONTEXTS.items()
    for option in sorted(declared(context.kind))
    if context.only is None or option in context.only
]


def test_every_option_of_every_callback_has_a_value_here():
    kinds = {getattr(callbacks, name) for name in callbacks.__all__}
    assert {kind: declared(kind) for kind in kinds} == {kind: set(values) for kind, values in OPTIONS.items()}
    assert {(CONTEXTS[name].kind, option) for name, option in CASES} == {
        (kind, option) for kind in kinds for option in declared(kind)
    }


@pytest.mark.parametrize(("name", "option"), CASES, ids=lambda part: part)
def test_an_option_acts_or_is_refused(trainer, tmp_path, before, name, option):
    context = CONTEXTS[name]
    given = value_of(context, option)
    assert given != context.options.get(option, inspect.signature(context.kind).parameters[option].default)
    if option in context.refused:
        with pytest.raises(ValueError, match=rf"^(Budget|{context.kind.__name__}): .*\b{option}\b"):
            outcome(trainer, tmp_path / "with", name, option)
    else:
        assert outcome(trainer, tmp_path / "with", name, option) != before(name)


@pytest.mark.parametrize("name", {name: None for name, option in CASES if option not in CONTEXTS[name].refused})
def test_without_the_option_a_run_is_the_same_again(trainer, tmp_path, before, name):
    assert outcome(trainer, tmp_path / "again", name) == before(name)
