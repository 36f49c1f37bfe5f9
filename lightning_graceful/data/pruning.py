"""Which stores of a folder to do without, and how to get rid of them and of damaged rows.

Choosing changes nothing; what a process is filling is left alone; only files of a store are ever deleted.
"""

import contextlib
import time
import uuid
from collections.abc import Callable, Sequence

import torch

from lightning_graceful.data.claims import Claims, forget_full
from lightning_graceful.data.inventory import DELETED, StoreInfo, files_in, is_store
from lightning_graceful.data.rows import CacheError
from lightning_graceful.data.store import OutputStore

DAY = 86_400


def unsound(infos: Sequence[StoreInfo]) -> list[StoreInfo]:
    """Choose the stores that cannot be used.

    Returns:
        Those with a problem.
    """
    return [info for info in infos if info.problem is not None]


def unused(infos: Sequence[StoreInfo], days: float, *, now: float | None = None) -> list[StoreInfo]:
    """Choose the stores that nobody has used for some time.

    Args:
        infos: All stores.
        days: For how long.
        now: Seconds since 1970; default: the present.

    Returns:
        Those last used more than so many days ago.
    """
    since = (time.time() if now is None else now) - days * DAY
    return [info for info in infos if info.last_used < since]


def over_quota(infos: Sequence[StoreInfo], quota: int) -> list[StoreInfo]:
    """Choose the stores to delete, the least recently used first, until the others keep a quota.

    Args:
        infos: All stores.
        quota: Bytes that they may take together.

    Returns:
        As few as that takes.
    """
    used, chosen = sum(info.disk_bytes for info in infos), []
    for info in sorted(infos, key=lambda info: info.last_used):
        if used <= quota:
            break
        chosen.append(info)
        used -= info.disk_bytes
    return chosen


def delete(info: StoreInfo) -> bool:
    """Delete a store: at once for whoever opens it, and none of anybody else's files.

    Args:
        info: The store.

    Returns:
        False where a process is filling it, or it is gone already: nothing is deleted then.

    Raises:
        CacheError: If the system refuses.
    """
    doomed = info.path.with_name(f"{DELETED}{uuid.uuid4().hex[:16]}")
    try:
        with Claims(info.path) as claims:
            if not claims.take_all() or not is_store(info.path):
                return False
            info.path.rename(doomed)
        for name in files_in(doomed):
            (doomed / name).unlink()
        doomed.rmdir()
    except OSError as error:
        raise CacheError(f"Expected to delete {info.path}, got {error}. Delete it by hand.") from error
    return True


def empty_damaged(
    info: StoreInfo, *, dry_run: bool = False, progress: Callable[[int], None] | None = None
) -> list[int] | None:
    """Empty the damaged rows of a store, so that they are filled again.

    Args:
        info: A store without a problem.
        dry_run: Only look.
        progress: Called after each piece with the number of rows in it.

    Returns:
        The numbers of the rows; None where a process is filling the store, which is left alone then.

    Raises:
        CacheError: If the store cannot be read or written.
    """
    with OutputStore.open_existing(info.path, read_only=dry_run) as store, contextlib.ExitStack() as stack:
        if not dry_run and not stack.enter_context(Claims(info.path)).take_all():
            return None
        if not dry_run:
            forget_full(info.path)  # what a power cut took may lie in a region that was noted as full
        damaged: list[int] = []
        for piece in store.scan():
            if len(piece.damaged) and not dry_run:
                store.erase(torch.from_numpy(piece.damaged))
            damaged += piece.damaged.tolist()
            if progress is not None:
                progress(piece.rows)
        return damaged
