"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4


def write_text(path: str | Path, text: str) -> Path:
    """Write a file in place of the one that is there, all of it at once."""
    target = Path(path)
    partial = target.with_name(f"{target.name}.{uuid4().hex}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target
