"""Tests of the benchmark of reports."""

import re

from utils.benchmarks import report as benchmark_report


def test_what_it_prints(capsys):
    benchmark_report.main(["benchmark_report", "--images=200"])
    first, *files = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"200 pictures of 500 x 375, 1000 classes: \d+\.\d s \(\d+\.\d s of CPU\)", first
    )
    names = [re.fullmatch(r"  (\S+) +\d+\.\d\d MB", line)[1] for line in files]
    assert names == ["predictions.csv", "report.html", "report.json"]
