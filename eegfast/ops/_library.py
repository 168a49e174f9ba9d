# SPDX-License-Identifier: BSD-3-Clause
"""Registers each operator with torch: schema, reference, fake kernel, autograd.

``csrc/library.cpp`` defines the schemas and the compiled kernels. Where the extension is absent the
same schemas are inferred from the annotated reference functions. Either way the reference is the
kernel of every device that has no faster one, so ``torch.ops.eegfast.<op>`` always exists; on CUDA
tensors ``eegfast.backends`` puts the choice of Triton before it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from eegfast import backends
from eegfast._build import extension

_lib = torch.library.Library("eegfast", "FRAGMENT")


def infer_schema(function: Callable) -> str:
    """Return the argument part of the torch schema that the annotations of ``function`` spell."""
    return torch.library.infer_schema(function, mutates_args=()).replace("SymInt", "int")


def register(name: str, reference: Callable, fake: Callable) -> Callable:
    """Register one operator and return the function that calls it."""
    if extension is None:
        _lib.define(name + infer_schema(reference))
    _lib.impl(name, reference, "CompositeExplicitAutograd")
    backends.enlist(name, reference)
    torch.library.register_fake(f"eegfast::{name}", fake, lib=_lib)
    overload = getattr(torch.ops.eegfast, name).default

    def call(*args):
        differentiable = False
        for arg in args:
            kind = type(arg)
            if kind is Tensor or kind is torch.nn.Parameter:
                differentiable = differentiable or arg.requires_grad
            elif kind not in _CONSTANTS:
                return overload(*args)
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return overload(*args)
        if differentiable and torch.is_grad_enabled():
            function = _functions.get(name)
            return function.apply(*args) if function else overload(*args)
        with _below_autograd():
            return overload(*args)

    return call


def register_autograd(name: str, setup_context: Callable, backward: Callable) -> None:
    """Give ``name`` its backward, and its backward operator a clear refusal to go on."""
    torch.library.register_autograd(
        f"eegfast::{name}", backward, setup_context=setup_context, lib=_lib
    )

    def refuse(ctx, *grads):
        raise NotImplementedError(f"eegfast.ops.{name} has no second derivative")

    torch.library.register_autograd(f"eegfast::{name}_backward", refuse, lib=_lib)

    overload = getattr(torch.ops.eegfast, name).default

    def forward(ctx, *args):
        with _below_autograd():
            output = overload(*args)
        setup_context(ctx, args, output)
        return output

    _functions[name] = type(
        name,
        (torch.autograd.Function,),
        {"forward": staticmethod(forward), "backward": staticmethod(backward)},
    )


# What torch.library.register_autograd puts in front of a kernel is itself Python, called by the
# dispatcher even where nothing needs a gradient: 40 us a call, 150 us with a gradient, longer than
# many kernels run. Plain eager calls therefore step over it, to the same setup_context and
# backward; tracing, torch.func and tensor subclasses take the registered way.
_functions: dict[str, type[torch.autograd.Function]] = {}
_below_autograd = torch._C._AutoDispatchBelowAutograd
_CONSTANTS = frozenset((bool, int, float, list, tuple, type(None)))


def remembered(function: Callable) -> Callable:
    """Keep what a function of shapes returned: checks in Python outlast the kernels of small input.

    torch.compile traces the function itself. An exception is raised anew each time.
    """
    known = {}

    @functools.wraps(function)
    def call(*args):
        if torch.compiler.is_compiling():
            return function(*args)
        try:
            return known[args]
        except KeyError:
            pass
        except TypeError:  # a list among them
            return function(*args)
        if len(known) >= 1024:
            known.clear()
        value = known[args] = function(*args)
        return value

    return call


def widen_half(function: Callable) -> Callable:
    """Let a public op take bfloat16 and float16 on the CPU, where its kernels know neither.

    The op runs in float32 on exact copies, and each result is rounded once: its error is half a
    unit in the last place of the narrow type, 2**-8 relative for bfloat16 and 2**-11 for float16.
    """

    @functools.wraps(function)
    def widened(x, *args, **kwargs):
        if not isinstance(x, Tensor) or x.dtype not in _HALF or x.device.type != "cpu":
            return function(x, *args, **kwargs)

        def wide(value):
            return value.float() if isinstance(value, Tensor) and value.dtype in _HALF else value

        out = function(
            wide(x), *(wide(a) for a in args), **{key: wide(a) for key, a in kwargs.items()}
        )
        return tuple(o.to(x.dtype) for o in out) if isinstance(out, tuple) else out.to(x.dtype)

    return widened


_HALF = (torch.bfloat16, torch.float16)


def check_signal(op: str, argument: str, x: Tensor, min_dim: int, layout: str) -> None:
    """Raise unless ``x`` is a float tensor of at least ``min_dim`` dimensions."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"eegfast.ops.{op}: {argument} must be a torch.Tensor, got {type(x).__name__}"
        )
    if not x.is_floating_point():
        raise TypeError(f"eegfast.ops.{op}: {argument} must be floating point, got {x.dtype}")
    if x.dim() < min_dim:
        raise ValueError(f"eegfast.ops.{op}: {argument} must be {layout}, got {tuple(x.shape)}")


def check_like(op: str, argument: str, value: Tensor, x: Tensor) -> None:
    """Raise unless ``value`` is a tensor of the dtype of ``x`` and on its device."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"eegfast.ops.{op}: {argument} must be a torch.Tensor, got {type(value).__name__}"
        )
    if value.dtype != x.dtype or value.device != x.device:
        raise TypeError(
            f"eegfast.ops.{op}: {argument} must be {x.dtype} on {x.device} like x, "
            f"got {value.dtype} on {value.device}"
        )


def check_positive(op: str, argument: str, value: int) -> int:
    """Return ``value`` as an int, or raise unless it is a whole number of at least 1."""
    if int(value) != value or value < 1:
        raise ValueError(
            f"eegfast.ops.{op}: {argument} must be a whole number of samples >= 1, got {value!r}"
        )
    return int(value)


def n_windows(n_times: int, window: int, step: int) -> int:
    """Return how many whole windows fit into ``n_times`` samples."""
    return 0 if n_times < window else (n_times - window) // step + 1
