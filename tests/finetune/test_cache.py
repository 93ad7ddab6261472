"""Tuned models are found again by content, and by nothing else."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from quantus_ext.engine.bridges import Bridge
from quantus_ext.engine.replacements import gaussian_noise, replace_by, shift_by
from quantus_ext.files import seal
from quantus_ext.finetune import cache, clear_memory, training
from tests.finetune.problem import data, make_tuner, masks, network, removed, weights


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def test_explainers_and_copies_share_one_training(trainings):
    tuner = make_tuner()
    tuned = []
    for _ in range(5):
        tuned.append(copy.deepcopy(tuner)(copy.deepcopy(network()), masks()))
        tuned.append(make_tuner()(network(), masks()))
    assert len(trainings) == 1
    assert all(np.array_equal(weights(model), weights(tuned[0])) for model in tuned)
    assert len({model[0].weight.data_ptr() for model in tuned}) == 10


def test_perturbed_models_come_back(trainings):
    """As in MetaQuantus: a few models, again and again, as new copies."""
    tuner = make_tuner()
    for _ in range(3):
        for seed in range(4):
            model = network()
            with torch.no_grad():
                model[0].weight += 0.01 * seed
            tuner(model, masks())
    assert len(trainings) == 4


def test_the_report_says_whether_it_was_cached():
    tuner = make_tuner()
    tuner(network(), masks())
    first = tuner.report
    tuner(network(), masks())
    assert (first.cache_hit, tuner.report.cache_hit) == (False, True)
    assert first.seconds == tuner.report.seconds
    assert first.accuracy == tuner.report.accuracy


class Scaled(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.by


def changed_weight() -> nn.Module:
    model = network()
    with torch.no_grad():
        model[4].bias[0] += 1e-6
    return model


def changed_buffer() -> nn.Module:
    model = network()
    model[1].running_var[2] += 1e-3
    return model


@pytest.mark.parametrize(
    "changed",
    [
        changed_weight,
        changed_buffer,
        lambda: network(dropout=0.1),
        lambda: network(nn.Softmax(1)),
        lambda: network(Scaled(2.0)),
        lambda: network(Scaled(3.0)),
        lambda: network().double(),
    ],
)
def test_another_model_trains_again(changed, trainings):
    tuner = make_tuner()
    for model in (network(), network(Scaled(1.0)), changed(), changed()):
        tuner(model, masks())
    assert len(trainings) == 3


def test_mode_flags_and_hooks_are_no_content(trainings):
    tuner = make_tuner()
    tuner(network(), masks())
    model = network()
    model.requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    tuned = tuner(model, masks())
    assert len(trainings) == 1
    assert not any(p.requires_grad for p in tuned.parameters())


@pytest.mark.parametrize("where", ["before", "after"])
def test_hooks_that_change_answers_train_again(where, trainings):
    tuner = make_tuner()
    tuner(network(), masks())
    for factor in (-1.0, 0.5, 0.5):
        model = network()
        if where == "after":
            model[0].register_forward_hook(lambda module, x, output, factor=factor: factor * output)
        else:
            model[0].register_forward_pre_hook(lambda module, x, factor=factor: factor * x[0])
        tuner(model, masks())
    assert len(trainings) == 3
    assert tuner.report.cache_hit


def test_a_hook_without_which_nothing_runs(trainings):
    for _ in range(2):
        model = nn.Sequential(nn.Flatten(), network()).eval()
        model[1].register_forward_pre_hook(lambda module, x: x[0][:, :10])
        x, y = data(160, 12)
        make_tuner(x, y)(model, masks())
    assert len(trainings) == 1


class Keeps(nn.Module):
    """Keeps its activations and counts its calls, with a setting that is another matter."""

    def __init__(self, setting: float) -> None:
        super().__init__()
        self.body, self.setting, self.calls, self.seen = network(), setting, 0, {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = x.detach()
        self.calls += 1
        self.seen[self.calls] = len(x)
        return self.body(x) * self.setting


def test_what_inputs_leave_in_a_model_is_no_content(trainings):
    tuner, model = make_tuner(), Keeps(1.0).eval()
    for n in (0, 3, 5):
        if n:
            model(torch.from_numpy(data(n)[0]))
        calls = model.calls
        tuner(model, masks())
        assert model.calls == calls, "the caller's model is not asked"
    assert len(trainings) == 1
    tuner(Keeps(2.0).eval(), masks())
    assert len(trainings) == 2


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(10, 3, batch_first=True), nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x[:, None])[0][:, 0])


def test_copies_of_recurrent_networks_are_found(trainings):
    model = Recurrent().eval()
    for each in (model, copy.deepcopy(model)):
        make_tuner()(each, masks())
    assert len(trainings) == 1


HELD = {"value": 0.0}


def with_what_is_held(arr: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, HELD["value"], arr)


def test_a_dict_that_the_perturbation_reads_is_content(monkeypatch, trainings):
    for value in (0.0, 1.0, 1.0):
        monkeypatch.setitem(HELD, "value", value)
        make_tuner(epochs=1)(network(), masks(by=Bridge(with_what_is_held, "mask")))
    assert len(trainings) == 2


def changed_datum() -> dict[str, np.ndarray]:
    x, y = data()
    x[7, 3] += 1e-6
    return {"x": x, "y": y}


def changed_label() -> dict[str, np.ndarray]:
    x, y = data()
    y[7] = 3 - y[7]
    return {"x": x, "y": y}


@pytest.mark.parametrize(
    "settings",
    [
        changed_datum(),
        changed_label(),
        {"x": data()[0]},
        {"epochs": 3},
        {"lr": 0.011},
        {"optimiser": torch.optim.SGD},
        {"batch_size": 17},
        {"validation_fraction": 0.2},
        {"patience": 1},
        {"seed": 1},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_other_data_and_settings_train_again(settings, trainings):
    make_tuner()(network(), masks())
    make_tuner(**settings)(network(), masks())
    assert len(trainings) == 2


def test_what_does_not_change_the_weights_is_no_content(trainings, tmp_path):
    make_tuner()(network(), masks())
    make_tuner(display_progressbar=True, cache_dir=tmp_path, device="cpu")(network(), masks())
    assert len(trainings) == 1


@pytest.mark.parametrize(
    "other",
    [
        masks(0.31),
        masks(seed=1),
        masks(element="patch", patch_size=1),
        masks(by=replace_by(0.1)),
        masks(by=replace_by("mean")),
        masks(by=replace_by(np.zeros(10))),
        masks(by=replace_by("uniform")),
        masks(by=replace_by("uniform", uniform_low=0.1)),
        masks(by=replace_by("uniform", scope="value")),
        masks(by=shift_by(0.0)),
        masks(by=gaussian_noise(0.0, 0.01)),
        masks(by=gaussian_noise(0.0, 0.02)),
        masks(by=Bridge(removed, "mask")),
        masks(by=Bridge(removed, "mask", {"how": "flip"})),
        masks(by=Bridge(lambda arr, mask: arr, "mask")),
        masks(by=Bridge(lambda arr, mask: arr + mask, "mask")),
    ],
)
def test_other_masks_train_again(other, trainings):
    """Each differs from the first and, being cached, from all the others."""
    tuner = make_tuner(epochs=1)
    tuner(network(), masks())
    tuner(network(), other)
    assert len(trainings) == 2
    tuner(network(), copy.deepcopy(other))
    assert len(trainings) == 2


def test_memory_is_bounded(monkeypatch, trainings):
    monkeypatch.setattr(cache._memory, "most_entries", 2)
    first, second, third = (make_tuner(seed=seed, epochs=1) for seed in range(3))
    for tuner in (first, second, first, third, first):
        tuner(network(), masks())
    assert len(trainings) == 3
    second(network(), masks())
    assert len(trainings) == 4, "the one used longest ago was forgotten"
    size = sum(t.numel() * t.element_size() for t in network().state_dict().values())
    monkeypatch.setattr(cache._memory, "most_bytes", size - 1)
    for tuner in (third, third):
        tuner(network(), masks())
    assert len(cache._memory._entries) == 1, "the newest stays though it is too large"
    assert len(trainings) == 5


# Files


@pytest.mark.slow
def test_a_second_process_hits(tmp_path):
    tuned = make_tuner(cache_dir=tmp_path)(network(), masks(by=Bridge(removed, "mask")))
    script = (
        "from tests.finetune.problem import *\n"
        "from quantus_ext.engine.bridges import Bridge\n"
        f"tuner = make_tuner(cache_dir={str(tmp_path)!r})\n"
        "tuned = tuner(network(), masks(by=Bridge(removed, 'mask')))\n"
        "print(tuner.report.cache_hit, weights(tuned).sum().hex())\n"
    )
    # Another seed of string hashes, so that no order of a set or dict decides the key.
    said = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "5", "OMP_NUM_THREADS": "1"},
    ).stdout
    assert said.split() == ["True", weights(tuned).sum().hex()]


def test_files_outlive_memory(trainings, tmp_path):
    tuner = make_tuner(cache_dir=tmp_path / "new" / "folder")
    first = weights(tuner(network(), masks()))
    clear_memory()
    assert np.array_equal(weights(tuner(network(), masks())), first)
    assert tuner.report.cache_hit
    for file in files(tmp_path / "new" / "folder"):
        file.unlink()
    tuner(network(), masks())
    assert len(trainings) == 1, "once read it is in memory"


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    torch.save({"weights": torch.ones(3)}, path)


def pickled_code(path: Path) -> None:
    torch.save(network(), path)


def write(path: Path, content: object) -> None:
    """Write it with a checksum that is right."""
    file = io.BytesIO()
    torch.save(content, file)
    seal(file)
    path.write_bytes(file.getvalue())


def with_another(**entries: object) -> Callable[[Path], None]:
    return lambda path: write(path, {**torch.load(path, weights_only=True), **entries})


def with_a_report_of(**entries: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        write(path, {**content, "report": {**content["report"], **entries}})

    return damage


def without(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        del content[name]
        write(path, content)

    return damage


def without_its_checksum(path: Path) -> None:
    torch.save(torch.load(path, weights_only=True), path)


def with_a_flipped_weight(path: Path) -> None:
    data = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["state"]["0.weight"].numpy().tobytes()
    data[data.index(weight)] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        emptied,
        foreign,
        pickled_code,
        without_its_checksum,
        with_a_flipped_weight,
        with_another(key="0" * 64),
        with_another(state=[]),
        with_another(state={"0.weight": [1.0]}),
        with_another(state={"0.weight": 1.0}),
        with_another(answers=None),
        with_another(more=1),
        with_a_report_of(accuracy="1"),
        with_a_report_of(epochs=1.5),
        with_a_report_of(more=1),
        *map(without, ("key", "state", "report", "answers")),
    ],
)
def test_a_damaged_file_is_survived(damage, trainings, tmp_path):
    tuner = make_tuner(cache_dir=tmp_path, epochs=1)
    first = weights(tuner(network(), masks()))
    (file,) = files(tmp_path)
    damage(file)
    damaged = file.read_bytes()
    clear_memory()
    with pytest.warns(UserWarning, match="in cache_dir is ignored and the model tuned again") as w:
        again = weights(tuner(network(), masks()))
    assert str(file) in str(w[0].message)
    (kept,) = set(files(tmp_path)) - {file}
    assert kept.read_bytes() == damaged
    assert kept.name in str(w[0].message)
    assert len(trainings) == 2
    assert np.array_equal(first, again)
    clear_memory()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuner(network(), masks())
    assert len(trainings) == 2, "the damaged file was replaced"


class Intruder:
    """What it does when it is unpickled, no cache may do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path):
    tuner = make_tuner(cache_dir=tmp_path, epochs=1)
    tuner(network(), masks())
    (file,) = files(tmp_path)
    content = torch.load(file, weights_only=True)
    write(file, {**content, "report": Intruder(tmp_path / "intruder")})
    clear_memory()
    with pytest.warns(UserWarning, match=r"is ignored.*Unsupported global"):
        tuner(network(), masks())
    assert not (tmp_path / "intruder").exists()


def test_a_write_that_fails_leaves_nothing_and_loses_nothing(monkeypatch, tmp_path):
    tuner = make_tuner(cache_dir=tmp_path, epochs=1)

    def failing(content, file):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", failing)
    with pytest.warns(UserWarning, match="not written to cache_dir: no space left"):
        tuned = tuner(network(), masks())
    assert isinstance(tuned, nn.Module)
    assert files(tmp_path) == []


def test_what_killed_processes_left_is_removed(tmp_path):
    left = tmp_path / f"key.pt.{'0' * 32}.partial"
    left.touch()
    make_tuner(cache_dir=tmp_path, epochs=1)(network(), masks())
    assert left not in files(tmp_path)


@pytest.mark.parametrize("refused", ["read_bytes", "replace"])
def test_a_folder_that_refuses_is_survived(refused, monkeypatch, trainings, tmp_path):
    tuner = make_tuner(cache_dir=tmp_path, epochs=1)
    first = weights(tuner(network(), masks()))
    (file,) = files(tmp_path)
    if refused == "replace":
        file.write_bytes(b"")
    clear_memory()

    def refusing(self, *arguments):
        raise PermissionError("not yours")

    monkeypatch.setattr(Path, refused, refusing)
    with pytest.warns(UserWarning, match=r"is ignored and the model tuned again.*not yours"):
        assert np.array_equal(weights(tuner(network(), masks())), first)
    assert len(trainings) == 2
    assert file.exists()


@pytest.mark.slow
def test_a_full_disk_loses_nothing(tmp_path):
    script = (
        "import resource, signal, warnings\n"
        "from tests.finetune.problem import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        f"tuner = make_tuner(cache_dir={str(tmp_path)!r})\n"
        "model = nn.Sequential(nn.Linear(10, 200), nn.Tanh(), nn.Linear(200, 4)).eval()\n"
        "with warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('always')\n"
        "    tuned = tuner(model, masks())\n"
        "print(type(tuned).__name__, any('not written to cache_dir' in str(w) for w in said))\n"
        "tuner(model, masks())\n"
        "print(tuner.report.cache_hit)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={"OMP_NUM_THREADS": "1"},
    ).stdout
    assert said.split() == ["Sequential", "True", "True"]
    assert files(tmp_path) == []


def test_the_home_folder_is_known(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_tuner(cache_dir="~/tuned", epochs=1)(network(), masks())
    assert len(files(tmp_path / "tuned")) == 1


def test_an_interrupted_write_leaves_nothing(monkeypatch, tmp_path):
    def interrupted(content, file):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_tuner(cache_dir=tmp_path, epochs=1)(network(), masks())
    assert files(tmp_path) == []


def test_readers_never_see_half_a_file(tmp_path):
    """Writers and readers of one file at once: every read succeeds."""
    report = training.TuningReport(1, 1, 0.5, 0.5, 0.1)
    entry = training.Trained(network().state_dict(), report)
    cache._write(tmp_path / "key.pt", "key", entry)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            cache._write(tmp_path / "key.pt", "key", entry)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read = [cache._read(tmp_path / "key.pt", "key") for _ in range(50)]
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert None not in read
    assert [file.name for file in files(tmp_path)] == ["key.pt"]


# Nothing is cached of what fails


def test_a_diverged_training_is_not_cached(trainings, tmp_path):
    # Without batch norm, which would keep the numbers small.
    model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    tuner = make_tuner(lr=1e30, cache_dir=tmp_path)
    for _ in range(2):
        with pytest.raises(
            RuntimeError, match=r"diverged: .* not finite in epoch 1 with lr=1e\+30"
        ):
            tuner(model, masks())
    assert len(trainings) == 2
    assert files(tmp_path) == []
    assert tuner.report is None


def test_an_infinite_loss_is_an_error_though_the_weights_are_finite(monkeypatch):
    monkeypatch.setattr(training._Run, "epoch", lambda run, optimiser, draw: float("inf"))
    with pytest.raises(RuntimeError, match="diverged"):
        make_tuner()(network(), masks())
