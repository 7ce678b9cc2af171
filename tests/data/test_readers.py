import gzip
import hashlib
import io
import shutil
import tarfile

import numpy as np
import pytest
import torch

from ssl_prune.data import CIFAR10, MNIST, FashionMNIST
from ssl_prune.data import cifar as cifar_module
from ssl_prune.data.idx import read_idx


def idx(array):
    header = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def mnist_files(train=40, test=20):
    rng = np.random.default_rng(0)
    files = {}
    for part, count in (("train", train), ("t10k", test)):
        files[f"{part}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (count, 28, 28)))
        files[f"{part}-labels-idx1-ubyte"] = idx(np.arange(count) % 10)
    return files


def write(folder, files, zipped=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in files.items():
        path = folder / (name + ".gz" if zipped else name)
        path.write_bytes(gzip.compress(raw) if zipped else raw)


@pytest.mark.parametrize("folder", ["MNIST/raw", "MNIST", "raw", "."])
@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_is_found_in_every_usual_place(tmp_path, folder, zipped):
    files = mnist_files()
    write(tmp_path / folder, files, zipped)
    images, labels = MNIST(tmp_path).read(train=True)
    assert images.shape == (40, 1, 28, 28)
    assert images.numpy().tobytes() == files["train-images-idx3-ubyte"][16:]
    assert labels.tolist() == list(range(10)) * 4
    assert len(MNIST(tmp_path).read(train=False)[1]) == 20


def test_each_set_looks_in_its_own_folder(tmp_path):
    write(tmp_path / "FashionMNIST/raw", mnist_files(train=30))
    write(tmp_path / "MNIST/raw", mnist_files(train=20))
    assert len(FashionMNIST(tmp_path).read(train=True)[1]) == 30
    assert len(MNIST(tmp_path).read(train=True)[1]) == 20


def test_a_missing_file_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        MNIST(tmp_path).setup("fit")
    message = str(caught.value)
    assert "train-images-idx3-ubyte or train-images-idx3-ubyte.gz" in message
    assert f"{tmp_path}/MNIST/raw (no such folder)" in message
    assert "Set download to true" in message


def test_a_truncated_file_gives_both_sizes(tmp_path):
    path = tmp_path / "x-idx1-ubyte"
    path.write_bytes(idx(np.arange(10))[:-3])
    with pytest.raises(ValueError, match=r"has 15 bytes, expected 18 for the shape \(10,\)"):
        read_idx(path, dims=1)
    path.write_bytes(idx(np.arange(10))[:6])
    with pytest.raises(ValueError, match="has 6 bytes"):
        read_idx(path, dims=1)


def test_a_truncated_archive_is_named(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx(np.arange(100)))[:-20])
    with pytest.raises(ValueError, match=r"x\.gz cannot be unzipped"):
        read_idx(path, dims=1)


def test_a_wrong_magic_number_gives_both(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"<html>not found")
    with pytest.raises(ValueError, match="starts with 3c68746d, expected 00000803"):
        read_idx(path, dims=3)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="starts with nothing"):
        read_idx(path, dims=3)


def test_wrong_labels_and_images_are_named(tmp_path):
    files = mnist_files()
    write(tmp_path, files | {"train-labels-idx1-ubyte": idx(np.array([0] * 39 + [11]))})
    with pytest.raises(ValueError, match="1 labels are out of range, the first is 11 of image 39"):
        MNIST(tmp_path).read(train=True)
    write(tmp_path, files | {"train-labels-idx1-ubyte": idx(np.zeros(39))})
    with pytest.raises(ValueError, match="got 39 labels for 40 images"):
        MNIST(tmp_path).read(train=True)
    write(tmp_path, files | {"train-images-idx3-ubyte": idx(np.zeros((40, 27, 28)))})
    with pytest.raises(ValueError, match=r"\(27, 28\) pixels, expected \(28, 28\)"):
        MNIST(tmp_path).read(train=True)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(cifar_module, "RECORDS", 4)


def cifar_files():
    """Batch b of four records: label r, and the planes 10 b + r, then 100, then 200."""
    files = {}
    for b, name in enumerate((*cifar_module.TRAIN, *cifar_module.TEST)):
        planes = [bytes([r, *[10 * b + r] * 1024, *[100] * 1024, *[200] * 1024]) for r in range(4)]
        files[name] = b"".join(planes)
    return files


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("folder", ["cifar-10-batches-bin", "."])
def test_cifar_records(tmp_path, folder):
    write(tmp_path / folder, cifar_files())
    images, labels = CIFAR10(tmp_path).read(train=True)
    assert images.shape == (20, 3, 32, 32)
    assert labels.tolist() == [0, 1, 2, 3] * 5
    assert images[6].flatten(1).unique(dim=1).flatten().tolist() == [12, 100, 200]
    images, _ = CIFAR10(tmp_path).read(train=False)
    assert images[3, 0].unique().tolist() == [53]


@pytest.mark.usefixtures("small_batches")
def test_a_truncated_cifar_file_gives_both_sizes(tmp_path):
    write(tmp_path, cifar_files() | {"data_batch_3.bin": b"123"})
    with pytest.raises(ValueError, match=r"data_batch_3\.bin has 3 bytes, expected 12292"):
        CIFAR10(tmp_path).read(train=True)


@pytest.mark.usefixtures("small_batches")
def test_a_wrong_cifar_label_is_named(tmp_path):
    files = cifar_files()
    files["data_batch_1.bin"] = bytes([99]) + files["data_batch_1.bin"][1:]
    write(tmp_path, files)
    with pytest.raises(ValueError, match=r"data_batch_1\.bin: 1 labels are out of range, the first is 99 of image 0"):
        CIFAR10(tmp_path).read(train=True)


def test_mnist_downloads_what_is_missing(tmp_path, monkeypatch):
    server, root = tmp_path / "server", tmp_path / "root"
    write(server, mnist_files(), zipped=True)
    md5 = {p.name[:-3]: hashlib.md5(p.read_bytes()).hexdigest() for p in server.iterdir()}
    monkeypatch.setattr(MNIST, "mirrors", (server.as_uri() + "/",))
    monkeypatch.setattr(MNIST, "md5", md5)
    data = MNIST(root, download=True, validation=10)
    data.prepare_data()
    shutil.rmtree(server)
    data.prepare_data()  # all there: nothing is fetched
    data.setup("fit")
    assert len(data.train_set) == 30
    assert sorted(p.name for p in (root / "MNIST/raw").iterdir()) == sorted(f"{name}.gz" for name in md5)


@pytest.mark.usefixtures("small_batches")
def test_cifar_downloads_and_unpacks_its_six_files_only(tmp_path, monkeypatch):
    archive, root = tmp_path / "cifar.tar.gz", tmp_path / "root"
    with tarfile.open(archive, "w:gz") as tar:
        for name, raw in {**cifar_files(), "../../evil.txt": b"x", "readme.html": b"y"}.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    monkeypatch.setattr(CIFAR10, "mirrors", (archive.as_uri(),))
    monkeypatch.setattr(CIFAR10, "md5", hashlib.md5(archive.read_bytes()).hexdigest())
    data = CIFAR10(root, download=True)
    data.prepare_data()
    assert len(list((root / "cifar-10-batches-bin").iterdir())) == 6
    assert not list(tmp_path.rglob("evil.txt"))
    assert torch.equal(data.read(train=True)[1][:4], torch.arange(4))
