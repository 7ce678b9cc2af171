import sys

import pytest
import torch
from torch import nn

from ssl_prune._lightning import pl
from ssl_prune.data import Digits, ImageData

pytest.importorskip("sklearn")


def rows(data):
    return {tuple(image.flatten().tolist()) for image in data.images}


def test_digits_are_split_without_overlap_and_by_class():
    data = Digits(validation=0.2)
    data.setup()
    sizes = [len(part) for part in (data.train_set, data.val_set, data.test_set)]
    assert sizes == [1150, 287, 360]
    assert not rows(data.train_set) & rows(data.test_set)
    assert not rows(data.val_set) & rows(data.test_set)
    assert not rows(data.train_set) & rows(data.val_set)
    for part in (data.val_set, data.test_set):
        share = part.labels.bincount() / len(part)
        assert ((share > 0.09) & (share < 0.11)).all()


def test_the_split_is_the_same_every_time_and_the_subset_leaves_validation_alone():
    first, second, few = Digits(), Digits(batch_size=7), Digits(subset=100)
    for seed, data in enumerate((first, second, few)):
        torch.manual_seed(seed)
        data.setup("fit")
    assert torch.equal(first.train_set.images, second.train_set.images)
    assert torch.equal(first.val_set.images, few.val_set.images)
    assert torch.equal(first.train_set.images[:100], few.train_set.images)
    assert few.train_set.labels.bincount(minlength=10).min() >= 9


def test_the_normalised_digits_have_mean_0_and_deviation_1():
    data = Digits(validation=0)
    data.setup("fit")
    x, _ = data.train_set.__getitems__(range(len(data.train_set)))
    assert x.mean().item() == pytest.approx(0, abs=0.02)
    assert x.std().item() == pytest.approx(1, abs=0.02)


def test_without_standardising_pixels_are_shares_of_the_largest():
    data = Digits(standardise=False)
    data.setup("fit")
    x, _ = data.train_set.__getitems__(range(len(data.train_set)))
    assert (x.min().item(), x.max().item()) == (0.0, 1.0)


def test_only_what_a_stage_needs_is_read(monkeypatch):
    seen = []
    read = Digits.read
    monkeypatch.setattr(Digits, "read", lambda self, train: seen.append(train) or read(self, train))
    data = Digits()
    data.setup("test")
    data.setup("predict")
    assert seen == [False]
    data.setup("fit")
    data.setup("validate")
    assert seen == [False, True]


def test_the_training_order_changes_and_evaluation_does_not():
    data = Digits()
    data.setup()
    train, val = data.train_dataloader(), data.val_dataloader()
    first, second = ([y for _, y in train] for _ in range(2))
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert torch.equal(torch.cat([y for _, y in val]), data.val_set.labels)
    assert sum(len(y) for _, y in data.predict_dataloader()) == len(data.test_set)


def test_workers_give_the_same_images():
    data = Digits(num_workers=1, batch_size=500)
    data.setup("test")
    assert torch.equal(torch.cat([y for _, y in data.test_dataloader()]), data.test_set.labels)


def test_no_validation():
    data = Digits(validation=0)
    data.setup("fit")
    assert data.val_dataloader() == []
    assert len(data.train_set) == 1437


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="batch_size is 0"):
        Digits(batch_size=0)
    with pytest.raises(ValueError, match="subset is 0"):
        Digits(subset=0)
    with pytest.raises(ValueError, match="subset is 5000, but only 1293 images are left"):
        Digits(subset=5000).setup("fit")


def test_a_loader_before_setup_says_what_to_do():
    with pytest.raises(RuntimeError, match=r'call setup\("fit"\) first'):
        Digits().train_dataloader()


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"ssl-prune\[cli\]"):
        Digits().setup("fit")


class Noisy(ImageData):
    """Random images whose order and noise both come from torch's generator."""

    input_shape = (1, 4, 4)
    mean = (0.5,)
    std = (0.5,)

    def __init__(self, seen):
        super().__init__(batch_size=4, validation=4)
        self.augment = lambda batch: batch + torch.randint(3, batch.shape, dtype=torch.uint8)
        self.seen = seen

    def read(self, train):
        generator = torch.Generator().manual_seed(0)
        return torch.randint(250, (24, 1, 4, 4), generator=generator, dtype=torch.uint8), torch.arange(24) % 10

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if self.trainer.training:
            self.seen.append(batch[0].clone())
        return batch


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(16, 10)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def run(tmp_path, seed, epochs, ckpt=None):
    torch.manual_seed(seed)
    seen = []
    trainer = pl.Trainer(
        max_epochs=epochs,
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Net(), Noisy(seen), ckpt_path=ckpt)
    trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
    return torch.cat(seen)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*:FutureWarning")
def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(tmp_path):
    whole = run(tmp_path, 1, 3)
    run(tmp_path, 1, 2)
    resumed = run(tmp_path, 2, 3, tmp_path / "2.ckpt")
    assert torch.equal(resumed, whole[40:])
