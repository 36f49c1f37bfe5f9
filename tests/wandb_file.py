"""Read back what an offline W&B run has written: its records and its media. (wandb's own reader is gone in 0.31.)"""

import json
import struct
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

BLOCK, HEADER = 32 * 1024, struct.Struct("<IHB")  # LevelDB's log: crc, length, kind (whole, first, middle, last)
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path):
    """Yield each record of a ``run-*.wandb`` file, every checksum checked."""
    from wandb.proto import wandb_internal_pb2 as pb

    data = Path(path).read_bytes()
    assert struct.unpack("<4sHB", data[:7]) == (b":W&B", 0xBEE1, 0)
    place, parts = 7, b""
    while place + HEADER.size <= len(data):
        if BLOCK - place % BLOCK < HEADER.size:
            place += BLOCK - place % BLOCK  # the rest of a block is too small for a header
            continue
        crc, length, kind = HEADER.unpack_from(data, place)
        body = data[place + HEADER.size : place + HEADER.size + length]
        if len(body) < length:
            return  # still being written
        assert zlib.crc32(bytes([kind]) + body) == crc
        place += HEADER.size + length
        parts = body if kind in {WHOLE, FIRST} else parts + body
        if kind in {WHOLE, LAST}:
            record = pb.Record()
            record.ParseFromString(parts)
            yield record


class OfflineRun:
    """One offline run: ``history`` (a dict a step), ``metrics``, ``artifacts``, ``exits`` and ``files``."""

    def __init__(self, folder):
        self.folder = Path(folder)
        (file,) = self.folder.glob("run-*.wandb")
        self.history, self.metrics, self.artifacts, self.config, self.summary, self.exits = [], {}, [], {}, {}, 0
        for record in records(file):
            kind = record.WhichOneof("record_type")
            if kind == "history":
                self.history.append({_key(item): json.loads(item.value_json) for item in record.history.item})
            elif kind == "metric":
                self.metrics[record.metric.name or record.metric.glob_name] = record.metric
            elif kind == "artifact":
                self.artifacts.append(record.artifact)
            elif kind == "config":
                self.config |= {_key(item): json.loads(item.value_json) for item in record.config.update}
            elif kind == "summary":
                self.summary |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
            elif kind == "exit":
                self.exits += 1

    @property
    def keys(self):
        """What was logged, with its last value."""
        return {key: value for step in self.history for key, value in step.items()}

    def media(self, key):
        """Path of the media file that was logged under a key."""
        return self.folder / "files" / self.keys[f"{key}/path"]

    def table(self, key):
        """Rows of a logged table, a dict each: from its artifact, in which alone images are."""
        contents = self._contents(key)
        said = json.loads(Path(contents[f"{key}.table.json"]).read_text())
        plain = json.loads(self.media(key).read_text())
        assert (said["columns"], len(said["data"])) == (plain["columns"], len(plain["data"]))
        return [dict(zip(said["columns"], row, strict=True)) for row in said["data"]]

    def image(self, key, cell):
        """Pixels of an image in a cell of a table."""
        return np.asarray(Image.open(self._contents(key)[cell["path"]]))

    def figure(self, key):
        """Traces of a logged plotly figure."""
        return json.loads(self.media(key).read_text())["data"]

    def artifact(self, kind):
        """The last artifact of a kind: its metadata, and its files as local paths by name."""
        found = [artifact for artifact in self.artifacts if artifact.type == kind][-1]
        return json.loads(found.metadata or "{}"), {one.path: one.local_path for one in found.manifest.contents}

    def _contents(self, key):
        every = [{one.path: one.local_path for one in artifact.manifest.contents} for artifact in self.artifacts]
        return next(contents for contents in every if f"{key}.table.json" in contents)


def offline_runs(folder):
    """All offline runs below a folder, the oldest first."""
    paths = [path for path in Path(folder).glob("**/offline-run-*") if path.is_dir()]
    return [OfflineRun(path) for path in sorted(paths, key=lambda path: path.stat().st_ctime_ns)]


def ended_runs(folder, limit=20.0):
    """All offline runs below a folder, once all are on disk to their end: ``wandb.finish`` comes back before that."""
    deadline = time.monotonic() + limit
    while not all(run.exits for run in offline_runs(folder)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"Expected all runs in {folder} to end within {limit} s.")
        time.sleep(0.05)
    return offline_runs(folder)


def _key(item):
    return "/".join(item.nested_key) or item.key
