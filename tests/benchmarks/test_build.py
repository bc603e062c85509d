"""Tests of the benchmark of building."""

import re

from utils.benchmarks import build as benchmark_build


def test_what_it_prints(capsys):
    benchmark_build.main(["benchmark_build", "--images=40"])
    first, copying, building = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"40 JPEGs of 500 x 375, 6\d KB each, \d+ cores", first)
    assert re.fullmatch(r"  copying the files +\d+ images/s  100 %", copying)
    assert re.fullmatch(r"  building TFRecords +\d+ images/s +\d+ %", building)
