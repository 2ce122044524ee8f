"""Reads weights without running anything that a file may hold."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from holdfast.foundation.errors import BadFile, BadModel
from holdfast.models import archive
from holdfast.models.unpickled import unpickled

TORCH_ENDINGS = (".pt", ".pth", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_REMEDY = "save the weights alone: torch.save(model.state_dict(), path), or safetensors.torch.save_file"


class Weights(NamedTuple):
    """Name -> tensor, on the CPU, and what the file says about them."""

    state: dict[str, Tensor]
    metadata: dict[str, str]


def read(path: str | Path) -> Weights:
    """The weights in a ``.safetensors`` file, or in a ``.pt``, ``.pth`` or ``.ckpt`` file that holds nothing but data.

    A state dict that a checkpoint keeps under ``state_dict``, ``model_state_dict``, ``model`` or ``net`` is found.

    Raises:
        BadFile: missing, unreadable, of another kind than its name says, or a pickle that would have to run code.
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob("*") if other.suffix in (".safetensors", *TORCH_ENDINGS))
        listed = f"; that folder holds {', '.join(near[:5])}" if near else ""
        raise BadFile(f"there is no weights file {str(path)!r}", hint=f"check the path{listed}")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix in TORCH_ENDINGS:
        return Weights(_unwrapped(_torch(path), path), {})
    raise BadFile(
        f"{str(path)!r} is not a kind of weights file that is read",
        hint=f"give .safetensors or {', '.join(TORCH_ENDINGS)}",
    )


def put(module: nn.Module, state: Mapping[str, Tensor], *, path: str) -> None:
    """Loads ``state`` into ``module``, whose every weight it must cover; prefixes such as ``module.`` are taken off.

    Raises:
        BadModel: a missing or unexpected name, or another shape; the first of each are named.
    """
    own = module.state_dict()
    given = dict(state)
    for prefix in _PREFIXES:
        if (
            given
            and all(name.startswith(prefix) for name in given)
            and not any(name.startswith(prefix) for name in own)
        ):
            given = {name.removeprefix(prefix): value for name, value in given.items()}
    shapes = [
        f"{name} is {tuple(given[name].shape)} in the file and {tuple(value.shape)} in the net"
        for name, value in own.items()
        if name in given and isinstance(value, Tensor) and value.shape != given[name].shape
    ]
    result = None if shapes else module.load_state_dict(given, strict=False)
    # torch itself knows which names may be absent (old batch norms have no counter), so it is asked where it can be.
    missing = sorted(set(own) - set(given)) if result is None else result.missing_keys
    unexpected = sorted(set(given) - set(own)) if result is None else result.unexpected_keys
    parts = [f"{what}: {_first(names)}" for what, names in
             (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)) if names]  # fmt: skip
    if parts:
        raise BadModel(
            f"the weights in {path} do not belong to this net; {'; '.join(parts)}",
            hint="build the net that was trained: check its name and options (classes, channels, size, width)",
        )


def _safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return Weights({name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {}))  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise BadFile(
            f"{str(path)!r} is not a whole safetensors file ({_looks_like(path)}): {error}",
            hint="copy or download it again, or give it the ending that it should have",
        ) from error


def _torch(path: Path) -> Any:
    if _head(path)[:4] == b"PK\x03\x04":
        archive.members(path)  # torch unpacks what it is given, however long that gets
    try:
        with warnings.catch_warnings():  # what torch warns of (a TorchScript archive, an old format) is refused below
            warnings.simplefilter("ignore")
            return unpickled(path, where=repr(str(path)))
    except BadFile:
        raise
    except pickle.UnpicklingError as error:
        if _head(path)[:1] not in (b"P", b"\x80"):
            raise BadFile(f"{str(path)!r} is not a torch file ({_looks_like(path)})", hint=_REMEDY) from error
        raise BadFile(
            f"{str(path)!r} holds a pickle that would run code when it is read, and is refused: {_reason(error)}",
            hint=f"only read it where you trust it, and {_REMEDY}",
        ) from error
    except Exception as error:  # a torn archive surfaces as RuntimeError, EOFError, ValueError, KeyError, ...
        raise BadFile(
            f"{str(path)!r} cannot be read as a torch file ({_looks_like(path)}): {_reason(error)}",
            hint=f"copy or download it again, or {_REMEDY}",
        ) from error


def _unwrapped(held: Any, path: Path) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
            break
    if isinstance(held, Mapping) and held and all(isinstance(value, Tensor) for value in held.values()):
        return {str(name): value for name, value in held.items()}
    what = (
        f"a dict with {_first([str(key) for key in held])}" if isinstance(held, Mapping) else f"a {type(held).__name__}"
    )
    raise BadFile(f"{str(path)!r} holds {what}, not the weights of a net", hint=_REMEDY)


def _looks_like(path: Path) -> str:
    head = _head(path)
    if not head:
        return "it is empty"
    if head[:2] == b"PK":
        return "it starts like a zip archive, as .pt files do"
    if head[:1] == b"\x80":
        return "it starts like a pickle"
    if head[8:9] == b"{":
        return "it starts like safetensors"
    return (
        "it starts like text" if all(32 <= byte < 127 or byte in b"\r\n\t" for byte in head) else "of an unknown kind"
    )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _reason(error: Exception) -> str:
    """The sentence of torch's message that names what it met, without its advice to switch the protection off."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line]
    text = lines[0].rpartition("WeightsUnpickler error: ")[2] if lines else str(error).partition("\n")[0]
    text = text.partition(" Please use ")[0]
    return f"{type(error).__name__}: {text}"[:300]


def _first(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
