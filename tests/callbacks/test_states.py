"""What a checkpoint lacks is said, what it holds in another form is refused, and no state of one fit reaches another."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from wide import Save

from ssl_prune._lightning import pl
from ssl_prune.callbacks import L1, Budget, Distill, GroupLasso, Shrink, Slim, SparsityMonitor, shrink

FREEZES = {"include": "conv*", "strength": 1.0, "freeze_at": "2ep"}


def budgeted(tmp_path=None):
    path = None if tmp_path is None else tmp_path / "budget.json"
    budget = Budget(macs=0.5, window=("0.1", "0.6"), every=1, path=path)
    return [GroupLasso("coupled"), budget, Distill(), Shrink(min_gain=0.0)]


def fit(trainer, kit, *callbacks, module=None, epochs=4, **options):
    lit = kit.Lit() if module is None else module
    trainer(*callbacks, epochs=epochs).fit(lit, kit.loader(), **options)
    return lit


_RUN = []


@pytest.fixture
def saved(kit, trainer, tmp_path):
    """The checkpoint of a run after two of four epochs, and a way to change the states in it."""
    if not _RUN:  # of all tests, as none changes it
        fit(trainer, kit, *budgeted(), Save(tmp_path))
        _RUN.append(torch.load(tmp_path / "1.ckpt", weights_only=True))
    content = _RUN[0]

    def change(**states):
        twin = copy.deepcopy(content)
        for name, state in states.items():
            key = next(key for key in twin["callbacks"] if key.startswith(name))
            if state is ...:
                del twin["callbacks"][key]
            else:
                twin["callbacks"][key] = state
        torch.save(twin, tmp_path / "changed.ckpt")
        return {"ckpt_path": tmp_path / "changed.ckpt", "weights_only": True}

    return change


NAMES = ("GroupLasso", "Budget", "Distill", "Shrink")


def test_a_whole_checkpoint_says_nothing(kit, trainer, saved):
    """A warning would be an error here."""
    fit(trainer, kit, *budgeted(), **saved())


# Each callback lacks its state in one way; in the others with `pytest -m slow`.
LACKING = [(name, state) for name in NAMES for state in (..., None, {})]
ONCE = [("GroupLasso", ...), ("Budget", None), ("Distill", {}), ("Shrink", ...)]


@pytest.mark.parametrize(
    ("name", "state"), [case if case in ONCE else pytest.param(*case, marks=pytest.mark.slow) for case in LACKING]
)
def test_a_state_that_lacks_is_said(kit, trainer, saved, name, state):
    with pytest.warns(UserWarning, match=rf"{name}: the checkpoint holds no state of it \(under .{name}"):
        fit(trainer, kit, *budgeted(), **saved(**{name: state}))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_other_arguments_than_those_of_the_checkpoint_are_said(kit, trainer, tmp_path):
    fit(trainer, kit, GroupLasso("filter", exclude="fc", strength=1.0), Save(tmp_path), epochs=2)
    other = GroupLasso("filter", exclude="conv1", strength=1.0)
    with pytest.warns(UserWarning, match=r"of this class it has .*'exclude': 'fc'.*begins anew"):
        fit(trainer, kit, other, epochs=3, ckpt_path=tmp_path / "1.ckpt", weights_only=True)


@pytest.mark.parametrize("state", [{"other": 1}, {"solver": {"step_counts": [1]}}, "text"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:.*holds no state of it")
def test_a_state_of_another_form_is_refused(kit, trainer, saved, name, state):
    if name == "GroupLasso" and state == {"other": 1}:
        state = {"solver": {"step_counts": 1, "strength": 1, "mask": [], "dead": [], "keys": 3}}
    with pytest.raises(
        ValueError, match=rf"{name}: its state in the checkpoint cannot be taken over|the state has decisions on"
    ):
        fit(trainer, kit, *budgeted(), **saved(**{name: state}))


@pytest.mark.parametrize("between", ["test", "validate"])
def test_a_second_fit_starts_fresh(kit, trainer, tmp_path, between):
    class Lit(kit.Lit):
        def test_step(self, batch, batch_idx):
            self.validation_step(batch, batch_idx)

    def run(callbacks):
        lit = fit(trainer, kit, *callbacks, module=Lit())
        return kit.flat(lit), [copy.deepcopy(c.state_dict()) for c in callbacks]

    for build in (budgeted, lambda: [GroupLasso("filter", **FREEZES), L1(0.01, include="fc")]):
        expected, states = run(build())
        callbacks = build()
        fit(trainer, kit, *callbacks, Save(tmp_path), module=Lit())
        look = trainer(*callbacks)
        getattr(look, between)(Lit(), kit.loader(), ckpt_path=tmp_path / "3.ckpt", weights_only=True, verbose=False)
        again, after = run(callbacks)
        assert torch.equal(again, expected)
        for one, other in zip(states, after, strict=True):
            for seconds in (one.get("history", ()), other.get("history", ())):
                [entry.pop() for entry in seconds if isinstance(entry, list)]
            assert str(one) == str(other)


def test_testing_a_checkpoint_changes_no_state(kit, trainer, tmp_path):
    callback = Shrink(min_gain=0.0)
    fit(trainer, kit, GroupLasso("coupled", 3.0), callback, Save(tmp_path))
    before = copy.deepcopy(callback.state_dict())
    again = trainer(callback, GroupLasso("coupled", 3.0))
    again.validate(kit.Lit(), kit.loader(), ckpt_path=tmp_path / "0.ckpt", weights_only=True, verbose=False)
    assert callback.state_dict() == before


def contents(path):
    """Header and tensors of a slim file; the header's entries come in any order."""
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    return json.loads(whole[8:end]), whole[end:]


class Dies(pl.Callback):
    """A run that ends when its last checkpoint is written and before anything else."""

    def on_train_end(self, trainer, pl_module):
        raise KeyboardInterrupt


def test_a_run_killed_after_its_last_epoch_ends_as_if_it_was_not(kit, trainer, tmp_path):
    def callbacks(folder):
        return [*budgeted(folder), SparsityMonitor(prog_bar=False), Slim(folder / "net.safetensors", latency_batch=0)]

    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    fit(trainer, kit, *callbacks(tmp_path / "straight"), module=kit.Lit(example=False))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(trainer, kit, Dies(), *callbacks(tmp_path / "killed"), Save(tmp_path), module=kit.Lit(example=False))
    assert not (tmp_path / "killed" / "budget.json").exists()
    resume = {"ckpt_path": tmp_path / "3.ckpt", "weights_only": True}
    fit(trainer, kit, *callbacks(tmp_path / "killed"), module=kit.Lit(example=False), **resume)
    assert contents(tmp_path / "straight" / "net.safetensors") == contents(tmp_path / "killed" / "net.safetensors")
    records = [json.loads((tmp_path / name / "budget.json").read_text()) for name in ("straight", "killed")]
    assert records[1]["reached"] is None  # nothing was trained, so nothing is compared
    assert {**records[0], "reached": None, "missed": None} == records[1]


def test_what_was_found_in_vain_is_known_to_a_resumed_run(kit, trainer, tmp_path, monkeypatch):
    """What could go and was found not to is not looked at again, stopped or not; once more could go, it is."""
    looks, nothing = [], SimpleNamespace(report=SimpleNamespace(macs=(1, 1), params=(1, 1)))
    monkeypatch.setattr(
        shrink, "training_cut", lambda network, *rest: looks.append(shrink.what_may_go(network, *rest)) or nothing
    )

    def run(**resume):
        looks.clear()
        budget = Budget(macs=0.5, window=("0.1", "0.9"), every=1)
        callbacks = [GroupLasso("coupled"), budget, Shrink(every_n_steps=1, min_gain=0.0)]
        fit(trainer, kit, *callbacks, Save(tmp_path), **resume)
        return list(looks)

    straight = run()
    assert 1 < len(straight) == len(set(straight)) < 11
    epochs = [torch.load(tmp_path / f"{e}.ckpt", weights_only=True)["callbacks"]["Shrink"]["in_vain"] for e in range(4)]
    assert epochs[-1] == straight[-1]
    resumed = run(ckpt_path=tmp_path / "1.ckpt", weights_only=True)
    assert resumed == straight[straight.index(epochs[1]) + 1 :]
