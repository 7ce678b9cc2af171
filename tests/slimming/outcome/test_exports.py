"""Exports are loaded back and compared; one that fails leaves nothing behind."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ssl_prune import SlimError, load_slim, save_slim, slim
from ssl_prune.slimming.outcome import exports as module
from ssl_prune.slimming.outcome.exports import EXPORTS, export_beside, export_onnx, export_pt2, export_state_dict


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(48, 2))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, image, scale):
        return {"logits": self.b(torch.relu(self.a(image)) * scale)}


class PerSample(nn.Module):
    """A forward that works on one batch size only: the loop is unrolled."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2)

    def forward(self, x):
        return torch.stack([self.a(row) for row in x])


def run_onnx(path, *arrays):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    return torch.from_numpy(session.run(None, dict(zip(names, (a.numpy() for a in arrays), strict=True)))[0])


def run_pt2(path, *inputs, **named):
    return torch.export.load(path).module()(*inputs, **named)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_another_batch_size(tmp_path, kind, batch):
    pytest.importorskip("onnxscript")
    model, path = net(), tmp_path / f"a.{kind}"
    EXPORTS[kind](model, torch.randn(batch, 1, 6, 6), path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert all(m.training for m in model.modules())
    model.eval()
    for size in (1, 3, 7):
        x = torch.randn(size, 1, 6, 6)
        got = run_onnx(path, x) if kind == "onnx" else run_pt2(path, x)
        with torch.no_grad():
            torch.testing.assert_close(got, model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize("inputs", ["tuple", "dict"])
def test_several_inputs(tmp_path, kind, inputs):
    pytest.importorskip("onnxscript")
    model, path = Named().eval(), tmp_path / f"a.{kind}"
    image, scale = torch.randn(1, 3), torch.rand(1, 4)
    EXPORTS[kind](model, (image, scale) if inputs == "tuple" else {"image": image, "scale": scale}, path)
    image, scale = torch.randn(5, 3), torch.rand(5, 4)
    expected = model(image, scale)["logits"]
    if kind == "onnx":
        got = run_onnx(path, image, scale)
    else:
        got = (run_pt2(path, image, scale) if inputs == "tuple" else run_pt2(path, image=image, scale=scale))["logits"]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize("batch", [1, 3])
def test_one_batch_size_only(tmp_path, kind, batch):
    pytest.importorskip("onnxscript")
    model, path, x = PerSample(), tmp_path / f"a.{kind}", torch.randn(batch, 3)
    EXPORTS[kind](model, x, path)
    got = run_onnx(path, x) if kind == "onnx" else run_pt2(path, x)
    torch.testing.assert_close(got, model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "pt2", "state_dict"])
def test_what_differs_is_not_written(tmp_path, kind):
    pytest.importorskip("onnxscript")
    path = tmp_path / f"a.{kind}"
    path.write_text("the old file")
    with pytest.raises(SlimError, match=r"differs by .* nothing was written"):
        EXPORTS[kind](net(), torch.randn(1, 1, 6, 6), path, tolerance=-1.0)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "the old file"


@pytest.mark.parametrize("export", [export_onnx, export_pt2])
def test_what_cannot_be_traced_leaves_nothing(tmp_path, export):
    pytest.importorskip("onnxscript")

    class Guesses(nn.Linear):
        def forward(self, x):
            return x * 2 if float(x.sum()) > 0 else super().forward(x)

    with pytest.raises(Exception, match=r".+"):
        export(Guesses(2, 2), torch.ones(1, 2), tmp_path / "a.pt2")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnx" else find(name, *a))
    with pytest.raises(ImportError, match=r"needs onnx: pip install 'ssl-prune\[onnx\]'"):
        export_onnx(net(), torch.randn(1, 1, 6, 6), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_the_file_is_the_one_that_was_named(tmp_path):
    with pytest.raises(ValueError, match=r"\.pt2"):
        export_pt2(net(), torch.randn(1, 1, 6, 6), tmp_path / "net.program")


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_free_batch_axis_that_does_not_hold_is_given_up(tmp_path, kind, monkeypatch):
    """Tracing says the batch is free, the outputs on another batch say it is not: the example's size is exported."""
    pytest.importorskip("onnxscript")

    class ByBatch(nn.Linear):
        def forward(self, x):
            return super().forward(x) * (1.0 if len(x) < 3 else 2.0)

    sizes = []
    honest = module._difference

    def difference(model, run, inputs, tolerance, free=()):
        sizes.append(free)
        return honest(model, run, inputs, tolerance, free)

    monkeypatch.setattr(module, "_difference", difference)
    monkeypatch.setattr(
        module, "tracing_call", lambda model, x, every: (((x,), {}), ({0: torch.export.Dim.AUTO},), [[0]])
    )
    model, path, x = ByBatch(3, 2), tmp_path / f"a.{kind}", torch.randn(2, 3)
    EXPORTS[kind](model, x, path)
    assert sizes[-1] == ()
    got = run_onnx(path, x) if kind == "onnx" else run_pt2(path, x)
    torch.testing.assert_close(got, model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_the_outputs_are_compared_on_another_batch_size(tmp_path, kind, monkeypatch):
    pytest.importorskip("onnxscript")
    batches = []
    monkeypatch.setattr(module, "relative_error", lambda e, g: batches.append(len(e)) or 0.0)
    EXPORTS[kind](net(), torch.randn(2, 1, 6, 6), tmp_path / f"a.{kind}")
    assert batches == [2, 2, 6]


class Segmenter(nn.Module):
    """Takes images of any size, and has outputs with names, some in a dict of their own."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 5, 1)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return {"masks": self.b(h), "more": {"edges": torch.sigmoid(self.c(h))}}


def test_outputs_in_a_dict_keep_their_keys_and_sizes_stay_free(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = Segmenter()
    export_onnx(model, torch.randn(1, 3, 8, 8), tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_outputs()] == ["masks", "more.edges"]
    x = torch.randn(2, 3, 6, 11)
    masks, edges = session.run(None, {"x": x.numpy()})
    with torch.no_grad():
        expected = model.eval()(x)
    torch.testing.assert_close(torch.from_numpy(masks), expected["masks"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(edges), expected["more"]["edges"], rtol=1e-4, atol=1e-5)


def test_a_size_that_the_network_fixes_stays_fixed(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    export_onnx(net(), torch.randn(2, 1, 6, 6), tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert given.shape[1:] == [1, 6, 6]
    assert isinstance(given.shape[0], str)


def test_a_state_dict_is_plain_tensors_that_the_plan_takes(tmp_path):
    dense = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        dense[0].weight[:3], dense[0].bias[:3], dense[1].weight[:3] = 0, 0, 0
        dense[1].bias.normal_()
    fresh = copy.deepcopy(dense)
    fresh.load_state_dict({k: torch.zeros_like(v) for k, v in dense.state_dict().items()})
    x = torch.randn(2, 4)
    result = slim(dense, x)
    save_slim(tmp_path / "net.safetensors", result)
    path = export_beside(tmp_path / "net.safetensors", "state_dict", result.model, x)
    assert path == tmp_path / "net.state_dict.safetensors"
    model = result.plan.apply(fresh).eval()
    model.load_state_dict(load_file(path))
    assert torch.equal(model(x), result.model(x))
    assert torch.equal(load_slim(tmp_path / "net.safetensors", fresh)(x), result.model(x))  # still the slim file


def test_a_state_dict_has_tied_tensors_under_each_name(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    export_state_dict(model, torch.randn(1, 3), tmp_path / "a.safetensors")
    tensors = load_file(tmp_path / "a.safetensors")
    assert tensors.keys() == model.state_dict().keys()
    assert torch.equal(tensors["0.weight"], tensors["1.weight"])


def test_a_state_dict_with_other_things_is_refused(tmp_path):
    class More(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, state):
            pass

    with pytest.raises(SlimError, match=r"_extra_state is a dict"):
        export_state_dict(More(2, 2), torch.randn(1, 2), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
