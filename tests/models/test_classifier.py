import copy
import functools
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau

from ssl_prune._lightning import pl
from ssl_prune.data import Digits
from ssl_prune.models import DigitsNet, ImageClassifier, LeNet5
from ssl_prune.models.classifier import cosine_to_zero

pytest.importorskip("sklearn")
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*:FutureWarning")


class Watch(pl.Callback):
    def __init__(self):
        self.lrs = []

    def on_train_batch_start(self, trainer, *_):
        self.lrs.append(trainer.optimizers[0].param_groups[0]["lr"])


def trainer(tmp_path, epochs, *callbacks, **options):
    return pl.Trainer(
        max_epochs=epochs,
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )


def test_digits_reach_98_per_cent(tmp_path):
    torch.manual_seed(0)
    model = ImageClassifier(DigitsNet())
    run = trainer(tmp_path, 5)
    run.fit(model, Digits(batch_size=64))
    assert run.test(model, Digits(), verbose=False)[0]["test_acc"] >= 0.98


def test_accuracy_and_loss_are_those_of_the_whole_set(tmp_path):
    model = ImageClassifier(DigitsNet(), label_smoothing=0.5)
    data = Digits(batch_size=100)
    run = trainer(tmp_path, 1)
    logged = run.validate(model, data, verbose=False)[0] | run.test(model, data, verbose=False)[0]
    for prefix, part in (("val", data.val_set), ("test", data.test_set)):
        x, y = part.__getitems__(range(len(part)))
        with torch.no_grad():
            logits = model.eval()(x)
        assert logged[f"{prefix}_acc"] == pytest.approx((logits.argmax(1) == y).float().mean().item())
        assert logged[f"{prefix}_loss"] == pytest.approx(nn.functional.cross_entropy(logits, y).item(), rel=1e-5)
    classes = torch.cat(run.predict(model, data))
    assert torch.equal(classes, logits.argmax(1))


@pytest.mark.filterwarnings("ignore:Total length of `list`")
def test_the_default_is_nesterov_with_a_cosine_over_all_steps(tmp_path):
    watch = Watch()
    model = ImageClassifier(DigitsNet())
    run = trainer(tmp_path, 3, watch)
    run.fit(model, Digits(batch_size=200, validation=0))
    group = run.optimizers[0].param_groups[0]
    assert isinstance(run.optimizers[0], SGD)
    assert (group["momentum"], group["nesterov"], group["initial_lr"]) == (0.9, True, 0.1)
    assert len(watch.lrs) == 24
    assert watch.lrs[0] == 0.1
    assert watch.lrs[12] == pytest.approx(0.05)
    assert group["lr"] == 0.0


def test_the_cosine_does_not_rise_again():
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = cosine_to_zero(optimizer, 2)
    lrs = []
    for _ in range(4):
        lrs.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert lrs == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert cosine_to_zero(optimizer, float("inf")).get_last_lr() == [1.0]


@pytest.mark.parametrize(
    "schedule",
    [functools.partial(MultiStepLR, milestones=[1], gamma=0.1), functools.partial(ReduceLROnPlateau, patience=9)],
)
def test_a_schedule_of_ones_own_steps_after_each_epoch(tmp_path, schedule):
    watch = Watch()
    model = ImageClassifier(DigitsNet(), functools.partial(Adam, lr=1e-3), schedule)
    run = trainer(tmp_path, 2, watch)
    run.fit(model, Digits(batch_size=647))
    assert isinstance(run.optimizers[0], Adam)
    later = 1e-4 if schedule.func is MultiStepLR else 1e-3
    assert watch.lrs == pytest.approx([1e-3, 1e-3, later, later])


def test_label_smoothing_is_in_the_training_loss():
    x, y = torch.randn(4, 1, 8, 8), torch.arange(4)
    model = ImageClassifier(DigitsNet(), label_smoothing=0.3).eval()
    model.log = lambda *_, **__: None
    expected = nn.functional.cross_entropy(model(x), y, label_smoothing=0.3)
    assert model.training_step((x, y), 0).item() == pytest.approx(expected.item())
    with pytest.raises(ValueError, match=r"label_smoothing is 1\.5"):
        ImageClassifier(DigitsNet(), label_smoothing=1.5)


def test_copies_and_pickles_before_and_after_a_run(tmp_path):
    model = ImageClassifier(DigitsNet(), functools.partial(SGD, lr=0.1))
    x = model.example_input_array
    for _ in range(2):
        others = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        with torch.no_grad():
            for other in others:
                assert torch.equal(other.eval()(x), copy.deepcopy(model).eval()(x))
        trainer(tmp_path, 1).fit(model, Digits(batch_size=1000))


def test_a_checkpoint_has_only_plain_data(tmp_path):
    model = ImageClassifier(DigitsNet(), functools.partial(SGD, lr=0.1), label_smoothing=0.1)
    run = trainer(tmp_path, 1)
    run.fit(model, Digits(batch_size=1000))
    run.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert saved["hyper_parameters"] == {"label_smoothing": 0.1}
    again = ImageClassifier.load_from_checkpoint(tmp_path / "a.ckpt", network=DigitsNet(), weights_only=True)
    assert again.label_smoothing == 0.1
    with torch.no_grad():
        assert torch.equal(again.eval()(again.example_input_array), model.eval()(again.example_input_array))


def test_the_example_comes_from_the_network_and_leaves_the_seed_alone():
    state = torch.get_rng_state()
    with torch.random.fork_rng():
        network = LeNet5()
    model = ImageClassifier(network)
    assert model.example_input_array.shape == (2, 1, 28, 28)
    assert torch.equal(torch.get_rng_state(), state)
    assert ImageClassifier(nn.Flatten()).example_input_array is None


def test_data_of_another_shape_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match=r"LeNet5 takes images of shape \(1, 28, 28\), the data has \(1, 8, 8\)"):
        trainer(tmp_path, 1).fit(ImageClassifier(LeNet5()), Digits())


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_the_command_line_builds_it(tmp_path, monkeypatch):
    cli = pytest.importorskip(
        "pytorch_lightning.cli" if pl.__name__ == "pytorch_lightning" else "lightning.pytorch.cli"
    )
    pytest.importorskip("jsonargparse")
    monkeypatch.setattr(sys, "argv", ["ssl-prune"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls
    arguments = ["--model.network=ssl_prune.models.DigitsNet", "--model.network.widths=[4,8]"]
    arguments += ["--model.optimizer=torch.optim.Adam", "--model.optimizer.lr=0.01", "--data.batch_size=500"]
    arguments += ["--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path}", "--trainer.logger=false"]
    arguments += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--seed_everything=0"]
    built = cli.LightningCLI(ImageClassifier, Digits, args=["fit", *arguments], save_config_callback=None)
    assert built.model.network.fc.in_features == 32
    assert isinstance(built.trainer.optimizers[0], Adam)
    path = built.trainer.checkpoint_callback.best_model_path
    torch.load(path, weights_only=True)
    resumed = ["fit", *arguments, f"--ckpt_path={path}", "--trainer.max_epochs=2"]
    again = cli.LightningCLI(ImageClassifier, Digits, args=resumed, save_config_callback=None)
    assert again.trainer.global_step == 6


def test_the_networks_do_not_import_lightning():
    code = "import ssl_prune.models.resnet, sys; assert not {'pytorch_lightning', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
