"""Old models among a module's hyper-parameters: kept out of checkpoints and of the files of loggers."""

import sys
from collections.abc import Mapping
from typing import Any

HYPER_PARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")


def drop_from_checkpoint(kind: type, checkpoint: dict[str, Any]) -> None:
    """Leave hyper-parameters of a kind out of a checkpoint of Lightning, and collections that hold one.

    ``save_hyperparameters()`` takes every argument of ``__init__``. An old model among them would put its weights into
    each checkpoint, which ``torch.load`` then refuses as more than weights, also when training is resumed.

    Args:
        kind: Of the values to drop.
        checkpoint: What is about to be saved; changed in place.

    Example:
        >>> checkpoint = {"hyper_parameters": {"lr": 0.1, "names": ["a"]}}
        >>> drop_from_checkpoint(str, checkpoint)
        >>> checkpoint
        {'hyper_parameters': {'lr': 0.1}}
    """
    for key in HYPER_PARAMETERS:
        values = checkpoint.get(key)
        if type(values) is dict:
            checkpoint[key] = {name: value for name, value in values.items() if not _holds(kind, value)}


def name_in_yaml(kind: type) -> None:
    """Have loggers write the ``repr`` of a kind into ``hparams.yaml``: PyYAML would write out all that it holds.

    Args:
        kind: Of the values.
    """
    yaml = sys.modules.get("yaml")  # Lightning's; without it nobody writes any
    if yaml is not None:
        yaml.add_representer(kind, lambda dumper, value: dumper.represent_str(repr(value)))


def _holds(kind: type, value: Any) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    return isinstance(value, kind) or (isinstance(value, list | tuple) and any(_holds(kind, part) for part in value))
