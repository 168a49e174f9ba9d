# SPDX-License-Identifier: BSD-3-Clause
"""Draws docs/images/hamnet_filters.svg: what HAMNet's temporal filters pass before training."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from eegfast.models import HAMNet
from eegfast.report.figures import BLUE, GREY, INK, ORANGE, STYLE

SHOWN = 8  # 56-58 Hz


def main() -> None:
    net = HAMNet(stage="pretrain")
    frequencies, gains = (t.numpy() for t in net.filter_responses(501))
    shown = gains[SHOWN]
    passed = frequencies[shown > 0.5**0.5]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 2.9), layout="constrained")
        all_filters, one = figure.subplots(1, 2)
        all_filters.plot(frequencies[150:451], gains[:, 150:451].T, color=GREY, lw=0.7)
        all_filters.plot(frequencies[150:451], shown[150:451], color=BLUE, lw=1.8)
        all_filters.axvspan(56, 58, color=ORANGE, alpha=0.35, lw=0)
        for frequency, text in ((50, "mains"), (75, "end of SEED's band")):
            all_filters.axvline(frequency, color=INK, lw=0.8, ls=":", ymax=0.91)
            all_filters.text(frequency, 1.1, text, ha="center", fontsize=7.5)
        all_filters.set(xlabel="frequency (Hz)", ylabel="gain", xlim=(30, 90), ylim=(0, 1.18))
        all_filters.set_title("All 18 filters, 56-58 Hz in blue", pad=10)
        one.plot(frequencies, 20 * np.log10(shown + 1e-9), color=BLUE, lw=1.4)
        one.axvspan(56, 58, color=ORANGE, alpha=0.35, lw=0)
        one.axhline(-3, color=INK, lw=0.8, ls=":")
        one.text(
            99,
            -2,
            f"-3 dB: {passed[0]:.1f} to {passed[-1]:.1f} Hz",
            ha="right",
            va="bottom",
            fontsize=7.5,
        )
        one.set(xlabel="frequency (Hz)", ylabel="gain (dB)", xlim=(0, 100), ylim=(-80, 6))
        one.set_title("56-58 Hz: 41 taps pass 6.4 Hz", pad=10)
        path = Path(__file__).parent.parent / "images" / "hamnet_filters.svg"
        figure.savefig(path, metadata={"Date": None})
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
