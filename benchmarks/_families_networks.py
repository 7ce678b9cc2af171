"""The networks of `families.py`: from other people's packages, each of a configuration with tiny sizes and random weights.

An entry is a kind, a name, the package, a function that builds the network, and what it takes: per argument a sort and a
shape without the batch axis. A function imports its package itself, so that the catalogue can be listed without any.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from _zoo_networks import randomise, zero_a_quarter
from torch import Tensor, nn

__all__ = [
    "Entry",
    "as_example",
    "diffusion",
    "hugging_face",
    "inputs_of",
    "medical",
    "on_graphs",
    "prepared",
    "segmentation",
    "varied",
    "yolo",
]

VOCABULARY = 99
Takes = dict[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Entry:
    kind: str
    name: str
    package: str
    build: Callable[[], nn.Module]
    takes: Takes


def inputs_of(takes: Takes, batch: int, seed: int) -> dict[str, Any]:
    """Random arguments of the sorts and shapes that an entry states."""
    generator = torch.Generator().manual_seed(seed)

    def one(sort: str, *shape: Any) -> Any:
        if sort == "tokens":
            return torch.randint(3, VOCABULARY - 9, (batch, *shape), generator=generator)
        if sort == "mask":  # the last positions of the last sample are padding
            mask = torch.ones(batch, *shape, dtype=torch.long)
            mask[-1, -2:] = 0
            return mask
        if sort == "edges":
            return torch.randint(batch * shape[0], (2, batch * shape[1]), generator=generator)
        if sort == "nodes":
            return torch.randn(batch * shape[0], shape[1], generator=generator)
        if sort == "positive":
            return torch.rand(batch, *shape, generator=generator) + 0.5
        if sort == "index":
            return torch.randint(shape[0], (batch, *shape[1:]), generator=generator)
        if sort == "boxes":
            return torch.randint(1, 40, (batch, *shape, 4), generator=generator).cumsum(-1)
        if sort == "constant":
            return shape[0]
        return torch.randn(batch, *shape, generator=generator)

    return {name: one(*what) for name, what in takes.items()}


def varied(inputs: dict[str, Any], takes: Takes) -> dict[str, Any]:
    """A faint and a strong sample: noise alone looks the same everywhere to a deep network."""

    def scaled(x: Tensor, sort: str) -> Tensor:
        return x * torch.linspace(0.3, 2, len(x)).view(-1, *[1] * (x.dim() - 1)) if sort == "normal" else x

    return {name: scaled(x, takes[name][0]) for name, x in inputs.items()}


def as_example(inputs: dict[str, Any]) -> Any:
    """Keywords, or positional arguments where they have no name."""
    return tuple(inputs.values()) if "" in inputs else inputs


def prepared(entry: Entry) -> nn.Module:
    """The network in evaluation mode, nothing at its initial constants, a quarter of its hidden units at zero."""
    network = entry.build().eval()
    inputs = inputs_of(entry.takes, 2, seed=3)
    randomise(network, as_example(inputs))
    zero_a_quarter(network)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        if entry.kind == "graph":  # layers of its own: the same units in all
            dead = torch.randperm(32, generator=generator)[:8]
            for parameter in network.parameters():
                for axis, size in enumerate(parameter.shape[:1] if parameter.dim() < 3 else parameter.shape):
                    if size == 32:
                        parameter.index_fill_(axis, dead, 0)
        for layer in network.modules():
            if isinstance(layer, nn.GroupNorm) and layer.affine:  # whole groups: the others share their statistics
                groups = torch.randperm(layer.num_groups, generator=generator)[: layer.num_groups // 4]
                for parameter in (layer.weight, layer.bias):
                    parameter.view(layer.num_groups, -1)[groups] = 0
            if type(layer).__name__ == "Conv1D":  # GPT-2's: inputs by outputs
                columns = torch.randperm(layer.weight.shape[1], generator=generator)[: layer.weight.shape[1] // 4]  # type: ignore[union-attr, index, operator]
                layer.weight[:, columns], layer.bias[columns] = 0, 0  # type: ignore[index, operator]
        for name, parameter in network.named_parameters():
            if parameter.dim() == 3 and name.endswith("down_proj"):  # all experts in one
                _unread(parameter, network.get_parameter(name.replace("down_proj", "gate_up_proj")), generator)
    return network


def _unread(down: Tensor, gate_up: Tensor, generator: torch.Generator) -> None:
    """A quarter of each expert's hidden units is read by nothing."""
    hidden = next(n for n in down.shape[1:] if 2 * n in gate_up.shape[1:])
    axis = down.shape[1:].index(hidden)
    for expert in down:
        expert.index_fill_(axis, torch.randperm(hidden, generator=generator)[: hidden // 4], 0)


# Every configuration takes what it knows of these; what it calls otherwise stands beside its name.
SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": VOCABULARY,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
DECODER = SIZES | {"num_key_value_heads": 2, "head_dim": 8, "use_cache": False}
SEQ2SEQ = SIZES | {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "use_cache": False, "decoder_start_token_id": 1,
}  # fmt: skip
T5 = SIZES | {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4, "use_cache": False}
VISION = SIZES | {"image_size": 32, "patch_size": 8}
STAGES = {"num_channels": 3, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1], "embedding_size": 16}
MOE = DECODER | {
    "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24, "n_routed_experts": 4, "router_jitter_noise": 0.0,
}  # fmt: skip
SPEECH = SIZES | {
    "conv_dim": (16, 16, 16), "conv_kernel": (8, 4, 4), "conv_stride": (4, 2, 2), "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0,
}  # fmt: skip
SERIES = {
    "prediction_length": 6, "context_length": 12, "lags_sequence": [1, 2], "num_time_features": 2, "d_model": 32,
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "use_cache": False, "moving_average": 5,
}  # fmt: skip

IDS: Takes = {"input_ids": ("tokens", 10)}
TEXT: Takes = IDS | {"attention_mask": ("mask", 10)}
PAIR: Takes = IDS | {"decoder_input_ids": ("tokens", 7)}
IMAGE: Takes = {"pixel_values": ("normal", 3, 32, 32)}
LARGER: Takes = {"pixel_values": ("normal", 3, 64, 64)}
VIDEO: Takes = {"pixel_values": ("normal", 4, 3, 32, 32)}
WAVE: Takes = {"input_values": ("normal", 1600)}
PAST: Takes = {
    "past_values": ("normal", 14), "past_time_features": ("normal", 14, 2), "past_observed_mask": ("positive", 14),
    "future_values": ("normal", 6), "future_time_features": ("normal", 6, 2),
}  # fmt: skip


def _transformer(name: str, sizes: dict[str, Any], parts: dict[str, tuple[str, dict[str, Any]]]) -> nn.Module:
    import transformers

    inner = {part: getattr(transformers, config)(**given) for part, (config, given) in parts.items()}
    model = getattr(transformers, name)
    return model(model.config_class(**sizes, **inner))  # type: ignore[no-any-return]


def hugging_face(kind: str, takes: Takes, common: dict[str, Any], names: str, **own: Any) -> Iterator[Entry]:
    """Networks of transformers; a pair (configuration class, sizes) stands for a configuration within."""
    given = common | own
    parts = {
        k: v for k, v in given.items() if isinstance(v, tuple) and isinstance(v[0], str) and v[0].endswith("Config")
    }
    sizes = {key: value for key, value in given.items() if key not in parts}
    for name in names.split():
        yield Entry(kind, name, "transformers", partial(_transformer, name, sizes, parts), takes)


def diffusion(name: str, takes: Takes, sizes: dict[str, Any]) -> Entry:
    def build() -> nn.Module:
        import diffusers

        return getattr(diffusers, name)(**sizes)  # type: ignore[no-any-return]

    return Entry("diffusion", name, "diffusers", build, takes)


def on_graphs(name: str) -> Entry:
    def build() -> nn.Module:
        from torch_geometric.nn import models

        own = (
            {"aggregators": ["mean", "max"], "scalers": ["identity"], "deg": torch.tensor([1, 2, 3])}
            if name == "PNA"
            else {}
        )
        return getattr(models, name)(8, 32, num_layers=3, out_channels=5, norm="batch_norm", **own)  # type: ignore[no-any-return]

    return Entry("graph", name, "torch_geometric", build, {"x": ("nodes", 10, 8), "edge_index": ("edges", 10, 24)})


def medical(name: str, sizes: dict[str, Any]) -> Entry:
    def build() -> nn.Module:
        from monai.networks import nets

        return getattr(nets, name)(**sizes)  # type: ignore[no-any-return]

    side = 64 if name == "SwinUNETR" else 32 if name in ("BasicUNet", "BasicUNetPlusPlus", "VNet", "SENet") else 16
    return Entry("medical", name, "monai", build, {"": ("normal", 1, side, side, side)})


def segmentation(name: str, encoder: str) -> Entry:
    def build() -> nn.Module:
        import segmentation_models_pytorch as smp

        return getattr(smp, name)(encoder, encoder_weights=None, classes=3)  # type: ignore[no-any-return]

    return Entry(
        "segmentation", f"{name}, {encoder}", "segmentation_models_pytorch", build, {"": ("normal", 3, 128, 128)}
    )


def yolo(name: str) -> Entry:
    def build() -> nn.Module:
        from ultralytics.nn import tasks

        task = {"seg": "Segmentation", "pose": "Pose", "cls": "Classification"}.get(name.partition("-")[2], "Detection")
        return getattr(tasks, f"{task}Model")(f"{name}.yaml", verbose=False)  # type: ignore[no-any-return]

    return Entry("detection", name, "ultralytics", build, {"": ("normal", 3, 64, 64)})
