"""`slim` and `export` of networks that were trained elsewhere: what they take, and how they say no."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

pytest.importorskip("jsonargparse")

from ssl_prune import SlimError, load_slim
from ssl_prune.checkpoints import load_weights
from ssl_prune.cli import main
from ssl_prune.report.run import RunReport

NETWORK = """
import torch
from torch import nn


class MyNet(nn.Module):
    def __init__(self, width: int = 8, classes: int = 3):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, width, 3, bias=False), nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


class Words(nn.Module):
    def __init__(self, untyped=6):
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(2, 4), nn.Linear(5, untyped), nn.Linear(untyped, 2)

    def forward(self, ids, features):
        return self.b(torch.relu(self.a(torch.cat([self.embed(ids).mean(1), features], 1))))


class Broken(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        raise RuntimeError("no such backbone")


def make(width: int = 8) -> MyNet:
    return MyNet(width)
"""
SLIM = ["slim", "--model", "my_package.MyNet", "--model.width", "12", "--example_shape", "2,2,6,6"]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package of someone's own, on the path."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "my_package.py").write_text(NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        import my_package

        yield my_package
    sys.modules.pop("my_package", None)


@pytest.fixture
def here(tmp_path, monkeypatch, package):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ssl-prune"])
    monkeypatch.delenv("SSL_PRUNE_TRACEBACK", raising=False)
    return tmp_path


@pytest.fixture
def net(here, package):
    """Five of twelve channels are zero, one nearly."""
    torch.manual_seed(0)
    network = package.MyNet(12).eval()
    with torch.no_grad():
        for parameter in (network.conv.weight, network.bn.weight, network.bn.bias):
            parameter[:5], parameter[7] = 0, 1e-5
    torch.save(network.state_dict(), here / "net.pt")
    return network


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capsys.readouterr()
    assert stop.value.code not in (0, None)
    assert "Traceback" not in said.err + said.out
    return said.err


def test_from_a_state_dict_to_all_files(net, package, capsys):
    main([*SLIM, "--ckpt_path", "net.pt", "--output", "out/net.safetensors", "--exports=[pt2,state_dict]"])
    said = capsys.readouterr().out
    assert "whole network" in said
    assert "out/net.pt2: written, loaded back and compared" in said
    x = torch.randn(3, 2, 6, 6)
    model = load_slim("out/net.safetensors", package.MyNet(12)).eval()
    assert model.conv.out_channels == 7
    with torch.no_grad():
        torch.testing.assert_close(model(x), net(x), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(torch.export.load("out/net.pt2").module()(x), model(x))
    assert load_file("out/net.state_dict.safetensors").keys() == model.state_dict().keys()
    report = RunReport.load("out/net.json")
    assert (report.network, report.batch) == ("MyNet", 2)

    main(["export", *SLIM[1:], "--path", "out/net.safetensors", "--exports=[state_dict]"])
    main(["export", *SLIM[1:], "--path", "net.pt", "--exports=[state_dict]"])
    assert load_file("net.state_dict.safetensors")["conv.weight"].shape == (12, 2, 3, 3)  # the dense one
    main(["report", "out/net.safetensors"])


def test_what_is_replaced_is_said(net, capsys):
    main([*SLIM, "--ckpt_path", "net.pt", "--exports=[pt2]"])
    assert "replaced" not in capsys.readouterr().err
    main([*SLIM, "--ckpt_path", "net.pt"])
    assert "slim.safetensors was there already and is replaced" in capsys.readouterr().err


def test_threshold_and_widths_reach_the_cut(net, package, capsys):
    arguments = ["--ckpt_path", "net.pt", "--threshold", "1e-4", "--round_to", "4", "--columns", "true"]
    main([*SLIM, *arguments])
    assert load_slim("slim.safetensors", package.MyNet(12)).conv.weight.shape[0] == 8
    said = capsys.readouterr().out
    assert "threshold 0.0001: 20 entries of 1 channels" in said
    assert "kept for a width of 8, a multiple of 4" in said


def test_a_function_short_names_and_several_inputs(net, package, here, capsys):
    main(["slim", "--model", "my_package.make", "--model.width=12", "--example_shape=1,2,6,6", "--ckpt_path=net.pt"])
    words = package.Words(9)
    with torch.no_grad():
        words.b.weight[:, :4] = 0
    torch.save(words.state_dict(), "words.pth")
    main(
        ["slim", "--model", "my_package.Words", "--model.untyped", "9", "--example_shape", "2,5;2,1",
         "--example_dtype", "int64;float32", "--ckpt_path", "words.pth"]
    )  # fmt: skip
    assert load_slim("slim.safetensors", package.Words(9)).a.out_features == 5


def test_arguments_from_a_file(net, here, package):
    Path("job.yaml").write_text(
        "model: {class_path: my_package.MyNet, init_args: {width: 12}}\nckpt_path: net.pt\nexample_shape: 1,2,6,6\n"
    )
    main(["slim", "--config", "job.yaml", "--example_shape", "1,2,5,5"])
    assert load_slim("slim.safetensors", package.MyNet(12)).conv.out_channels == 7


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": {f"model.{k}": v for k, v in state.items()}},
        lambda state: {f"module.network.{k}": v for k, v in state.items()},
        lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model": {f"_orig_mod.{k}": v for k, v in state.items()} | {"loss.weight": torch.ones(2)}},
        lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
    ],
    ids=["plain", "lightning", "parallel", "weight", "compiled", "no-counters"],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_wrapped_and_prefixed_weights(net, package, wrap, suffix):
    wrapped = wrap(net.state_dict())
    path = f"wrapped{suffix}"
    if suffix == ".pt":
        torch.save(wrapped, path)
    elif all(isinstance(v, torch.Tensor) for v in wrapped.values()):
        save_file(wrapped, path)
    else:
        pytest.skip("safetensors holds tensors only")
    fresh = package.MyNet(12)
    load_weights(fresh, path)
    for name, tensor in net.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor), name


def test_tied_weights_that_a_file_names_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight

    first, fresh = Tied(), Tied()
    save_file({k: v for k, v in first.state_dict().items() if k != "b.weight"}, tmp_path / "tied.safetensors")
    load_weights(fresh, tmp_path / "tied.safetensors")
    assert torch.equal(fresh.b.weight, first.a.weight)
    assert fresh.b.weight is fresh.a.weight


def test_two_networks_in_one_file(net, package):
    state = net.state_dict()
    both = {f"student.{k}": v for k, v in state.items()} | {f"teacher.{k}": 2 * v for k, v in state.items()}
    torch.save(both, "both.pt")
    with pytest.raises(SlimError, match=r"more than once, under student\., teacher\.; say which with --prefix"):
        load_weights(package.MyNet(12), "both.pt")
    fresh = package.MyNet(12)
    assert load_weights(fresh, "both.pt", "teacher.") == "teacher."
    assert torch.equal(fresh.fc.weight, 2 * net.fc.weight)
    with pytest.raises(SlimError, match=r"under 'tutor\.'"):
        load_weights(package.MyNet(12), "both.pt", "tutor.")


def test_a_refused_file_changes_nothing(net, package):
    fresh = package.MyNet(9)
    before = {k: v.clone() for k, v in fresh.state_dict().items()}
    with pytest.raises(SlimError, match=r"conv\.weight has shape \(12, 2, 3, 3\), MyNet expects \(9, 2, 3, 3\)"):
        load_weights(fresh, "net.pt")
    assert all(torch.equal(v, before[k]) for k, v in fresh.state_dict().items())


class Thing:
    pass


def write_wrong_files(net):
    state = net.state_dict()
    whole = Path("net.pt").read_bytes()
    Path("half.pt").write_bytes(whole[: len(whole) // 2])
    save_file(state, "net.safetensors")
    Path("half.safetensors").write_bytes(Path("net.safetensors").read_bytes()[:500])
    Path("noise.pt").write_bytes(b"no checkpoint")
    Path("empty.pt").write_bytes(b"")
    torch.save(torch.zeros(3), "tensor.pt")
    torch.save({"epoch": 3}, "epoch.pt")
    torch.save({**state, "thing": Thing()}, "thing.pt")
    torch.save({k.replace("conv", "body"): v for k, v in state.items()}, "renamed.pt")
    torch.save({**state, "aux.weight": torch.zeros(2)}, "more.pt")
    torch.save({f"net.{k}": v for k, v in state.items() if "fc" not in k}, "less.pt")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ckpt_path", "missing.pt"], ["missing.pt", "no such checkpoint"]),
        (["--ckpt_path", "."], ["no such checkpoint"]),
        (["--ckpt_path", "half.pt"], ["half.pt", "whole?"]),
        (["--ckpt_path", "half.safetensors"], ["half.safetensors", "not a whole safetensors file"]),
        (["--ckpt_path", "noise.pt"], ["noise.pt", "cannot be read safely", "can be read safely"]),
        (["--ckpt_path", "empty.pt"], ["empty.pt", "can be read safely"]),
        (["--ckpt_path", "thing.pt"], ["thing.pt", "safely", "torch.save(model.state_dict(), FILE)"]),
        (["--ckpt_path", "tensor.pt"], ["tensor.pt", "holds a Tensor", "state_dict"]),
        (["--ckpt_path", "epoch.pt"], ["epoch.pt", "no tensors", "epoch"]),
        (["--ckpt_path", "renamed.pt"], ["missing conv.weight", "not expected body.weight"]),
        (["--ckpt_path", "more.pt"], ["not expected aux.weight"]),
        (["--ckpt_path", "less.pt"], ["under 'net.'", "missing fc.weight, fc.bias"]),
        (["--ckpt_path", "net.pt", "--prefix", "model."], ["under 'model.'", "missing conv.weight", "and 5 more"]),
        (["--ckpt_path", "net.pt", "--model.width", "9"], ["(12, 2, 3, 3)", "(9, 2, 3, 3)"]),
        (["--ckpt_path", "net.pt", "--model.widht", "9"], ["widht"]),
        (["--ckpt_path", "net.pt", "--model.width", "wide"], ["width"]),
        (["--ckpt_path", "net.pt", "--model", "my_package.NoNet"], ["NoNet"]),
        (["--ckpt_path", "net.pt", "--model", "no_package.MyNet"], ["no_package"]),
        (["--ckpt_path", "net.pt", "--model", "pathlib.Path"], ["pathlib.Path"]),
        (["--ckpt_path", "net.pt", "--model", "my_package.Broken"], ["my_package.Broken", "no such backbone"]),
        (["--ckpt_path", "net.pt", "--example_shape", "2,3,6,6"], ["--example_shape 2,3,6,6", "MyNet does not take it"]),
        (["--ckpt_path", "net.pt", "--example_shape", "2,2,6,six"], ["--example_shape", "1,3,32,32"]),
        (["--ckpt_path", "net.pt", "--example_shape", "0,2,6,6"], ["--example_shape", "at least 1"]),
        (["--ckpt_path", "net.pt", "--example_shape", ""], ["--example_shape", "1,3,32,32"]),
        (["--ckpt_path", "net.pt", "--example_dtype", "float8"], ["--example_dtype", "float32"]),
        (["--ckpt_path", "net.pt", "--example_dtype", "int64;int64"], ["--example_dtype", "1 inputs"]),
        (["--ckpt_path", "net.pt", "--threshold", "-1"], ["threshold must be a finite number >= 0, got -1"]),
        (["--ckpt_path", "net.pt", "--threshold", "nan"], ["threshold", "nan"]),
        (["--ckpt_path", "net.pt", "--round_to", "0"], ["round_to: got 0"]),
        (["--ckpt_path", "net.pt", "--round_to", "often"], ["round_to", "measured"]),
        (["--ckpt_path", "net.pt", "--tolerance", "-1"], ["tolerance"]),
        (["--ckpt_path", "net.pt", "--exports=[tflite]"], ["tflite", "onnx"]),
        (["--ckpt_path", "net.pt", "--output", "."], ["folder"]),
        (["--ckpt_path", "net.pt", "--output", "net.pt/slim.safetensors"], ["net.pt is a file"]),
        (["--ckpt_path", "net.pt", "--output", "slim.json"], ["--output", "slim.json would be written twice"]),
        ([], ["ckpt_path"]),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_is_wrong_is_named(net, arguments, words, capsys):
    write_wrong_files(net)
    said = refused([*SLIM, *arguments], capsys)
    for word in words[-1:] if "cannot be read safely" in words else words:
        assert word in said
    assert not Path("slim.safetensors").exists()


def test_a_slim_file_is_no_checkpoint_and_a_damaged_one_is_named(net, capsys):
    main([*SLIM, "--ckpt_path", "net.pt"])
    assert "a slim file, cut already" in refused(
        [*SLIM, "--ckpt_path", "slim.safetensors", "--output", "again.safetensors"], capsys
    )
    whole = Path("slim.safetensors").read_bytes()
    Path("half.safetensors").write_bytes(whole[:-9])
    export = ["export", *SLIM[1:], "--path"]
    assert "half.safetensors: not a whole" in refused([*export, "half.safetensors"], capsys)
    assert "missing.safetensors" in refused([*export, "missing.safetensors"], capsys)
    assert "tflite" in refused([*export, "slim.safetensors", "--exports=[tflite]"], capsys)
    assert "the plan expects" in refused([*export, "slim.safetensors", "--model.width", "9"], capsys)
    Path("slim.pt2").write_bytes(whole)
    assert "slim.pt2 would be written twice" in refused([*export, "slim.pt2", "--exports=[pt2]"], capsys)
    assert Path("slim.pt2").read_bytes() == whole


def test_the_example_shape_is_asked_for(net, capsys):
    """Without it a network that is no LightningModule still gets this command, not the Trainer's."""
    said = refused(["slim", "--model", "my_package.MyNet", "--ckpt_path", "net.pt"], capsys)
    assert "example_shape" in said
    assert "trainer" not in said


@pytest.mark.parametrize("output", ["net.pt", "./net.pt"])
def test_the_weights_that_are_read_are_not_written_over(net, output, capsys):
    before = Path("net.pt").read_bytes()
    assert "got the file that is read" in refused([*SLIM, "--ckpt_path", "net.pt", "--output", output], capsys)
    assert Path("net.pt").read_bytes() == before


def test_help(capsys, here):
    for command in ("slim", "export"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--example_shape", "1", "--help"])
        assert stop.value.code in (0, None)
    said = " ".join(capsys.readouterr().out.split())
    assert "--threshold" in said
    assert "--round_to" in said
    assert "such as 1,3,32,32" in said


def test_a_class_beside_the_command(tmp_path, net):
    """In a process of its own: the current folder is looked in without PYTHONPATH."""
    (tmp_path / "beside.py").write_text(NETWORK)
    code = "import sys; sys.path = [p for p in sys.path if p]; from ssl_prune.cli import main; main()"
    arguments = ["slim", "--model", "beside.MyNet", "--model.width", "12", "--example_shape", "1,2,6,6"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--ckpt_path", "net.pt"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "slim.json").read_text())["network"] == "MyNet"
