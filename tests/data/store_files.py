"""Stores for tests, and a reader of their files that shares no code with the package."""

import functools
import json
import multiprocessing
import struct
import zlib

import torch

from lightning_graceful.data.batch import Outputs
from lightning_graceful.data.rows import RowLayout
from lightning_graceful.data.store import OutputStore

LAYOUT = RowLayout(logits=5, embedding=2, dtype="float32")  # 28 bytes, 4 of padding, 8 target, 4 hash, 4 checksum
PRINT = {"old": "v1", "classes": ["cat", "dog"], "length": 10}
MASK = 2**64 - 1
fork = multiprocessing.get_context("fork")


def make(path, num_rows=10, layout=LAYOUT, fingerprint=PRINT, **kwargs):
    return OutputStore.open(path, fingerprint=fingerprint, num_rows=num_rows, layout=layout, **kwargs)


def said(index, layout=LAYOUT):
    """What the old model says of these samples: any fixed function of the index."""
    width = (layout.logits or 0) + (layout.embedding or 0)
    values = torch.sin(index[:, None] * 31.0 + torch.arange(width)) * 50
    logits, embedding = values[:, : layout.logits or 0], values[:, layout.logits or 0 :]
    return Outputs(logits if layout.logits else None, embedding if layout.embedding else None)


def fill(cache, index=None, batch=4):
    for part in (torch.arange(cache.num_rows) if index is None else index).split(batch):
        cache.write(part, said(part, cache.layout), part % 3, part * 7)


def scrambled(value):
    value = value * 0x9E3779B97F4A7C15 & MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31


@functools.cache
def multiplier(place):
    return scrambled(2**32 + place) | 1


def checksum(raw, row, seed):
    """The checksum of a row by its definition, word by word."""
    total = scrambled(seed) + row * 0x9E3779B97F4A7C15
    words = struct.unpack(f"<{len(raw) // 8}Q", raw[:-4] + bytes(4))
    total += sum(multiplier(place) * (word ^ word >> 32) for place, word in enumerate(words))
    return (total & MASK) >> 32 | 3


def parse(path):
    """Read the files by ``struct``: {row: (values, target, hash)} of the filled rows, and the damaged rows."""
    head = json.loads((path / "manifest.json").read_text())
    size, code = {"float32": (4, "f"), "float16": (2, "e"), "bfloat16": (2, "H")}[head["layout"]["dtype"]]
    width = (head["layout"]["logits"] or 0) + (head["layout"]["embedding"] or 0)
    form = struct.Struct(f"<{width}{code}{-width * size % 8}xqII")
    seed = zlib.crc32(json.dumps(head["fingerprint"], sort_keys=True, separators=(",", ":")).encode())
    data = b"".join(file.read_bytes() for file in sorted(path.glob("rows-*.bin")))
    assert len(data) == head["num_rows"] * form.size
    found, bad = {}, []
    for row in range(head["num_rows"]):
        raw = data[row * form.size : (row + 1) * form.size]
        *values, target, digest, stored = form.unpack(raw)
        if stored:
            found[row] = (values, target, digest)
            if stored != checksum(raw, row, seed):
                bad.append(row)
    return found, bad


def assert_complete(path, layout=LAYOUT):
    found, bad = parse(path)
    assert bad == []
    index = torch.arange(json.loads((path / "manifest.json").read_text())["num_rows"])
    truth = torch.cat([part for part in said(index, layout) if part is not None], dim=1).tolist()
    assert found == {row: (truth[row], row % 3, row * 7) for row in index.tolist()}


def edit(file, offset, data):
    with file.open("r+b") as handle:
        handle.seek(offset)
        handle.write(data)


def flip(file, offset, bit=0):
    edit(file, offset, bytes([file.read_bytes()[offset] ^ 1 << bit]))


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def run(function, *args):
    """Run in a forked process and return its result."""
    receive, send = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: send.send(function(*args)))
    process.start()
    send.close()
    result = receive.recv()
    process.join()
    return result
