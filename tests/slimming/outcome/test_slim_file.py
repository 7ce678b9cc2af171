"""Files: what is read is what was written, and what is damaged is refused with a word."""

import itertools
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ssl_prune import load_slim, save_slim, slim
from ssl_prune.errors import SlimError
from ssl_prune.slimming import SlimResult


def network(width=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.SiLU(), nn.Linear(width, 3))


@pytest.fixture(scope="module")
def result():
    net = network()
    with torch.no_grad():
        net[0].weight[:3] = 0
        net[1].bias.normal_()
    return slim(net, torch.randn(2, 4))


@pytest.fixture
def path(result, tmp_path):
    save_slim(tmp_path / "net.safetensors", result)
    return tmp_path / "net.safetensors"


def test_round_trip(result, path):
    fresh = network()
    model = load_slim(path, fresh)
    state, expected = model.state_dict(), result.model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[k], expected[k]) for k in state)
    assert fresh[0].out_features == 8
    x = torch.randn(5, 4)
    assert torch.equal(model.eval()(x), result.model.eval()(x))


def test_reading_needs_neither_tracer_nor_export(path, result):
    x = torch.randn(5, 4)
    with torch.no_grad():
        expected = result.model.eval()(x)
    script = f"""
    import sys

    class Blocked:
        def find_spec(self, name, *_):
            if name.split(".")[0] == "torch_pruning" or name.startswith("torch.export"):
                raise ImportError(f"{{name}} is blocked")

    import torch
    sys.meta_path.insert(0, Blocked())
    for name in [n for n in sys.modules if n.startswith("torch.export")]:
        del sys.modules[name]
    torch.__dict__.pop("export", None)
    torch.set_num_threads(1)
    from torch import nn
    from ssl_prune.slimming import load_slim
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 3))
    model = load_slim({str(path)!r}, net).eval()
    assert not any(n.startswith(("torch_pruning", "lightning", "pytorch_lightning", "torch.export")) for n in sys.modules)
    torch.save(model(torch.tensor({x.tolist()})), {str(path)!r} + ".out")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(f"{path}.out"), expected, rtol=0, atol=0)


def test_every_truncation_is_refused(path, tmp_path):
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        part = tmp_path / "part.safetensors"
        part.write_bytes(whole[:length])
        with pytest.raises(SlimError, match=r"part\.safetensors"):
            load_slim(part, network())


def test_every_flipped_bit_is_found_or_harmless(path, tmp_path):
    whole, good = path.read_bytes(), load_slim(path, network()).state_dict()
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(0, header, 3), *range(header, len(whole), 61)]
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 7)
        (tmp_path / "bad.safetensors").write_bytes(flipped)
        try:
            state = load_slim(tmp_path / "bad.safetensors", network()).state_dict()
        except SlimError as error:
            assert "bad.safetensors" in str(error)  # noqa: PT017
            continue
        assert state.keys() == good.keys()
        assert all(torch.equal(state[k], good[k]) for k in good), place


def test_a_foreign_safetensors_file(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(SlimError, match=r"foreign\.safetensors.*save_slim"):
        load_slim(tmp_path / "foreign.safetensors", network())


def rewrite(path, **changes):
    with safe_open(path, "pt") as file:
        tensors, metadata = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118
    metadata["ssl_prune"] = json.dumps({**json.loads(metadata["ssl_prune"]), **changes})
    save_file(tensors, path, metadata)


def test_a_newer_format(path):
    rewrite(path, format=99)
    with pytest.raises(SlimError, match=r"99.*newer"):
        load_slim(path, network())


@pytest.mark.parametrize(
    "changes", [{"format": "1"}, {"aliases": []}, {"aliases": {"x": "y"}}, {"plan_sha256": None}, {"tensors_sha256": 3}]
)
def test_a_header_of_other_types(path, changes):
    rewrite(path, **changes)
    with pytest.raises(SlimError, match=r"net\.safetensors"):
        load_slim(path, network())


@pytest.mark.parametrize("other", [network(9), nn.Sequential(nn.Linear(4, 8)), nn.Linear(4, 8)])
def test_another_architecture(path, other):
    with pytest.raises(SlimError, match="weight"):
        load_slim(path, other)


def test_an_architecture_with_more_in_it(path):
    with pytest.raises(SlimError, match="another network"):
        load_slim(path, nn.Sequential(*network(), nn.Linear(3, 3)))


def test_a_missing_file_and_a_missing_folder(result, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        load_slim(tmp_path / "none.safetensors", network())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        save_slim(tmp_path / "nowhere" / "net.safetensors", result)
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file(result, path, monkeypatch):
    def broken(tensors, part, metadata):
        part.write_bytes(b"half")
        raise OSError("disk full")

    before = path.read_bytes()
    monkeypatch.setattr("ssl_prune.slimming.outcome.slim_file.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        save_slim(path, result)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["net.safetensors"]


def tied():
    torch.manual_seed(0)
    a, b = nn.Linear(6, 6), nn.Linear(6, 6)
    b.weight = a.weight
    again = nn.BatchNorm1d(6)
    return nn.Sequential(nn.Linear(3, 6), a, again, nn.ReLU(), b, again, nn.Linear(6, 2))


def test_tied_weights_and_shared_modules_stay_tied(tmp_path):
    net = tied()
    with torch.no_grad():
        for layer in (net[0], net[1], net[4]):
            layer.weight[:2] = 0
            layer.bias[:2] = 0
    result = slim(net, torch.randn(2, 3))
    assert result.model[1].in_features == 4
    save_slim(tmp_path / "tied.safetensors", result)
    model = load_slim(tmp_path / "tied.safetensors", tied())
    assert model[1].weight is model[4].weight
    assert model[2] is model[5]
    x = torch.randn(5, 3)
    assert torch.equal(model.eval()(x), result.model.eval()(x))


def test_columns_branches_and_half_precision(tmp_path):
    net = network().to(torch.bfloat16)
    with torch.no_grad():
        net[0].weight[:, 1] = 0
    result = slim(net, torch.randn(2, 4, dtype=torch.bfloat16), columns=True)
    save_slim(tmp_path / "half.safetensors", result)
    model = load_slim(tmp_path / "half.safetensors", network().to(torch.bfloat16)).eval()
    assert model[0].weight.shape == (8, 3)
    x = torch.randn(5, 4, dtype=torch.bfloat16)
    assert torch.equal(model(x), result.model.eval()(x))


def test_weights_trained_after_the_cut_are_saved(result, tmp_path):
    model = result.plan.apply(network())
    save_slim(tmp_path / "later.safetensors", SlimResult(model, result.plan, result.report))
    assert torch.equal(load_slim(tmp_path / "later.safetensors", network())[3].weight, model[3].weight)


def test_a_state_that_is_no_tensor_is_refused(result, tmp_path):
    class More(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

    with pytest.raises(SlimError, match=r"_extra_state: .* holds a dict"):
        save_slim(tmp_path / "more.safetensors", SlimResult(More(2, 2), result.plan, result.report))
    assert not list(tmp_path.iterdir())


class Mixed(nn.Sequential):
    """With a buffer that no file holds, and one of integers."""

    def __init__(self):
        super().__init__(*network())
        self.register_buffer("scale", torch.full((3,), 2.0), persistent=False)
        self.register_buffer("shift", torch.ones(3, dtype=torch.int64))

    def forward(self, x):
        return super().forward(x) * self.scale + self.shift


@pytest.mark.parametrize("fresh", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_precision_is_that_of_the_file(tmp_path, dtype, fresh):
    net = Mixed().to(dtype).eval()
    with torch.no_grad():
        net[0].weight[:3], net[0].bias[:3] = 0, 0
    result = slim(net, torch.randn(2, 4, dtype=dtype), tolerance=0.1)
    save_slim(tmp_path / "net.safetensors", result)
    dense = Mixed().to(fresh).eval()
    model = load_slim(tmp_path / "net.safetensors", dense)
    assert {t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()} == {dtype}
    assert {t.dtype for t in dense.parameters()} == {fresh}
    assert model.shift.dtype == torch.int64
    x = torch.randn(5, 4, dtype=dtype)
    assert torch.equal(model(x), result.model.eval()(x))


def test_several_precisions_stay_several(tmp_path):
    def build():
        return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3))

    plan = slim(build(), torch.randn(2, 4))
    plan.model[1].double()
    save_slim(tmp_path / "net.safetensors", plan)
    model = load_slim(tmp_path / "net.safetensors", build())
    assert [layer.weight.dtype for layer in model] == [torch.float32, torch.float64, torch.float32]


def test_tied_weights_of_another_precision_stay_tied(tmp_path):
    result = slim(tied().double(), torch.randn(2, 3, dtype=torch.float64))
    save_slim(tmp_path / "net.safetensors", result)
    model = load_slim(tmp_path / "net.safetensors", tied())
    assert model[1].weight is model[4].weight
    assert model[4].weight.dtype == torch.float64


def test_a_reader_beside_a_writer_sees_whole_files(result, path, monkeypatch):
    """Whenever the file is replaced between two looks at it, what was read is one of the two."""
    other = path.with_name("other.safetensors")
    later = result.plan.apply(network())
    save_slim(other, SlimResult(later, result.plan, result.report))
    files, opened, real = itertools.cycle([path.read_bytes(), other.read_bytes()]), [], open

    def replaced(file, *args, **options):
        if str(file) == str(path):
            opened.append(1)
            other.write_bytes(next(files))
            os.replace(other, path)
        return real(file, *args, **options)

    monkeypatch.setattr("builtins.open", replaced)
    monkeypatch.setattr("safetensors.safe_open", lambda *_, **__: pytest.fail("opened in a way that cannot be seen"))
    for count in range(1, 5):
        load_slim(path, network())
        assert len(opened) == count


def test_a_network_that_diverged_is_not_saved(result, tmp_path):
    model = result.plan.apply(network())
    with torch.no_grad():
        model[3].bias[0] = torch.nan
    with pytest.raises(SlimError, match=r"^3\.bias: holds NaN"):
        save_slim(tmp_path / "net.safetensors", SlimResult(model, result.plan, result.report))
    assert not list(tmp_path.iterdir())
