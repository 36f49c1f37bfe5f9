import json
import os

import numpy as np
import pytest

from lightning_graceful.callbacks.history_file import append_row, begin_history
from lightning_graceful.report.history import MAX_LISTED, History, read_history


def random_rows(epochs=5, length=40, seed=0, unseen=0.2):
    generator = np.random.default_rng(seed)
    right = generator.integers(0, 4, (epochs, length))
    return np.where(generator.random((epochs, length)) < unseen, 0, 128 + right).astype(np.uint8)


def written(folder, rows):
    history = begin_history(History(folder, rows.shape[1]))
    for epoch, row in enumerate(rows):
        history = append_row(history, row, epoch, 10 * epoch)
    return history


@pytest.mark.parametrize("seed", range(3))
def test_samples_that_are_not_seen_keep_their_last_state(tmp_path, seed):
    rows = random_rows(seed=seed)
    churn = written(tmp_path, rows).summary()
    entered, left, times, always, once = [0] * 5, [0] * 5, [0] * 6, [], 0
    for i in range(40):
        seen = [(epoch, int(row[i]) & 3 == 2) for epoch, row in enumerate(rows) if row[i]]
        broken = False
        for epoch, flip in seen:
            entered[epoch] += flip and not broken
            left[epoch] += broken and not flip
            broken = flip
        if seen:
            times[sum(flip for _, flip in seen)] += 1
            always += [i] if all(flip for _, flip in seen) else []
            once += any(flip for _, flip in seen)
    assert (churn.entered, churn.left, churn.times, churn.always, churn.once) == (entered, left, times, always, once)


def test_the_list_of_samples_that_always_flip_is_bounded(tmp_path):
    churn = written(tmp_path, np.full((2, 3000), 130, np.uint8)).summary()
    assert (len(churn.always), churn.always_total, churn.times) == (MAX_LISTED, 3000, [0, 0, 3000])


def test_an_empty_history_has_a_summary(tmp_path):
    churn = begin_history(History(tmp_path, 3)).summary()
    assert (churn.samples, churn.broke, churn.times, churn.once) == (0, [], [0], 0)


@pytest.mark.parametrize("cut", [1, 39, 40])
def test_a_torn_last_row_is_left_out(tmp_path, cut):
    rows = random_rows()
    written(tmp_path, rows)
    os.truncate(tmp_path / "flips.u8", rows.size - cut)
    found = read_history(tmp_path)
    assert found.torn
    assert found.summary() == written(tmp_path / "whole", rows[:4]).summary()


def test_an_altered_last_row_is_left_out(tmp_path):
    written(tmp_path, random_rows())
    with (tmp_path / "flips.u8").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x07")
    assert read_history(tmp_path).torn
    assert len(read_history(tmp_path).rows) == 4


def test_an_altered_row_in_the_middle_is_an_error(tmp_path):
    written(tmp_path, random_rows())
    with (tmp_path / "flips.u8").open("r+b") as file:
        file.seek(45)
        file.write(b"\x07")
    with pytest.raises(ValueError, match=r"row 1 of .*flips\.u8"):
        read_history(tmp_path).summary()


def test_a_write_that_is_killed_before_the_header_is_as_if_it_never_was(tmp_path, monkeypatch):
    rows = random_rows()
    history = written(tmp_path, rows[:2])

    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            append_row(history, rows[2], 2, 20)
    assert (tmp_path / "flips.u8").stat().st_size == 3 * 40
    found = read_history(tmp_path)
    assert (len(found.rows), found.torn) == (2, False)
    assert append_row(found, rows[3], 3, 30).summary() == read_history(tmp_path).summary()
    assert (tmp_path / "flips.u8").read_bytes() == rows[[0, 1, 3]].tobytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}', '{"format": 2}'])
def test_a_header_that_is_damaged_or_of_another_format_is_an_error(tmp_path, text):
    written(tmp_path, random_rows())
    (tmp_path / "history.json").write_text(text)
    with pytest.raises(ValueError, match=r"history\.json"):
        read_history(tmp_path)


def test_the_header_holds_plain_values(tmp_path):
    written(tmp_path, random_rows(epochs=1, length=3, unseen=0))
    header = json.loads((tmp_path / "history.json").read_text())
    assert header["format"] == 1
    assert header["num_samples"] == 3
    assert header["rows"][0]["step"] == 0


def test_indices_of_another_length_are_an_error(tmp_path):
    written(tmp_path, random_rows())
    np.arange(3, dtype="<i8").tofile(tmp_path / "index.i8")
    with pytest.raises(ValueError, match="40 indices"):
        read_history(tmp_path).summary()
