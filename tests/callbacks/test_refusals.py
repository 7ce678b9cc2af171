"""What is wrong is refused before training, with the key and the way out."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ssl_prune._lightning import pl
from ssl_prune.callbacks import L1, Budget, GroupLasso, Slim, SparsityMonitor

NAN = float("nan")


@pytest.mark.parametrize("strength", [-1, -1e-9, NAN, float("inf"), "strong", None])
@pytest.mark.parametrize("build", [L1, lambda s: GroupLasso("filter", s)])
def test_strengths(build, strength):
    with pytest.raises(ValueError, match="strength must be a finite number >= 0"):
        build(strength)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"granularity": "rows"}, r"unknown granularity 'rows'; expected one of .*coupled"),
        ({"solver": "newton"}, "solver must be"),
        ({"freeze_at": 1.5}, 'GroupLasso: freeze_at: got 1.5, expected a time with its unit: "0.7"'),
        ({"freeze_at": 1}, "freeze_at: got 1, expected a time with its unit"),
        ({"freeze_at": 0.7}, "freeze_at: got 0.7, expected a time with its unit"),
        ({"freeze_at": "1.5"}, "freeze_at: a share of the run must be in"),
        ({"freeze_at": "2.5it"}, "freeze_at: optimizer steps must be a whole number"),
        ({"freeze_at": True}, "freeze_at: got True"),
        ({"target_groups": -1}, "target_groups must be"),
        ({"target_groups": 0.5}, "target_groups must be"),
        ({"freeze_at": NAN}, "freeze_at: got nan"),
        ({"solver": "subgradient", "threshold": -1.0}, "threshold must be"),
        ({"solver": "subgradient", "threshold": NAN}, "threshold must be"),
        ({"l1_ratio": 2.0}, "l1_ratio"),
        ({"l1_ratio": NAN}, "l1_ratio"),
        ({"size_norm": "cubic"}, "size_norm"),
    ],
)
def test_options(options, words):
    with pytest.raises(ValueError, match=words):
        GroupLasso(**{"granularity": "filter", "strength": 0.1, **options})


@pytest.mark.parametrize("exports", [("onx",), ["onnx", "tflite"], "onnx"])
def test_exports(exports):
    with pytest.raises(ValueError, match=r"exports=.*\['onnx', 'pt2', 'state_dict'\]"):
        Slim("a.safetensors", exports=exports)


@pytest.mark.parametrize("path", ["net.json", "net.png", "net.onnx"])
def test_a_slim_file_that_another_would_replace(path):
    with pytest.raises(ValueError, match=f"Slim: path {path!r}: {path} would be written twice"):
        Slim(path, exports=["onnx", "pt2"])


def test_a_record_that_its_picture_would_replace():
    with pytest.raises(ValueError, match=r"Budget: path 'budget.png'.* twice"):
        Budget(macs=0.5, path="budget.png")


@pytest.mark.parametrize("build", [Slim, lambda path: Budget(macs=0.5, path=path)])
def test_a_path_that_is_none(build):
    with pytest.raises(TypeError, match="path must be the path of a file, got 3"):
        build(3)


def test_a_score_that_is_none():
    with pytest.raises(TypeError, match=r"Budget: score must be a score .* got 'taylor'"):
        Budget(macs=0.5, score="taylor")


@pytest.mark.parametrize(
    ("callbacks", "error", "words"),
    [
        (lambda: [Slim("file/net.safetensors")], NotADirectoryError, "file is a file"),
        (lambda: [Slim("folder")], IsADirectoryError, "folder"),
        (lambda: [GroupLasso("coupled"), Budget(macs=0.5, path="file/b.json")], NotADirectoryError, "file is a file"),
        (lambda: [Slim("net.safetensors"), Slim("out/../net")], ValueError, "Slim: Slim writes .*net.json too"),
        (
            lambda: [GroupLasso("coupled"), Budget(macs=0.5, path="net.json"), Slim("net.safetensors")],
            ValueError,
            "Slim: Budget writes .*net.json too; give one of them another path",
        ),
    ],
)
def test_files_that_cannot_be_written_are_refused_before_training(kit, trainer, tmp_path, callbacks, error, words):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    run = trainer(*callbacks())
    with pytest.raises(error, match=words):
        run.fit(kit.Lit(), kit.loader())
    assert run.global_step == 0
    assert {p.name for p in tmp_path.iterdir()} == {"file", "folder"}


@pytest.mark.parametrize("tolerance", [-1.0, NAN])
def test_tolerance(tolerance):
    with pytest.raises(ValueError, match="tolerance"):
        Slim("a.safetensors", tolerance=tolerance)


@pytest.mark.parametrize("batch", [-1, 1.5])
def test_latency_batch(batch):
    with pytest.raises(ValueError, match="latency_batch"):
        Slim("a.safetensors", latency_batch=batch)


class Never(pl.Callback):
    def on_train_batch_start(self, *_):
        raise AssertionError("training began")


@pytest.mark.parametrize("pattern", ["convolution*", nn.LSTM])
@pytest.mark.parametrize("role", ["include", "exclude"])
def test_a_pattern_without_a_match_names_the_layers(kit, trainer, pattern, role):
    with pytest.raises(ValueError, match=rf"{role}: .* matches no layer; the layers are conv1, conv2, fc"):
        trainer(GroupLasso("filter", 0.1, **{role: pattern}), Never()).fit(kit.Lit(), kit.loader())


@pytest.mark.parametrize(
    "callback", [GroupLasso("weight", 0.1, module="nett"), SparsityMonitor(module="nett"), Slim(None, module="nett")]
)
def test_an_unknown_module_names_those_there_are(kit, trainer, callback):
    with pytest.raises(ValueError, match=r"module='nett': Lit has no such submodule; it has \['net'\]"):
        trainer(callback, Never()).fit(kit.Lit(), kit.loader())


@pytest.mark.parametrize("callback", [GroupLasso("coupled", 0.1), SparsityMonitor(), Slim(None)])
def test_without_an_example_input(kit, trainer, callback):
    class Unreadable(kit.Lit):
        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self(batch.x), batch.y)

    class Batch:
        x, y = torch.randn(4, 1, 6, 6), torch.tensor([0, 1, 2, 0])

    with pytest.raises(ValueError, match="set example_input_array on"):
        trainer(callback).fit(Unreadable(example=False), torch.utils.data.DataLoader([Batch()], batch_size=None))


@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy"])
def test_parameters_that_are_flattened(kit, name):
    kind = getattr(pl.strategies, name)
    trainer = SimpleNamespace(strategy=kind.__new__(kind))  # DeepSpeed itself need not be installed
    with pytest.raises(ValueError, match=rf"L1: {name} flattens parameters.*ModelParallelStrategy and .*fully_shard"):
        L1(0.1).setup(trainer, kit.Lit(), "fit")


@pytest.mark.parametrize(("freeze_at", "step"), [("4it", 4), ("1.5ep", 5)])
def test_a_freeze_after_the_end_is_said(kit, trainer, freeze_at, step):
    words = rf'GroupLasso: freeze_at: got "{freeze_at}", which is step {step} of a run of 3, expected a time in the run'
    with pytest.warns(UserWarning, match=words):
        trainer(GroupLasso("filter", 0.1, freeze_at=freeze_at)).fit(kit.Lit(), kit.loader())


@pytest.mark.parametrize("count", [11, 99])
def test_a_freeze_before_the_first_step_is_refused(kit, trainer, count):
    with pytest.raises(
        ValueError, match=f"GroupLasso: target_groups: got {count} of the 11 filter groups that there are"
    ):
        trainer(GroupLasso("filter", 0.1, target_groups=count), Never()).fit(kit.Lit(), kit.loader())


def test_a_dry_run_is_too_short_for_a_freeze(kit, trainer):
    callback = GroupLasso("filter", 0.1, freeze_at="5ep")
    trainer(callback, fast_dev_run=True).fit(kit.Lit(), kit.loader())
    assert not callback.solver.frozen


def test_a_share_of_a_run_without_an_end(kit, trainer):
    with pytest.raises(ValueError, match=r'GroupLasso: freeze_at: "0\.5" is a share of a run without an end'):
        trainer(GroupLasso("filter", 0.1, freeze_at="0.5"), Never(), epochs=-1).fit(kit.Lit(), kit.loader())


def test_an_epoch_of_unknown_length(kit, trainer):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([*kit.data()] * 100)

    callback = GroupLasso("filter", 0.1, freeze_at="1ep")
    endless = torch.utils.data.DataLoader(Endless(), batch_size=8)
    with pytest.raises(ValueError, match='freeze_at: "1ep" is in epochs, but the training data has no length'):
        trainer(callback, Never(), epochs=-1, max_steps=10).fit(kit.Lit(), endless)


def test_an_optimizer_without_a_known_metric(kit, trainer):
    model = kit.Lit(optimizer=lambda p: torch.optim.Adamax(p, lr=0.1))
    with pytest.raises(TypeError, match=r"preconditioned=True knows SGD.*got Adamax.*"):
        trainer(GroupLasso("filter", 0.1, preconditioned=True), Never()).fit(model, kit.loader())


def test_the_optimizers_metric_needs_the_proximal_solver():
    with pytest.raises(ValueError, match="preconditioned=True is a proximal map"):
        GroupLasso("filter", 0.1, solver="subgradient", preconditioned=True)
