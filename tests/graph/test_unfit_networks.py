"""Networks that are refused with the way out, and those of PyTorch whose code reads a mask."""

import pytest
import torch
from torch import nn

from ssl_prune import slim


def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()


def prepared():
    net = torch.ao.quantization.QuantWrapper(plain()).train()
    net.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    return torch.ao.quantization.prepare_qat(net)


def quantised():
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), {nn.Linear})


def exported():
    return torch.export.export(plain(), (torch.zeros(1, 3, 8, 8),)).module()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.DataParallel(plain()), TypeError, "pass its .module"),
        (prepared, TypeError, "slim before quantising"),
        (quantised, TypeError, "slim before quantising"),
        (exported, TypeError, "slim that one and export the slim network"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), ValueError, r"0\.weight.*call the network once"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_unfit_network_is_refused_with_the_way_out(make, error, message):
    with pytest.raises(error, match=message):
        slim(make(), torch.randn(1, 3, 8, 8))


class Generated(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Linear(4, 8), nn.Linear(8, 2)
        self.transformer = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

    def forward(self, x):
        h = self.embed(x)
        return self.out(self.transformer(h, h, tgt_mask=nn.Transformer.generate_square_subsequent_mask(x.shape[1])))


@pytest.mark.filterwarnings("ignore")
def test_a_transformer_that_makes_its_causal_mask_is_exported_and_cut():
    net = Generated().eval()
    for layer in (net.transformer.encoder.layers[0], net.transformer.decoder.layers[0]):
        with torch.no_grad():
            layer.linear1.weight[:4] = 0
            layer.linear1.bias[:4] = 0
    result = slim(net, torch.randn(2, 5, 4))
    assert result.report.tracer == "torch.export"
    assert result.model.transformer.encoder.layers[0].linear1.out_features == 12
    assert result.model.transformer.decoder.layers[0].linear1.out_features == 12
