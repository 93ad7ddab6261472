"""Threads and forks on one model and the same metric objects: the scores of a sequential run?

Run ``python -m benchmarks.threads`` in the repository's root.
"""

from __future__ import annotations

import os
import pickle
import random
import select
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import quantus
import torch
from torch import nn

import quantus_ext
from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext.finetune import cache

THREADS, CHILDREN, SECONDS = 3, 3, 60
N, CLASSES = 8, 3

Task = Callable[[], Any]


class Net(nn.Module):
    """With batch norm and dropout, so that its training draws from the global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4 * 36, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.dropout(self.norm(self.conv(x)).relu()).flatten(1))


def gradients(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> Any:
    x = torch.as_tensor(np.array(inputs)).requires_grad_()
    with torch.enable_grad():
        outputs = model(x).gather(1, torch.as_tensor(np.array(targets))[:, None])
        return torch.autograd.grad(outputs.sum(), x)[0].numpy()


def noise(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> Any:
    drawn = np.random.normal(size=np.shape(inputs)) + random.random()  # noqa: NPY002
    return (drawn + torch.randn(np.shape(inputs)).numpy()).astype(np.float32)


def careless(model: Any, inputs: Any, targets: Any, **_: Any) -> Any:
    """Leave training mode, a buffer, a hook and a setting, and change the weights in between."""
    made = gradients(model, inputs, targets)
    kept = model.head.weight.detach().clone()
    model.head.weight.data.mul_(-1)
    time.sleep(0.001)
    model.head.weight.data.copy_(kept)
    model.train()
    model(torch.randn(4, 1, 6, 6))
    model.norm.register_forward_hook(lambda module, args, outputs: outputs * 2)
    torch.use_deterministic_algorithms(True, warn_only=True)
    time.sleep(0.001)
    return made


class Tasks:
    """One model and one object of each metric, and what is done with them."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Net().eval()
        generator = np.random.default_rng(5)
        self.x = generator.normal(size=(N, 1, 6, 6)).astype(np.float32)
        self.y = generator.integers(0, CLASSES, N)
        self.a = gradients(self.model, self.x, self.y)
        rows = generator.normal(size=(32, 1, 6, 6)).astype(np.float32)
        self.tuner = quantus_ext.FineTuner(
            rows,
            generator.integers(0, CLASSES, 32),
            epochs=2,
            batch_size=16,
            display_progressbar=False,
        )
        correlation = quantus.FaithfulnessCorrelation(
            nr_runs=4, subset_size=6, disable_warnings=True
        )
        sensitivity = quantus.MaxSensitivity(nr_samples=2, disable_warnings=True)
        self.metrics = {
            "F-Fidelity, tuned meanwhile": quantus_ext.FFidelity(
                [0.3, 0.6], n_samples=4, fine_tune=self.tuner
            ),
            "QGE of R-Fidelity": quantus_ext.QGE(
                quantus_ext.RFidelity([0.3, 0.6], n_samples=4, output="probability")
            ),
            "QGE of Faithfulness Correlation": quantus_ext.QGE(correlation),
            "QGE of Max-Sensitivity": quantus_ext.QGE(sensitivity),
            "MoRF of maps made on the way": quantus_ext.MoRF(6),
        }
        self.in_evaluate = {"QGE": self.metrics["QGE of Faithfulness Correlation"]} | {
            "MoRF": quantus_ext.MoRF(6),
            "Infidelity": quantus_ext.Infidelity(n_perturb_samples=6, perturb_patch_sizes=[2]),
        }

    def tasks(self) -> dict[str, Task]:
        made: dict[str, Task] = {
            "tuning": self.tuned,
            **{name: partial(self.scored, name) for name in self.metrics},
            "evaluate": self.evaluated,
        }
        return made

    def tuned(self) -> Any:
        # As it would be in a process that has not tuned it.
        cache.clear_memory()
        tuned = self.tuner.fine_tune(self.model, beta=0.3)
        return [tensor.numpy() for tensor in tuned.state_dict().values()]

    def scored(self, name: str) -> Any:
        given = {"model": self.model, "x_batch": self.x, "y_batch": self.y, "batch_size": 4}
        if name.startswith("MoRF"):
            return self.metrics[name](**given, explain_func=careless)
        return self.metrics[name](**given, a_batch=self.a, explain_func=gradients, device="cpu")

    def evaluated(self) -> Any:
        found = quantus_ext.evaluate(
            self.in_evaluate,
            {"noise": noise, "careless": careless, "gradients": gradients},
            self.model,
            self.x,
            self.y,
            batch_size=4,
        )
        return [found.scores, found.standard_errors, found.n_evaluations, found.n_rows]


def bits(result: Any) -> bytes:
    return pickle.dumps([np.asarray(each).tobytes() for each in result])


def done(task: Task) -> bytes:
    try:
        return bits(task())
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200].encode()


def forked(task: Task) -> tuple[int, int]:
    """Do a task in a forked child, and return its id and where it writes the result."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(writes, "wb") as pipe:
            pipe.write(done(task))
        os._exit(0)
    os.close(writes)
    return child, reads


def read(child: int, pipe: int) -> bytes:
    """Return what a child writes; one that hangs is ended."""
    parts = []
    end = time.monotonic() + SECONDS
    while True:
        if not select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
            os.kill(child, signal.SIGKILL)
            parts = [b"hangs"]
            break
        part = os.read(pipe, 2**16)
        if not part:
            break
        parts.append(part)
    os.close(pipe)
    os.waitpid(child, 0)
    return b"".join(parts)


def run(tasks: dict[str, Task], seed: int, *, forks: bool) -> list[tuple[str, str, bytes]]:
    """Do all tasks in each thread at once, and some in children; return what came out."""
    orders = random.Random(seed)
    started = threading.Barrier(THREADS + 1)

    def work(names: list[str]) -> list[tuple[str, str, bytes]]:
        started.wait()
        return [(name, "thread", done(tasks[name])) for name in names]

    with ThreadPoolExecutor(THREADS) as pool:
        working = [
            pool.submit(work, orders.sample(list(tasks), len(tasks))) for _ in range(THREADS)
        ]
        started.wait()
        children = []
        for name in orders.sample(list(tasks), CHILDREN) if forks else []:
            time.sleep(orders.uniform(0, 0.1))
            children.append((name, *forked(tasks[name])))
        found = [(name, "child", read(child, pipe)) for name, child, pipe in children]
        return found + [each for names in working for each in names.result()]


def main() -> None:
    made = parser("threads", __doc__)
    made.add_argument("--runs", type=int, default=200)
    chosen = options(made)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tasks = Tasks().tasks()
    expected = {name: bits(task()) for name, task in tasks.items()}
    # Once more, so that what is compared is no matter of chance.
    assert all(bits(task()) == expected[name] for name, task in tasks.items())
    total: Counter[tuple[str, str]] = Counter()
    wrong: Counter[tuple[str, str]] = Counter()
    for number in range(4 if chosen.quick else chosen.runs):
        for name, where, result in run(tasks, number, forks=number % 2 == 1):
            total[name, where] += 1
            if result != expected[name]:
                wrong[name, where] += 1
                sys.stderr.write(f"run {number}, {name}, {where}: {result[:200]!r}\n")
    page = Page("threads", (), quick=chosen.quick)
    rows = [(*place, str(total[place]), str(wrong[place])) for place in sorted(total)]
    table = markdown_table(("Task", "Where", "Times", "Other than alone"), rows)
    told = (
        f"{THREADS} threads do all tasks at once, each in its own order; in every other run, "
        f"{CHILDREN} children are forked meanwhile, and each does one task. A difference of one "
        "bit "
        "from a sequential run counts, and so do errors and hanging children. One of the "
        "explainers within `evaluate`, and that of MoRF, changes weights in between, and leaves "
        "training mode, buffers, a hook and a setting of torch."
    )
    page.add("Threads and forks on one model and the same metric objects", told, table)


if __name__ == "__main__":
    main()
