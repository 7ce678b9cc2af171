import torch

from ssl_prune.data.augment import crop_and_flip


def shifted(image, top, left, padding):
    """The crop by loops, the reference."""
    out = torch.zeros_like(image)
    _, height, width = image.shape
    for row in range(height):
        for column in range(width):
            r, c = row + top - padding, column + left - padding
            if 0 <= r < height and 0 <= c < width:
                out[:, row, column] = image[:, r, c]
    return out


def test_every_result_is_a_shift_perhaps_mirrored():
    torch.manual_seed(0)
    batch = torch.randint(1, 256, (40, 2, 5, 5), dtype=torch.uint8)
    result = crop_and_flip(batch, padding=1)
    assert result.shape == batch.shape
    assert result.dtype == batch.dtype
    seen = set()
    for image, got in zip(batch, result, strict=True):
        found = [
            (top, left, mirrored)
            for top in range(3)
            for left in range(3)
            for mirrored in (False, True)
            if torch.equal(got, shifted(image, top, left, 1).flip(2) if mirrored else shifted(image, top, left, 1))
        ]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) > 12  # of 18


def test_every_shift_is_as_likely():
    torch.manual_seed(0)
    batch = torch.zeros(9000, 1, 3, 3, dtype=torch.uint8)
    batch[:, 0, 1, 1] = 1
    mean = crop_and_flip(batch, padding=1).float().mean(0)[0]
    torch.testing.assert_close(mean, torch.full((3, 3), 1 / 9), atol=0.015, rtol=0)


def test_no_padding_only_mirrors():
    torch.manual_seed(0)
    batch = torch.arange(3, dtype=torch.uint8).expand(50, 1, 2, 3)
    firsts = crop_and_flip(batch, padding=0)[:, 0, 0].tolist()
    assert sorted(map(tuple, {tuple(row) for row in firsts})) == [(0, 1, 2), (2, 1, 0)]


def test_the_seed_decides():
    batch = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
    torch.manual_seed(1)
    first = crop_and_flip(batch)
    torch.manual_seed(1)
    assert torch.equal(crop_and_flip(batch), first)
    assert not torch.equal(crop_and_flip(batch), first)
