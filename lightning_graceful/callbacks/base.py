"""The base of this library's callbacks: at home in a Trainer of ``pytorch_lightning`` and of ``lightning.pytorch``."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl


def _bases() -> tuple[Any, ...]:
    try:
        found = tuple(int(part) for part in version("lightning").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return (pl.Callback,)
    # Before 2.6 the Trainer of a namespace refuses the callbacks of the other one.
    return (pl.Callback,) if found >= (2, 6) else (pl.Callback, import_module("lightning.pytorch").Callback)


if TYPE_CHECKING:
    Callback = pl.Callback
else:
    Callback = type("Callback", _bases(), {"__doc__": "Base of the callbacks, for either namespace."})
