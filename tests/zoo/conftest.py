import sys
from types import ModuleType

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    """Return timm itself, beside torchvision itself.

    The registry's torchvision is built for CUDA: without it, its compiled operations are missing, of which timm uses
    none. Declaring two of them is enough for the rest to be imported.
    """
    try:
        import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        declared = torch.library.Library("torchvision", "FRAGMENT")
        for operation in ("nms", "qnms"):
            declared.define(f"{operation}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        sys.modules["omnirobust_test_declared"] = declared  # type: ignore[assignment]  # kept alive
    import timm as package

    return package
