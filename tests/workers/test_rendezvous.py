"""Tests of the meeting of the workers before a training: real sockets, one thread a worker."""

import concurrent.futures
import contextlib
import json
import socket
import time

import pytest

from utils.base.errors import UserError
from utils.workers import gang, rendezvous, tasks
from utils.workers.rendezvous import WorkerLost

SETTINGS = {"train_batch_size": 32, "model_spec": {"stages": ["a"]}, "weight_decay": 1e-5}
PLAN = {"step": 40}


def gang_of(count):
    addresses = tuple(f"127.0.0.1:{port}" for port in gang.free_ports(count))
    return [tasks.Task(addresses, index) for index in range(count)]


def lead(task, settings=SETTINGS, patience=20):
    with rendezvous.opened(task) as meeting:
        meeting.lead(settings, PLAN, patience)


def meet(gang_tasks, worker_settings, patience=20):
    """What each worker gets, the chief first: a plan, or the error."""
    with concurrent.futures.ThreadPoolExecutor(len(gang_tasks)) as pool:
        results = [pool.submit(lead, gang_tasks[0], SETTINGS, patience)]
        for task, settings in zip(gang_tasks[1:], worker_settings, strict=True):
            results.append(pool.submit(rendezvous.follow, task, settings, patience))
        return [result.exception(60) or result.result() for result in results]


def test_workers_with_the_same_settings_get_the_plan():
    assert meet(gang_of(4), [SETTINGS] * 3) == [None, PLAN, PLAN, PLAN]


def test_another_setting_is_refused_by_all_and_named():
    found = meet(gang_of(3), [SETTINGS, {**SETTINGS, "weight_decay": 1e-4}])
    sentences = {str(error) for error in found if isinstance(error, UserError)}
    assert sentences == {
        "Worker 2 has other settings than the chief: weight_decay is 0.0001 (the chief's: 1e-05): "
        "start all workers with the same ones."
    }
    assert all(isinstance(error, UserError) for error in found)


def test_many_differences_are_counted():
    found = meet(gang_of(2), [dict.fromkeys("abcdefg", "x")])
    assert "and 7 more" in str(found[1])


def test_a_chief_alone_meets_nobody():
    lead(tasks.Task())


def test_a_worker_that_does_not_come_is_named():
    with pytest.raises(WorkerLost, match=r"workers 1, 2 of 3 did not come within 0.5 s"):
        lead(gang_of(3)[0], patience=0.5)


def test_a_chief_that_does_not_come():
    task = gang_of(2)[1]
    with pytest.raises(WorkerLost, match=f"The chief at {task.addresses[0]} did not answer"):
        rendezvous.follow(task, SETTINGS, 0.5)


def test_a_chief_that_refuses_tells_the_others():
    chief, worker = gang_of(2)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with (
            contextlib.suppress(UserError),
            rendezvous.opened(chief),
        ):
            waiting = pool.submit(rendezvous.follow, worker, SETTINGS, 20)
            time.sleep(0.5)
            raise UserError("--data_dir=x is not a folder: check the path.")
        error = waiting.exception(30)
    assert str(error) == "The chief refuses: --data_dir=x is not a folder: check the path."


def test_a_port_in_use_is_named():
    chief, worker = gang_of(2)
    for task, meet_there in ((chief, lead), (worker, rendezvous.follow)):
        _, port = task.address.split(":")
        with socket.socket() as other:
            other.bind(("127.0.0.1", int(port)))
            other.listen()
            arguments = (task,) if meet_there is lead else (task, SETTINGS, 5)
            with pytest.raises(WorkerLost, match=f"{task.address} of worker {task.index} cannot"):
                meet_there(*arguments)


def test_strangers_do_not_count():
    chief, worker = gang_of(2)
    host, port = chief.address.split(":")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        leading = pool.submit(lead, chief)
        other_gang = {"addresses": [chief.address, "elsewhere:1"], "index": 1, "settings": SETTINGS}
        messages = (
            b"GET / HTTP/1.1\r\n\r\n",
            b'{"index": 1}\n',
            b"[]\n",
            b"\xff\n",
            b"",
            json.dumps(other_gang).encode() + b"\n",
        )
        for message in messages:
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection((host, port), 5) as one:
                    one.sendall(message)
                    break
                time.sleep(0.05)
        assert rendezvous.follow(worker, SETTINGS, 20) == PLAN
        assert leading.exception(30) is None


def test_an_address_without_a_port():
    with pytest.raises(UserError, match="'host' has no port"):
        rendezvous.can_be_reached("host")
