"""The networks of `zoo.py`: built with random weights, made ready for a numerical check, a quarter set to zero."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_prune.utils.inputs import as_call

__all__ = ["Llama", "build", "catalogue", "normalises", "random_inputs", "randomise", "zero_a_quarter"]

# A small network of each family, that is, each module of timm.models.
TIMM = (
    "beit_base_patch16_224", "halonet_h1", "gernet_s", "cait_xxs24_224", "coat_lite_tiny", "convit_tiny",
    "convmixer_768_32", "convnext_atto", "cpubone_nano", "crossvit_tiny_240", "csatv2", "cspresnet50", "cspnext_tiny",
    "davit_tiny", "deit_tiny_distilled_patch16_224", "densenet121", "dla34", "dpn48b", "edgenext_xx_small",
    "efficientformer_l1", "efficientformerv2_s0", "efficientnet_b0", "efficientvim_m1", "efficientvit_b0",
    "efficientvit_m0", "eva02_tiny_patch14_224", "fasternet_t0", "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny",
    "ghostnet_050", "hardcorenas_a", "hgnetv2_b0", "hiera_tiny_224", "sam2_hiera_tiny", "hrnet_w18_small", "iformer_t",
    "inception_next_atto", "inception_resnet_v2", "inception_v3", "inception_v4", "lcnetv2_small", "levit_128s",
    "lowformer_b0", "mambaout_femto", "coatnet_pico_rw_224", "poolformer_s12", "mixer_s32_224", "mobilenetv3_small_050",
    "mobilevit_xxs", "mvitv2_tiny", "naflexvit_base_patch16_gap", "nest_tiny", "nextvit_small", "nf_resnet26",
    "pit_ti_224", "pvt_v2_b0", "qwen3_vit_88m", "rdnet_tiny", "regnetx_002", "repghostnet_050", "repvit_m0_9",
    "res2net50_26w_4s", "resnest14d", "resnet10t", "resnetv2_18", "rexnet_100", "selecsls42b", "legacy_seresnet18",
    "sequencer2d_s", "shvit_s1", "skresnet18", "starnet_s050", "swiftformer_xs", "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256", "swinv2_cr_tiny_224", "tiny_vit_5m_224", "tnt_s_patch16_224", "tresnet_m",
    "twins_svt_small", "vgg11_bn", "visformer_tiny", "vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224",
    "vit_relpos_small_patch16_224", "samvit_base_patch16_224", "vitamin_small_224", "volo_d1_224", "ese_vovnet19b_dw",
    "legacy_xception", "xception41", "xcit_nano_12_p16_224",
)  # fmt: skip


class Llama(nn.Module):
    """A decoder with RMS norm, rotary positions, grouped queries and SwiGLU; by default 1.1 billion parameters."""

    def __init__(
        self, width: int = 2048, layers: int = 22, heads: int = 32, kv: int = 4, hidden: int = 5632, vocab: int = 32000
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.layers = nn.ModuleList(LlamaLayer(width, heads, kv, hidden) for _ in range(layers))
        self.norm, self.head = LlamaNorm(width), nn.Linear(width, vocab, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


class LlamaNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        f = x.float()
        return self.weight * (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class LlamaLayer(nn.Module):
    def __init__(self, width: int, heads: int, kv: int, hidden: int) -> None:
        super().__init__()
        self.dim, self.norm1, self.norm2 = width // heads, LlamaNorm(width), LlamaNorm(width)
        self.q, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k, self.v = (nn.Linear(width, kv * self.dim, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (p(h).unflatten(-1, (-1, self.dim)).transpose(1, 2) for p in (self.q, self.k, self.v))
        a = F.scaled_dot_product_attention(rotary(q), rotary(k), v, is_causal=True, enable_gqa=True)
        x = x + self.o(a.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))  # type: ignore[no-any-return]


def rotary(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    speed = 10000.0 ** (-torch.arange(half, device=x.device) / half)
    angle = torch.arange(x.shape[-2], device=x.device)[:, None] * speed
    sin, cos = angle.sin().to(x.dtype), angle.cos().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def catalogue(collections: list[str], llama: bool) -> Iterator[tuple[str, str]]:
    """(collection:name, family) of each network."""
    if "torchvision" in collections:
        import torchvision

        for name in torchvision.models.list_models(module=torchvision.models):
            builder = torchvision.models.get_model_builder(name)
            yield f"torchvision:{name}", builder.__module__.rpartition(".")[2]
    if "timm" in collections:
        import timm

        families = {n: f for f in timm.list_modules() for n in timm.list_models(module=f)}
        for name in TIMM:
            if name in families:  # another version of timm may not have it
                yield f"timm:{name}", families[name]
    if llama:
        yield "plain:llama", "llama"


def build(model: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A network and the shape of its input, without the batch axis."""
    collection, name = model.split(":")
    if collection == "torchvision":
        import torchvision

        options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        sizes = [w.transforms.keywords["crop_size"] for w in torchvision.models.get_model_weights(name)]
        return torchvision.models.get_model(name, **options), (3, min(sizes), min(sizes))
    if collection == "timm":
        import timm

        network = timm.create_model(name)
        return network, tuple(network.default_cfg["input_size"])
    torch.set_default_dtype(torch.bfloat16)
    network = Llama()
    torch.set_default_dtype(torch.float32)
    return network, (16,)


def randomise(network: nn.Module, x: Any) -> None:
    """Nothing is zero, one or tiny by its initialisation: statistics, norms, layer scales, biases, heads."""
    with torch.no_grad():
        for name, p in network.named_parameters():
            vector = p.numel() == max(p.shape, default=1)
            size = p.abs().max().item() if p.numel() else 1.0
            if name.endswith("bias") and vector:
                p.add_(0.03 * torch.randn_like(p))
            elif vector and (size < 1e-2 or bool((p == 1).all())):  # a scale: 1, or almost 0 at the start of training
                p.uniform_(0.5, 1.5)
            elif size < 1e-2:  # zero-initialised matrices and tables
                p.normal_(0, p[0].numel() ** -0.5)
        # Statistics of real activations, or a deep network's signal is lost under the biases.
        norms = [m for m in network.modules() if isinstance(getattr(m, "running_mean", None), Tensor)]
        before = [getattr(m, "momentum", None) for m in norms]
        for norm in norms:
            norm.momentum, norm.training = 1.0, True  # type: ignore[assignment]
        args, named = as_call(x)
        network(*args, **named)
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum, norm.training = momentum, False  # type: ignore[assignment]
            assert isinstance(norm.running_var, Tensor)
            norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.5, 1.5)).add_(1e-3)


def normalises(layer: nn.Module) -> bool:
    """An affine normalisation layer, of whatever library."""
    weight = getattr(layer, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() == 1 and "norm" in type(layer).__name__.lower()


def zero_a_quarter(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    if isinstance(network, Llama):
        with torch.no_grad():
            for layer in network.layers:
                rows = torch.randperm(layer.up.out_features, generator=generator)[: layer.up.out_features // 4]  # type: ignore[union-attr, operator]
                layer.up.weight[rows], layer.gate.weight[rows] = 0, 0  # type: ignore[union-attr, index, operator]
        return
    with torch.no_grad():
        for layer in network.modules():
            # A convolution without a bias leaves the scale of its channels to the normalisation behind it.
            convolves = isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and layer.bias is not None
            if isinstance(layer, nn.Linear) or convolves or normalises(layer):
                weight, bias = layer.weight, getattr(layer, "bias", None)
                assert isinstance(weight, Tensor)
                rows = torch.randperm(len(weight), generator=generator)[: len(weight) // 4]
                weight[rows] = 0
                if isinstance(bias, Tensor):
                    bias[rows] = 0


def random_inputs(shape: tuple[int, ...], batch: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if len(shape) == 1:
        return torch.randint(1000, (batch, *shape), generator=generator)
    return torch.randn(batch, *shape, generator=generator)
