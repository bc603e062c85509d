"""Tests of the benchmark of what users wait for: its words, not its figures."""

import pytest

from utils.base.errors import UserError
from utils.benchmarks import growth, speed

CPUINFO = "processor\t: 0\nmodel name\t: Example 9000\nflags\t\t: fpu avx2 {}\n"


@pytest.mark.parametrize(("flag", "words"), [("avx512f", ", AVX-512,"), ("sse", ", no AVX-512,")])
def test_the_processor_is_named(flag, words, tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text(CPUINFO.format(flag))
    named = speed.processor(str(file))
    assert named.startswith("Example 9000" + words)
    assert named.endswith(" cores")


def test_a_row_has_the_median_the_least_and_the_most():
    printed = speed.row("training step", [3.0, 1.0, 2.5], "s", 2)
    assert printed.split() == ["training", "step", "2.50", "s", "(1.00", "to", "3.00)"]


@pytest.mark.parametrize(
    ("flag", "sentence"), [("--turns=0", "must be at least 1"), ("--steps=3", "must be at least 4")]
)
def test_too_few_are_refused(flag, sentence):
    with pytest.raises(UserError, match=f"{flag} is invalid: it {sentence}"):
        speed.main(["benchmark", flag])


def test_a_command_that_fails_is_named():
    with pytest.raises(UserError, match=r"mnasnet_main\.py --wrong=1 failed: .*'wrong'"):
        speed.seconds_of(["mnasnet_main.py", "--wrong=1"])


def test_the_table_of_growth_spans_what_is_asked_for():
    sizes, multipliers, batches = (set(column) for column in zip(*growth.cases(), strict=True))
    assert {96, 224, 320} <= sizes
    assert {0.35, 1.0, 1.4} <= multipliers
    assert {8, 32, 128} <= batches
    assert len(growth.cases()) == len(set(growth.cases()))
