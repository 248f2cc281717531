"""Named values in an npz file: arrays, numbers, bools, strings, tuples of strings and None, without pickle."""

import os
import secrets
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np

# Names of entries that are no values: what the file is, and which values are None.
_FORMAT = "format"
_NONE = "none"


def save_fields(path: str | PathLike[str], form: str, values: Mapping[str, Any]) -> None:
    """Write values to exactly this path, all or nothing.

    Raises
    ------
    TypeError
        If a value is of another kind; nothing is written then.
    """
    arrays: dict[str, Any] = {name: _as_array(name, value) for name, value in values.items() if value is not None}
    arrays[_FORMAT] = np.array(form)
    arrays[_NONE] = np.array([name for name, value in values.items() if value is None], dtype=np.str_)
    # Where a link leads, so that the link stays; beside it, since only within a folder is replacing atomic.
    final = os.path.realpath(path)
    partial = f"{final}.{secrets.token_hex(4)}.partial"
    try:
        with open(partial, "xb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, final)
    except BaseException:
        if os.path.exists(partial):
            os.remove(partial)
        raise


def load_fields(path: str | PathLike[str], form: str) -> dict[str, Any]:
    """Read what `save_fields` wrote for this form, whose version is the number after its last point.

    Raises
    ------
    ValueError
        If the file was written by something else, is damaged, or is of another version.
    """
    kind, _, version = form.rpartition(".")
    writer = f"{kind.rpartition('.')[2]}.save"
    arrays = _read_arrays(path, writer)
    found_kind, _, found = str(arrays.pop(_FORMAT, "")).rpartition(".")
    if found_kind != kind:
        raise ValueError(f"{path} was not written by {writer}.")
    if found != version:
        raise ValueError(f"{path} has version {found} of its format, but this fastgmm reads version {version}.")
    values: dict[str, Any] = dict.fromkeys(_as_value(arrays.pop(_NONE, np.empty(0, dtype=np.str_))))
    return values | {name: _as_value(array) for name, array in arrays.items()}


def _read_arrays(path: str | PathLike[str], writer: str) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        try:
            with np.lib.npyio.NpzFile(file, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        except Exception as error:  # damaged bytes make zipfile and NumPy raise errors of a dozen kinds
            raise ValueError(f"{path} was not written by {writer}, or is damaged: {error}") from None


def _as_array(name: str, value: Any) -> np.ndarray:
    """Numbers and strings become arrays without dimension, tuples of strings arrays of strings."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return value
    if isinstance(value, (bool, int, float, str, np.number, np.bool_)) and np.asarray(value).dtype.kind != "O":
        return np.asarray(value)
    if isinstance(value, tuple) and all(isinstance(part, str) for part in value):
        return np.array(value, dtype=np.str_)
    raise TypeError(f"{name} cannot be saved: {type(value).__name__} is no array of numbers, number, string or None.")


def _as_value(array: np.ndarray) -> Any:
    if array.dtype.kind == "U" and array.ndim == 1:
        return tuple(array.tolist())
    return array.item() if array.ndim == 0 else array
