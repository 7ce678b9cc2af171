"""A wrong command line ends with one line: the key, what was got, what was expected, the nearest right name."""

import pickle
import sys
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("jsonargparse")

from ssl_prune.budget.limits import Limits
from ssl_prune.cli import main
from ssl_prune.usage_errors import in_one_line

DIGITS = str(Path(__file__).parents[1] / "configs" / "digits_strength.yaml")
FIT = ["fit", "--config", DIGITS, "--trainer.logger=false", "--trainer.enable_progress_bar=false"]
PLAIN = ["--model", "torch.nn.Linear", "--model.in_features=3", "--model.out_features=2", "--example_shape=1,3"]
SLIM = ["slim", *PLAIN, "--ckpt_path", "net.pt"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ssl-prune"])
    monkeypatch.delenv("SSL_PRUNE_TRACEBACK", raising=False)
    torch.save(torch.nn.Linear(3, 2).state_dict(), "net.pt")
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.5.0"}, "bare.ckpt")
    torch.save([1], "list.ckpt")
    Path("empty.ckpt").write_bytes(b"")
    Path("text.ckpt").write_text("a line\nand another\n")
    Path("foreign.ckpt").write_bytes(pickle.dumps(torch.nn.Linear(2, 2)))
    Path("damaged.json").write_text('{"slim": 3')
    Path("deep.json").write_text("[" * 100_000)
    Path("list.yaml").write_text("- 1\n- 2\n")
    Path("text.yaml").write_text("hello\nthere\n")
    Path("broken.yaml").write_text("model: [1, 2\ntrainer: {")
    Path("slim.yaml").write_text("tolerence: 0.1\n")
    return tmp_path


def one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capsys.readouterr()
    assert stop.value.code not in (0, None)
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith("ssl-prune: ")
    assert "Traceback" not in said.out
    return said.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["no command", "fit", "report"]),
        (["fitt"], ["got 'fitt'", "did you mean fit?"]),
        (["reprot", "a.json"], ["did you mean report?"]),
        (["--hlep"], ["did you mean --help?"]),
        (["fit"], ["model", "got none"]),
        (["fit", "--confg", DIGITS], ["got '--confg'", "did you mean --config?"]),
        (["fit", "--config"], ["--config", "expected one argument"]),
        (["fit", "--config", "missing.yaml"], ["missing.yaml"]),
        (["fit", "--config", "list.yaml"], ["config: got no mapping"]),
        (["fit", "--config", "text.yaml"], ["config: got no mapping"]),
        (["fit", "--config", "broken.yaml"], ["config", "line 2"]),
        ([*FIT, "--trainr.max_epochs=3"], ["did you mean --trainer.max_epochs?"]),
        ([*FIT, "--trainer.max_epochs=many"], ["trainer.max_epochs", "got 'many'", "expected int"]),
        ([*FIT, "--trainer.precision=17"], ["trainer.precision", "got '17'", "'bf16-mixed'"]),
        ([*FIT, "--trainer.check_val_every_n_epoch=0"], ["check_val_every_n_epoch: got 0"]),
        ([*FIT, "--model.init_args.network.init_args.width=3"], ["network: DigitsNet", "'width'", "did you mean widths?"]),
        ([*FIT, "--model.init_args.network.init_args.widths=[4]"], ["widths", "got '[4]'", "tuple with 2 elements"]),
        ([*FIT, "--data.init_args.batch_size=big"], ["batch_size", "got 'big'", "expected int"]),
        ([*FIT, "--data.init_args.batch_size=0"], ["batch_size is 0"]),
        ([*FIT, "--optimizer=SDG"], ["optimizer", "got 'SDG'", "did you mean SGD?"]),
        ([*FIT, "stray"], ["got 'stray'"]),
        *(
            ([command, *FIT[1:], "--ckpt_path", file], [file, word])
            for command in ("fit", "test", "slim")
            for file, word in (
                ("empty.ckpt", "it is empty"),
                ("text.ckpt", "read safely"),
                ("foreign.ckpt", "read safely"),
                ("list.ckpt", "holds a list"),
            )
        ),
        ([*FIT, "--ckpt_path", "net.pt"], ["got weight, bias", "pytorch-lightning_version"]),
        ([*FIT, "--ckpt_path", "bare.ckpt"], ["not those of ImageClassifier", "network.conv1.weight"]),
        ([*FIT, "--ckpt_path", "/dev/null"], ["/dev/null: no such checkpoint"]),
        (["export", "--config", DIGITS, "--path", "net.pt", "--exports=[]"], ["exports: got []", "onnx"]),
        (["export", *PLAIN, "--path", "net.pt", "--exports=[]"], ["exports: got []", "onnx"]),
        (["report"], ["file: got none"]),
        (["report", "."], ["file: got '.'"]),
        (["report", "missing.json"], ["missing.json: no such report"]),
        (["report", "damaged.json"], ["damaged.json: not a run report"]),
        (["report", "deep.json"], ["deep.json: not a run report"]),
        (["report", "damaged.json", "--plt", "a.png"], ["did you mean --plot?"]),
        (["slim", *PLAIN], ["ckpt_path: got none"]),
        ([*SLIM, "--model.out_featurs=3"], ["Linear", "did you mean out_features?"]),
        ([*SLIM, "--model.out_features=-3"], ["torch.nn.Linear", "-3"]),
        (["slim", "--model", "torch.nn.Linea", *SLIM[3:]], ["got 'Linea'", "did you mean Linear?"]),
        (["slim", "--model", "no_such.Net", *SLIM[3:]], ["no_such"]),
        ([*SLIM, "--outptu", "a.safetensors"], ["did you mean --output?"]),
        ([*SLIM, "--tolerance=small"], ["tolerance: got 'small', expected float"]),
        ([*SLIM, "--round_to=often"], ["round_to: got 'often'", "'measured'"]),
        ([*SLIM, "--exports=onnx"], ["exports: got 'onnx', expected list"]),
        ([*SLIM, "--exports=[onx]"], ["got ['onx']", "did you mean onnx?"]),
        ([*SLIM, "--budget", '{"mac": 0.5}'], ["budget: got 'mac'", "did you mean macs?"]),
        ([*SLIM, "--budget", '{"macs": 1.5}'], ["macs", "whole number above 1, got 1.5"]),
        ([*SLIM, "--config", "slim.yaml"], ["'tolerence'", "did you mean tolerance?"]),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_wrong_command_line_gets_one_line(here, arguments, words, capsys):
    said = one_line(arguments, capsys)
    for word in words:
        assert word in said


def init(config):
    return config["trainer"]["callbacks"][0]["init_args"]


def added(name, **arguments):
    return lambda c: c["trainer"]["callbacks"].append({"class_path": name, "init_args": arguments})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(sed_everything=3), ["'sed_everything'", "did you mean seed_everything?"]),
        (lambda c: c.update(trainr=c.pop("trainer")), ["did you mean trainer"]),
        (lambda c: c.update(callbacks=[]), ["did you mean trainer.callbacks?"]),
        (lambda c: c["trainer"].update(max_epoch=3), ["'trainer.max_epoch'", "did you mean trainer.max_epochs?"]),
        (lambda c: init(c).update(strenght=1.0), ["GroupLasso: got the key 'strenght'", "did you mean strength?"]),
        (lambda c: init(c).update(strength="much"), ["GroupLasso: strength: got 'much', expected float or null"]),
        (lambda c: init(c).update(strength=-1.0), ["GroupLasso: strength must be a finite number >= 0, got -1.0"]),
        (lambda c: init(c).update(granularity="filtr"), ["'filtr'", "did you mean filter?"]),
        (lambda c: init(c).update(solver="proximall"), ["solver: got 'proximall', expected 'proximal', 'subgradient'"]),
        (lambda c: init(c).update(include="conv9"), ["'conv9' matches no layer", "did you mean conv"]),
        (lambda c: init(c).update(module="netwrk"), ["'netwrk'", "did you mean network?"]),
        (lambda c: init(c).update(schedule="Lineer"), ["schedule: got 'Lineer'", "did you mean Linear?"]),
        (
            lambda c: init(c).update(schedule={"class_path": "Linear", "init_args": {"ennd": "0.5"}}),
            ["schedule: Linear: got the key 'ennd'", "did you mean end?"],
        ),
        (lambda c: c["trainer"]["callbacks"][0].pop("init_args"), ["GroupLasso: granularity: got none"]),
        (lambda c: c["trainer"]["callbacks"][0].update(class_path="GroupLaso"), ["'GroupLaso'", "did you mean GroupLasso?"]),
        (
            lambda c: c["trainer"]["callbacks"][0].update(class_path="ssl_prune.callbacks.GroupLaso"),
            ["got 'GroupLaso', which ssl_prune.callbacks does not have; did you mean GroupLasso?"],
        ),
        (lambda c: c["trainer"].update(callbacks=[3]), ["trainer.callbacks: got '3'", "class_path"]),
        (lambda c: c["trainer"]["callbacks"].append(c["trainer"]["callbacks"][0]), ["got GroupLasso twice"]),
        (added("Budget", macs=1.5), ["Budget: macs", "got 1.5"]),
        (added("Budget", mac=0.5), ["Budget: got the key 'mac'", "did you mean macs?"]),
        (added("Budget", macs="half"), ["Budget: macs: got 'half', expected float"]),
        (added("Budget", macs=0.5, window=["0.9"]), ["window: got \"['0.9']\", expected tuple with 2 elements or a Ramp"]),
        (added("Shrink", every_n_epoch=1), ["Shrink: got the key 'every_n_epoch'", "did you mean every_n_epochs?"]),
        (added("Slim", path="."), ["Slim: path must name a file"]),
        (added("Slim", path="a.safetensors", exports=["onx"]), ["did you mean onnx?"]),
        (lambda c: c["model"].update(class_path="ImageClasifier"), ["'ImageClasifier'", "did you mean ImageClassifier?"]),
        (lambda c: c["model"]["init_args"].update(lrr=0.1), ["ImageClassifier: got the key 'lrr', expected one of network"]),
        (lambda c: c["data"].update(class_path="Digitz"), ["data: got 'Digitz'", "did you mean Digits?"]),
        (
            lambda c: c.update(data={"class_path": "MNIST", "init_args": {"root": "/no/such"}}),
            ["MNIST", "/no/such/raw", "Set download"],
        ),
    ],
)  # fmt: skip
def test_a_wrong_file_gets_one_line(here, change, words, capsys):
    config = yaml.safe_load(Path(DIGITS).read_text())
    change(config)
    Path("wrong.yaml").write_text(yaml.safe_dump(config))
    said = one_line(["fit", "--config", "wrong.yaml", *FIT[3:]], capsys)
    for word in words:
        assert word in said


def test_a_wrong_key_before_the_command_is_named(here, capsys):
    Path("root.yaml").write_text("fit: {modell: {class_path: ImageClassifier}}\n")
    assert "modell" in one_line(["--config", "root.yaml", "fit"], capsys)
    assert "'model." in one_line(["--config", DIGITS, "fit"], capsys)


def test_a_traceback_can_be_asked_for(here, monkeypatch):
    monkeypatch.setenv("SSL_PRUNE_TRACEBACK", "1")
    with pytest.raises(Exception, match="Does not validate"):
        main([*FIT, "--trainer.max_epochs=many"])


def test_a_message_without_a_frame_stays_as_it_is():
    assert in_one_line("the folder is full") == "the folder is full"


@pytest.mark.parametrize("kind", ["macs", "params"])
def test_a_size_above_one_is_whole(kind):
    assert Limits.of({kind: 2e6}).shares({kind: 4e6}) == {kind: 0.5}
    with pytest.raises(ValueError, match=rf"{kind} must be a share .* or a whole number above 1, got 1\.5"):
        Limits.of({kind: 1.5})
