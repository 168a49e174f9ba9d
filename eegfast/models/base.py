# SPDX-License-Identifier: BSD-3-Clause
"""What all networks have in common: a configuration, files, a summary, export."""

from __future__ import annotations

import copy
import inspect
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import eegfast
from eegfast import reference
from eegfast.models.registry import create, name_of

SUFFIX = ".safetensors"
_LARGEST = 1_000_000


class Network(nn.Module):
    """Base of the networks.

    The constructor's arguments are plain values (numbers, strings, booleans, None, lists and dicts
    of them): they are kept in ``config`` and saved with the weights. A network takes one or more
    tensors and returns logits.

    Attributes
    ----------
    config : dict
        Every argument of the constructor, defaults too, as JSON has them: tuples are lists.
    """

    config: dict[str, Any]

    def __new__(cls, *args, **kwargs):
        network = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind(network, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        network.__dict__["config"] = json.loads(json.dumps(arguments, default=_plain))
        return network

    def example_inputs(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        """Make random inputs of the right shapes.

        Parameters
        ----------
        batch_size : int
            Samples.

        Returns
        -------
        tuple of Tensor
            Arguments of ``forward``, on the network's device.
        """
        raise NotImplementedError

    def save_pretrained(self, path: str | os.PathLike) -> Path:
        """Write weights and configuration to one safetensors file.

        Parameters
        ----------
        path : path-like
            The file; ``.safetensors`` is added where it is missing. Another of that name is
            replaced once the new one is complete.

        Returns
        -------
        Path
            The file.
        """
        from safetensors.torch import save_file

        path = Path(path)
        if path.suffix != SUFFIX:
            path = path.with_name(path.name + SUFFIX)
        about = {
            "model": name_of(type(self)),
            "config": self.config,
            "version": eegfast.__version__,
        }
        tensors = {name: t.detach().contiguous() for name, t in self.state_dict().items()}
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            save_file(tensors, part, {"format": "pt", "eegfast": json.dumps(about)})
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return path

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike, device: str = "cpu") -> Network:
        """Build the network that a file describes, with its weights.

        Parameters
        ----------
        path : path-like
            A file that :meth:`save_pretrained` wrote.
        device : str
            Where the network is to be.

        Returns
        -------
        Network
            In evaluation mode. From a subclass, one of that class.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, or it is not what ``save_pretrained`` writes: the message
            names the file and what is wrong. No code in the file is run.
        """
        path = Path(path)
        about, tensors = _read(path, device)
        try:
            _check_numbers(about["config"])
            with torch.device("meta"):  # shapes alone: nothing is allocated for a hostile file
                create(about["model"], **about["config"]).load_state_dict(tensors, assign=True)
            network = create(about["model"], **about["config"])
            network.load_state_dict(tensors)
        except Exception as error:  # whatever a constructor says to arguments that make no sense
            raise ValueError(f"{path}: {error}") from None
        if not isinstance(network, cls):
            raise ValueError(f"{path}: a {cls.__name__} expected, this is {about['model']}")
        return network.to(device).eval()

    def summary(self, depth: int = 2) -> str:
        """Return a table of layers, the shapes of their outputs and their parameters.

        Parameters
        ----------
        depth : int
            How many levels of submodules are shown.

        Returns
        -------
        str
            A line per layer; the last lines count parameters and buffers.
        """
        shapes = _output_shapes(self)
        rows = [("layer", "kind", "output", "parameters")]
        for name, module in self.named_modules():
            if name and name.count(".") < depth:
                count = sum(p.numel() for p in module.parameters())
                rows.append((name, type(module).__name__, shapes.get(name, ""), f"{count:,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            f"{a:{widths[0]}}  {b:{widths[1]}}  {c:{widths[2]}}  {d:>{widths[3]}}"
            for a, b, c, d in rows
        ]
        ruler = "-" * len(lines[0])
        parameters = list(self.parameters())
        total = sum(p.numel() for p in parameters)
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        buffers = sum(b.numel() for b in self.buffers())
        head = f"{type(self).__name__}: {', '.join(map(_shape, self.example_inputs()))}"
        tail = f"{total:,} parameters, {trainable:,} trainable; {buffers:,} values in buffers"
        return "\n".join([head, ruler, lines[0], ruler, *lines[1:], ruler, tail])

    def export_onnx(self, path: str | os.PathLike, batch_size: int | None = None) -> Path:
        """Write the network, in evaluation mode, as an ONNX file of standard operators.

        Our operators are replaced by what :mod:`eegfast.reference` does. Convolutions in float64
        become float32, the only type for which onnxruntime has them on the CPU.

        Parameters
        ----------
        path : path-like
            The file.
        batch_size : int, optional
            Fix the number of samples; else any number may be given.

        Returns
        -------
        Path
            The file.
        """
        path = Path(path)
        program = self.export(batch_size).run_decompositions(
            {torch.ops.aten.convolution.default: _convolution_in_float32}
        )
        torch.onnx.export(program, dynamo=True, verbose=False, optimize=True).save(str(path))
        return path

    def export(self, batch_size: int | None = None) -> torch.export.ExportedProgram:
        """``torch.export`` of the network in evaluation mode, in torch's own operators only.

        Parameters
        ----------
        batch_size : int, optional
            Fix the number of samples; else any number may be given.

        Returns
        -------
        torch.export.ExportedProgram
        """
        inputs = self.example_inputs(batch_size or 2)
        batch = torch.export.Dim("batch") if batch_size is None else None
        shapes = [{0: batch} if batch else None] * len(inputs)
        with torch.no_grad():  # nothing is kept for a backward pass
            program = torch.export.export(copy.deepcopy(self).eval(), inputs, dynamic_shapes=shapes)
        ours = {
            getattr(torch.ops.eegfast, op).default: getattr(reference, op)
            for op in reference.__all__
        }
        return program.run_decompositions({**torch.export.default_decompositions(), **ours})


def from_pretrained(path: str | os.PathLike, device: str = "cpu") -> Network:
    """Load any network: see :meth:`Network.from_pretrained`."""
    return Network.from_pretrained(path, device)


def _read(path: Path, device: str) -> tuple[dict, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, "pt", device) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None
    try:
        about = json.loads(metadata["eegfast"])
        if not (isinstance(about["model"], str) and isinstance(about["config"], dict)):
            raise TypeError
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(
            f"{path}: weights without a configuration; `save_pretrained` of a network writes both"
        ) from None
    return about, tensors


def _check_numbers(value: object) -> None:
    """Refuse numbers that no network of ours has: its constructor would try for a long time."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            _check_numbers(part)
    elif isinstance(value, int | float) and not abs(value) <= _LARGEST:
        raise ValueError(f"numbers up to {_LARGEST:,} expected in the configuration, got {value!r}")


def _convolution_in_float32(x: Tensor, weight: Tensor, bias: Tensor | None, *options) -> Tensor:
    if x.dtype != torch.float64:
        return NotImplemented
    bias = None if bias is None else bias.float()
    convolution = torch.ops.aten.convolution.default
    return convolution(x.float(), weight.float(), bias, *options).double()


def check_signal(network: Network, x: Tensor) -> None:
    """Refuse what is no signal ``(N, n_chans, n_times)``; ``n_times`` None takes any from 1."""
    n_chans, n_times = network.n_chans, network.n_times
    fits = x.dim() == 3 and x.shape[1] == n_chans
    if not fits or (x.shape[2] != n_times if n_times else x.shape[2] == 0):
        raise ValueError(
            f"{type(network).__name__}: expected a signal (N, {n_chans}, "
            f"{n_times or 'n_times >= 1'}), got {tuple(x.shape)}"
        )


def _plain(value):
    """A NumPy scalar or array, or the like, as plain numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"numbers, strings, lists and dicts expected, got {type(value).__name__}")


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _output_shapes(network: Network) -> dict[str, str]:
    """By name, of the modules that a forward pass in evaluation mode calls."""
    shapes: dict[str, str] = {}
    network = copy.deepcopy(network).eval()
    for name, module in network.named_modules():

        def record(module, _, out, name=name):
            shapes.setdefault(name, _shape(out if isinstance(out, Tensor) else out[0]))

        module.register_forward_hook(record)
    with torch.no_grad():
        network(*network.example_inputs())
    return shapes
