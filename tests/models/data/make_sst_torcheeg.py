# SPDX-License-Identifier: BSD-3-Clause
"""What torcheeg's SSTEmotionNet answers with weights drawn from a formula: sst_torcheeg.json.

    python tests/models/data/make_sst_torcheeg.py TORCHEEG

where TORCHEEG is the folder of the package (its SSTEmotionNet needs torch alone).
"""

import importlib.util
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

FIXTURE = Path(__file__).with_name("sst_torcheeg.json")

# Even and odd numbers of steps differ in torcheeg's padding; the second grid is not square.
CASES = [
    {"grid_size": [16, 16], "spectral_in_channels": 4, "temporal_in_channels": 8},
    {"grid_size": [16, 19], "spectral_in_channels": 5, "temporal_in_channels": 9},
]
SMALL = {"spectral_depth": 16, "temporal_depth": 10, "spectral_growth_rate": 2}
SMALL |= {"temporal_growth_rate": 3, "hid_channels": 6, "num_classes": 2}


def draw(name, shape):
    """Normal numbers that depend on the name; NumPy never changes RandomState's."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


def weights(shapes):
    """State dict of moderate values: variances positive, weights scaled by their fan-in."""
    state = {}
    for name, shape in shapes.items():
        values = draw(name, shape)
        if name.endswith("running_var"):
            values = np.exp(values / 2) / 2
        elif name.endswith("running_mean"):
            values = values / 4
        elif name.endswith("num_batches_tracked"):
            values = np.array(0)
        elif len(shape) > 1:
            values = values * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith("weight"):
            values = 1 + values / 4
        dtype = torch.long if name.endswith("num_batches_tracked") else torch.float32
        state[name] = torch.as_tensor(values, dtype=dtype)
    return state


def inputs(arguments):
    maps = arguments["spectral_in_channels"] + arguments["temporal_in_channels"]
    return torch.as_tensor(draw("inputs", (3, maps, *arguments["grid_size"])), dtype=torch.float32)


def torcheeg_class(package):
    """The class out of its own file: torcheeg.models as a whole imports compiled extras."""
    path = Path(package) / "models" / "cnn" / "sst_emotion_net.py"
    spec = importlib.util.spec_from_file_location("torcheeg_sst_emotion_net", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SSTEmotionNet


def answers(network, x):
    """Logits in evaluation mode, in training mode, and a running mean after the latter."""
    network, x = network.double(), x.double()
    name = "spatial_temporal.final_layers.0.running_mean"
    with torch.no_grad():
        found = {"eval": network.eval()(x), "train": network.train()(x)}
        found["running_mean"] = network.state_dict()[name]
    return {key: value.tolist() for key, value in found.items()}


def main(package):
    cases = []
    for case in CASES:
        arguments = case | SMALL
        network = torcheeg_class(package)(**arguments)
        shapes = {name: list(t.shape) for name, t in network.state_dict().items()}
        network.load_state_dict(weights(shapes))
        found = answers(network, inputs(arguments))
        cases.append({"arguments": arguments, "shapes": shapes, **found})
    FIXTURE.write_text(json.dumps(cases, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
