"""Claims on regions: one owner at a time, in one process and in several, dead or alive."""

import errno
import gc
import os
import signal
import threading
import time

import pytest

from lightning_graceful.data import claims as claims_module
from lightning_graceful.data.claims import CLAIMS, FULL, Claims, forget_full
from lightning_graceful.data.rows import CacheError
from tests.data.store_files import fork, run

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork beside torch's threads


def taken(path, *regions):
    with Claims(path) as own:
        return [own.take(region) for region in regions]


def test_one_owner_at_a_time(tmp_path):
    one, other = Claims(tmp_path), Claims(tmp_path)
    assert one.take(0)
    assert one.take(0)
    assert one.take(5_000_000_000)
    assert [other.take(region) for region in (0, 1, 5_000_000_000)] == [False, True, False]
    assert not one.take(1)
    one.drop(0)
    one.drop(0)
    one.drop(1)  # not its own
    assert other.take(0)
    assert not one.take(1)
    other.close()
    assert one.take(0)
    assert one.take(1)


def test_closed_claims_may_be_used_again(tmp_path):
    one, other = Claims(tmp_path), Claims(tmp_path)
    assert one.take(3)
    one.close()
    assert other.take(3)
    assert not one.take(3)
    assert one.take(4)


def test_forgotten_claims_are_given_up(tmp_path):
    Claims(tmp_path).take(3)
    gc.collect()
    assert taken(tmp_path, 3) == [True]


@pytest.mark.parametrize("per_file", [True, False])
def test_another_process_is_kept_out(tmp_path, monkeypatch, per_file):
    monkeypatch.setattr(claims_module, "PER_FILE", per_file)
    own = Claims(tmp_path)
    assert own.take(2)
    assert run(taken, tmp_path, 2, 3) == [False, True]
    own.drop(2)
    assert run(taken, tmp_path, 2, 3) == [True, True]
    assert own.take(2)


def test_all_regions_at_once(tmp_path):
    one, other = Claims(tmp_path), Claims(tmp_path)
    assert one.take(7)
    assert not other.take_all()
    assert other.take(8)
    assert not one.take_all()
    other.close()
    assert one.take_all()
    assert not other.take(9)


def hold(path, ready):
    own = Claims(path)
    assert own.take(1)
    ready.set()
    time.sleep(60)
    own.close()


def test_killed_owner_loses_its_claims(tmp_path):
    ready = fork.Event()
    owner = fork.Process(target=hold, args=(tmp_path, ready))
    owner.start()
    assert ready.wait(30)
    assert taken(tmp_path, 1) == [False]
    owner.kill()
    owner.join()
    assert taken(tmp_path, 1) == [True]


def hold_with_a_worker(path, pipe):
    own = Claims(path)
    own.take(1)
    worker = fork.Process(target=time.sleep, args=(60,))
    worker.start()
    pipe.send(worker.pid)
    time.sleep(60)


def test_worker_does_not_keep_the_claims_of_a_killed_parent(tmp_path):
    receive, send = fork.Pipe(duplex=False)
    owner = fork.Process(target=hold_with_a_worker, args=(tmp_path, send))
    owner.start()
    worker = receive.recv()
    try:
        assert taken(tmp_path, 1) == [False]
        owner.kill()
        owner.join()
        os.kill(worker, 0)  # it lives
        assert taken(tmp_path, 1) == [True]
    finally:
        os.kill(worker, signal.SIGKILL)


def use_inherited(own):
    first = own.take(1), own.take(2)
    own.drop(1)
    own.close()
    return first


def test_fork_shares_no_claim(tmp_path):
    own = Claims(tmp_path)
    assert own.take(1)
    assert run(use_inherited, own) == (False, True)
    assert taken(tmp_path, 1, 2) == [False, True]


def test_threads_with_claims_of_their_own_share_regions_out(tmp_path):
    won, start = [], threading.Barrier(4)
    everyone = [Claims(tmp_path) for _ in range(4)]

    def claim(own):
        start.wait(30)
        won.extend(region for region in range(200) if own.take(region))

    threads = [threading.Thread(target=claim, args=(own,)) for own in everyone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(200))


def refusing(number):
    def call(*args):
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_file_system_without_locks_grants_everything(tmp_path, monkeypatch, number):
    monkeypatch.setattr(claims_module.fcntl, "fcntl", refusing(number))
    one, other = Claims(tmp_path), Claims(tmp_path)
    assert one.take(1)
    assert other.take(1)
    assert other.take_all()
    one.drop(1)


def test_system_that_refuses_is_reported(tmp_path, monkeypatch):
    own = Claims(tmp_path)
    monkeypatch.setattr(claims_module.fcntl, "fcntl", refusing(errno.EIO))
    with pytest.raises(CacheError, match=r"claim rows in .*\.claims, got .*Input/output"):
        own.take(1)


def test_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "store", tmp_path / "none"):
        with pytest.raises(CacheError, match=r"Expected to claim rows in .*\.claims, got"):
            Claims(path)


def test_negative_region_is_refused(tmp_path):
    with pytest.raises(ValueError, match="region from 0 on, got -1"):
        Claims(tmp_path).take(-1)


def test_full_regions_are_remembered(tmp_path):
    with Claims(tmp_path) as own:
        assert own.full() == set()
        own.mark_full(3)
        own.mark_full(0)
    with Claims(tmp_path) as own:
        assert own.full() == {0, 3}
        assert own.take(3)
    forget_full(tmp_path)
    assert Claims(tmp_path).full() == set()
    forget_full(tmp_path / "none")


def test_no_flipped_bit_makes_a_region_full(tmp_path):
    for bit in range(8):
        (tmp_path / CLAIMS).write_bytes(bytes([0, 1 << bit, FULL[0] ^ 1 << bit]))
        assert Claims(tmp_path).full() == set()


def test_full_disk_only_forgets(tmp_path, monkeypatch):
    own = Claims(tmp_path)
    monkeypatch.setattr(claims_module.os, "pwrite", refusing(errno.ENOSPC))
    own.mark_full(1)
    assert own.full() == set()
