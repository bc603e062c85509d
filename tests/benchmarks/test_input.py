"""Tests of `utils.benchmarks.input`: every measurement reads real files and counts what it read."""

import pytest

import imagenet_input
from utils.base.errors import UserError
from utils.benchmarks import input as benchmark_input
from utils.benchmarks import pictures as benchmark_pictures


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    # Fewer pictures than a batch has: the files are read again and again.
    benchmark_pictures.make_data(str(folder), 16)
    return str(folder)


@pytest.mark.parametrize("name", benchmark_input.MEASUREMENTS)
def test_every_measurement_reads_batch_after_batch(data_dir, name):
    # The warm-up alone reads every file 32 times: an input that ends would raise.
    assert benchmark_input.MEASUREMENTS[name](data_dir, 32, 0.1) > 0


@pytest.mark.parametrize("name", benchmark_input.MEASUREMENTS)
def test_no_measurement_without_files(tmp_path, name):
    with pytest.raises(UserError, match=imagenet_input.TRAIN_PREFIX):
        benchmark_input.MEASUREMENTS[name](str(tmp_path), 32, 0.1)


def test_the_line_gives_median_share_range_and_memory():
    ceiling = benchmark_input.Measured([4000.0, 4000.0], 1)
    line = benchmark_input.Measured([900.0, 2000.0, 2100.0], 590_000_000).line(ceiling)
    assert line.split() == ["2000", "images/s", "50%", "(900", "to", "2100)", "0.59", "GB"]


@pytest.mark.parametrize("option", ["--images=63", "--turns=0"])
def test_too_small_a_number_is_refused(option):
    with pytest.raises(UserError, match=f"{option} is invalid"):
        benchmark_input.main(["benchmark_input", option])
