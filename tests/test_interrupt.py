"""Ctrl-C within 100 ms with the network as before; forks; two threads at one network."""

import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

from sppim_core import Network

SLOW = [3000, 3000, 10]  # seconds a tick
LIMIT = 0.1


@pytest.fixture(autouse=True)
def sigint_interrupts():
    """As in a terminal, also where the test run itself was started with SIGINT ignored (in the background)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def slow_network(**options):
    network = Network(SLOW, batch=512, isa="ref", **options)
    rng = np.random.default_rng(0)
    return network, rng.integers(1, 128, (512, SLOW[0])).astype(np.int8), rng.integers(0, 10, 512)


def answer_time(call) -> float:
    """Seconds from SIGINT to KeyboardInterrupt, the signal coming 0.3 s into the call."""
    sent = []

    def send():
        time.sleep(0.3)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        call()
    answered = time.monotonic()
    thread.join()
    return answered - sent[0]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("what", ["tick", "scores"])
def test_ctrl_c(what, threads):
    network, x, labels = slow_network(threads=threads)
    call = (lambda: network.tick(x, labels)) if what == "tick" else (lambda: network.scores(np.concatenate([x] * 8)))
    before = network.digest()
    times = [answer_time(call) for _ in range(3)]
    assert min(times) < LIMIT, times
    assert network.digest() == before and network.in_flight == 0 and network.batches == 0


def test_an_interrupted_batch_can_be_repeated():
    network, other = (Network([40, 30, 3], batch=4) for _ in range(2))
    x, labels = np.ones((4, 40), np.int8), np.array([0, 1, 2, 0])
    big, big_x, big_labels = slow_network()
    answer_time(lambda: big.tick(big_x, big_labels))
    for each in (network, other):
        each.tick(x, labels)
    assert network.digest() == other.digest()


def test_one_call_at_a_time():
    network, x, labels = slow_network()
    errors = []

    def second():
        time.sleep(0.2)
        for call in (lambda: network.tick(x, labels), lambda: network.scores(x), network.counters, network.digest):
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=second)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        network.tick(x, labels)
    thread.join()
    assert errors == ["the network is in use by another call"] * 4


def _train_in_child(network, x, labels, queue):
    network.tick(x, labels)
    queue.put(network.digest())


def test_a_forked_child_goes_on():
    network = Network([50, 300, 10], batch=32, threads=3)
    rng = np.random.default_rng(1)
    x, labels = rng.integers(0, 128, (32, 50)).astype(np.int8), rng.integers(0, 10, 32)
    network.tick(x, labels)  # starts the threads
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_train_in_child, args=(network, x, labels, queue)) for _ in range(5)]
    for child in children:
        child.start()
    digests = {queue.get(timeout=30) for _ in children}
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    network.tick(x, labels)
    assert digests == {network.digest()}


def test_networks_in_several_threads():
    def train(results, i):
        network = Network([50, 70, 10], batch=32, threads=2)
        rng = np.random.default_rng(1)
        for _ in range(10):
            network.tick(rng.integers(0, 128, (32, 50)).astype(np.int8), rng.integers(0, 10, 32))
        results[i] = network.digest()

    results = [None] * 4
    threads = [threading.Thread(target=train, args=(results, i)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 1
