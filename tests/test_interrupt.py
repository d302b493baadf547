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


def _alarm(*_):
    raise TimeoutError


@pytest.fixture(autouse=True)
def alarm_raises():
    before = signal.signal(signal.SIGALRM, _alarm)
    yield
    signal.signal(signal.SIGALRM, before)


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
    assert sorted(times)[1] < LIMIT, times  # the median: other work on the machine is not ours
    assert network.digest() == before and network.in_flight == 0 and network.batches == 0


@pytest.mark.parametrize(
    "options",
    [{}, {"staleness": 2}, {"execution": "pipelined"}, {"execution": "pipelined", "staleness": 1, "rule": "dfa"}],
    ids=str,
)
def test_an_interrupted_batch_can_be_repeated(options):
    """Interrupted with batches in flight, at different depths of the work; the end is that of an undisturbed twin."""
    sizes, rng = [1600, 1000, 10], np.random.default_rng(2)
    network, twin = (Network(sizes, batch=256, isa="ref", **options) for _ in range(2))
    interrupts = 0
    for round_ in range(4):
        x, labels = rng.integers(1, 128, (256, 1600)).astype(np.int8), rng.integers(0, 10, 256)
        twin.tick(x, labels)
        entered = network.batches
        signal.setitimer(signal.ITIMER_REAL, 0.02 * (round_ + 1))
        try:
            network.tick(x, labels)
        except TimeoutError:  # may also come just after a tick that was whole
            signal.setitimer(signal.ITIMER_REAL, 0)
            if network.batches == entered:
                interrupts += 1
                network.tick(x, labels)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    network.drain()
    twin.drain()
    assert interrupts and network.digest() == twin.digest()


def test_a_signal_handler_cannot_use_the_network_it_interrupts():
    network, x, labels = slow_network()
    before = network.digest()
    previous = signal.signal(signal.SIGALRM, lambda *_: network.tick(x, labels))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with pytest.raises(RuntimeError, match="the network is in use by another call"):
        network.tick(x, labels)
    signal.signal(signal.SIGALRM, previous)
    assert network.digest() == before


def test_one_call_at_a_time():
    network, x, labels = slow_network()
    errors = []

    def refused(call):
        try:
            call()
        except RuntimeError as error:
            errors.append(str(error))
            return True
        return False

    def second():
        deadline = time.monotonic() + 20
        while not refused(network.counters) and time.monotonic() < deadline:  # until the tick has begun
            time.sleep(0.001)
        for call in (lambda: network.tick(x, labels), lambda: network.scores(x), network.digest):
            refused(call)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        network.tick(x, labels)
    thread.join(20)
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
