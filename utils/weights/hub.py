"""Weights by name: from a Hugging Face hub (hf://) or from a web server (https://).

The libraries that fetch them also cache them, so a second fetch needs no download. What is
published next to weights comes along: how their pictures are prepared, and their classes. Without
that, an evaluation could not repeat the published accuracy, because no weight tells size, crop and
interpolation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import json
import logging as python_logging
import os
import posixpath
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging

import preprocessing
from utils.base import files, progress
from utils.base.errors import UserError, excerpt, quoted
from utils.config import network, settings
from utils.reading import dataset_info
from utils.weights import recognition, weights_file

_FILES = ("model.safetensors", "pytorch_model.bin")  # those of timm, the safer one first
_HUB_NAME = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.+))?", re.ASCII | re.IGNORECASE)
_CHECKSUM = re.compile(r"sha256=([0-9a-f]{8,64})", re.IGNORECASE)
_SHA256_DIGITS = 64
_READ_S = 30.0


class NotFetchedError(UserError):
    """Weights cannot be fetched."""


@dataclasses.dataclass(frozen=True)
class WeightsInfo:
    """What is known of weights beside their tensors.

    Attributes:
      source: the family, one of `recognition.SOURCE_NAMES`; None if nothing names it.
      labels: names of the classes in their order; none if they are not known.
      settings: input_image_size, resize_method and eval_crop_share, as far as they are known.
      normalization: mean_rgb and stddev_rgb of pixels in [0, 255], as in a model specification, if
        they are not those of ImageNet.
    """

    source: str | None = None
    labels: tuple[str, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    normalization: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Weights:
    """A file with weights on this machine.

    Attributes:
      path: of the file; one that was fetched belongs to a cache: read it only.
      name: what messages call it.
      origin: where it comes from, with the revision.
      description: what is published next to the weights.
    """

    path: str
    name: str
    origin: str
    description: WeightsInfo = WeightsInfo()


def fetch(name: str) -> Weights:
    """Downloads weights, or finds them in the cache; a path stands for itself.

    Args:
      name: 'hf://OWNER/REPOSITORY', perhaps with '@REVISION' and '/FILE', or 'https://...', perhaps
        with '#sha256=' and the beginning of the checksum; or a path.

    Raises:
      NotFetchedError: the server cannot be reached or does not have them, or a library is missing.
      UserError: the name is invalid, or they are of another family or damaged.
    """
    if not files.is_download(name):
        return Weights(name, name, os.path.basename(name))
    weights = _from_hub(name) if name.lower().startswith("hf://") else _from_web(name)
    logging.info("%s is here: %s.", weights.origin, weights.path)
    return weights


def _library(name: str) -> Any:
    """Imports a package of the extra `hub`, which most uses of this program do not need."""
    try:
        library = importlib.import_module(name)
    except ImportError as e:
        raise NotFetchedError(
            f"Weights cannot be fetched without the package {name}: run pip install "
            "'huggingface_hub>=2.0,<3' 'pooch>=1.9', or make setup."
        ) from e
    # Its warnings are about what this module reports.
    python_logging.getLogger(name).setLevel(python_logging.ERROR)
    return library


class _LimitedBar(progress.DownloadBar):
    """Ends a download that is too large; the server tells the size at its beginning."""

    def update(self, n: float | None = 1) -> None:
        if (self.total or 0) > weights_file.LARGEST_FILE:
            raise UserError(
                f"The file has {int(self.total)} bytes, more than weights of a network of this "
                f"family ever take ({weights_file.LARGEST_FILE}): name other weights."
            )
        super().update(n)


# Hugging Face hubs.


def _from_hub(name: str) -> Weights:
    match = _HUB_NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f"{quoted(name)} does not name weights at a hub: write hf://OWNER/REPOSITORY, perhaps "
            "with @REVISION or /FILE behind it."
        )
    repository, revision, wanted = match.groups()
    if wanted:
        weights_file.check_ending(wanted)
    place, revision = f"hf://{repository}", urllib.parse.unquote(revision or "main")
    hub = _library("huggingface_hub")
    for module in ("constants", "errors"):  # the package itself loads them late
        importlib.import_module(f"huggingface_hub.{module}")
    described = WeightsInfo()
    with _explaining(hub, place, revision):
        # First: it tells the commit, and perhaps that the weights are none of this program's.
        config = _cached(hub, repository, revision, "config.json")
        if config:
            revision = os.path.basename(os.path.dirname(config))
            described = _of_timm_config(config, place)
        candidates = (wanted,) if wanted else _FILES
        for file in candidates:
            path = _cached(hub, repository, revision, file)
            if path:
                commit = os.path.basename(path.removesuffix(f"/{file}"))
                return Weights(path, place, f"{place}@{commit}/{file}", described)
    raise NotFetchedError(
        f"{place} has no {' and no '.join(candidates)}: name a weights file that it has, as "
        f"{place}/FILE."
    )


def _cached(hub, repository: str, revision: str, file: str) -> str | None:
    """Returns the path of a file in the client's cache; None if the repository has no such file."""
    errors = hub.errors
    try:
        return hub.hf_hub_download(repository, file, revision=revision, tqdm_class=_LimitedBar)
    except errors.LocalEntryNotFoundError:
        # The hub was not reached. The cache notes the files that a repository does not have.
        if hub.try_to_load_from_cache(repository, file, revision=revision) is None:
            raise
        return None
    except errors.EntryNotFoundError:
        return None


@contextlib.contextmanager
def _explaining(hub, place: str, revision: str) -> Iterator[None]:
    """Makes one sentence of each error of the hub's client."""
    import httpx2  # it comes with the client, whose errors of connections it raises

    errors, endpoint = hub.errors, hub.constants.ENDPOINT
    try:
        yield
    except errors.GatedRepoError as e:
        raise NotFetchedError(
            f"{place} is gated: accept its conditions at {endpoint} with your account, and set "
            "HF_TOKEN to a token of that account."
        ) from e
    except errors.RepositoryNotFoundError as e:
        raise NotFetchedError(
            f"{place} is not at {endpoint}, or it is private: check the name (mnasnet-pretrained "
            "--list shows known ones), or set HF_TOKEN to a token that may read it."
        ) from e
    except errors.RevisionNotFoundError as e:
        raise NotFetchedError(
            f"{place} has no revision {quoted(revision)}: see its commits at {endpoint}."
        ) from e
    except (httpx2.HTTPError, OSError, errors.XetDownloadError) as e:
        raise NotFetchedError(
            f"{place} cannot be fetched from {endpoint} ({_innermost(e)}), and the cache "
            f"{hub.constants.HF_HUB_CACHE} does not have it: check the network, HF_ENDPOINT, "
            "HF_TOKEN and HF_HOME, or fetch the file elsewhere and name its path."
        ) from e


def _innermost(error: BaseException) -> str:
    """Returns the words of the system behind an error that names the objects of libraries."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return excerpt((str(error) or type(error).__name__).splitlines()[0])


def _of_timm_config(path: str, name: str) -> WeightsInfo:
    """Returns what the config.json of a timm repository says; nothing of another program's.

    A value that this program cannot use is left out with a warning.

    Args:
      path: of the file.
      name: of the weights, for messages.

    Raises:
      UserError: the file is damaged, or the network is of another family.
    """
    try:
        content = json.loads(files.read_text(path))
    except ValueError as e:
        raise UserError(f"{path}, of {name}, is damaged ({e}): remove it and try again.") from e
    if not isinstance(content, dict) or not isinstance(content.get("architecture"), str):
        return WeightsInfo()
    source = recognition.source_of(content["architecture"])
    if source is None:
        raise UserError(
            f"{name} is a network of another family, {quoted(content['architecture'])}: name "
            f"weights of one of {', '.join(recognition.SOURCE_NAMES)}."
        )
    inner = content.get("pretrained_cfg")  # older files have its entries beside the architecture
    found = {**content, **(inner if isinstance(inner, dict) else {})}
    names = found.get("label_names")
    if content.get("num_classes", found.get("num_classes")) == settings.IMAGENET_CLASSES:
        # As timm takes them.
        names = names or dataset_info.read_labels("imagenet", settings.IMAGENET_CLASSES)
    return WeightsInfo(
        source,
        tuple(" ".join(str(n).split()) for n in names) if isinstance(names, list) else (),
        _settings(found, name),
        _normalization(found, name),
    )


def _settings(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    size = found.get("input_size")
    if isinstance(size, list) and len(size) == 3 and size[1] == size[2]:
        size = size[1]
    given = {
        "input_image_size": size,
        "resize_method": found.get("interpolation"),
        "eval_crop_share": found.get("crop_pct"),
    }
    taken = {}
    for setting, value in given.items():
        if value is None:
            continue
        try:
            taken[setting] = settings.convert(setting, value, setting)
        except UserError:
            _warn(name, value, f"--{setting}")
    return taken


def _normalization(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the normalization of pixels in [0, 255]; timm scales them to [0, 1] first."""
    taken: dict[str, Any] = {}
    for ours, theirs, default in (
        ("mean_rgb", "mean", preprocessing.MEAN_RGB),
        ("stddev_rgb", "std", preprocessing.STDDEV_RGB),
    ):
        value = found.get(theirs)
        if value is not None and network.is_rgb(value, ours):
            scaled = [255 * v for v in value]
            if scaled != default:
                taken[ours] = scaled
        elif value is not None:
            _warn(name, value, f"{ours} in --model_spec")
    return taken


def _warn(name: str, value: Any, flag: str) -> None:
    logging.warning(
        "The config.json of %s asks for %s, which this program cannot do: it is left out, and %s "
        "may say what to do instead.",
        name,
        quoted(value),
        flag,
    )


# Web servers.


def _from_web(name: str) -> Weights:
    url, _, fragment = name.partition("#")
    known = next((w for w in KNOWN if url == w.source.partition("#")[0]), None)
    checksum = _checksum(known.source if known and not fragment else name)
    weights_file.check_ending(posixpath.basename(urllib.parse.urlsplit(url).path))
    if url.lower().startswith("http://") and len(checksum) < _SHA256_DIGITS:
        raise UserError(
            f"{name} may be changed on its way: write https:// or append #sha256= and all 64 "
            "digits of the checksum."
        )
    path = _download(url)
    found = hashlib.sha256(files.read_bytes(path)).hexdigest()
    if not found.startswith(checksum):
        os.remove(path)
        raise UserError(
            f"{url} has the checksum {found}, not {checksum}: if the file of an earlier download "
            "was damaged or old, the same command fetches it anew; otherwise the file there has "
            "changed."
        )
    return Weights(path, url, url, known.description if known else WeightsInfo())


def _checksum(name: str) -> str:
    """Returns the checksum behind a URL, in whole or its beginning; '' if there is none."""
    fragment = name.partition("#")[2]
    if not fragment:
        return ""
    match = _CHECKSUM.fullmatch(fragment)
    if match is None:
        raise UserError(
            f"{quoted(name)} is invalid behind the #: write #sha256= and 8 to 64 hexadecimal "
            "digits, the checksum or its beginning."
        )
    return match[1].lower()


def _download(url: str) -> str:
    """Returns the path of a URL's file in the cache, which it enters only when it is complete."""
    pooch = _library("pooch")
    import requests  # pooch downloads with it

    pooch.get_logger().setLevel(python_logging.ERROR)
    bar = _LimitedBar()
    downloader = pooch.HTTPDownloader(
        progressbar=bar,
        chunk_size=1 << 16,
        headers={"Accept-Encoding": "identity"},  # a compressed answer would not tell the size
        timeout=_READ_S,
    )
    try:
        return pooch.retrieve(
            url, known_hash=None, path=pooch.os_cache("mnasnet-tpu"), downloader=downloader
        )
    except requests.exceptions.RequestException as e:
        raise NotFetchedError(
            f"{url} cannot be fetched ({_innermost(e)}): check address and network, or fetch the "
            "file elsewhere and name its path."
        ) from e
    finally:
        bar.close()


# Known weights.


@dataclasses.dataclass(frozen=True)
class Known:
    """Published weights.

    Attributes:
      name: what the publisher calls them.
      network: name of the network here.
      multiplier: depth multiplier.
      top_1: published top-1 on ImageNet's validation pictures, in percent, as text.
      source: what --weights and --init_checkpoint take.
      licence: SPDX identifier of the licence that the publisher names.
      resized: torchvision, without a config.json, resizes the shorter side to so many pixels
        bilinearly and cuts out 224; 0 for weights of timm.
    """

    name: str
    network: str
    multiplier: str
    top_1: str
    source: str
    licence: str = "Apache-2.0"
    resized: int = 0

    @property
    def description(self) -> WeightsInfo:
        """What the publisher says elsewhere than in a config.json."""
        if not self.resized:
            return WeightsInfo()
        return WeightsInfo(
            "torchvision:mnasnet",
            tuple(dataset_info.read_labels("imagenet", settings.IMAGENET_CLASSES)),
            {
                "input_image_size": 224,
                "resize_method": "bilinear",
                "eval_crop_share": 224 / self.resized,
            },
        )


def _timm(name: str, network: str, multiplier: str, top_1: str) -> Known:
    return Known(name, network, multiplier, top_1, f"hf://timm/{name}")


def _torchvision(multiplier: str, top_1: str, file: str, digest: str, resized: int) -> Known:
    """Returns weights of torchvision.models.mnasnet; files' names begin their SHA-256."""
    name = f"mnasnet{multiplier.replace('.', '_')}"
    source = f"https://download.pytorch.org/models/{file}-{digest}.pth#sha256={digest}"
    return Known(name, "mnasnet-b1", multiplier, top_1, source, "BSD-3-Clause", resized)


# The accuracies of timm are those of its release notes and results, of torchvision those in its
# code (torchvision/models/mnasnet.py, version 0.29).
MNASNET_A1 = _timm("semnasnet_100.rmsp_in1k", "mnasnet-a1", "1.0", "75.45")
KNOWN = (
    MNASNET_A1,
    _timm("semnasnet_075.rmsp_in1k", "mnasnet-a1", "0.75", "73.0"),
    _timm("mnasnet_100.rmsp_in1k", "mnasnet-b1", "1.0", "74.67"),
    _timm("mnasnet_small.lamb_in1k", "mnasnet-small", "1.0", "66.2"),
    _torchvision("0.5", "67.73", "mnasnet0.5_top1_67.823", "3ffadce67e", 256),
    _torchvision("0.75", "71.18", "mnasnet0_75", "7090bc5f", 232),
    _torchvision("1.0", "73.46", "mnasnet1.0_top1_73.512", "f206786ef8", 256),
    _torchvision("1.3", "76.51", "mnasnet1_3", "a4c69d6f", 232),
)
