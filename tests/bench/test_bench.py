"""The runner of `make bench`, with its smallest section."""

import pytest

from bench import __main__ as bench
from utils.base.errors import UserError


def test_a_section_prints_its_table(capsys):
    bench.main(["bench", "commands", "--turns=1"])
    machine, *lines = capsys.readouterr().out.splitlines()
    assert " cores, load " in machine
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    assert rows[0] == ["", "s", "least to most", "ratio"]
    assert rows[2][0] == "mnasnet_main.py --help" and rows[2][3] == "1.00"
    assert all(float(row[1]) > 0 for row in rows[2:])


@pytest.mark.parametrize("argument", ["--turns=0", "bench-input"])
def test_what_cannot_run_is_named(argument):
    with pytest.raises(UserError, match=argument):
        bench.main(["bench", argument])
