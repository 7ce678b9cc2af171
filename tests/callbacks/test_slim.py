"""What lies on disk after a run, and what a LightningModule may look like."""

import importlib.util
import json
import types

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from ssl_prune import load_slim
from ssl_prune._lightning import pl
from ssl_prune.callbacks import GroupLasso, Slim, SparsityMonitor
from ssl_prune.callbacks._network import network_of
from ssl_prune.callbacks._run_context import RunContext
from ssl_prune.report.run import RunReport


def penalty():
    return GroupLasso("coupled", 4.0)


def outputs(net, x=None):
    x = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(9)) if x is None else x
    with torch.no_grad():
        return net.eval()(x)


def test_the_files_and_the_module(kit, trainer, tmp_path, capsys):
    model, last = kit.Lit(), Slim("out/net.safetensors", exports=("onnx", "pt2"))
    trainer(penalty(), last, epochs=4).fit(model, kit.loader(), kit.loader(12))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        f"net.{e}" for e in ("safetensors", "json", "png", "onnx", "pt2")
    }
    assert model.net.conv1.weight.shape == (6, 1, 3, 3)
    slim = load_slim(tmp_path / "out/net.safetensors", kit.Net())
    assert slim.conv1.weight.shape[0] < 6
    torch.testing.assert_close(outputs(slim), outputs(model.net), rtol=1e-4, atol=1e-5)
    assert torch.equal(outputs(slim), outputs(last.result.model))
    report = RunReport.load(tmp_path / "out/net.json")
    assert report == last.report
    assert str(report) in capsys.readouterr().out
    (validation,) = report.evaluations
    assert (validation.name, validation.samples) == ("validation", 24)
    assert validation.difference <= 1e-4
    assert validation.accuracy[0] == validation.accuracy[1]
    right = (outputs(model.net, kit.data().tensors[0]).argmax(1) == kit.data().tensors[1]).float().mean().item()
    assert validation.accuracy[0] == pytest.approx(right)
    assert report.batch == 64
    assert min(report.latency) > 0
    json.loads((tmp_path / "out/net.json").read_text())


def test_training_can_go_on_after_the_cut(kit, trainer):
    model = kit.Lit(scheduler=False)
    run = trainer(penalty(), Slim(None), epochs=2)
    run.fit(model, kit.loader())
    before = kit.flat(model)
    run.fit_loop.max_epochs = 3
    run.fit(model, kit.loader())
    assert not torch.equal(before, kit.flat(model))


def test_fast_dev_run_writes_nothing(kit, trainer, tmp_path):
    trainer(Slim("net.safetensors"), fast_dev_run=True).fit(kit.Lit(), kit.loader(), kit.loader())
    assert not list(tmp_path.iterdir())


class Whole(pl.LightningModule):
    """The LightningModule is the network."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.bn, self.fc = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2)


class InAList(Whole):
    """All its layers in a container without a forward."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([self.conv, self.bn, self.fc])
        del self.conv, self.bn, self.fc

    def forward(self, x):
        return self.layers[2](torch.relu(self.layers[1](self.layers[0](x))).mean((2, 3)))


class OneBody(Whole):
    """Its forward does something before and after the only child."""

    def __init__(self):
        super().__init__()
        del self.conv, self.bn, self.fc
        self.body = nn.Sequential(nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        return 2 * self.body(x.flatten(1))


@pytest.mark.parametrize("kind", [Whole, InAList, OneBody])
@pytest.mark.parametrize("example", [True, False])
def test_shapes_of_a_lightning_module(kit, trainer, tmp_path, kind, example):
    model = kind()
    if example:
        model.example_input_array = torch.randn(2, 1, 6, 6)
    last = Slim("net.safetensors")
    trainer(penalty(), SparsityMonitor(), last, epochs=4).fit(model, kit.loader())
    network = network_of(model)
    assert last.report.slim.params[1] < last.report.slim.params[0]
    fresh = network_of(kind())
    slim = load_slim(tmp_path / "net.safetensors", fresh)
    x = torch.randn(5, 1, 6, 6)
    x = x.flatten(1) if kind is OneBody else x
    torch.testing.assert_close(outputs(slim, x), outputs(network, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Whole, OneBody])
def test_the_evaluation_sees_what_the_network_sees(kit, trainer, kind):
    class Validated(kind):
        def validation_step(self, batch, batch_idx):
            self(batch[0])

    last = Slim(None)
    trainer(penalty(), last, epochs=2).fit(Validated(), kit.loader(), kit.loader())
    (validation,) = last.report.evaluations
    assert validation.samples == 24
    assert validation.accuracy is not None


class Dicts(pl.LightningModule):
    """Batches are dicts; the network takes two of their entries by name."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 1)

        def forward(self, image, scale):
            return self.b(torch.relu(self.a(image)) * scale)

    def __init__(self):
        super().__init__()
        self.net = self.Net()

    def training_step(self, batch, batch_idx):
        return (self.net(batch["image"], batch["scale"]) - batch["target"]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class DictsForward(Dicts):
    def forward(self, batch):
        return self.net(batch["image"], batch["scale"])


class DictsKeywords(Dicts):
    def forward(self, **batch):
        return self.net(batch["image"], scale=batch["scale"])


@pytest.mark.parametrize("kind", [Dicts, DictsForward, DictsKeywords])
def test_batches_that_are_dicts(trainer, tmp_path, kind):
    rows = [{"image": torch.randn(4), "scale": torch.rand(1), "target": torch.zeros(1)} for _ in range(16)]
    model, last = kind(), Slim("net.safetensors")
    batches = DataLoader(rows, batch_size=8)
    trainer(GroupLasso("coupled", 2.0), SparsityMonitor(), last, epochs=3).fit(model, batches, batches)
    assert last.report.slim.macs[0] == 40
    x, scale = torch.randn(3, 4), torch.rand(3, 1)
    slim = load_slim(tmp_path / "net.safetensors", Dicts.Net())
    with torch.no_grad():
        torch.testing.assert_close(slim(x, scale), model.net(x, scale), rtol=1e-4, atol=1e-6)


def test_regression_has_no_accuracy(trainer):
    class Regression(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

        def training_step(self, batch, batch_idx):
            return (self.net(batch[0]).squeeze(1) - batch[1]).square().mean()

        def validation_step(self, batch, batch_idx):
            pass

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    rows = [(torch.randn(4), torch.randn(())) for _ in range(16)]
    last = Slim(None)
    trainer(last).fit(Regression(), DataLoader(rows, batch_size=8), DataLoader(rows, batch_size=8))
    assert last.report.evaluations[0].accuracy is None
    assert "accuracy" not in str(last.report)
    counts = [(x, int(y > 0)) for x, y in rows]  # whole numbers are no classes of a network with one output
    trainer(last).fit(Regression(), DataLoader(counts, batch_size=8), DataLoader(counts, batch_size=8))
    assert last.report.evaluations[0].accuracy is None


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_other_precisions(kit, trainer, precision):
    model, last = kit.Lit(), Slim(None, tolerance=0.05)
    trainer(penalty(), SparsityMonitor(), last, epochs=3, precision=precision).fit(model, kit.loader(), kit.loader())
    assert model.net.fc.weight.dtype is {"64-true": torch.float64, "bf16-true": torch.bfloat16}[precision]
    assert last.report.slim.params[1] <= last.report.slim.params[0]


def test_without_matplotlib_there_is_no_picture(kit, trainer, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    trainer(Slim("net.safetensors")).fit(kit.Lit(), kit.loader())
    assert {p.name for p in tmp_path.iterdir()} == {"net.safetensors", "net.json"}


def test_exports_that_cannot_be_made_are_refused_before_training(kit, trainer, monkeypatch):
    class Never(pl.Callback):
        def on_train_start(self, *_):
            raise AssertionError("training began")

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else find(name, *a))
    with pytest.raises(ImportError, match=r"onnxscript: pip install 'ssl-prune\[onnx\]'"):
        trainer(Slim("net.safetensors", exports=["onnx"]), Never()).fit(kit.Lit(), kit.loader())


class Data(pl.LightningDataModule):
    def __init__(self, kit):
        super().__init__()
        self.kit = kit

    def train_dataloader(self):
        return self.kit.loader()

    def val_dataloader(self):
        return self.kit.loader()


class WithTest(Data):
    def test_dataloader(self):
        return self.kit.loader(samples=16)


class BrokenTest(Data):
    def test_dataloader(self):
        raise RuntimeError("the test images are on another disk")


class OnDevice(Data):
    """Works on batches where they are trained on."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return 2 - 3 * batch[0], batch[1]


def test_the_test_set_of_a_data_module(kit, trainer):
    last = Slim(None)
    trainer(last).fit(kit.Lit(), datamodule=WithTest(kit))
    assert [(e.name, e.samples) for e in last.report.evaluations] == [("validation", 24), ("test", 16)]
    trainer(last).fit(kit.Lit(), datamodule=Data(kit))
    assert [e.name for e in last.report.evaluations] == ["validation"]


def test_a_finished_run_is_saved_although_the_evaluation_fails(kit, trainer, tmp_path):
    with pytest.warns(UserWarning, match="another disk"):
        trainer(Slim("net.safetensors")).fit(kit.Lit(), datamodule=BrokenTest(kit))
    assert (tmp_path / "net.safetensors").exists()
    assert [e.name for e in RunReport.load(tmp_path / "net.json").evaluations] == ["validation"]


def test_the_evaluation_takes_batches_as_the_module_does(kit, trainer):
    class Sees(kit.Lit):
        def validation_step(self, batch, batch_idx):
            right = (self(batch[0]).argmax(1) == batch[1]).float().mean()
            self.log("val_acc", right, batch_size=len(batch[1]))

    last = Slim(None)
    run = trainer(last, epochs=6)
    run.fit(Sees(scheduler=False), datamodule=OnDevice(kit))
    accuracy = run.callback_metrics["val_acc"].item()
    assert last.report.evaluations[0].accuracy[0] == pytest.approx(accuracy)
    raw = (outputs(run.lightning_module.net, kit.data().tensors[0]).argmax(1) == kit.data().tensors[1]).float().mean()
    assert abs(raw - accuracy) > 0.1


def test_another_head_is_another_graph(kit):
    net = kit.Net()
    x = torch.zeros(1, 1, 6, 6)
    context = RunContext()
    first = context.graph(net, x)
    assert context.graph(net, x) is first
    net.conv2 = nn.Conv2d(6, 9, 3)
    net.fc = nn.Linear(9 * 16, 3)
    assert context.graph(net, x).num_units == first.num_units + 4


def test_two_fits_with_other_layers(kit, trainer):
    model = kit.Lit()
    trainer(penalty(), SparsityMonitor(), Slim(None)).fit(model, kit.loader())
    model.net.conv2, model.net.fc = nn.Conv2d(6, 9, 3), nn.Linear(9 * 16, 3)
    last, group = Slim(None), penalty()
    trainer(group, SparsityMonitor(), last).fit(model, kit.loader())
    assert group.groups.num_groups == 15
    assert last.report.slim.params[0] == sum(p.numel() for p in model.parameters())


def test_the_caches_let_networks_go(kit, trainer):
    import gc
    import weakref

    model = kit.Lit(example=False)
    trainer(penalty(), SparsityMonitor(), Slim(None)).fit(model, kit.loader())
    gone = weakref.ref(model.net)
    del model
    gc.collect()
    assert gone() is None


def test_no_validation_no_latency(kit, trainer, tmp_path):
    last = Slim("net.safetensors", latency_batch=0)
    trainer(last).fit(kit.Lit(), kit.loader())
    assert last.report.evaluations == ()
    assert last.report.latency is None
    assert isinstance(RunReport.load(tmp_path / "net.json"), RunReport)
    assert isinstance(last.result.model, types.SimpleNamespace | nn.Module)


def test_no_more_batches_are_compared_than_the_trainer_takes(kit, trainer):
    last = Slim(None)
    trainer(last, limit_val_batches=2, limit_test_batches=0.5).fit(kit.Lit(), datamodule=WithTest(kit))
    assert [(e.name, e.samples) for e in last.report.evaluations] == [("validation", 16), ("test", 8)]
    trainer(last, limit_val_batches=0, limit_test_batches=0).fit(kit.Lit(), datamodule=WithTest(kit))
    assert last.report.evaluations == ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"threshold": -1e-4}, "threshold must be a finite number >= 0, got -0.0001"),
        ({"threshold": float("nan")}, "threshold must be a finite number >= 0, got nan"),
        ({"round_to": 0}, "round_to: got 0"),
        ({"round_to": "often"}, "round_to: got 'often'"),
        ({"columns": "some"}, "columns must be true, false or .measured., got 'some'"),
    ],
)
def test_wrong_thresholds_and_widths_are_refused_before_training(arguments, words):
    with pytest.raises(ValueError, match=words):
        Slim(None, **arguments)


@pytest.mark.parametrize("round_to", [4, "measured"])
def test_threshold_and_widths_reach_the_cut(kit, trainer, round_to):
    model, last = kit.Lit(), Slim(None, threshold=1e-3, round_to=round_to, latency_batch=2)
    trainer(last, epochs=1).fit(model, kit.loader())
    with torch.no_grad():
        for parameter in (*model.net.conv1.parameters(), *model.net.bn.parameters()):
            parameter[:3] = 1e-4
    last.run(trainer(), model)
    assert last.result.report.threshold.threshold == 1e-3
    width = last.result.model.conv1.out_channels
    assert width == 4 if round_to == 4 else 3 <= width <= 6


@pytest.mark.parametrize("columns", [True, "measured"])
def test_columns_reach_the_cut(kit, trainer, columns, monkeypatch):
    # What is measured is for another test: a busy machine would decide here.
    monkeypatch.setattr("ssl_prune.slimming.plan.kernel_forms.compare_latency", lambda *_, **__: (1.0, 0.5))
    model, last = kit.Lit(), Slim(None, columns=columns, latency_batch=2)
    trainer(last, epochs=1).fit(model, kit.loader())
    with torch.no_grad():
        model.net.conv1.weight[:, :, 1:] = 0
        model.net.conv1.weight[:, 0, 0, 0] = 0
    last.run(trainer(), model)
    dense, cut = model.net.conv1.weight, last.result.model.conv1.weight
    assert cut.numel() < dense.numel()
    assert last.report.slim.max_error <= 1e-5
