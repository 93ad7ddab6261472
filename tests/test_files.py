"""A file is there whole or not at all, and shows whether it is what was written."""

from __future__ import annotations

import io
import json
import os
import threading

import numpy as np
import pytest

from quantus_ext.files import (
    DamagedError,
    OtherFormatError,
    aside,
    remove_partial,
    seal,
    sealed_json,
    unsealed,
    unsealed_json,
    write_bytes,
    write_text,
)

CONTENT = {"format": 1, "scores": [0.1, 1e-300, -3.0, float("nan")], "names": {"é": None}}


def sealed(content: bytes) -> bytes:
    file = io.BytesIO(content)
    seal(file)
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"one", b"\nsha256 ", bytes(range(256)) * 9])
def test_what_is_sealed_comes_back_and_nothing_else(content):
    data = sealed(content)
    assert unsealed(data) == content
    for place in range(len(data)):
        for bit in range(8):
            other = bytearray(data)
            other[place] ^= 1 << bit
            with pytest.raises(DamagedError):
                unsealed(bytes(other))
    for length in range(len(data)):
        with pytest.raises(DamagedError):
            unsealed(data[:length])


def test_a_sealed_archive_can_be_opened():
    file = io.BytesIO()
    np.savez(file, x=np.arange(3))
    with np.load(io.BytesIO(sealed(file.getvalue()))) as arrays:
        assert arrays["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "laid_out",
    [
        lambda text: text,
        lambda text: text.encode(),
        lambda text: json.dumps(json.loads(text), indent=3, ensure_ascii=False),
        lambda text: json.dumps(json.loads(text), sort_keys=True) + "\n",
        lambda text: json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":")),
    ],
)
def test_json_may_be_laid_out_anew(laid_out):
    back = unsealed_json(laid_out(sealed_json(CONTENT)), format=1)
    assert repr(back) == repr(CONTENT) or sorted(back) == sorted(CONTENT)
    assert json.dumps(back, sort_keys=True) == json.dumps(CONTENT, sort_keys=True)


def test_json_with_keys_of_other_types_comes_back():
    text = sealed_json({"format": 1, "counts": {9: 1, 10: 2}, "pair": (1, 2)})
    assert unsealed_json(text, format=1)["counts"] == {"9": 1, "10": 2}


def test_json_is_sealed_anew():
    content = json.loads(sealed_json(CONTENT))
    content["scores"] = [1.0]
    with pytest.raises(DamagedError, match="does not have the checksum"):
        unsealed_json(json.dumps(content), format=1)
    assert unsealed_json(sealed_json(content), format=1)["scores"] == [1.0]


def test_json_without_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        sealed_json(CONTENT, nan=False)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "\ufeff{}", b"\xff\xfe", b"\x00{", b"{\x00"),
        *(
            '{"a": ' * 100_000,
            '{"format": 1, "a": ' + "[" * 900 + "]" * 900 + "}",
            '{"format": ' + "9" * 5000 + "}",
        ),
        '{"format": 1}',
        '{"format": 1, "sha256": null}',
        '{"format": 1, "sha256": 1}',
        '{"format": 2, "sha256": "0"}',
    ],
    ids=range(13),
)
def test_json_of_something_else(text):
    with pytest.raises(DamagedError):
        unsealed_json(text, format=1)


@pytest.mark.parametrize(
    "text",
    [
        *("{}", "null", "[]", "1", '{"format": 0}', '{"format": "1"}', '{"name": "other"}'),
        sealed_json({"format": 2}),
    ],
)
def test_json_of_another_format(text):
    with pytest.raises(OtherFormatError, match=r"has format .* reads 1"):
        unsealed_json(text, format=1)


def test_other_content_is_kept_under_other_names():
    assert aside("a.npz", b"1") == aside("a.npz", b"1") != aside("a.npz", b"2")


# Writing


def test_a_file_is_replaced(tmp_path):
    path = write_text(tmp_path / "file", "one")
    assert write_text(str(path), "two").read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_writers_of_the_same_file_left_is_removed(tmp_path):
    left, other = (tmp_path / f"{name}.{'0' * 32}.partial" for name in ("file", "other"))
    left.touch()
    other.touch()
    write_text(tmp_path / "file", "one")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", other]


def test_an_exclusive_write_replaces_nothing(tmp_path, monkeypatch):
    write_bytes(tmp_path / "file", b"one", exclusive=True)
    with pytest.raises(FileExistsError):
        write_bytes(tmp_path / "file", b"two", exclusive=True)

    def without_links(*paths):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", without_links)
    with pytest.raises(FileExistsError):
        write_bytes(tmp_path / "file", b"two", exclusive=True)
    write_bytes(tmp_path / "other", b"two", exclusive=True)
    contents = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert contents == {"file": b"one", "other": b"two"}


def test_one_of_many_exclusive_writes_counts(tmp_path):
    done = []

    def write(number: int) -> None:
        try:
            write_bytes(tmp_path / "file", b"%d" % number, exclusive=True)
        except FileExistsError:
            return
        done.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_bytes() == b"%d" % done[0]
    assert len(done) == 1


def test_a_folder_that_is_missing_is_told(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_bytes(tmp_path / "none" / "file", b"")


def test_what_killed_writers_left_is_removed_and_not_what_one_still_writes(monkeypatch, tmp_path):
    left = tmp_path / f"file.{'0' * 32}.partial"
    others = {tmp_path / "mine.partial", tmp_path / f"x.{'0' * 31}.partial"}
    for path in (left, *others):
        path.touch()
    fsync, writes, may_end = os.fsync, threading.Event(), threading.Event()

    def waiting(file: int) -> None:
        writes.set()
        may_end.wait()
        fsync(file)

    monkeypatch.setattr(os, "fsync", waiting)
    writer = threading.Thread(target=write_bytes, args=(tmp_path / "file", b"content"))
    writer.start()
    writes.wait()
    try:
        (begun,) = set(tmp_path.iterdir()) - others - {left}
        remove_partial(tmp_path, "another")
        assert left.exists()
        remove_partial(tmp_path, "file")
        assert not left.exists()
        remove_partial(tmp_path)
        assert set(tmp_path.iterdir()) == others | {begun}
    finally:
        may_end.set()
        writer.join()
    assert set(tmp_path.iterdir()) == others | {tmp_path / "file"}


def test_a_file_whose_beginning_somebody_removes_is_written_again(monkeypatch, tmp_path):
    fsync, removed = os.fsync, []

    def removing(file: int) -> None:
        if not removed:
            removed.extend(tmp_path.glob("*.partial"))
            removed[0].unlink()
        fsync(file)

    monkeypatch.setattr(os, "fsync", removing)
    write_bytes(tmp_path / "file", b"content")
    assert len(removed) == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"content"}
