"""What the configurations share: reporting a wrong value, names of splits, writing YAML."""

import json
from dataclasses import asdict
from typing import ClassVar

import yaml

from segcoord.utils.errors import UserError


class TaskConfig:
    """Base of the configurations of a whole run, one class per task with all its groups."""

    task: ClassVar[str]

    def check(self) -> None:
        """Raises UserError for values out of range and combinations that can't work."""
        for group in (self.model, self.data, self.train):
            group.check()

    def to_yaml(self) -> str:
        """The task and all settings as YAML; `config.loading.read_yaml` reads it back."""
        settings = json.loads(json.dumps(asdict(self)))  # tuples become lists
        return yaml.safe_dump({"task": self.task, **settings}, sort_keys=False)


def require(ok: bool, key: str, found: object, expected: str) -> None:
    """Raise UserError naming the key, the value found and the values expected, unless `ok`."""
    if not ok:
        raise UserError(f"{key}: found {found}, expected {expected}")


def split_parts(name: str) -> list[str]:
    """The splits that a name joins with "+", as in TensorFlow Datasets: "train+val" is two.

    Raises:
        UserError: an empty part, or the same one twice.
    """
    parts = name.split("+")
    if len(parts) > 1 and (not all(parts) or len({*parts}) < len(parts)):
        raise UserError(
            f"split {name!r}: expected the names of different splits, joined with +, for example "
            "train+val"
        )
    return parts
