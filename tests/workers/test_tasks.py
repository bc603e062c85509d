"""Tests of who a process is: TF_CONFIG as schedulers set it, srun's variables, neither."""

import json

import pytest

from utils.base.errors import UserError
from utils.workers import tasks

TWO = ["a:1", "b:1"]
SRUN = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "n[01-02]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}


def config(kind, index, **cluster):
    task = {"type": kind} if index is None else {"type": kind, "index": index}
    return json.dumps({"cluster": cluster, "task": task})


@pytest.mark.parametrize(
    ("text", "task"),
    [
        (config("worker", 1, worker=TWO), tasks.Task(("a:1", "b:1"), 1)),
        (config("chief", 0, chief=["c:1"], worker=TWO), tasks.Task(("c:1", "a:1", "b:1"), 0)),
        (config("worker", 1, chief=["c:1"], worker=TWO), tasks.Task(("c:1", "a:1", "b:1"), 2)),
        (config("worker", 0, master=["c:1"], worker=TWO), tasks.Task(("c:1", "a:1", "b:1"), 1)),
        (config("worker", "1", worker=TWO), tasks.Task(("a:1", "b:1"), 1)),
        (config("worker", 0, worker=["a:1"]), tasks.Task()),
        (config("Worker", 1, WORKER=TWO, ps=[]), tasks.Task(("a:1", "b:1"), 1)),
        (config("workers", 0, Master=["c:1"], workers=TWO), tasks.Task(("c:1", "a:1", "b:1"), 1)),
        (config("worker", 1, worker={"1": "b:1", "0": "a:1"}), tasks.Task(("a:1", "b:1"), 1)),
        (config("worker", 1, worker="a:1, b:1"), tasks.Task(("a:1", "b:1"), 1)),
        (config("chief", None, chief=["c:1"], worker=TWO), tasks.Task(("c:1", "a:1", "b:1"), 0)),
        # Vertex AI for a training in one process, TFJob with an evaluator.
        (
            '{"environment": "cloud", "job": {"scale_tier": "BASIC"}, "cluster": {}, '
            '"task": {"type": "master", "index": 0, "trial": "1"}}',
            tasks.Task(),
        ),
        (config("evaluator", 0, chief=["c:1"], worker=TWO), tasks.Task(is_evaluator=True)),
        (config("Evaluator", 0, worker=TWO, ps=["p:1"]), tasks.Task(is_evaluator=True)),
        ('{"environment": "cloud"}', tasks.Task()),
        ("{}", tasks.Task()),
    ],
)
def test_tf_config(text, task):
    assert tasks.of_tf_config(text) == task
    assert task.count == 1 or tasks.of_tf_config(task.tf_config()) == task


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "must be JSON like"),
        ("[1]", "must be JSON like"),
        ('{"cluster": {"worker": 1}}', "must be JSON like"),
        (config("worker", "x", worker=TWO), "must be JSON like"),
        (config("worker", 0.5, worker=TWO), "must be JSON like"),
        (config(7, 0, worker=TWO), "must be JSON like"),
        (config("worker", 0, worker=["a", "b:1"]), "'a' is not HOST:PORT"),
        (config("worker", 1, worker={"1": "b:1"}), "it names the tasks [1] alone"),
        (
            '{"sparseCluster": {"worker": {"0": "a:1"}, "ps": []}, "task": {"type": "worker", '
            '"index": 0}}',
            "sparseCluster",
        ),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', "does not say which of its tasks"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": 1}}', "does not say which"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker"}}', "(it has 2 of w"),
        (config("worker", 1, worker=["a:1"]), "calls this process worker 1"),
        (config("worker", 1), "it has none at all"),
        (config("worker", -1, worker=TWO), "calls this process worker -1"),
        (config("learner", 0, learner=TWO), "of the kind learner"),
        (config("worker", 0, worker=TWO, ps=["p:1"]), "lists parameter servers (ps)"),
        (config("worker", 2, worker=TWO), "calls this process worker 2, but its cluster lists no"),
        (config("chief", 0, worker=TWO), "it has 2 of worker"),
        (config("worker", 0, worker=["a:1", "a:1"]), "lists an address twice"),
    ],
)
def test_a_wrong_tf_config(text, part):
    with pytest.raises(UserError) as error:
        tasks.of_tf_config(text)
    assert part in str(error.value) and str(error.value).startswith("TF_CONFIG")


@pytest.fixture
def of_slurm(monkeypatch):
    """Returns the task of a process with Slurm's variables."""

    def of(environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return tasks.of_slurm()

    return of


def test_srun(of_slurm):
    task = of_slurm(SRUN)
    ports = [int(address.split(":")[1]) for address in task.addresses]
    assert [address.split(":")[0] for address in task.addresses] == ["n01", "n01", "n02", "n02"]
    assert ports[0] == ports[2] and ports[1] == ports[3] == ports[0] + 1
    assert (task.index, task.local_index, task.is_chief) == (2, 0, False)
    other_job = of_slurm({**SRUN, "SLURM_JOB_ID": "8"})
    assert not {*ports} & {int(address.split(":")[1]) for address in other_job.addresses}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        # A batch script, outside of srun.
        {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"},
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_a_process_of_its_own(of_slurm, environment):
    assert of_slurm(environment) == tasks.Task()


def test_srun_with_hosts_that_cannot_be_read(of_slurm):
    with pytest.raises(UserError, match="Slurm's variables cannot be read"):
        of_slurm({**SRUN, "SLURM_STEP_NODELIST": "b[3-4,7]-x"})


def test_tf_config_is_there_for_the_training_alone(monkeypatch):
    text = config("worker", 1, worker=TWO)
    monkeypatch.setenv(tasks.VARIABLE, text)
    with tasks.joined() as task:
        assert tasks.current() == task and task.count == 2
        assert tasks.VARIABLE not in tasks.os.environ
        with task.in_environment():
            assert tasks.of_tf_config(tasks.os.environ[tasks.VARIABLE]) == task
        assert tasks.VARIABLE not in tasks.os.environ
    # A second training in this process is another of the same worker, also after an error.
    assert tasks.os.environ[tasks.VARIABLE] == text and tasks.current() == tasks.Task()
    monkeypatch.setenv(tasks.VARIABLE, "{")
    with pytest.raises(UserError), tasks.joined():
        pass
    assert tasks.os.environ[tasks.VARIABLE] == "{"
    monkeypatch.delenv(tasks.VARIABLE)
    with tasks.joined() as task, task.in_environment():
        assert task == tasks.Task() and tasks.VARIABLE not in tasks.os.environ
