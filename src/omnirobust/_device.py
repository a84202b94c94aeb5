"""Where tensors are computed, from a name."""

from __future__ import annotations

import os
import re

import torch

_KINDS = "auto, cpu, cuda, cuda:N or mps"
_NAME = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def check_name(device: str) -> None:
    """Check the name of a device, whether or not it is there.

    Raises:
        ValueError: if it is none of "auto", "cpu", "cuda", "cuda:N" and "mps".
    """
    if not _NAME.fullmatch(device):
        raise ValueError(f"device must be {_KINDS}, got {device!r}")


def resolved(device: str) -> torch.device:
    """Return the device of that name.

    Of several processes that torchrun started on a machine, each takes the next of its GPUs, unless one is named.

    Args:
        device: "cpu", "cuda", "cuda:N", "mps", or "auto" for cuda where there is one and the processor where not.

    Raises:
        ValueError: if there is no such device here.
    """
    check_name(device)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind, _, number = device.partition(":")
    if kind == "auto":
        kind = "cuda" if count else "cpu"
    if kind == "cuda":
        index = int(number) if number else int(os.environ.get("LOCAL_RANK", "0")) % max(count, 1)
        if index >= count:
            raise ValueError(f"device must be one that is there, got {device}: torch finds {_counted(count)}")
        return torch.device("cuda", index)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device must be one that is there, got {device}: torch finds none of that kind")
    return torch.device(kind)


def _counted(count: int) -> str:
    return f"{count} CUDA device{'s' if count > 1 else ''}" if count else "no CUDA device"


def make_exact(device: torch.device) -> None:
    """Have a GPU compute in the precision asked for, the same at every call; for a whole process.

    Torch lets cuDNN round the factors of convolutions to ten bits (TF32), and pick an algorithm by a race.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
