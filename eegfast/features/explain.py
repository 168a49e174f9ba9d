# SPDX-License-Identifier: BSD-3-Clause
"""The text of ``DifferentialEntropy.explain()``."""

from __future__ import annotations

from eegfast.features.recipes import Filtered, Spectral

_TAPERS = {
    "hann": "symmetric Hann, 0.5 - 0.5 cos(2 pi i / (L - 1)), zero at both ends",
    "hanning": "MATLAB hanning(L), 0.5 - 0.5 cos(2 pi (i + 1) / (L + 1)), not zero at the ends",
}

_RUNS = {
    "restarted": "forward only, from a zero state in each window",
    "both ways": "forward and backward over the whole recording (looks ahead), odd extension of "
    "{pad} samples at each end",
    "continuous": "forward only over the whole recording, never restarted at a window, begun "
    "settled on the first sample",
}


def _spectral(de, spec: Spectral) -> list[tuple[str, str]]:
    length, n_fft = de.window_samples, de.n_fft
    if n_fft < length:
        fit = f"only the first {n_fft} of each window's {length} tapered samples have a say"
    elif n_fft > length:
        fit = f"each window is padded with zeros from {length} to {n_fft} samples"
    else:
        fit = "as long as the window"
    return [
        ("value", "log2(100 P), P = mean |DFT|^2 over the band's bins, not normalised, no epsilon"),
        ("taper", _TAPERS[spec.taper] + f"; L = {length}"),
        ("DFT", f"{n_fft} points, bins {de.sfreq / n_fft:.6g} Hz apart; {fit}"),
        ("bins", "s-1 ... e-1, s = floor(low / sfreq * n_fft), e = floor(high / sfreq * n_fft): "
                 "one below the band, and neighbours share one"),
        ("scaling", "affine to 0.5 ln(2 pi e var) only where var is proportional to P"),
    ]  # fmt: skip


def _filtered(de, spec: Filtered) -> list[tuple[str, str]]:
    rows = [
        ("value", f"0.5 {spec.base}(2 pi e V), V = variance of the band-passed window, "
                  f"ddof {spec.ddof}, no epsilon"),
        ("taper", "none"),
        ("filter", f"Butterworth band-pass of order {spec.order} ({2 * spec.order} poles), "
                   + _RUNS[spec.run].format(pad=de.pad)),
    ]  # fmt: skip
    if spec.run == "both ways":
        rows.append(("edges", "gain 1/4 in power at the edges (two passes)"))
    else:
        rows.append(("edges", "gain 1/2 in power at the edges"))
    stable = de.arithmetic == "stable"
    polynomials = "b, a polynomials as SciPy runs them, rounding included"
    rows.append(("arithmetic", "second-order sections" if stable else polynomials))
    return rows


def _bands(de) -> list[tuple[str, ...]]:
    if isinstance(de.spec, Filtered):
        return [("band", "edges (Hz)")] + [
            (name, f"{lo:g} - {hi:g}") for name, (lo, hi) in de.bands.items()
        ]
    table = [("band", "edges (Hz)", "bins", "centre frequencies (Hz)")]
    spacing = de.sfreq / de.n_fft
    for (name, (lo, hi)), (start, stop) in zip(de.bands.items(), de.bins, strict=True):
        table.append(
            (
                name,
                f"{lo:g} - {hi:g}",
                f"{start} - {stop - 1} ({stop - start})",
                f"{start * spacing:.4g} - {(stop - 1) * spacing:.4g}",
            )
        )
    return table


def explain(de) -> str:
    """Describe a :class:`eegfast.features.DifferentialEntropy` module as it is configured."""
    spec = de.spec
    overlap = "" if de.step_samples == de.window_samples else ", windows overlap"
    if de.step_samples > de.window_samples:
        overlap = ", gaps between windows"
    if isinstance(spec, Filtered) and spec.run == "both ways" and overlap:
        overlap += ", the last window is dropped as in the original"
    rows = [
        ("recipe", f"{de.recipe}: {spec.summary}"),
        ("original", spec.origin),
        ("signal", f"{de.sfreq:g} Hz, given in {de.unit}"
                   + (", multiplied by 1e6 to uV" if de.unit == "V" else "")),
        ("windows", f"{de.window:g} s = {de.window_samples} samples, every {de.step:g} s = "
                    f"{de.step_samples} samples{overlap}; a last partial window is not used"),
        *(_spectral(de, spec) if isinstance(spec, Spectral) else _filtered(de, spec)),
        ("unit", de.feature_unit),
    ]  # fmt: skip
    lines = [f"{key:<11}{text}" for key, text in rows]
    table = _bands(de)
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    for row in table:
        lines.append("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
    return "\n".join(lines)
