"""Lists trained weights that can be imported by name, with their published accuracies."""

from __future__ import annotations

import dataclasses

from utils.weights.description import IMAGENET_LABELS, Description


@dataclasses.dataclass(frozen=True)
class Known:
    """Describes published weights.

    Attributes:
      name: what the publisher calls them.
      network: name of the network here.
      multiplier: depth multiplier.
      top_1: published top-1 on ImageNet's validation pictures, in percent, as text.
      source: what --weights and --init_checkpoint take.
      licence: SPDX identifier of the licence that the publisher names.
      description: what the publisher says elsewhere; None if a config.json next to them says it.
    """

    name: str
    network: str
    multiplier: str
    top_1: str
    source: str
    licence: str
    description: Description | None = None


def _timm(name: str, network: str, multiplier: str, top_1: str) -> Known:
    return Known(name, network, multiplier, top_1, f"hf://timm/{name}", "Apache-2.0")


def _torchvision(multiplier: str, top_1: str, file: str, digest: str, resized: int) -> Known:
    """Returns weights of torchvision.models.mnasnet.

    torchvision resizes the shorter side to `resized` pixels bilinearly and cuts out 224. The names
    of its files hold the beginning of their SHA-256.
    """
    settings = {
        "input_image_size": 224,
        "resize_method": "bilinear",
        "eval_crop_share": 224 / resized,
    }
    return Known(
        f"mnasnet{multiplier.replace('.', '_')}", "mnasnet-b1", multiplier, top_1,
        f"https://download.pytorch.org/models/{file}#sha256={digest}", "BSD-3-Clause",
        Description("torchvision:mnasnet", 1000, IMAGENET_LABELS, settings),
    )  # fmt: skip


# The accuracies of timm are those of its release notes and results, of torchvision those in its
# code (torchvision/models/mnasnet.py, version 0.29).
MNASNET_A1 = _timm("semnasnet_100.rmsp_in1k", "mnasnet-a1", "1.0", "75.45")
WEIGHTS = (
    MNASNET_A1,
    _timm("semnasnet_075.rmsp_in1k", "mnasnet-a1", "0.75", "73.0"),
    _timm("mnasnet_100.rmsp_in1k", "mnasnet-b1", "1.0", "74.67"),
    _timm("mnasnet_small.lamb_in1k", "mnasnet-small", "1.0", "66.2"),
    _torchvision("0.5", "67.73", "mnasnet0.5_top1_67.823-3ffadce67e.pth", "3ffadce67e", 256),
    _torchvision("0.75", "71.18", "mnasnet0_75-7090bc5f.pth", "7090bc5f", 232),
    _torchvision("1.0", "73.46", "mnasnet1.0_top1_73.512-f206786ef8.pth", "f206786ef8", 256),
    _torchvision("1.3", "76.51", "mnasnet1_3-a4c69d6f.pth", "a4c69d6f", 232),
)
HEADER = ("name", "network", "multiplier", "top-1 %", "source", "licence")


def rows() -> list[list[str]]:
    """Returns the cells under HEADER for each entry of WEIGHTS."""
    return [[w.name, w.network, w.multiplier, w.top_1, w.source, w.licence] for w in WEIGHTS]


def find(url: str) -> Known | None:
    """Returns the entry of a URL, with or without its #sha256=; None if it is not in the table."""
    return next((w for w in WEIGHTS if url in (w.source, w.source.partition("#")[0])), None)
