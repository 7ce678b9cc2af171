"""Whatever stands in a slim file whose checksums are right: an error that names the entry, or the very network."""

import copy
import hashlib
import itertools
import json
import math

import pytest
import torch
from safetensors.torch import load, save_file
from torch import nn

from ssl_prune import SlimPlan, load_slim, save_slim, slim
from ssl_prune.errors import SlimError
from ssl_prune.slimming.outcome import slim_file
from ssl_prune.slimming.plan import kernel_forms
from ssl_prune.slimming.plan.plan import ModulePlan

RESPONSE_NORM = {
    "kind": "ResponseNorm", "scale": "weight", "shift": "bias", "axes": [1, 2], "channel": 3, "width": 3, "eps": [1e-6],
}  # fmt: skip
WRONG = (-1, 0, 1, 7, 2**63, 1.5, math.nan, "x", None, True, [], [0], {})


class Everything(nn.Module):
    """Folds, crops, columns, groups, reflections, a constant branch, attention, uneven cells, tied weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.grouped, self.mixed = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Conv2d(8, 6, 1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.branch = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 1))
        self.cropped, self.reflected = (
            nn.Conv2d(6, 6, 3, padding=1),
            nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect"),
        )
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.cells = nn.LSTM(5, 4, bidirectional=True, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        self.head = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = self.depthwise(torch.relu(self.mixed(torch.relu(self.grouped(x)))))
        x = torch.relu(self.reflected(torch.relu(self.cropped(x + self.branch(x)))))
        x = self.second(torch.relu(self.first(x.flatten(2).transpose(1, 2))))
        x = self.cells(x)[0]
        return self.head(self.attention(x, x, x, need_weights=False)[0])


def trained():
    net = Everything().eval()
    with torch.no_grad():
        for tensor in (net.stem.weight, net.stem.bias):
            tensor[[0, 1, 4, 6]] = 0
        for tensor in (net.grouped.weight, net.grouped.bias):
            tensor[[1, 5]] = 0
        net.head[0].weight[0], net.head[0].bias[0] = 0, 0.5
        net.mixed.weight[2], net.mixed.bias[2] = 0, 0.0
        net.branch[2].weight.zero_()
        net.cropped.weight[:, :, 0] = 0
        net.cropped.weight[1], net.cropped.bias[1] = 0, 0
        net.reflected.weight[..., 2] = 0
        net.first.weight[:, 3] = 0
        for leaf in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            getattr(net.cells, leaf).view(4, 4, -1)[:, :1] = 0
        net.attention.in_proj_weight[[0, 1, 8, 9, 16, 17]] = 0
        net.attention.in_proj_bias[[0, 1, 8, 9, 16, 17]] = 0
    return net


@pytest.fixture(scope="module", params=[pytest.param(False, marks=pytest.mark.slow), True], ids=["crops", "columns"])
def made(request, tmp_path_factory):
    net, x = trained(), torch.randn(2, 2, 6, 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_forms, "_WORTH_A_FRAME", 0)
        result = slim(net, x, columns=request.param)
    path = tmp_path_factory.mktemp("made") / "net.safetensors"
    save_slim(path, result)
    with torch.no_grad():
        return path, x, result.model.eval()(x)


def parts(path):
    content = path.read_bytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    return load(content), json.loads(metadata["ssl_prune"]), json.loads(metadata["plan"])


def forged(path, tensors, header, plan):
    """The parts as a file with checksums that are right, where they can be."""
    text = plan if isinstance(plan, str) else json.dumps(plan)
    if isinstance(header, dict) and "plan_sha256" in header:
        aliases = header.get("aliases")
        sums = {"plan_sha256": hashlib.sha256(text.encode()).hexdigest()}
        if isinstance(aliases, dict):
            sums["tensors_sha256"] = slim_file._digest(tensors, aliases)
        header = {**header, **sums}
    save_file(tensors, path, {"ssl_prune": header if isinstance(header, str) else json.dumps(header), "plan": text})
    return path


def places(data, path=()):
    """Where something stands in nested data; of long lists the two ends."""
    yield path
    if isinstance(data, dict):
        for key in data:
            yield from places(data[key], (*path, key))
    elif isinstance(data, list):
        for i in sorted({0, len(data) - 1} & {*range(len(data))}):
            yield from places(data[i], (*path, i))


def mutations(data):
    """The data with one entry after the other changed, taken away, doubled, in another order, or with one more."""
    for path in places(data):
        if not path:
            continue
        found = data
        for key in path:
            found = found[key]
        several = []
        if isinstance(found, list) and found:
            several = [found[::-1], found + found[-1:], found[1:], found[:-1]]
        if isinstance(found, dict):
            several = [{**found, "more": 1}]
        for value in (*WRONG, *several, ...):
            twin = copy.deepcopy(data)
            owner = twin
            for key in path[:-1]:
                owner = owner[key]
            if value is ...:
                del owner[path[-1]]
            else:
                owner[path[-1]] = copy.deepcopy(value)
            yield ".".join(map(str, path)), value, twin


def outcome(path, x, expected):
    """None where the file is refused, else whether it gives the network."""
    try:
        model = load_slim(path, Everything().eval())
    except SlimError as error:
        assert path.name in str(error)  # noqa: PT017
        return None
    with torch.no_grad():
        return torch.equal(model(x), expected)


def test_the_plan_says_everything(made):
    _, header, plan = parts(made[0])
    entries = plan["modules"].values()
    kinds = {m["becomes"]["kind"] for m in entries if m["becomes"]}
    assert kinds >= {"Attention", "Uneven", "Constant"}
    assert kinds & {"Cropped", "Columns"}
    assert any(m["fold"] for m in entries)
    assert any(m["grouped"] for m in entries)
    assert header["aliases"]
    assert outcome(*made) is True


def test_every_entry_of_a_plan_is_looked_at(made, tmp_path):
    tensors, header, plan = parts(made[0])
    dense, believed, refused = Everything().eval(), [], 0
    columns = {name: m for name, m in plan["modules"].items() if m["becomes"] and m["becomes"]["kind"] == "Columns"}
    looked_at = {"modules": columns} if columns else plan  # all else is that of the other file
    for where, value, mutated in itertools.islice(mutations(looked_at), 0, None, 3):  # some of each entry
        twin = mutated
        if columns and isinstance(mutated.get("modules"), dict):
            twin = {**plan, "modules": {**plan["modules"], **mutated["modules"]}}
        if where == "format":
            continue
        try:
            cut = SlimPlan.from_json(json.dumps(twin)).apply(dense)
        except SlimError:
            refused += 1
            continue
        del cut
        if outcome(forged(tmp_path / "net.safetensors", tensors, header, twin), *made[1:]) is False:
            believed.append((where, value))
    assert believed == []
    assert refused > 100


def test_every_entry_of_a_header_is_looked_at(made, tmp_path):
    tensors, header, plan = parts(made[0])
    for where, value, twin in mutations(header):
        found = outcome(forged(tmp_path / "net.safetensors", tensors, twin, plan), *made[1:])
        # A number that is right, another version, and checksums that were made right again.
        assert found is not False, (where, value)


def test_every_tensor_is_looked_at(made, tmp_path):
    tensors, header, plan = parts(made[0])
    for name, tensor in tensors.items():
        kinds = [torch.int64, torch.bool] if tensor.is_floating_point() else [torch.float32, torch.bool]
        wrong = [tensor.to(kind) for kind in kinds] + [tensor.reshape(-1)[:0], tensor[None]]
        if name.endswith(("weight", "bias")):
            wrong.append(torch.full_like(tensor, math.nan))
        for value in wrong:
            with pytest.raises(SlimError, match=rf"net\.safetensors: {name}"):
                load_slim(forged(tmp_path / "net.safetensors", {**tensors, name: value}, header, plan), Everything())


@pytest.mark.parametrize(
    "aliases", [{"second.weight": "nowhere"}, {"norm.bias": "norm.weight"}, {"second.weight": "stem.bias"}]
)
def test_a_second_name_is_one_of_what_is_there(made, tmp_path, aliases):
    tensors, header, plan = parts(made[0])
    with pytest.raises(SlimError, match=next(iter(aliases)).replace(".", r"\.")):
        load_slim(forged(tmp_path / "net.safetensors", tensors, {**header, "aliases": aliases}, plan), Everything())


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"then":' * 100_000, '{"format": 2, "modules": {"a": ' + "[" * 900, "1" * 10_000]
)
def test_endless_nesting_is_refused(made, tmp_path, text):
    tensors, header, plan = parts(made[0])
    with pytest.raises(SlimError, match="plan"):
        SlimPlan.from_json(text)
    with pytest.raises(SlimError):
        load_slim(forged(tmp_path / "net.safetensors", tensors, header, text), Everything())
    with pytest.raises(SlimError):
        load_slim(forged(tmp_path / "net.safetensors", tensors, text, plan), Everything())


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"keep": {"weight": {0: [0, 0]}}}, r"^0: keep\['weight'\]\[0\].*ascending"),
        ({"keep": {"weight": {0: [0, 2**63]}}}, r"^0: keep\['weight'\]\[0\]"),
        ({"keep": {"weight": {4: [0]}}}, r"^0: keep\['weight'\].*2 axes"),
        ({"keep": {"scale": {0: [0]}}}, r"^0: keep\['scale'\].*a tensor of this Linear"),
        ({"attributes": {"stride": [2, 2]}}, r"^0: attributes\['stride'\]"),
        ({"attributes": {"out_features": 1}}, r"^0: attributes\['out_features'\].*got 1, expected 3"),
        ({"becomes": {"kind": "Cropped", "frame": [[0, 0]], "mode": "constant", "channels": None}}, "^0: becomes"),
        ({"ordered": {"weight": {"axis": 1, "rows": [[0, 1], [1, 0], [0, 0]]}}}, r"^0: ordered\['weight'\].*3 orders"),
        ({"ordered": {"weight": {"axis": 1, "rows": [[0, 1], [1, 0]]}}}, r"^0: ordered\['weight'\].*3 orders"),
        ({"ordered": {"weight": {"axis": 2, "rows": [[0]] * 3}}}, r"^0: ordered\['weight'\].*an axis"),
        ({"ordered": {"scale": {"axis": 1, "rows": [[0]] * 3}}}, r"^0: ordered\['scale'\]"),
        ({"becomes": RESPONSE_NORM}, "^0: becomes.*a scale and a shift of 3 numbers"),
        ({"becomes": {**RESPONSE_NORM, "axes": []}}, "^0: becomes"),
    ],
)
def test_a_plan_that_was_made_by_hand_is_looked_at_too(entry, words):
    net = nn.Sequential(nn.Linear(2, 3))
    for inplace in (False, True):
        with pytest.raises(SlimError, match=words):
            SlimPlan({"0": ModulePlan(**entry)}, {}).apply(net, inplace=inplace)
    assert net[0].weight.shape == (3, 2)


def chain(steps):
    return SlimPlan.of_steps([SlimPlan({}, {"weight": [3, 2]})] * steps)


def test_a_plan_of_many_steps_takes_as_many_cuts(monkeypatch):
    calls = []
    cut = SlimPlan._cut
    monkeypatch.setattr(SlimPlan, "_cut", lambda self, *args: calls.append(self) or cut(self, *args))
    for steps, inplace in itertools.product((1, 12, 400), (False, True)):
        plan = SlimPlan.from_json(chain(steps).to_json())
        calls.clear()
        plan.apply(nn.Linear(2, 3), inplace=inplace)
        assert len(calls) <= steps * (1 + inplace)
        assert len(list(plan.followed_by(plan).steps)) >= steps


def test_more_steps_than_can_be_read_are_neither_written_nor_read():
    with pytest.raises(SlimError, match="600 steps"):
        chain(600).to_json()
    text = json.dumps({"format": 2, "modules": {}, "shapes": {}})
    for _ in range(20):
        text = json.dumps({"format": 2, "modules": {}, "shapes": {}, "then": json.loads(text)})
    assert len(list(SlimPlan.from_json(text).steps)) == 21
