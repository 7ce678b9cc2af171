"""The examples of CONTRIBUTING.md hold what the tests ask of every penalty, score and granularity, and train from YAML."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from penalty_cases import Case, norm, two_groups
from torch import nn

from ssl_prune import penalties, scores
from ssl_prune.groups import GRANULARITIES, Filter, partition

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def checks_of(path):
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), ROOT / "tests" / f"{path}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """The classes of the blocks, by name."""
    folder, found = tmp_path_factory.mktemp("added"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for i, block in enumerate(re.findall(r"```python\n(.*?)```", TEXT, re.S)):
            (folder / f"contributed_{i}.py").write_text(block)
            module = importlib.import_module(f"contributed_{i}")
            found |= {k: v for k, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__}
    assert found.keys() == {"GroupElasticNet", "MeanMagnitude", "Kernel"}
    return found


def test_the_penalty_is_one(added):
    case = eval(re.search(r"`(Case\(.*\))`", TEXT)[1], {"Case": Case, "norm": norm, **added})
    properties = checks_of("penalties/test_penalties")
    for scale in (0.2, 1.0, 5.0):
        properties.test_value(case, two_groups, scale)
        properties.test_subgradient_is_autograd_away_from_zero(case, two_groups, scale)
    for step in (0.1, 0.9, 2.0):
        properties.test_prox_is_the_minimum_on_a_grid(case, step)
        properties.test_prox_is_stationary(case.penalty, two_groups, step)
    properties.test_prox_beats_every_point_around_it(case, two_groups, False)
    properties.test_zero_is_a_fixed_point_without_nan(case.penalty, two_groups)
    properties.test_steps_may_be_tensors(case.penalty, two_groups)


def test_the_score_is_one(added):
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3))
    score = added["MeanMagnitude"]()
    score.bind(partition(net, Filter(), example_inputs=torch.zeros(1, 2, 8, 8)))
    torch.testing.assert_close(score.values(), net[0].weight.detach().abs().mean((1, 2, 3)))


def test_the_granularity_is_one(added):
    net = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.ConvTranspose2d(4, 3, 2), nn.Flatten(), nn.Linear(3, 5))
    kernels = partition(net, added["Kernel"]())
    assert kernels.num_groups == 4 * 1 + 4 * 3
    assert int(kernels.sizes.sum()) == net[0].weight.numel() + net[1].weight.numel()
    by_hand = torch.cat([layer.weight.detach().norm(dim=(2, 3)).flatten() for layer in net[:2]])
    torch.testing.assert_close(kernels.norms(), by_hand)
    properties = checks_of("groups/test_partition")
    torch.testing.assert_close(kernels.norms().double(), properties.by_hand(kernels), rtol=1e-5, atol=1e-6)
    assert kernels.describe(4 + 5) == "1 kernel (1, 2)"
    with pytest.raises(ValueError, match="no kernel groups: none of the selected layers is a convolution"):
        partition(net, added["Kernel"](), include="3")


def test_all_three_train_from_yaml(added, tmp_path, monkeypatch):
    cli = pytest.importorskip("ssl_prune.cli")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ssl-prune"])
    # What a line in each list does.
    monkeypatch.setattr(penalties, "GroupElasticNet", added["GroupElasticNet"], raising=False)
    monkeypatch.setattr(scores, "MeanMagnitude", added["MeanMagnitude"], raising=False)
    monkeypatch.setitem(GRANULARITIES, "kernel", added["Kernel"]())
    config = yaml.safe_load((ROOT / "configs" / "digits.yaml").read_text())
    config["trainer"]["callbacks"] = yaml.safe_load(re.search(r"```yaml\n(.*?)```", TEXT, re.S)[1])
    config["trainer"] |= {"max_epochs": 1, "enable_progress_bar": False, "logger": False}
    config["model"]["init_args"]["network"]["init_args"] = {"widths": [4, 6]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    made = cli.SlimCLI(args=["fit", "--config", "config.yaml", "--data.init_args.batch_size=400"])
    chosen = {type(c).__name__: c for c in made.trainer.callbacks}
    penalise, budget = chosen["Penalise"], chosen["Budget"]
    assert penalise.penalty == added["GroupElasticNet"](ratio=0.9)
    assert penalise.groups.kind == "kernel"
    assert isinstance(budget.options.score, added["MeanMagnitude"])
