"""Foreign code is alone, whoever asks a model waits, nobody waits for ever, forks come up."""

from __future__ import annotations

import os
import random
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from quantus_ext.engine.global_state import isolated_random_state, seed_global_generators
from quantus_ext.engine.turns import Turns, turns
from quantus_ext.memory import Memory

SECONDS = 10


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Tanh())


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def holding(turn: Callable[[], object]) -> tuple[threading.Thread, threading.Event]:
    """Take a turn in another thread until the event is set."""
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        with turn():
            taken.set()
            over.wait(SECONDS)

    thread = in_thread(hold)
    assert taken.wait(SECONDS)
    return thread, over


@pytest.mark.parametrize("part", [False, True])
def test_nobody_asks_a_model_or_a_part_of_it_while_foreign_code_has_it(model, part):
    own, order = Turns(), []
    holder, over = holding(lambda: own.alone(model))

    def ask() -> None:
        with own.asking(nn.Sequential(model[0]) if part else model):
            order.append("asked")

    asker = in_thread(ask)
    time.sleep(0.05)
    order.append("over")
    over.set()
    asker.join(SECONDS)
    holder.join(SECONDS)
    assert order == ["over", "asked"]


def test_foreign_code_waits_for_those_who_ask(model):
    own, order = Turns(), []
    _, over = holding(lambda: own.asking(model))

    def foreign() -> None:
        with own.alone(model):
            order.append("foreign")

    waiting = in_thread(foreign)
    time.sleep(0.05)
    order.append("over")
    over.set()
    waiting.join(SECONDS)
    assert order == ["over", "foreign"]


def test_other_models_are_asked_meanwhile_and_one_model_by_many(model):
    own = Turns()
    _, first = holding(lambda: own.alone(nn.Tanh()))
    _, second = holding(lambda: own.asking(model))
    with own.asking(model):
        pass
    first.set()
    second.set()


def test_two_that_ask_one_model_may_both_have_foreign_code_to_run(model):
    own, both = Turns(), threading.Barrier(2, timeout=SECONDS)

    def work() -> str:
        with own.asking(model):
            both.wait()
            with own.alone(model), own.asking(model), own.alone():
                return "done"

    with ThreadPoolExecutor(2) as pool:
        assert [each.result(SECONDS) for each in [pool.submit(work), pool.submit(work)]] == [
            "done",
            "done",
        ]


def test_no_order_of_turns_waits_for_ever_or_lets_two_in():
    own, models = Turns(), [nn.Tanh() for _ in range(3)]
    having: dict[int, int] = {}
    wrong = []

    def work(seed: int) -> None:
        draw = random.Random(seed)

        def turn(depth: int) -> None:
            model = draw.choice(models)
            if draw.random() < 0.5:
                with own.alone(model):
                    others = [m for m, who in having.items() if who != seed]
                    wrong.extend(others)
                    before = having.get(id(model))
                    having[id(model)] = seed
                    time.sleep(0)
                    if depth:
                        turn(depth - 1)
                    if before is None:
                        del having[id(model)]
            else:
                with own.asking(model):
                    if having.get(id(model), seed) != seed:
                        wrong.append(model)
                    time.sleep(0)
                    if depth:
                        turn(depth - 1)

        for _ in range(60):
            turn(3)

    threads = [in_thread(lambda seed=seed: work(seed)) for seed in range(6)]
    for thread in threads:
        thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong
    assert (own._owner, own._had, own._asked) == (None, [], {})


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_errors_end_turns(model, error):
    own = Turns()
    with pytest.raises(error), own.asking(model), own.alone(model):
        raise error
    assert (own._owner, own._had, own._asked) == (None, [], {})


def in_child(work: Callable[[], object]) -> str:
    """Return what a forked child says of its work, or that it hangs."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = str(work())
        except BaseException as error:
            said = repr(error)
        os.write(writes, said.encode())
        os._exit(0)
    try:
        if not select.select([reads], [], [], SECONDS)[0]:
            os.kill(child, 9)
            return "hangs"
        return os.read(reads, 1000).decode()
    finally:
        os.waitpid(child, 0)
        os.close(reads)
        os.close(writes)


def alone_in_the_child(model: nn.Module) -> str:
    with turns.alone(model), turns.asking(model):
        return "alone"


def test_a_child_is_not_bound_by_the_turns_of_other_threads(model):
    for turn in (lambda: turns.alone(model), lambda: turns.asking(model)):
        thread, over = holding(turn)
        try:
            assert in_child(lambda: alone_in_the_child(model)) == "alone"
        finally:
            over.set()
            thread.join(SECONDS)


def test_a_child_keeps_the_turns_of_the_thread_that_forks(model):
    with turns.alone(model), turns.asking(model):
        assert in_child(lambda: (turns._owner is not None, alone_in_the_child(model))) == (
            "(True, 'alone')"
        )


def test_a_child_has_the_random_states_that_another_thread_had_changed():
    before = torch.get_rng_state()

    def seeded():
        isolated = isolated_random_state()
        isolated.__enter__()
        seed_global_generators(7)
        return isolated

    class Turn:
        def __enter__(self) -> None:
            self.isolated = seeded()

        def __exit__(self, *error: object) -> None:
            self.isolated.__exit__(None, None, None)

    thread, over = holding(Turn)
    try:
        assert not torch.equal(torch.get_rng_state(), before)
        assert in_child(lambda: torch.equal(torch.get_rng_state(), before)) == "True"
    finally:
        over.set()
        thread.join(SECONDS)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_memory_that_another_thread_uses_is_free_in_a_child():
    memory: Memory[str] = Memory(len, most_entries=2, most_bytes=100)
    with memory._lock:
        assert in_child(lambda: memory.put("a", "b") or memory.get("a")) == "b"
