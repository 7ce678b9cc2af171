"""A second run into the folder of a first one: it says what it replaces, and a kill never leaves the two mixed."""

import pytest
import torch

from ssl_prune import load_slim
from ssl_prune.callbacks import Budget, GroupLasso, Slim

WARNING = r"is there already, and what this run writes will replace it; give another path"


def fit(kit, trainer, *callbacks, epochs=1, **options):
    model = kit.Lit()
    run = trainer(GroupLasso("coupled", 4.0), *callbacks, epochs=epochs)
    run.fit(model, kit.loader(), **options)
    return run, model


def test_what_is_there_is_named_before_it_is_replaced(kit, trainer, tmp_path):
    fit(kit, trainer, Slim("net.safetensors", latency_batch=0))
    first = (tmp_path / "net.safetensors").read_bytes()
    with pytest.warns(UserWarning, match=rf"Slim: .*net\.safetensors {WARNING}"):
        fit(kit, trainer, Slim("net.safetensors", latency_batch=0), epochs=3)
    assert (tmp_path / "net.safetensors").read_bytes() != first


def test_a_record_of_a_budget_is_named_too(kit, trainer, tmp_path):
    (tmp_path / "budget.json").write_text("{}")
    cut = Budget(macs=0.7, path="budget.json")
    with pytest.warns(UserWarning, match=rf"Budget: .*budget\.json {WARNING}"):
        cut.on_train_start(trainer(cut), kit.Lit())


def test_a_run_that_goes_on_writes_its_own_files_again(kit, trainer, tmp_path):
    """Warnings are errors here."""
    run, model = fit(kit, trainer, Slim("net.safetensors", latency_batch=0))
    run.save_checkpoint(tmp_path / "a.ckpt")
    fit(kit, trainer, Slim("net.safetensors", latency_batch=0), epochs=2, ckpt_path=tmp_path / "a.ckpt")
    run.fit_loop.max_epochs = 2
    run.fit(model, kit.loader())


@pytest.mark.filterwarnings(f"ignore:.*{WARNING}")
def test_a_kill_between_two_files_leaves_no_record_of_another_run(kit, trainer, tmp_path, monkeypatch):
    fit(kit, trainer, Slim("net.safetensors", exports=("state_dict",), latency_batch=0))
    assert {p.suffix for p in tmp_path.glob("net.*")} >= {".safetensors", ".json"}

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("ssl_prune.callbacks.slim.evaluate_on", killed)
    monkeypatch.setattr("ssl_prune.callbacks.slim.RunReport", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(kit, trainer, Slim("net.safetensors", exports=("state_dict",), latency_batch=0), epochs=3)
    assert [p.name for p in tmp_path.glob("net.*")] == ["net.safetensors"]
    with torch.no_grad():
        load_slim(tmp_path / "net.safetensors", kit.Net())
