"""What the machine is, what of a file it holds in memory, and how to make it forget a file."""

import ctypes
import mmap
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

COLD = 0.01  # the share of a file that may still be in memory when it counts as cold


def facts(folder: Path) -> dict[str, Any]:
    mount = _mount_of(folder)
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE / 2**30, 1),
        "disk": f"{mount['source']}, {mount['fstype']}, {_kind(mount['source'])}",
        "linux": platform.release(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "lightning": version("pytorch-lightning"),
        "load": os.getloadavg()[0],
    }


def forget(files: Iterable[Path]) -> None:
    """Drop files from the page cache; nobody may have them mapped."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is not on the disk yet cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def resident(files: Iterable[Path]) -> float:
    """Share of the pages of files that are in memory, by mincore(2)."""
    pages = [_resident_pages(file) for file in files]
    return sum(int(part.sum()) for part in pages) / max(1, sum(len(part) for part in pages))


def made_cold(files: list[Path]) -> float:
    """Forget files and make sure of it; the share that stayed."""
    forget(files)
    share = resident(files)
    if share >= COLD:
        raise RuntimeError(f"Expected cold files, got {share:.1%} of them in memory: another process has them mapped.")
    return share


def memory_of_this_process() -> dict[str, int]:
    """Bytes: memory of its own, mapped files, page tables."""
    lines = Path("/proc/self/status").read_text(encoding="ascii")
    return {name: int(re.search(rf"{name}:\s+(\d+) kB", lines)[1]) * 1024 for name in ("RssAnon", "RssFile", "VmPTE")}


def _resident_pages(file: Path) -> np.ndarray:
    size = file.stat().st_size
    found = np.zeros(-(-size // mmap.PAGESIZE), dtype=np.uint8)
    if size:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            view = np.frombuffer(mapped, dtype=np.uint8)
            address, length, answer = (ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(size), found.ctypes.data)
            if ctypes.CDLL(None, use_errno=True).mincore(address, length, ctypes.c_void_p(answer)):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(file))
            del view  # the map cannot be closed under it
    return found & 1


def _cpu() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="ascii"))
    return found[1] if found else platform.processor()


def _mount_of(folder: Path) -> dict[str, str]:
    answer = subprocess.run(
        ["findmnt", "--noheadings", "--output", "SOURCE,FSTYPE", "--target", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    source, fstype = [*answer.stdout.split(), "unknown", "unknown"][:2]
    return {"source": source, "fstype": fstype}


def _kind(source: str) -> str:
    rotational = Path("/sys/block") / Path(source).name / "queue/rotational"
    if source.startswith("/dev/vd"):
        # A virtual disk says "rotational" for want of knowing; and its host may hold in memory what its guest forgot.
        return "virtual (the host may cache it)"
    return {"0": "SSD", "1": "rotational"}.get(rotational.read_text().strip() if rotational.exists() else "", "unknown")
