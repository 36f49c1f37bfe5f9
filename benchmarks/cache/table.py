"""The goals, what was measured, and whether they are met: one table in markdown."""

from collections.abc import Iterator
from typing import Any, NamedTuple

RAM_RATIO = 2.0
WAIT_MS = 1.0
PT_RATIO = 500.0
SMALL_BYTES = 64
FILL_PERCENT = 10.0
EPOCH_PERCENT = 2.0
FLAT_RATIO = 1.5  # what "flat" means here: 500 times the rows, at most half as long again
FLAT_BYTES = 2**20
YES, NO, OPEN, NONE = "yes", "**no**", "undecided", "-"


class Row(NamedTuple):
    goal: str
    measured: str
    met: str


def markdown(results: dict[str, Any]) -> str:
    """The machine in a line, then a table."""
    rows = [row for name, rows_of in ROWS.items() if name in results for row in rows_of(results[name])]
    lines = [_machine(results["machine"]), "", "| Goal | Measured | Met |", "|---|---|---|"]
    return "\n".join([*lines, *[f"| {' | '.join(row)} |" for row in rows]])


def _machine(facts: dict[str, Any]) -> str:
    return (
        f"{facts['cpu']}, {facts['cores']} cores shared with other work (load {facts['load']:.1f} before, "
        f"{facts['load_at_end']:.1f} after), {facts['memory_gib']} GiB; {facts['disk']}; Linux {facts['linux']}, "
        f"Python {facts['python']}, torch {facts['torch']} on one thread, numpy {facts['numpy']}, Lightning "
        f"{facts['lightning']}; {facts['date']}. Medians, in brackets the quartiles."
    )


def _ram(found: dict[str, Any]) -> Iterator[Row]:
    texts = {
        "later": f"Warm batch of 256 of {found['rows']:,} rows ({found['bytes'] / 1e9:.1f} GB) within 2x of "
        "`array[idx]` in RAM: `store.read`, checksums and all, of pages that were read before",
        "first": "... of pages just brought from the disk",
    }
    for name, goal in texts.items():
        part = found[name]
        measured = (
            f"{_ms(part['read'])} against {_ms(part['ram'])}: {_times(part['ratio']['read'])}; of `np.take`, "
            f"{part['ram_take']['median']:.3f} ms, {_times(part['ratio_take'])}"
        )
        yield Row(goal, measured, _met(part["ratio"]["read"]["median"] <= RAM_RATIO))
    part = found["later"]
    ratio = part["ratio"]["read_outputs"]
    measured = f"{_ms(part['read_outputs'])} against {_ms(part['ram_float32'])}: {_times(ratio)}"
    goal = "... `store.read(...).outputs()`, float32, against `array[idx]` made float32"
    yield Row(goal, measured, _met(ratio["median"] <= RAM_RATIO))


def _cold(found: dict[str, Any]) -> Iterator[Row]:
    for arm, figures in found.items():
        wait, serve, there = figures["wait"], figures["serve"], figures["resident"]
        goal = f"Cold, read in the background, {arm}: a step of {figures['step']['median']:.0f} ms waits under 1 ms"
        measured = (
            f"{wait['median']:.3f} ms, p99 {wait['p99']:.2f} ms (n={wait['n']}); all of serving the batch "
            f"{serve['median']:.1f} ms, p99 {serve['p99']:.1f} ms; first batches: "
            f"{figures['first_wait']['median']:.2f} ms, p99 {figures['first_wait']['p99']:.0f} ms; in memory at the "
            f"first step {there['at_first_step']:.0%}, at the last {there['at_last_step']:.0%}"
        )
        is_met = wait["median"] < WAIT_MS and wait["p99"] < WAIT_MS
        yield Row(goal, measured, NONE if arm.startswith("0") else _met(is_met))


def _pt(found: dict[str, Any]) -> Iterator[Row]:
    for state in ("warm", "cold"):
        for name, text in (("dense", "2016 bytes"), ("top10", "64 bytes")):
            ratio = found[f"{state}_ratio"][name]
            median = ratio["median"] if state == "warm" else ratio
            measured = f"{_ms(found[state][name])} against {_ms(found[state]['pt'])}: {median:.0f}x"
            goal = f"500x faster than one .pt file a sample ({found['samples']:,} files), {state}, rows of {text}"
            yield Row(goal, measured, _met(median >= PT_RATIO))


def _small(found: dict[str, Any]) -> Iterator[Row]:
    sizes = found["bytes"]
    measured = ", ".join(f"{size} bytes ({int(classes):,} classes)" for classes, size in sizes.items())
    yield Row("The 10 largest logits in at most 64 bytes a sample", measured, _met(max(sizes.values()) <= SMALL_BYTES))
    lookups = (
        f"`read` {_ms(found['top10'])}, and as 1000 float32 log-probabilities {_ms(found['top10_outputs'])}; as 65,536 "
        f"{_ms(found['many_outputs'])}"
    )
    yield Row("... their lookup, warm", lookups, NONE)


def _fill(found: dict[str, Any]) -> Iterator[Row]:
    names = {
        "dense_10": "10 classes",
        "dense_1000": "1000 classes in float16",
        "top10_1000": "10 largest of 1000 classes",
    }
    for arm, text in names.items():
        extra, cpu = found["extra_percent"][arm], found["extra_percent_cpu"][arm]
        bare = found["wall_s"][f"bare_{arm.split('_')[1]}"]["median"] / found["images"] * 1e3
        goal = f"Fill ahead within 10 % of ResNet-18's own inference ({bare:.1f} ms an image), {text}"
        yield Row(goal, _percent(extra, cpu, f"{found['rounds']} rounds of {found['images']} images"),
                  _within(extra, FILL_PERCENT))  # fmt: skip


def _light_fill(found: dict[str, Any]) -> Iterator[Row]:
    added = found["added_us"]
    measured = f"{added['dense']['median']:.0f} µs an image (1000 classes), {added['top10']['median']:.0f} µs (top 10)"
    yield Row("... what a fill adds, however fast the old model", measured, NONE)


def _epoch(found: dict[str, Any]) -> Iterator[Row]:
    names = {
        "cache": "Warm cache within 2 % of no old model: step of ResNet-18",
        "cache_pct": "... warm cache and the PCT term",
        "online": "... old model (ResNet-18, too) run live",
    }
    about = f"{found['rounds']} steps of {found['batch']} images, {found['wall']['plain']['median']:.0f} ms without"
    for arm, goal in names.items():
        extra, cpu = found["extra_percent"][arm], found["extra_percent_cpu"][arm]
        inside = f"; inside the callback {_ms(found['inside_callback'])}" if arm == "cache" else ""
        met = _within(extra, EPOCH_PERCENT) if arm == "cache" else NONE
        yield Row(goal, _percent(extra, cpu, about) + inside, met)


def _scale(found: dict[str, Any]) -> Iterator[Row]:
    named = " / ".join(map(_power, found["read"]))
    texts = {
        "read": f"Lookup flat in {named} rows of 64 bytes",
        "first": "... of pages just brought from the disk",
        "unmapped": "... of pages that are in memory, but not in the map of this process",
        "ram": "... `array[idx]` in RAM, to compare",
        "open": "... opening the store",
    }
    for name, text in texts.items():
        values = " / ".join(f"{one['median']:.3f}" for one in found[name].values())
        ratio = found["ratio"][name]
        met = _met(ratio["median"] <= FLAT_RATIO) if name == "read" else NONE
        yield Row(text, f"{values} ms: {_times(ratio)} from the first to the last", met)


def _memory(found: dict[str, Any]) -> Iterator[Row]:
    grown = {size: one["after"] - one["before"] for size, one in found.items()}
    measured = ", ".join(
        f"{float(size):.0e}: {taken / 2**20:+.2f} MiB".replace("e+0", "e") for size, taken in grown.items()
    )
    tables = max(one["page_tables"] for one in found.values()) / 2**20
    yield Row(
        "Memory of its own (RssAnon) after 200 batches independent of N",
        f"{measured}; page tables at most {tables:.1f} MiB",
        _met(max(grown.values()) - min(grown.values()) <= FLAT_BYTES),
    )


ROWS = {
    "ram": _ram, "cold": _cold, "pt": _pt, "small": _small, "fill": _fill, "light_fill": _light_fill,
    "epoch": _epoch, "scale": _scale, "memory": _memory,
}  # fmt: skip


def _power(size: str) -> str:
    return f"{float(size):.0e}".replace("e+0", "e")


def _ms(one: dict[str, float]) -> str:
    digits = 3 if one["median"] < 1 else 1
    return f"{one['median']:.{digits}f} ms [{one['q1']:.{digits}f}, {one['q3']:.{digits}f}]"


def _times(one: dict[str, float]) -> str:
    return f"{one['median']:.2f}x [{one['q1']:.2f}, {one['q3']:.2f}]"


def _percent(wall: dict[str, float], cpu: dict[str, float], about: str) -> str:
    parts = [f"{one['median']:+.1f} % ({one['low']:+.1f} to {one['high']:+.1f})" for one in (wall, cpu)]
    return f"{parts[0]}, 95 % interval of the median; processor time {parts[1]}; {about}"


def _within(extra: dict[str, float], limit: float) -> str:
    if extra["high"] <= limit:
        return YES
    return NO if extra["low"] > limit else OPEN


def _met(is_met: bool) -> str:
    return YES if is_met else NO
