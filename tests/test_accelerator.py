"""The same on an accelerator as on the processor; all skipped where there is none."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from ssl_prune import slim
from ssl_prune._lightning import pl
from ssl_prune.callbacks import L1, Budget, GroupLasso, Shrink, Slim
from ssl_prune.data.augment import crop_and_flip
from ssl_prune.data.tensors import ImageTensors
from ssl_prune.groups import partition
from ssl_prune.latency import latency
from ssl_prune.masks import Mask
from ssl_prune.models import ImageClassifier, MobileNetV2, ResNet
from ssl_prune.penalties import GroupLasso as GroupLassoPenalty
from ssl_prune.scores import TaylorGroup, TaylorWeight
from ssl_prune.solvers import ProximalSolver

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here")

CUDA = torch.device("cuda")


def small() -> nn.Module:
    torch.manual_seed(0)
    return ResNet((1, 1, 1), (8, 16, 32), image_size=16)


def classifier(network: nn.Module) -> ImageClassifier:
    return ImageClassifier(network, optimizer=lambda params: SGD(params, lr=0.05, momentum=0.9))


def batches(steps: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(steps * 16, 3, 16, 16, generator=generator)
    return DataLoader(TensorDataset(x, torch.randint(10, (len(x),), generator=generator)), batch_size=16)


def trainer(callbacks: list[pl.Callback], **options: Any) -> pl.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(accelerator="gpu", devices=1, max_epochs=2, callbacks=callbacks, **quiet, **options)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("score", [None, TaylorGroup(), TaylorWeight()], ids=["scale", "rows", "first-order"])
def test_a_budget_with_shrinking_is_met(precision: str, score: Any) -> None:
    network = small()
    budget = Budget(macs=0.5, window=("0.1", "0.7"), **({} if score is None else {"score": score}))
    shrink = Shrink(every_n_steps=10, min_gain=0.02)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainer([GroupLasso("coupled"), budget, shrink], precision=precision).fit(classifier(network), batches(40))
    assert shrink.history
    x = torch.randn(4, 3, 16, 16)
    network.cpu().eval()
    result = slim(network, x[:1])
    dense = slim(small(), x[:1]).report.macs[0]
    assert 0.485 * dense <= result.report.macs[1] <= 0.5 * dense
    torch.testing.assert_close(result.model(x), network(x), rtol=1e-4, atol=1e-4)


def test_batches_are_the_same_on_either_device() -> None:
    pixels = torch.randint(256, (32, 3, 8, 8), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    images = ImageTensors(pixels, torch.arange(32), (0.5,) * 3, (0.2,) * 3, augment=crop_and_flip)
    torch.manual_seed(4)
    x, y = images.__getitems__(range(8, 24))
    torch.manual_seed(4)
    there, labels = images.to(CUDA).__getitems__(range(8, 24))
    assert there.device.type == labels.device.type == CUDA.type
    torch.testing.assert_close(there.cpu(), x, rtol=0, atol=1e-6)
    assert torch.equal(labels.cpu(), y)


def test_slim_leaves_the_result_on_the_accelerator() -> None:
    network = small().to(CUDA)
    groups = partition(network, "coupled", example_inputs=torch.randn(1, 3, 16, 16, device=CUDA))
    factor = torch.ones(groups.num_groups, device=CUDA)
    factor[::3] = 0
    groups.scale_(factor)
    x = torch.randn(8, 3, 16, 16, device=CUDA)
    network.eval()
    result = slim(network, x[:1])
    assert {p.device.type for p in result.model.parameters()} == {"cuda"}
    assert result.report.macs[1] < result.report.macs[0]
    torch.testing.assert_close(result.model(x), network(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["coupled", "filter", "channel"])
def test_the_proximal_map_gives_the_same_zeros_as_on_the_processor(kind: str) -> None:
    """In float64, where the two differ by rounding alone."""
    found: list[list[Tensor]] = []
    for device in (torch.device("cpu"), CUDA):
        network = small().double().to(device)
        x = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(device)
        groups = partition(network, kind, example_inputs=x[:1])
        sgd = SGD(network.parameters(), lr=0.05, momentum=0.9)
        strength = float(groups.norms().median()) / (
            15 * 0.05
        )  # about half of the groups come to zero in fifteen steps
        solver = ProximalSolver(groups, GroupLassoPenalty(), strength, freeze_at=15)
        solver.attach(sgd)
        for _ in range(20):
            sgd.zero_grad()
            network(x).square().mean().backward()
            sgd.step()
        assert 0 < int(groups.alive().sum()) < groups.num_groups
        found.append([p.detach().cpu() for p in network.parameters()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one == 0, other == 0)
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_norms_are_the_same_bits_every_time() -> None:
    network = MobileNetV2(0.5).to(CUDA, memory_format=torch.channels_last)  # type: ignore[call-overload]
    groups = partition(network, "coupled", example_inputs=torch.randn(1, 3, 32, 32, device=CUDA))
    first = groups.norms()
    assert all(torch.equal(groups.norms(), first) for _ in range(10))
    here = partition(network.cpu(), "coupled", example_inputs=torch.randn(1, 3, 32, 32))
    torch.testing.assert_close(first.cpu(), here.norms(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "callback", [L1(1e-3), GroupLasso("filter", 1e-2), GroupLasso("shape", 1e-2)], ids=["l1", "filter", "shape"]
)
def test_penalties_train_and_slim_follows(callback: pl.Callback, tmp_path: Path) -> None:
    network = small()
    trainer([callback, Slim(tmp_path / "slim.safetensors")]).fit(classifier(network), batches(20))
    assert all(bool(p.isfinite().all()) for p in network.parameters())


def test_a_latency_is_that_of_the_accelerator() -> None:
    network = small().to(CUDA).eval()
    seconds = latency(network, torch.randn(64, 3, 16, 16, device=CUDA))
    assert 1e-5 < seconds < 10


@pytest.mark.parametrize("storage", ["zero", "dense"])
def test_a_mask_follows_the_parameters(storage: Any) -> None:
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        layer = nn.Linear(6, 4, bias=False)
        mask = Mask(partition(layer, "weight"), torch.arange(24) % 3 > 0, storage=storage)
        mask.apply()
        layer.to(device)
        layer.weight.data.add_(1.0)
        whole = [t.cpu() for t in mask.dense()]
        died, born = mask.update(torch.arange(24, device=device) % 2 > 0)
        found.append((*whole, died.cpu(), born.cpu(), layer.weight.detach().cpu()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
