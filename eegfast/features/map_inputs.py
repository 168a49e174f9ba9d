# SPDX-License-Identifier: BSD-3-Clause
"""Raw signals to stacks of electrode maps: the inputs of LDM-EEG and SST-EmotionNet."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from eegfast.features.differential_entropy import UNITS, DifferentialEntropy, samples
from eegfast.features.inputs import ModelInputs, check_trials, count_windows, zscore_over
from eegfast.features.maps import ElectrodeMaps
from eegfast.features.recipes import Bands


@functools.lru_cache(maxsize=16)
def _kept_maps(
    ch_names: tuple[str, ...], size: int, dtype: torch.dtype, device: torch.device
) -> ElectrodeMaps:
    # A tensor made in inference mode could not be saved for a later backward.
    with torch.inference_mode(False):
        return ElectrodeMaps(ch_names, size=size, dtype=dtype).to(device)


def _trials_and_maps(
    name: str, signal: Tensor, ch_names: Sequence[str] | ElectrodeMaps, size: int | None
) -> tuple[Tensor, ElectrodeMaps]:
    if isinstance(ch_names, ElectrodeMaps):
        if size is not None:
            raise ValueError(f"{name}: size is for names of channels; these ElectrodeMaps have one")
        return check_trials(name, signal, len(ch_names.ch_names)), ch_names
    if isinstance(ch_names, str):
        raise ValueError(
            f"{name}: ch_names must be a sequence of names or ElectrodeMaps, got {ch_names!r}"
        )
    trials = check_trials(name, signal, len(ch_names))
    return trials, _kept_maps(
        tuple(ch_names), 32 if size is None else size, signal.dtype, signal.device
    )


def _stacks(values: Tensor, maps: ElectrodeMaps, zscore: str | None, name: str) -> Tensor:
    """(trials, rows, n_chans, depth) -> map stacks (trials * rows, 1, depth, height, width)."""
    if zscore not in ("stack", "electrodes", None):
        raise ValueError(f"{name}: zscore must be 'stack', 'electrodes' or None, got {zscore!r}")
    values = values.flatten(0, 1)
    if zscore == "electrodes":
        values = zscore_over(values, (1, 2))
    stacks = maps(values, axis=-2)
    if zscore == "stack":
        stacks = zscore_over(stacks, (1, 2, 3))
    return stacks.unsqueeze(1)


def ldm_eeg_inputs(
    signal: Tensor,
    sfreq: float,
    ch_names: Sequence[str] | ElectrodeMaps,
    *,
    window: float = 0.2,
    n_steps: int = 8,
    step: float | None = None,
    time_band: tuple[float, float] = (1, 50),
    bands: Bands | None = None,
    recipe: str = "clean",
    n_fft: int | None = None,
    zscore: str | None = "stack",
    size: int | None = None,
    unit: str = "uV",
) -> ModelInputs:
    """Frequency and time maps for :class:`eegfast.models.LDMEEG`.

    A sample is ``n_steps`` consecutive windows: 8 of 200 ms. Its frequency maps are the DE of the
    whole sample per band, its time maps the broadband DE of each window.

    Parameters
    ----------
    signal : Tensor, shape (..., n_chans, n_times)
        Raw trials in ``unit``.
    sfreq : float
        Sampling rate in Hz.
    ch_names : sequence of str or ElectrodeMaps
        The channels; or the maps to use, for other sizes, fills and places than
        :class:`ElectrodeMaps` has by default.
    window : float
        Window of the time maps in seconds.
    n_steps : int
        Windows per sample, the depth of the time maps.
    step : float, optional
        Seconds from one sample's start to the next, a whole number of windows. Default: the
        sample's length (no overlap).
    time_band : (float, float)
        Band of the time maps in Hz.
    bands : dict, optional
        Bands of the frequency maps. Default: the recipe's (four for torcheeg's two).
    recipe : str
        Which DE, one of :data:`eegfast.features.RECIPES`. The filtered recipes are sound here, see
        the notes.
    n_fft : int, optional
        Transform length of the spectral recipes, for windows and samples alike. Default: the
        recipe's.
    zscore : {"stack", "electrodes", None}
        ``"stack"``: each map stack, background included, gets mean 0 and population standard
        deviation 1 over depth, height and width. ``"electrodes"``: the same over depth and
        electrodes before the maps are drawn, so that the background is the mean. None: as they are.
    size : int, optional
        Side of the maps, where ``ch_names`` are names. Default: 32.
    unit : {"uV", "V"}
        Unit of the signal.

    Returns
    -------
    ModelInputs
        ``frequency_maps (N, 1, bands, 32, 32)`` and ``time_maps (N, 1, n_steps, 32, 32)``; rows are
        the samples of the first trial, then of the second. What is left after the last whole sample
        is not used.

    Raises
    ------
    TypeError, ValueError
        If the signal is too short or of the wrong shape, a duration is not a whole number of
        samples, a channel has no place, or an argument is none of the above.

    Notes
    -----
    The paper [1]_ gives differential entropy, 200 ms, 8 time steps and five bands; its authors'
    code begins at the finished maps. That a sample is 8 windows, what is in a time map, which DE,
    and the normalisation are our reading.

    **Which DE.** ``"clean"`` filters the whole trial once, so 40 samples are enough for a window.
    The spectral recipes have 256 DFT points: at 200 Hz a window of 40 samples is padded with zeros,
    and its taper's main lobe (10 Hz to each side) carries electrode offsets and drifts into the
    band, while a sample of 320 is **cut** to its first 256 (``n_fft=320`` or more uses it all).

    A flat channel has a DE of -inf in the spectral recipes, and its samples' maps are NaN.

    References
    ----------
    .. [1] Lei and Liu, Computer Science 50(6A), 2023, 220300262.

    Examples
    --------
    >>> from eegfast.datasets import EEGMAT
    >>> rest = EEGMAT()[0].pick(["Fp1", "Fp2", "T3", "C3", "Cz", "C4", "T4", "O1", "O2"])
    >>> signal = torch.from_numpy(rest.signal[:, : 58 * 200])
    >>> frequency, time = ldm_eeg_inputs(signal, rest.sfreq, rest.ch_names)
    >>> frequency.shape, time.shape
    (torch.Size([36, 1, 5, 32, 32]), torch.Size([36, 1, 8, 32, 32]))
    """
    name = "ldm_eeg_inputs"
    trials, maps = _trials_and_maps(name, signal, ch_names, size)
    if n_steps != int(n_steps) or n_steps < 1:
        raise ValueError(f"{name}: n_steps must be a positive whole number, got {n_steps!r}")
    frame = samples("window", window, sfreq)
    length = n_steps * frame / sfreq
    _, hop, count = count_windows(name, trials, sfreq, length, step)
    if hop % frame:
        raise ValueError(
            f"{name}: step must be a whole number of windows of {window:g} s, got {step:g} s"
        )
    options = {"recipe": recipe, "unit": unit, "n_fft": n_fft}
    entropy = DifferentialEntropy(sfreq, bands=bands, window=length, step=hop / sfreq, **options)
    broadband = {"broadband": time_band}
    per_window = DifferentialEntropy(sfreq, bands=broadband, window=window, **options)
    frequency = entropy(trials)  # (trials, samples, n_chans, bands)
    frames = per_window(trials).squeeze(-1)  # (trials, windows, n_chans)
    time = frames.unfold(1, n_steps, hop // frame)  # (trials, samples, n_chans, n_steps)
    count = min(count, frequency.shape[1])  # "libeer" drops the last of overlapping windows
    stacks = [_stacks(part[:, :count], maps, zscore, name) for part in (frequency, time)]
    return ModelInputs(stacks, len(trials), [i * hop / sfreq for i in range(count)])


def sst_emotionnet_inputs(
    signal: Tensor,
    sfreq: float,
    ch_names: Sequence[str] | ElectrodeMaps,
    *,
    window: float = 1.0,
    step: float | None = None,
    n_steps: int = 25,
    bands: Bands | None = None,
    recipe: str = "bcmi",
    n_fft: int | None = None,
    zscore: str | None = None,
    size: int | None = None,
    unit: str = "uV",
) -> ModelInputs:
    """Frequency and time maps for :class:`eegfast.models.SSTEmotionNet`.

    A sample is one window of 1 s. Its frequency maps are its DE per band, its time maps the signal
    itself as ``n_steps`` means of consecutive samples (at 200 Hz: 25 means of 8).

    Parameters
    ----------
    signal, sfreq, ch_names, size, unit
        As for :func:`ldm_eeg_inputs`.
    window, step : float
        Window and distance of windows in seconds; ``step`` defaults to ``window``.
    n_steps : int
        Depth of the time maps; divides the samples of a window.
    bands, recipe, n_fft
        Of the DE: :class:`DifferentialEntropy`. The bands default to the recipe's (four for
        torcheeg's two).
    zscore : {None, "stack", "electrodes"}
        As for :func:`ldm_eeg_inputs`. None leaves DE and microvolts as they are.

    Returns
    -------
    ModelInputs
        ``frequency_maps (N, 1, bands, 32, 32)`` and ``time_maps (N, 1, n_steps, 32, 32)``.

    Raises
    ------
    TypeError, ValueError
        As :func:`ldm_eeg_inputs`; also if ``n_steps`` does not divide the window.

    Notes
    -----
    The authors [1]_ published the network and 25 steps, not their preprocessing. Window, DE and
    means are our reading. The means also are the low-pass filter that taking every eighth sample
    would lack. Public re-implementations make other choices: one sample per whole trial with 25
    samples spread over it, or ln(var) and means over 25 blocks.

    References
    ----------
    .. [1] Jia et al., "SST-EmotionNet: Spatial-spectral-temporal based attention 3D dense network
       for EEG emotion recognition", ACM Multimedia 2020.

    Examples
    --------
    >>> maps = ElectrodeMaps(["Fp1", "Fp2", "Cz", "O1", "O2"], size=16)
    >>> frequency, time = sst_emotionnet_inputs(20 * torch.randn(3, 5, 2000), 200, maps)
    >>> frequency.shape, time.shape
    (torch.Size([30, 1, 5, 16, 16]), torch.Size([30, 1, 25, 16, 16]))
    """
    name = "sst_emotionnet_inputs"
    trials, maps = _trials_and_maps(name, signal, ch_names, size)
    length, hop, count = count_windows(name, trials, sfreq, window, step)
    if n_steps != int(n_steps) or n_steps < 1 or length % n_steps:
        raise ValueError(
            f"{name}: n_steps must divide the {length} samples of a window, got {n_steps!r}; give "
            "another n_steps or window, or resample the recording"
        )
    entropy = DifferentialEntropy(
        sfreq, recipe, bands, length / sfreq, hop / sfreq, unit, n_fft=n_fft
    )
    frequency = entropy(trials)  # (trials, windows, n_chans, bands)
    count = min(count, frequency.shape[1])
    windows = trials.unfold(-1, length, hop)[:, :, :count]  # (trials, n_chans, windows, length)
    means = windows.unflatten(-1, (n_steps, -1)).mean(-1).transpose(1, 2) * UNITS[unit]
    stacks = [_stacks(part[:, :count], maps, zscore, name) for part in (frequency, means)]
    return ModelInputs(stacks, len(trials), [i * hop / sfreq for i in range(count)])
