"""The campaign: a few cases of each section, and, marked slow, all of them."""

import pytest
from campaign import cases
from campaign.base import make_base
from campaign.command import SECTIONS
from campaign.processes import Outcome, finished, finished_or_refused, refused

TRACE = 'Traceback (most recent call last):\n  File "x.py"\nKeyError: 1\n'
SAMPLES = {
    "settings": 8, "weights": 2, "records": 1, "kills": 1, "state": 2, "file_system": 2,
    "commands": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("campaign") / "base")


@pytest.mark.parametrize("section", SECTIONS)
def test_a_sample_of_a_section_has_no_failure(section, base):
    chosen = cases.sample(SECTIONS[section](), SAMPLES[section])
    attempts, failures = cases.carry_out(chosen, base)
    assert attempts >= SAMPLES[section]
    assert not failures


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_has_no_failure(section, base):
    _, failures = cases.carry_out(SECTIONS[section](), base)
    assert not failures


@pytest.mark.parametrize(
    ("outcome", "problem"),
    [
        (Outcome(None, ""), "hang"),
        (Outcome(-11, ""), "crash by signal 11"),
        (Outcome(1, TRACE), "stack trace: KeyError: 1"),
        (Outcome(1, "error: x.\n" + TRACE), "stack trace"),
        (Outcome(1, "error: this is a bug in mnasnet-tpu: KeyError: 1\n"), "bug: "),
        (Outcome(1, ""), "without a sentence"),
        (Outcome(3, "error: --x=1 is wrong.\n"), "status 3"),
        (Outcome(0, ""), "status 0 instead of a refusal"),
        (Outcome(1, "error: a.\nerror: b.\n"), "2 sentences"),
        (Outcome(1, "error: --y=1 is wrong.\n"), "['--x'] not in"),
    ],
)
def test_the_campaign_sees_what_is_wrong(outcome, problem):
    assert problem in refused(outcome, "--x")


def test_the_campaign_takes_success_and_a_sentence():
    sentence = Outcome(1, "12:00:00 A line.\nerror: --x=1 is wrong.\n")
    assert refused(sentence, "--x") is finished_or_refused(sentence) is None
    assert finished(Outcome(0, "12:00:00 A line.\n")) is None
    assert "refused" in finished(sentence)
