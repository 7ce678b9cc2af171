"""The command line: what it does, and how it says no."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("jsonargparse")

from ssl_prune import load_slim
from ssl_prune._lightning import pl
from ssl_prune.callbacks import Penalise
from ssl_prune.cli import SlimCLI, main
from ssl_prune.models import DigitsNet
from ssl_prune.penalties import GroupMCP
from ssl_prune.report.run import RunReport
from ssl_prune.schedules import Cosine, Step
from ssl_prune.timing import RunLength

ROOT = Path(__file__).parents[1]
DIGITS = str(ROOT / "configs" / "digits_strength.yaml")
SMALL = [
    "--trainer.max_epochs=2",
    "--data.init_args.batch_size=400",
    "--trainer.enable_progress_bar=false",
    "--trainer.logger=false",
    "--model.init_args.network.init_args.widths=[4,6]",
]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:.*treespec"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ssl-prune"])
    monkeypatch.delenv("SSL_PRUNE_TRACEBACK", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of the digits job in a folder of its own."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["ssl-prune"])
        main(["fit", "--config", DIGITS, *SMALL])
    return folder


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capsys.readouterr()
    assert stop.value.code not in (0, None)
    assert "Traceback" not in said.err + said.out
    return said.err


def checkpoint(folder):
    (found,) = folder.glob("runs/digits_strength/**/*.ckpt")
    return str(found)


def test_fit_leaves_all_files(trained):
    files = {path.name for path in (trained / "runs/digits_strength").iterdir()}
    assert {"digits_strength.safetensors", "digits_strength.json", "digits_strength.png", "config.yaml"} <= files
    report = RunReport.load(trained / "runs/digits_strength/digits_strength.json")
    assert {e.name for e in report.evaluations} == {"validation", "test"}
    assert report.network == "DigitsNet"
    load_slim(trained / "runs/digits_strength/digits_strength.safetensors", DigitsNet(widths=(4, 6)))
    saved = yaml.safe_load((trained / "runs/digits_strength/config.yaml").read_text())
    assert saved["model"]["init_args"]["network"]["init_args"]["widths"] == [4, 6]


@pytest.mark.parametrize("given", [False, True])
def test_a_run_ends_the_process_group_it_started_and_no_other(here, given):
    """What gloo still holds at exit can abort a process whose work is done."""
    if given:
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        main(["fit", "--config", DIGITS, *SMALL, "--trainer.strategy=ddp", "--trainer.devices=1"])
        assert torch.distributed.is_initialized() == given
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_other_stages_take_the_checkpoint(trained, here, command, capsys):
    main([command, "--config", DIGITS, *SMALL, "--ckpt_path", checkpoint(trained)])
    assert command == "predict" or "acc" in capsys.readouterr().out


def test_resuming_on_the_command_line(trained, here):
    main(["fit", "--config", DIGITS, *SMALL, "--ckpt_path", checkpoint(trained), "--trainer.max_epochs=3"])
    assert (here / "runs/digits_strength/digits_strength.safetensors").exists()


def test_slim_export_and_report(trained, here, capsys):
    main(["slim", "--config", DIGITS, *SMALL, "--ckpt_path", checkpoint(trained), "--path", "a/cut.safetensors"])
    said = capsys.readouterr().out
    assert "whole network" in said
    assert "validation accuracy" in said
    assert "test accuracy" in said
    again = load_slim(here / "a/cut.safetensors", DigitsNet(widths=(4, 6)))
    first = load_slim(trained / "runs/digits_strength/digits_strength.safetensors", DigitsNet(widths=(4, 6)))
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), first.eval()(x))

    main(["export", "--config", DIGITS, *SMALL, "--path", "a/cut.safetensors", "--exports=[onnx,pt2]"])
    assert "a/cut.onnx" in capsys.readouterr().out
    assert {"cut.onnx", "cut.pt2", "cut.json", "cut.png", "cut.safetensors"} == {p.name for p in Path("a").iterdir()}
    program = torch.export.load("a/cut.pt2").module()
    torch.testing.assert_close(program(x), again(x))

    main(["report", "a/cut.safetensors", "--plot", "b.svg"])
    assert "whole network" in capsys.readouterr().out
    assert Path("b.svg").exists()


def test_slim_without_data(trained, here):
    config = yaml.safe_load(Path(DIGITS).read_text())
    Path("only.yaml").write_text(yaml.safe_dump({"model": config["model"]}))
    network = "--model.init_args.network.init_args.widths=[4,6]"
    main(["slim", "--config", "only.yaml", network, "--ckpt_path", checkpoint(trained)])
    assert RunReport.load("slim.json").evaluations == ()


def test_slim_takes_the_bare_weights_of_the_network_too(trained, here):
    """Of a program that knows no LightningModule: names without `network.` before them."""
    state = torch.load(checkpoint(trained), weights_only=True)["state_dict"]
    torch.save({k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}, "bare.pt")
    config = yaml.safe_load(Path(DIGITS).read_text())
    Path("only.yaml").write_text(yaml.safe_dump({"model": config["model"]}))
    network = "--model.init_args.network.init_args.widths=[4,6]"
    main(
        ["slim", "--config", "only.yaml", network, "--ckpt_path", "bare.pt", "--round_to", "2", "--columns", "measured"]
    )
    again, first = (
        load_slim(path, DigitsNet(widths=(4, 6))).eval()
        for path in ("slim.safetensors", trained / "runs/digits_strength/digits_strength.safetensors")
    )
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(again(x), first(x), rtol=1e-4, atol=1e-5)


def test_overriding_callbacks(here):
    main(
        [
            "fit",
            "--model=ImageClassifier",
            "--model.network=DigitsNet",
            "--model.network.init_args.widths=[4,6]",
            "--data=Digits",
            "--data.batch_size=400",
            "--trainer.callbacks+=GroupLasso",
            "--trainer.callbacks.granularity=filter",
            "--trainer.callbacks.strength=0.2",
            "--trainer.callbacks.include=conv*",
            "--trainer.callbacks.schedule=Linear",
            "--trainer.callbacks.schedule.end=0.5",
            "--trainer.callbacks+=Slim",
            "--trainer.callbacks.path=mine.safetensors",
            "--trainer.callbacks.latency_batch=0",
            "--trainer.max_epochs=1",
            "--trainer.logger=false",
            "--trainer.enable_progress_bar=false",
        ]
    )
    assert RunReport.load("mine.json").latency is None
    (callback,) = [
        c
        for c in yaml.safe_load(Path("config.yaml").read_text())["trainer"]["callbacks"]
        if "GroupLasso" in c["class_path"]
    ]
    assert callback["init_args"]["include"] == "conv*"
    assert callback["init_args"]["schedule"]["init_args"]["end"] == "0.5"


@pytest.mark.parametrize(
    ("text", "step"), [('"2ep"', 20), ("2ep", 20), ('"0.5"', 35), ('"1.0"', 70), ("7it", 7), ("0", 0)]
)
def test_times_are_read_with_their_units(here, text, step):
    """Whatever the parser makes of a number in quotation marks."""
    Path("c.yaml").write_text(
        "seed_everything: 0\nmodel: {class_path: ImageClassifier, init_args: {network: {class_path: DigitsNet}}}\n"
        "trainer:\n  logger: false\n  callbacks:\n    - class_path: GroupLasso\n"
        f"      init_args: {{granularity: filter, strength: 1.0e-3, freeze_at: {text}}}\n"
    )
    built = built_from(["--config", "c.yaml"])
    (callback,) = [c for c in built.trainer.callbacks if type(c).__name__ == "GroupLasso"]
    assert callback.freeze_at.steps(RunLength(steps=70, steps_per_epoch=10)) == step


def test_a_penalty_is_an_object_in_a_file(here):
    Path("c.yaml").write_text(
        "seed_everything: 0\nmodel: {class_path: ImageClassifier, init_args: {network: {class_path: DigitsNet}}}\n"
        "trainer:\n  logger: false\n  callbacks:\n    - class_path: ssl_prune.callbacks.Penalise\n      init_args:\n"
        "        penalty: {class_path: ssl_prune.penalties.GroupMCP, init_args: {gamma: 2.5}}\n"
        "        granularity: filter\n        strength: 1.0e-3\n"
        "    - class_path: ssl_prune.callbacks.Distill\n      init_args: {start: 5ep}\n"
    )
    built = built_from(["--config", "c.yaml"])
    (callback,) = [c for c in built.trainer.callbacks if isinstance(c, Penalise)]
    assert callback.penalty == GroupMCP(gamma=2.5)


def built_from(arguments):
    return SlimCLI(arguments, run=False)


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_builds(here, config):
    built = built_from(["--config", str(config)])
    assert built.model is not None
    assert built.datamodule is not None
    lines = config.read_text().splitlines()
    assert lines[0].startswith("# ssl-prune fit --config configs/" + config.name)
    assert lines[2].startswith("# ")


def test_help(capsys, here):
    for arguments in (["--help"], ["slim", "--help"], ["export", "--help"], ["report", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code in (0, None)
    said = capsys.readouterr().out
    assert "fit" in said
    assert "Cut the zeros out of a checkpoint" in said
    assert "checkpoint with its weights" in said
    assert "the .json beside a slim file" in said


def with_yaml(change):
    config = yaml.safe_load(Path(DIGITS).read_text())
    change(config)
    Path("wrong.yaml").write_text(yaml.safe_dump(config))
    return ["fit", "--config", "wrong.yaml", *SMALL]


def lasso(config):
    return config["trainer"]["callbacks"][0]["init_args"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: lasso(c).update(strength=float("nan")), ["strength", ">= 0"]),
        (lambda c: lasso(c).update(freeze_at=1.5), ["freeze_at", '"0.7" (of the run)']),
        (lambda c: lasso(c).update(freeze_at=0.5), ["freeze_at", '"0.7" (of the run)']),
        (lambda c: lasso(c).update(freeze_at="5 epochs"), ["freeze_at", "5 epochs"]),
        (lambda c: c["trainer"]["callbacks"][2]["init_args"].update(exports=["tflite"]), ["tflite", "onnx"]),
        (lambda c: c["model"].update(class_path="my.Model"), ["my.Model"]),
        (lambda c: c["data"].update(init_args={"subset": 0}), ["subset"]),
        (lambda c: c["trainer"].update(accelerator="abacus"), ["abacus"]),
        (lambda c: c["trainer"].update(accelerator="gpu"), ["gpu"]),
        (lambda c: c["trainer"].update(precision="fp8"), ["fp8"]),
    ],
)
def test_a_wrong_key_is_named(here, change, words, capsys):
    if words == ["gpu"] and torch.cuda.is_available():
        pytest.skip("there is one")
    said = refused(with_yaml(change), capsys)
    for word in words:
        assert word.lower() in said.lower()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "fit"),
        (["train"], "train"),
        (["fit", "--config", "missing.yaml"], "missing.yaml"),
        (["fit", "--config", DIGITS, "--ckpt_path", "missing.ckpt"], "missing.ckpt"),
        (["test", "--config", DIGITS, "--ckpt_path", "missing.ckpt"], "missing.ckpt"),
        (["slim", "--config", DIGITS, "--ckpt_path", "missing.ckpt"], "missing.ckpt"),
        (["slim", "--config", DIGITS], "ckpt_path"),
        (["slim", "--config", DIGITS, "--ckpt_path", "broken.ckpt"], "broken.ckpt"),
        (["fit", "--config", DIGITS, "--ckpt_path", "broken.ckpt"], "broken.ckpt"),
        (["slim", "--config", DIGITS, "--ckpt_path", "other.ckpt"], "other.ckpt"),
        (["slim", "--config", DIGITS, "--ckpt_path", "other.ckpt", "--exports=[tflite]"], "tflite"),
        (["export", "--config", DIGITS, "--path", "missing.safetensors"], "missing.safetensors"),
        (["export", "--config", DIGITS, "--path", "broken.ckpt"], "broken.ckpt"),
        (["export", "--config", DIGITS, "--path", "x.safetensors", "--exports=[tflite]"], "tflite"),
        (["report"], "file"),
        (["report", "missing.safetensors"], "missing.json"),
        (["report", "broken.json"], "broken.json"),
        (["report", "list.json"], "list.json"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_wrong_file_is_named(here, arguments, words, capsys):
    Path("broken.ckpt").write_bytes(b"no checkpoint")
    Path("broken.json").write_bytes(b"\xff{")
    Path("list.json").write_text('{"slim": {"kept": [], "layers": [3]}}')
    torch.save({"state_dict": {"network.fc.weight": torch.zeros(3)}}, "other.ckpt")
    assert words in refused(arguments, capsys)


def test_the_place_of_an_error_can_be_asked_for(here, monkeypatch):
    monkeypatch.setenv("SSL_PRUNE_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no checkpoint"):
        main(["slim", "--config", DIGITS])


MINE = """
import torch
from torch import nn
import {package} as pl
from torch.utils.data import DataLoader, TensorDataset


class Mine(pl.LightningModule):
    def __init__(self, hidden: int = 8):
        super().__init__()
        self.a, self.b = nn.Linear(4, hidden), nn.Linear(hidden, 2)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Rows(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(16, 4), torch.arange(16) % 2), batch_size=8)
"""

CONFIG = """
model: {class_path: mine.Mine, init_args: {hidden: 6}}
data: {class_path: mine.Rows}
trainer:
  max_epochs: 2
  accelerator: cpu
  logger: false
  enable_progress_bar: false
  callbacks:
    - {class_path: GroupLasso, init_args: {granularity: coupled, strength: 1.0}}
    - {class_path: SparsityMonitor}
    - {class_path: Slim, init_args: {path: mine.safetensors}}
"""


def command(arguments, folder, before=""):
    code = f"{before}\nimport sys; from ssl_prune.cli import main; sys.argv[0] = 'ssl-prune'; main()"
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
def test_a_module_of_ones_own(tmp_path, package):
    """In a process of its own, because which of the two packages serves is decided once."""
    pytest.importorskip(package.partition(".")[0])
    (tmp_path / "mine.py").write_text(MINE.format(package=package))
    (tmp_path / "mine.yaml").write_text(CONFIG)
    before = f"import {package}"
    done = command(["fit", "--config", "mine.yaml"], tmp_path, before)
    assert done.returncode == 0, done.stderr
    assert "whole network" in done.stdout


def test_slim_takes_its_example_from_the_data(here, monkeypatch):
    monkeypatch.syspath_prepend(str(here))
    (here / "mine.py").write_text(MINE.format(package=pl.__name__))
    (here / "mine.yaml").write_text(CONFIG)
    main(["fit", "--config", "mine.yaml"])
    (ckpt,) = here.glob("checkpoints/*.ckpt")
    main(["slim", "--config", "mine.yaml", "--ckpt_path", str(ckpt), "--path", "again.safetensors"])
    assert (here / "again.safetensors").exists()
    main(["export", "--config", "mine.yaml", "--path", "again.safetensors", "--exports=[pt2]"])
    assert (here / "again.pt2").exists()


@pytest.mark.slow
def test_the_installed_command(tmp_path):
    script = Path(sys.executable).with_name("ssl-prune")
    if not script.exists():
        pytest.skip("not installed")
    done = subprocess.run([script, "report", "nothing.json"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "nothing.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_times_windows_and_sums_of_scores_are_read_from_a_file(here):
    Path("c.yaml").write_text(
        "seed_everything: 0\nmodel: {class_path: ImageClassifier, init_args: {network: {class_path: DigitsNet}}}\n"
        "trainer:\n  logger: false\n  callbacks:\n"
        "    - class_path: GroupLasso\n"
        "      init_args:\n        granularity: filter\n        strength: 0.1\n"
        '        schedule: {class_path: Step, init_args: {start: 0, milestones: [1ep, "0.5"]}}\n'
        "    - class_path: Budget\n"
        '      init_args:\n        latency_ms: 0.5\n        window: ["0.02", 3ep]\n        lookahead: 5it\n'
        "        score:\n          class_path: Sum\n          init_args:\n            weights: [1.0, 0.5]\n"
        "            scores: [{class_path: Magnitude}, {class_path: Random, init_args: {seed: 3}}]\n"
    )
    lasso, budget = built_from(["--config", "c.yaml"]).trainer.callbacks[:2]
    assert lasso.schedule == Step(milestones=("1ep", "0.5"))
    assert budget.options.window == Cosine(start="0.02", end="3ep")
    assert (budget.limits.latency_ms, budget.options.lookahead) == (0.5, "5it")
    assert [(type(score).__name__, weight) for score, weight in budget.options.score.terms.items()] == [
        ("Magnitude", 1.0),
        ("Random", 0.5),
    ]


def test_a_time_without_its_unit_names_the_key(here, capsys):
    Path("c.yaml").write_text(
        "model: {class_path: ImageClassifier, init_args: {network: {class_path: DigitsNet}}}\n"
        "trainer:\n  callbacks:\n    - class_path: GroupLasso\n      init_args:\n        granularity: filter\n"
        "        strength: 0.1\n        schedule: {class_path: Linear, init_args: {end: 5}}\n"
    )
    with pytest.raises(SystemExit):
        main(["fit", "--config", "c.yaml"])
    assert "Linear: end: got 5" in capsys.readouterr().err
