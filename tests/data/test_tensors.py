import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from ssl_prune.data.tensors import ImageTensors, as_it_is


def images(count=10, channels=3):
    return torch.randint(256, (count, channels, 4, 4), dtype=torch.uint8)


def test_normalised_as_the_formula_says():
    pixels = images()
    data = ImageTensors(pixels, torch.arange(10), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    x, _ = data.__getitems__([3])
    expected = (pixels[3:4].double() / 255 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.2, 0.3, 0.4]
    ).view(3, 1, 1)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double(), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(data[3][0], x[0])


def test_a_loader_gives_every_image_once_with_its_label():
    pixels = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    data = ImageTensors(pixels, torch.arange(10), (0.0,), (1.0,), peak=1.0)
    batches = list(DataLoader(data, 4, shuffle=True, collate_fn=as_it_is))
    assert [len(y) for _, y in batches] == [4, 4, 2]
    for x, y in batches:
        assert torch.equal(x.flatten(), y.float())
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == list(range(10))


def test_two_processes_share_the_images():
    data = ImageTensors(images(), torch.arange(10), (0.0,) * 3, (1.0,) * 3)
    seen = []
    for rank in range(2):
        sampler = DistributedSampler(data, num_replicas=2, rank=rank, shuffle=True)
        seen += torch.cat([y for _, y in DataLoader(data, 3, sampler=sampler, collate_fn=as_it_is)]).tolist()
    assert sorted(seen) == list(range(10))


def test_the_images_stay_as_they_were():
    pixels = images()
    before = pixels.clone()
    data = ImageTensors(pixels, torch.arange(10), (0.5,) * 3, (0.5,) * 3, augment=lambda batch: batch.flip(3))
    x, _ = data.__getitems__(range(10))
    x.zero_()
    assert torch.equal(pixels, before)


def test_what_does_not_agree_is_refused():
    with pytest.raises(TypeError, match=r"dtype torch.float32, expected torch.uint8"):
        ImageTensors(images().float(), torch.arange(10), (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(ValueError, match="10 images and 9 labels"):
        ImageTensors(images(), torch.arange(9), (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(ValueError, match="1 means and 1 deviations for 3 channels"):
        ImageTensors(images(), torch.arange(10), (0.0,), (1.0,))
