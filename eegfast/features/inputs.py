# SPDX-License-Identifier: BSD-3-Clause
"""From raw signals to what each network takes, in one call per network.

All take a trial ``(n_chans, n_times)`` or a batch of trials of one length ``(..., n_chans,
n_times)``, on any device, differentiable from end to end, and return :class:`ModelInputs`: the
tensors for the network, and which trial each row came from::

    inputs = ldm_eeg_inputs(signals, 200, ch_names)
    logits, labels = network(*inputs), trial_labels[inputs.trial]

Most of the papers do not say how their inputs were made. The defaults are one reading, every number
of it is an argument, and the docstrings say what is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from eegfast.features.differential_entropy import DifferentialEntropy, samples
from eegfast.features.extract import smoother_named
from eegfast.features.recipes import Bands

Statistics = str | tuple[Tensor, Tensor] | None


class ModelInputs(tuple):
    """The tensors of a network's ``forward``, a tuple, with their rows' origin.

    Attributes
    ----------
    trial : Tensor of int64, shape (N,)
        Index of each row's trial. Several leading axes of the signal count as one, the last running
        fastest.
    start : Tensor of float64, shape (N,)
        Seconds from the trial's beginning to the row's.
    """

    trial: Tensor
    start: Tensor

    def __new__(cls, tensors: Sequence[Tensor], n_trials: int, starts: Sequence[float]):
        inputs = super().__new__(cls, tensors)
        device = inputs[0].device
        inputs.trial = torch.arange(n_trials, device=device).repeat_interleave(len(starts))
        inputs.start = torch.tensor(starts, dtype=torch.float64, device=device).repeat(n_trials)
        return inputs


def check_trials(name: str, signal: Tensor, n_chans: int | None = None) -> Tensor:
    """Check the signal and return it as (trials, n_chans, n_times)."""
    if not isinstance(signal, Tensor) or not signal.is_floating_point():
        got = signal.dtype if isinstance(signal, Tensor) else type(signal).__name__
        raise TypeError(f"{name}: signal must be a floating point torch.Tensor, got {got}")
    if signal.dim() < 2 or n_chans not in (None, signal.shape[-2]):
        raise ValueError(
            f"{name}: signal must be (..., {n_chans or 'n_chans'}, n_times), "
            f"got shape {tuple(signal.shape)}"
        )
    return signal.flatten(0, -3) if signal.dim() > 2 else signal.unsqueeze(0)


def count_windows(
    name: str, signal: Tensor, sfreq: float, window: float | None, step: float | None
) -> tuple[int, int, int]:
    """Window and step in samples, and how many windows there are: at least one."""
    n_times = signal.shape[-1]
    if not 0 < sfreq < math.inf:
        raise ValueError(f"{name}: sfreq must be a positive number of Hz, got {sfreq!r}")
    length = max(n_times, 1) if window is None else samples("window", window, sfreq)
    hop = length if step is None else samples("step", step, sfreq)
    if n_times < length:
        raise ValueError(
            f"{name}: the signal has {n_times} samples ({n_times / sfreq:g} s), too few for one "
            f"window of {length} samples ({length / sfreq:g} s)"
        )
    return length, hop, (n_times - length) // hop + 1


def zscore_over(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Zero mean and unit population variance over ``dims``; unit scale where the variance is 0."""
    centred = x - x.mean(dims, keepdim=True)
    variance = centred.square().mean(dims, keepdim=True)
    return centred * torch.where(variance == 0, 1.0, variance).rsqrt()


def channel_statistics(signal: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of each channel, over all trials and all time.

    Parameters
    ----------
    signal : Tensor, shape (..., n_chans, n_times)
        Training trials.

    Returns
    -------
    tuple of Tensor
        Mean and standard deviation, each (n_chans,): the ``statistics`` of :func:`hamnet_inputs`
        and :func:`scalingnet_inputs`.

    Raises
    ------
    TypeError, ValueError
        If the signal is not ``(..., n_chans, n_times)`` or empty.
    """
    trials = check_trials("channel_statistics", signal)
    if trials.numel() == 0:
        raise ValueError(
            f"channel_statistics: signal must not be empty, got shape {tuple(signal.shape)}"
        )
    return trials.mean((0, 2)), trials.std((0, 2), correction=0)


def _normalized(trials: Tensor, statistics: Statistics, name: str) -> Tensor:
    match statistics:
        case None:
            return trials
        case "trial":
            return zscore_over(trials, (2,))
        case "all":
            return zscore_over(trials, (0, 2))
        case (Tensor() as mean, Tensor() as std) if mean.shape == std.shape == trials.shape[1:2]:
            std = torch.where(std == 0, 1.0, std)
            return (trials - mean.unsqueeze(-1)) / std.unsqueeze(-1)
    raise ValueError(
        f"{name}: statistics must be 'all', 'trial', None, or mean and standard deviation, two "
        f"tensors of shape ({trials.shape[1]},), got {statistics!r}"
    )


def _crops(
    name: str,
    signal: Tensor,
    sfreq: float,
    window: float | None,
    step: float | None,
    statistics: Statistics,
) -> ModelInputs:
    trials = check_trials(name, signal)
    length, hop, count = count_windows(name, trials, sfreq, window, step)
    crops = _normalized(trials, statistics, name).unfold(-1, length, hop).transpose(1, 2)
    crops = crops.flatten(0, 1).contiguous()
    return ModelInputs([crops], len(trials), [i * hop / sfreq for i in range(count)])


def hamnet_inputs(
    signal: Tensor,
    sfreq: float,
    *,
    window: float = 1.0,
    step: float | None = None,
    statistics: Statistics = "all",
) -> ModelInputs:
    """Crops of the raw signal for :class:`eegfast.models.HAMNet`.

    Parameters
    ----------
    signal : Tensor, shape (..., n_chans, n_times)
        Raw trials in any unit.
    sfreq : float
        Sampling rate in Hz.
    window, step : float
        Crop and distance of crops in seconds; ``step`` defaults to ``window``.
    statistics : {"all", "trial", None} or (Tensor, Tensor)
        Per-channel z-score: ``"all"`` by mean and population standard deviation over all that is
        given, ``"trial"`` over each trial by itself, None not at all. For an honest test give the
        training side's: ``channel_statistics(training_signals)``.

    Returns
    -------
    ModelInputs
        One tensor, ``(N, n_chans, window)``.

    Raises
    ------
    TypeError, ValueError
        If the signal is too short or of the wrong shape, a duration is not a whole number of
        samples, or ``statistics`` is none of the above.

    Notes
    -----
    The paper takes 1 s of 62 channels at 200 Hz, without overlap as far as its counts tell, and
    does not say how microvolts are normalised.

    Examples
    --------
    >>> training, test = 20 * torch.randn(4, 19, 1000), 20 * torch.randn(19, 1000)
    >>> (crops,) = hamnet_inputs(test, 200, statistics=channel_statistics(training))
    >>> crops.shape
    torch.Size([5, 19, 200])
    """
    return _crops("hamnet_inputs", signal, sfreq, window, step, statistics)


def scalingnet_inputs(
    signal: Tensor,
    sfreq: float,
    *,
    window: float | None = None,
    step: float | None = None,
    statistics: Statistics = "trial",
) -> ModelInputs:
    """Raw signals for :class:`eegfast.models.ScalingNet`.

    Parameters
    ----------
    signal, sfreq, step, statistics
        As for :func:`hamnet_inputs`; each trial is normalised by itself unless told otherwise.
    window : float, optional
        Crop in seconds. Default: the whole trial, as in the paper (DEAP: 63 s).

    Returns
    -------
    ModelInputs
        One tensor, ``(N, n_chans, n_times)``.

    Raises
    ------
    TypeError, ValueError
        As :func:`hamnet_inputs`.

    Notes
    -----
    The paper (arXiv 2105.13987) takes DEAP's preprocessed trials, 128 Hz and 4-45 Hz, and gives no
    normalisation.

    Examples
    --------
    >>> (x,) = scalingnet_inputs(20 * torch.randn(2, 32, 8064), 128)
    >>> x.shape
    torch.Size([2, 32, 8064])
    """
    return _crops("scalingnet_inputs", signal, sfreq, window, step, statistics)


def resattentionet_inputs(
    signal: Tensor,
    sfreq: float,
    *,
    window: float = 4.0,
    step: float | None = None,
    n_windows: int = 60,
    bands: Bands | None = None,
    recipe: str = "bcmi",
    n_fft: int | None = None,
    smooth: str = "lds",
    unit: str = "uV",
) -> ModelInputs:
    """Sequences of smoothed DE for :class:`eegfast.models.ResAttentioNet`.

    Parameters
    ----------
    signal : Tensor, shape (..., n_chans, n_times)
        Raw trials in ``unit``.
    sfreq : float
        Sampling rate in Hz.
    window, step : float
        Window and distance of windows in seconds; ``step`` defaults to ``window``.
    n_windows : int
        Length of the sequences. Longer trials are cut after it, shorter ones end in zeros.
    bands, recipe, n_fft
        Of the DE: :class:`DifferentialEntropy`.
    smooth : str
        One of :data:`eegfast.features.extract.SMOOTHERS`. It runs over the whole trial, before that
        is cut or filled up.
    unit : {"uV", "V"}
        Unit of the signal.

    Returns
    -------
    ModelInputs
        One tensor, ``(trials, n_windows, n_chans, bands)``.

    Raises
    ------
    TypeError, ValueError
        If the signal is too short or of the wrong shape, a duration is not a whole number of
        samples, or an argument is none of the above.

    Notes
    -----
    The published network sees each feature z-scored over all of a subject's trials, zeros included:
    :class:`eegfast.protocols.normalization.SubjectZScore` does that to the result, and says what it
    costs. The zeros tell how long a clip was, and so which clip: compare with trials of one length.

    Examples
    --------
    >>> (x,) = resattentionet_inputs(20 * torch.randn(2, 19, 12_000), 200, n_windows=20)
    >>> x.shape                                # 15 windows of 4 s, then 5 of zeros
    torch.Size([2, 20, 19, 5])
    """
    name = "resattentionet_inputs"
    trials = check_trials(name, signal)
    if n_windows != int(n_windows) or n_windows < 1:
        raise ValueError(f"{name}: n_windows must be a positive whole number, got {n_windows!r}")
    smoother = smoother_named(smooth)
    features = DifferentialEntropy(sfreq, recipe, bands, window, step, unit, n_fft=n_fft)(trials)
    if smoother is not None:
        features = smoother(features)
    missing = n_windows - features.shape[1]
    sequences = torch.nn.functional.pad(features, (0, 0, 0, 0, 0, missing))
    return ModelInputs([sequences], len(trials), [0.0])
