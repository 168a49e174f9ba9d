# SPDX-License-Identifier: BSD-3-Clause
"""What TensorFlow makes of SST-EmotionNet's time stem, on integers: tf_same.json.

python tests/models/data/make_tf_same.py
"""

import json
from pathlib import Path

import numpy as np

FIXTURE = Path(__file__).with_name("tf_same.json")
SHAPES = [(25, 32, 32), (8, 16, 18), (9, 17, 19)]  # depth, height, width


def draw(shape):
    """Maps ``(1, H, W, D, 1)`` and kernels ``(5, 5, 3, 1, 2)``, channels last as in Keras."""
    random = np.random.RandomState(sum(shape))
    depth, height, width = shape
    maps = random.randint(-8, 9, (1, height, width, depth, 1))
    return maps, random.randint(-4, 5, (5, 5, 3, 1, 2))


def main():
    import tensorflow as tf

    outputs = []
    for shape in SHAPES:
        maps, kernels = (array.astype(np.float32) for array in draw(shape))
        y = tf.nn.relu(tf.nn.conv3d(maps, kernels, [1, 2, 2, 1, 1], "SAME"))
        outputs.append(tf.nn.max_pool3d(y, 2, 2, "SAME").numpy().astype(int).tolist())
    FIXTURE.write_text(json.dumps(outputs, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
