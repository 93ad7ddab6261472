"""Pages of evaluations, opened in headless Chromium as files: what they fetch, how wide they are.

Run ``python -m benchmarks.evaluation_page --out FOLDER`` in the repository's root. The folder gets
a page of digits, and one each of photos, a series, a table, a text and volumes. With Chromium
installed it also gets pictures of them at the widths of a desktop and of a phone, in light and in
dark colours, and what a page fetched beyond its own file is printed: there must be nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import quantus
import torch
from skimage import data, transform
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

from quantus_ext import (
    ABPC,
    QGE,
    Deletion,
    Evaluation,
    Infidelity,
    Insertion,
    adapters,
    demo,
    evaluate,
)

WIDTHS = {"desktop": (1280, 4000), "phone": (500, 5600)}
"""Chromium's windows are no narrower than 500."""


def digits(n: int) -> Evaluation:
    """Evaluate four explainers of a digit reader, one of which fails."""
    problem = demo.prepare(0)
    maps = demo.explain(problem, n)

    def gradcam(model: torch.nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        raise RuntimeError("the layer 'features.7' is not in the model")

    correlation = quantus.FaithfulnessCorrelation(
        nr_runs=20, subset_size=100, perturb_baseline="black", disable_warnings=True
    )
    return evaluate(
        {
            "Infidelity": Infidelity(n_perturb_samples=50, perturb_baseline=0.0),
            "ABPC": ABPC(10, element="patch", patch_size=4),
            "Deletion": Deletion(10),
            "Insertion": Insertion(10),
            "QGE (Deletion)": QGE(Deletion(10)),
            "Faithfulness Correlation": correlation,
        },
        {**maps, "GradCAM": gradcam},
        problem.model,
        problem.x_test[:n],
        problem.y_test[:n],
    )


METRICS = {"Deletion": Deletion(8), "ABPC": ABPC(8)}


def saliency(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Explain by the gradient of the explained output."""
    x = torch.from_numpy(np.array(inputs)).requires_grad_()
    outputs = model(x).gather(1, torch.from_numpy(np.array(targets))[:, None])
    return torch.autograd.grad(outputs.sum(), x)[0].numpy()


def noise(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.random.default_rng(len(inputs)).normal(size=np.shape(inputs))


EXPLAINERS = {"Saliency": saliency, "noise": noise}


def photos() -> Evaluation:
    """Evaluate on colour images, with patches."""
    pictures = (data.astronaut, data.coffee, data.cat)
    x = np.stack([transform.resize(each(), (64, 64)) for each in pictures]).transpose(0, 3, 1, 2)
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    head = (nn.Tanh(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(1024, 3))
    return evaluate(
        {"Deletion": Deletion(8, patch_size=8), "ABPC": ABPC(8, patch_size=8)},
        EXPLAINERS,
        nn.Sequential(convolution, *head).eval(),
        x.astype(np.float32),
        [0, 1, 2],
        names=["astronaut", "coffee", "cat"],
        class_names=["person", "cup", "animal"],
    )


def series() -> Evaluation:
    """Evaluate on padded series of two named channels."""
    generator = np.random.default_rng(0)
    x = np.cumsum(generator.normal(size=(12, 2, 60)), 2).astype(np.float32)
    for place, each in enumerate(x):
        each[:, 30 + 2 * place :] = -999
    head = (nn.Tanh(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))
    model = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), *head).eval()
    return evaluate(
        METRICS,
        EXPLAINERS,
        adapters.Series(model, padding=-999.0),
        x,
        np.arange(12) % 2,
        feature_names=["heart rate", "pressure"],
        class_names={0: "healthy", 1: "ill"},
    )


def table() -> Evaluation:
    """Evaluate on a data frame of 30 columns."""
    cancer = load_breast_cancer(as_frame=True)
    x = cancer.data[:40].astype(np.float32)
    model = nn.Sequential(nn.BatchNorm1d(30), nn.Linear(30, 8), nn.Tanh(), nn.Linear(8, 2))
    model(torch.from_numpy(cancer.data.to_numpy(np.float32)))
    classes = list(map(str, cancer.target_names))
    return evaluate(METRICS, EXPLAINERS, model.eval(), x, cancer.target[:40], class_names=classes)


class Mean(nn.Module):
    """Averages the embeddings of a text's tokens."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(n, 6), nn.Linear(6, 2)

    def forward(self, ids: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.embedding(ids).mean(1))
        return outputs


def text() -> Evaluation:
    """Evaluate on texts of different lengths."""
    words = (
        "[PAD] [CLS] [SEP] the film was truly great and $funny$ <b>bad</b> boring a waste of time"
    )
    vocabulary = words.split()
    ids = np.random.default_rng(0).integers(3, len(vocabulary), size=(10, 40))
    ids[:, 0] = 1
    for place, row in enumerate(ids):
        row[12 + 2 * place], row[13 + 2 * place :] = 2, 0
    return evaluate(
        METRICS,
        {"noise": noise},
        adapters.TokenIds(Mean(len(vocabulary)).eval(), 2, 0, [1, 2]),
        ids,
        np.arange(10) % 2,
        tokens=lambda row: [vocabulary[token] for token in row],
        class_names=["negative", "positive"],
    )


def volume() -> Evaluation:
    """Evaluate on volumes with a bright cube."""
    x = np.random.default_rng(0).normal(size=(4, 1, 12, 24, 24)).astype(np.float32)
    x[:, :, 4:8, 6:14, 6:14] += 3
    head = (nn.Tanh(), nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(16, 2))
    model = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), *head).eval()
    return evaluate(METRICS, EXPLAINERS, model, x, [0, 1, 0, 1])


def picture(
    browser: str, page: Path, file: Path, size: tuple[int, int], *, dark: bool = False
) -> None:
    """Take a picture of the page, opened as a file."""
    colours = ["--blink-settings=preferredColorScheme=0"] if dark else []
    subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"),
            *colours,
            *(f"--window-size={size[0]},{size[1]}", f"--screenshot={file}", page.as_uri()),
        ],
        check=True,
        capture_output=True,
    )


def measured(browser: str, page: Path, width: int) -> tuple[int, list[str]]:
    """Return how wide the page's content is in a window of a width, and what the page fetched."""
    probe = page.with_name("probe.html")
    probe.write_text(
        "<script>function look(frame) {"
        "  const inside = frame.contentWindow;"
        "  const fetched = inside.performance.getEntriesByType('resource').map(e => e.name);"
        "  document.title = JSON.stringify("
        "    [inside.document.documentElement.scrollWidth, fetched]);"
        "}</script>"
        f'<iframe src="{page.name}" style="width:{width}px;height:900px;border:0" '
        'onload="look(this)"></iframe>'
    )
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *("--allow-file-access-from-files", "--virtual-time-budget=5000", probe.as_uri()),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    probe.unlink()
    answer = json.loads(done.stdout.split("<title>")[1].split("</title>")[0])
    return answer[0], answer[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--n", type=int, default=60, help="digits (60)")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    browser = next((p for p in map(shutil.which, ("chromium", "google-chrome")) if p), None)
    if browser is None:
        print("Chromium is not installed: no pictures")
    torch.manual_seed(0)
    for make in (partial(digits, chosen.n), photos, series, table, text, volume):
        kind = getattr(make, "func", make).__name__
        page = make().to_html(chosen.out / f"{kind}.html").resolve()
        print(f"{kind}: {page.stat().st_size / 1e6:.2f} MB")
        if browser is None:
            continue
        for name, size in WIDTHS.items():
            for dark in (False, True):
                shown = f"{kind}_{name}{'_dark' * dark}.png"
                picture(browser, page, chosen.out / shown, size, dark=dark)
            width, fetched = measured(browser, page, size[0])
            print(f"  {size[0]} wide, content {width} wide; fetched: {fetched or 'nothing'}")


if __name__ == "__main__":
    main()
