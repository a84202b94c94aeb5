"""What steps free is kept for the next ones."""

import ctypes
import json
import os
import subprocess
import sys

import pytest

MAPPED = """
import ctypes, json, sys, torch

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

told = ctypes.CDLL(None).mallinfo2
told.restype = Info

def mapped():
    before = told().hblks
    tensor = torch.empty(size, dtype=torch.uint8)
    return told().hblks - before

size = 28 * 2**20
first = mapped()
import omnirobust.domains.memory
size += 2**20
print(json.dumps([first, mapped()]))
"""
"""How many blocks of its own, returned once it is freed, a tensor gets from the system: before and after an import."""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or newer")
def test_large_tensors_come_from_memory_that_is_kept() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRELOAD"))}
    done = subprocess.run([sys.executable, "-c", MAPPED], capture_output=True, text=True, check=True, env=env)
    assert json.loads(done.stdout) == [1, 0]
