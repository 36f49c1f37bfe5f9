"""A comparison as plain JSON, for other programs."""

import dataclasses
import json
import math
from typing import Any

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.summary import Summary

FORMAT = 1
LEFT_OUT = ("images", "history")  # pictures, and what has a file of its own


def to_json(summary: Summary, exit_code: int) -> str:
    """Write a comparison as JSON: the fields of :class:`Summary`, intervals as mean, low and high.

    Args:
        summary: The comparison.
        exit_code: What the command says of it.

    Returns:
        JSON text; NaN and Inf, which JSON lacks, are null.
    """
    ruling = summary.first.ruling
    fields = {name: value for name, value in _plain(summary).items() if name not in LEFT_OUT}
    head = {"format": FORMAT, "decision": ruling.decision if ruling else None, "exit_code": exit_code}
    return json.dumps(head | fields, indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return {name: _plain(part) for name, part in value._asdict().items()}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
