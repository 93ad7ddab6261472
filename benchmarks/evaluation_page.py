"""An evaluation's page, opened in headless Chromium as a file: what it fetches, how wide it is.

Run ``python -m benchmarks.evaluation_page --out FOLDER`` in the repository's root. With Chromium
installed the folder gets pictures of the page at the widths of a desktop and of a phone, and the
what it fetched beyond its own file is printed: there must be nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import quantus
import torch

from quantus_ext import ABPC, QGE, Deletion, Evaluation, Infidelity, Insertion, demo, evaluate

WIDTHS = {"desktop": (1280, 4000), "phone": (390, 5600)}


def evaluation(n: int) -> Evaluation:
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


def picture(browser: str, page: Path, file: Path, size: tuple[int, int]) -> None:
    """Take a picture of the page, opened as a file."""
    subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"),
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
    found = evaluation(chosen.n)
    page = found.to_html(chosen.out / "page.html").resolve()
    print(f"{page}: {page.stat().st_size / 1e6:.2f} MB")
    browser = next((p for p in map(shutil.which, ("chromium", "google-chrome")) if p), None)
    if browser is None:
        print("Chromium is not installed: no pictures")
        return
    for name, size in WIDTHS.items():
        picture(browser, page, chosen.out / f"{name}.png", size)
        width, fetched = measured(browser, page, size[0])
        print(f"{name}: {size[0]} wide, content {width} wide; fetched: {fetched or 'nothing'}")


if __name__ == "__main__":
    main()
