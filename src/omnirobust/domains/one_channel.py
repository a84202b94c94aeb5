"""The input gradient of a convolution of one channel that ReLU and 2 x 2 max-pooling follow, on a processor.

There torch's own takes longer than anything else of a LeNet: it has one channel to spread over the lanes of a register,
and goes through all outputs, three quarters of which pooling has dropped. Here windows of pooling are what is
multiplied: each is made of a patch of the image that is one row and one column larger than the kernel, and patches are
two pixels apart, so that with the four classes of pixels by even and odd places apart, the gradient is one product of
matrices and a sum of shifted rows. What models compute forwards is untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import max_pool2d, pad, relu
from torch.overrides import TorchFunctionMode

_AT_ONCE = 2**18
"""Numbers that patches of images are multiplied to at once: a second-level cache holds them, or nearly."""


_hooks_on_saved: Callable[[bool], object] | None = getattr(
    getattr(torch._C, "_autograd", None), "_top_saved_tensors_default_hooks", None
)  # fmt: skip
"""Returns the hooks on tensors that graphs save, or None: what is computed once more, as checkpoints are, has to be
computed alike. Where torch is too old to say so, nothing is done here."""


def has_one_channel(modules: Iterable[nn.Module]) -> bool:
    """Say whether a model of these modules may have such a convolution, and none of its code is compiled."""
    modules = list(modules) if _hooks_on_saved is not None else []
    compiled = any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None for m in modules)
    return not compiled and any(isinstance(m, nn.Conv2d) and m.in_channels == 1 and m.stride == (1, 1) for m in modules)


class _Origin(NamedTuple):
    """What a tensor was made of: a convolution of x, or ReLU of it.

    Attributes:
        x: (B, 1, H, W).
        weight: (M, 1, k, k).
        padding: on each of the four sides.
        node: of the graph that the tensor is of, which a function of one's own, or detaching, takes another for.
        version: of the tensor when it was made.
        place: of its numbers in memory.
        rectified: whether ReLU was taken.
    """

    x: Tensor
    weight: Tensor
    padding: int
    node: object
    version: int
    place: int
    rectified: bool


class OneChannel(TorchFunctionMode):
    """Within it, such gradients are taken so; they have none of their own.

    A tensor that anything else has changed, looked at by a hook, or put through a module's hooks is left to torch.

    Attributes:
        spoiled: whether a model has looked at gradients inside of it when some were gone: what it says is of no use.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spoiled = self._watched = self._used = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, or what stands for it."""
        kwargs = kwargs or {}
        origin = None
        if func is max_pool2d and not self._watched:
            origin = _of_windows(*args, **kwargs)
            if origin is not None:
                self._used = True
                return _Pooled.apply(origin.x, args[0].detach(), origin.weight, origin.padding, origin.rectified)
        elif func in _RELU and args:
            origin = _origin(args[0])
        elif func in _WATCHES:
            self._watched, self.spoiled = True, self.spoiled or self._used
        found = func(*args, **kwargs)
        if func is torch.conv2d:
            origin = _of_convolution(found, *args, **kwargs)
        if origin is not None and type(found) is Tensor and type(found.grad_fn).__name__ in _NODES:
            found._one_channel = origin._replace(  # pyright: ignore[reportAttributeAccessIssue]
                node=found.grad_fn, version=found._version, place=found.data_ptr(), rectified=func in _RELU
            )
        return found


_NODES = {"ConvolutionBackward0", "ReluBackward0"}
_RELU = {relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
_WATCHES = {
    Tensor.register_hook, Tensor.retain_grad, Tensor.backward, Tensor.grad_fn.__get__, torch.autograd.grad,  # pyright: ignore
    torch.autograd.backward,
}  # fmt: skip


def _origin(tensor: object) -> _Origin | None:
    """Return what a tensor was made of, unless it was changed since."""
    origin: _Origin | None = getattr(tensor, "_one_channel", None)
    if origin is None or not isinstance(tensor, Tensor):
        return None
    same = tensor.grad_fn is origin.node and tensor._version == origin.version and tensor.data_ptr() == origin.place
    return origin if same else None


def _of_convolution(
    found: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,  # noqa: A002
    padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> _Origin | None:  # fmt: skip
    """Say what a convolution was made of, if its gradient can be taken here."""
    pads: Any = (padding, padding) if isinstance(padding, int) else padding
    plain = (
        type(input) is Tensor and type(found) is Tensor and input.ndim == 4 and input.shape[1] == 1
        and input.dtype == found.dtype == weight.dtype and found.dtype.itemsize >= 4 and input.device.type == "cpu"
        and input.requires_grad and not weight.requires_grad and (bias is None or not bias.requires_grad)
        and stride in (1, (1, 1), [1, 1]) and dilation in (1, (1, 1), [1, 1])
        and weight.shape[2] == weight.shape[3] and not isinstance(pads, str) and pads[0] == pads[1] < weight.shape[2]
    )  # fmt: skip
    return _Origin(input, weight.detach(), int(pads[0]), None, 0, 0, False) if plain else None


def _of_windows(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,  # noqa: A002
    ceil_mode: bool = False, return_indices: bool = False,
) -> _Origin | None:  # fmt: skip
    """Say what pooling is done of, if windows are 2 x 2, next to each other, and such that this pays."""
    origin = _origin(input)
    if origin is None or ceil_mode or return_indices or min(input.shape[2:]) < 2 or not len(input):
        return None
    if _hooks_on_saved is None or _hooks_on_saved(True) is not None:
        return None
    twos, ones = (2, (2, 2), [2, 2]), (1, (1, 1), [1, 1])
    side_by_side = kernel_size in twos and (stride is None or stride in twos)
    plain = side_by_side and padding in (0, (0, 0), [0, 0]) and dilation in ones and input.is_contiguous()
    return origin if plain else None


class _Pooled(torch.autograd.Function):
    """Max-pooling of y (B, M, H, W), (B, M, H // 2, W // 2), with the gradient of x, of which y was made."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weight: Tensor, padding: int, rectified: bool) -> Tensor:
        windows = _windows(y)
        (a, b), (c, d) = windows.new_empty(windows.shape).copy_(windows)
        upper, lower = torch.maximum(a, b), torch.maximum(c, d)
        chosen = torch.empty(4, *a.shape, dtype=torch.bool)  # of equal ones the first, as torch does
        first, second, third, fourth = chosen
        above = torch.ge(upper, lower)
        torch.eq(a, upper, out=first)
        torch.eq(c, lower, out=third)
        largest = torch.maximum(upper, lower, out=upper)
        passed = largest > 0 if rectified else None
        below = ~above
        if passed is not None:
            above &= passed
            below &= passed
        first &= above
        third &= below
        torch.bitwise_xor(above, first, out=second)
        torch.bitwise_xor(below, third, out=fourth)
        ctx.save_for_backward(weight, chosen)
        ctx.shape, ctx.padding = x.shape, padding
        return largest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        weight, chosen = ctx.saved_tensors
        height, width = (side + 2 * ctx.padding for side in ctx.shape[2:])
        found = grad.new_zeros(len(grad), 1, height + height % 2, width + width % 2)
        of_patches = _by_class(weight).t().contiguous()
        images = max(1, _AT_ONCE // (len(of_patches) * found[0].numel() // 4))
        for start in range(0, len(grad), images):
            part = slice(start, start + images)
            _add_patches(found[part], of_patches, grad[part], chosen[:, part])
        inner = found[..., ctx.padding : height - ctx.padding, ctx.padding : width - ctx.padding]
        return inner.contiguous(), None, None, None, None


def _windows(y: Tensor) -> Tensor:
    """View (B, M, H, W) as the four places of 2 x 2 windows, (2, 2, B, M, H // 2, W // 2)."""
    high, wide = y.shape[2] // 2, y.shape[3] // 2
    cut = y[..., : 2 * high, : 2 * wide]
    return cut.unflatten(3, (wide, 2)).unflatten(2, (high, 2)).permute(3, 5, 0, 1, 2, 4)


def _by_class(weight: Tensor) -> Tensor:
    """Return what the four places of a window take from a patch, (4 M, 4 s s): s s of each class of pixels, by rows."""
    M, _, k, _ = weight.shape
    s = (k + 2) // 2
    room = pad(weight, (1, 2 * s - k, 1, 2 * s - k))
    moved = [room[:, 0, 1 - i : 1 - i + 2 * s, 1 - j : 1 - j + 2 * s] for i in (0, 1) for j in (0, 1)]
    return torch.stack(moved).view(4 * M, s, 2, s, 2).permute(0, 2, 4, 1, 3).reshape(4 * M, 4 * s * s)


def _add_patches(found: Tensor, of_patches: Tensor, grad: Tensor, chosen: Tensor) -> None:
    """Write into images (n, 1, H, W), of even sides, what windows' gradients (n, M, h, w) give to their patches.

    Args:
        found: the images.
        of_patches: see ``_by_class``, (4 s s, 4 M).
        grad: of the windows.
        chosen: where each of the four places is the largest, (4, n, M, h, w) bool.
    """
    n, M, high, wide = grad.shape
    s = round((len(of_patches) / 4) ** 0.5)
    # pixels of a class that patches reach; windows are laid out in as many rows and columns, with zeros at the ends
    rows, run = high + s - 1, wide + s - 1
    each = n * rows * run
    spread = grad.new_zeros(4, M, n, rows, run)
    torch.mul(grad, chosen, out=spread.transpose(1, 2)[..., :high, :wide])
    patches = torch.mm(of_patches, spread.view(4 * M, each))
    # place (i, j) of a patch lies i rows and j columns further: it is added to place (0, 0) from so far before, and
    # what moves in from the row of the matrix before are the zeros at its end
    for j in range(1, s):
        patches.as_strided((4 * s, each), (s * each, 1)).add_(
            patches.as_strided((4 * s, each), (s * each, 1), j * (each - 1))
        )
    for i in range(1, s):
        patches.as_strided((4, each), (s * s * each, 1)).add_(
            patches.as_strided((4, each), (s * s * each, 1), i * (s * each - run))
        )
    classes = patches.as_strided((2, 2, n, 1, rows, run), (2 * s * s * each, s * s * each, rows * run, 1, run, 1))
    into = _windows(found)[..., :rows, :run]
    into.copy_(classes[..., : into.shape[-2], : into.shape[-1]])
