# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
import torch

from eegfast.datasets import EEGMAT, SEED_CHANNELS
from eegfast.features import (
    DEFAULT_BANDS,
    ElectrodeMaps,
    LDSSmoother,
    channel_statistics,
    differential_entropy,
    electrode_maps,
    hamnet_inputs,
    ldm_eeg_inputs,
    moving_average,
    resattentionet_inputs,
    scalingnet_inputs,
    sst_emotionnet_inputs,
)
from eegfast.models import ResAttentioNet

from . import oracles

NAMES = EEGMAT(subjects=[1])[0].ch_names
BANDS = {**DEFAULT_BANDS, "gamma": (31, 49)}  # bcmi's


@pytest.fixture(scope="module")
def trials():
    """Two recordings of 10 s: (2, 19, 2000), float64 microvolts."""
    return torch.stack([torch.from_numpy(r.signal[:, :2000]).double() for r in EEGMAT([1])])


def draw(values, names=NAMES, size=32):
    """Features (depth, n_chans) to a stack of maps (1, depth, size, size)."""
    matrix = electrode_maps(names, size).numpy()
    return (values @ matrix.T).reshape(1, -1, size, size)


def standardized(x):
    return (x - x.mean()) / x.std()


def close(ours, expected, atol=1e-9):
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=atol)


def test_ldm_of_single_windows(trials):
    """With a recipe that knows only its window, each sample can be made from its own piece."""
    options = {"recipe": "bcmi", "bands": BANDS}
    frequency, time = inputs = ldm_eeg_inputs(trials, 200, NAMES, **options)
    assert frequency.shape == (12, 1, 5, 32, 32) and time.shape == (12, 1, 8, 32, 32)
    assert inputs.trial.tolist() == [0] * 6 + [1] * 6
    for row in (0, 5, 8):
        trial, sample = divmod(row, 6)
        assert inputs.start[row] == pytest.approx(1.6 * sample)
        piece = trials[trial, :, 320 * sample : 320 * (sample + 1)].numpy()
        five = oracles.seed_vii(piece, 200, 320, 320, BANDS.values())[0]
        broad = oracles.seed_vii(piece, 200, 40, 40, [(1, 50)])[..., 0]
        close(frequency[row], standardized(draw(five.T)))
        close(time[row], standardized(draw(broad)))


def test_ldm_of_the_clean_recipe(trials):
    frequency, time = ldm_eeg_inputs(trials, 200, NAMES, zscore=None)
    five = differential_entropy(trials, 200, "clean", window=1.6)
    broad = differential_entropy(trials, 200, "clean", {"all": (1, 50)}, window=0.2)[..., 0]
    close(frequency[7], draw(five[1, 1].T.numpy()))
    close(time[7], draw(broad[1, 8:16].numpy()))


def test_ldm_arguments(trials):
    x = trials[0]
    maps = ElectrodeMaps(NAMES, size=16, fill="zero", resize="nearest", dtype=torch.float64)
    inputs = ldm_eeg_inputs(
        x,
        200,
        maps,
        window=0.5,
        n_steps=4,
        step=1.0,
        time_band=(4, 30),
        bands={"alpha": (8, 14), "beta": (14, 31)},
        recipe="matlab",
        n_fft=512,
        zscore=None,
    )
    frequency, time = inputs
    assert frequency.shape == (9, 1, 2, 16, 16) and time.shape == (9, 1, 4, 16, 16)
    assert inputs.start.tolist() == list(range(9))
    piece = x[:, 600:1000]
    two = {"alpha": (8, 14), "beta": (14, 31)}
    expected = differential_entropy(piece, 200, "matlab", two, 2.0, n_fft=512)
    close(frequency[3], maps(expected[0], axis=0).unsqueeze(0))
    expected = differential_entropy(piece, 200, "matlab", {"t": (4, 30)}, 0.5, n_fft=512)
    close(time[3], maps(expected[..., 0]).unsqueeze(0))
    volts = ldm_eeg_inputs(x * 1e-6, 200, NAMES, unit="V")
    torch.testing.assert_close(volts[1], ldm_eeg_inputs(x, 200, NAMES)[1], rtol=0, atol=1e-8)


def test_ldm_with_the_recipe_that_drops_its_last_window(trials):
    frequency, time = inputs = ldm_eeg_inputs(trials, 200, NAMES, recipe="libeer", step=0.4)
    assert len(frequency) == len(time) == len(inputs.trial) == 2 * 21  # others: 22 a trial
    assert inputs.start[20:22].tolist() == pytest.approx([8.0, 0.0])


def test_zscores(trials):
    stack = ldm_eeg_inputs(trials, 200, NAMES, zscore="stack")
    for part in stack:
        close(part.mean((1, 2, 3, 4)), 0.0)
        close(part.std((1, 2, 3, 4), correction=0), 1.0)
    electrodes = ldm_eeg_inputs(
        trials, 200, ElectrodeMaps(NAMES, 9, dtype=torch.float64), zscore="electrodes"
    )
    used = electrode_maps(NAMES, 9).sum(1).bool().view(9, 9)
    plain = ldm_eeg_inputs(trials, 200, ElectrodeMaps(NAMES, 9, dtype=torch.float64), zscore=None)
    for part, raw in zip(electrodes, plain, strict=True):
        close(part[3][..., used], standardized(raw[3][..., used].numpy()))
        assert (part[..., ~used] == 0).all()


def test_sst(trials):
    frequency, time = inputs = sst_emotionnet_inputs(trials, 200, NAMES)
    assert frequency.shape == (20, 1, 5, 32, 32) and time.shape == (20, 1, 25, 32, 32)
    assert inputs.trial.tolist() == [0] * 10 + [1] * 10
    assert inputs.start.tolist() == [*range(10), *range(10)]
    piece = trials[1, :, 600:800].numpy()
    five = oracles.seed_vii(piece, 200, 200, 200, BANDS.values())[0]
    close(frequency[13], draw(five.T))
    means = np.stack([piece[:, 8 * t : 8 * t + 8].mean(1) for t in range(25)])
    close(time[13], draw(means))


def test_sst_arguments(trials):
    inputs = sst_emotionnet_inputs(
        trials[0] * 1e-6, 200, NAMES, window=2.0, step=0.5, n_steps=10, unit="V"
    )
    assert inputs[0].shape == (17, 1, 5, 32, 32) and inputs[1].shape == (17, 1, 10, 32, 32)
    piece = trials[0, :, 300:700].numpy()
    means = np.stack([piece[:, 40 * t : 40 * t + 40].mean(1) for t in range(10)])
    close(inputs[1][3], draw(means))
    standard = sst_emotionnet_inputs(trials, 200, NAMES, n_steps=10, zscore="stack")
    means = trials[1, :, 200:400].view(19, 10, 20).mean(-1).T.numpy()
    close(standard[1][11], standardized(draw(means)))
    dropped = sst_emotionnet_inputs(trials, 200, NAMES, step=0.5, recipe="libeer")
    assert len(dropped[0]) == len(dropped[1]) == len(dropped.trial) == 2 * 18


def test_crops_and_statistics(trials):
    training, test = trials, trials[:, :, :900] * 2 + 5
    mean, std = channel_statistics(training)
    pooled = training.transpose(0, 1).flatten(1).numpy()
    close(mean, pooled.mean(1))
    close(std, pooled.std(1))
    (crops,) = inputs = hamnet_inputs(test, 200, statistics=(mean, std))
    assert crops.shape == (8, 19, 200) and inputs.trial.tolist() == [0] * 4 + [1] * 4
    piece = test[1, :, 400:600].numpy()
    close(crops[6], (piece - pooled.mean(1)[:, None]) / pooled.std(1)[:, None])

    (by_itself,) = hamnet_inputs(training, 200)
    close(by_itself, hamnet_inputs(training, 200, statistics=(mean, std))[0])
    (per_trial,) = hamnet_inputs(training, 200, statistics="trial")
    assert per_trial.shape == (20, 19, 200)
    together = per_trial.view(2, 10, 19, 200)
    close(together.mean((1, 3)), 0.0)
    close(together.std((1, 3), correction=0), 1.0)
    (raw,) = hamnet_inputs(training, 200, window=0.5, step=0.25, statistics=None)
    assert raw.shape == (2 * 39, 19, 100)
    close(raw[40], training[1, :, 50:150])


def test_scalingnet(trials):
    (whole,) = inputs = scalingnet_inputs(trials, 200)
    assert whole.shape == trials.shape and inputs.start.tolist() == [0, 0]
    close(whole.mean(-1), 0.0)
    close(whole.std(-1, correction=0), 1.0)
    (crops,) = scalingnet_inputs(trials, 200, window=5)
    close(crops[3], whole[1, :, 1000:])
    flat = trials.clone()
    flat[0, 3] = 7.0
    assert (scalingnet_inputs(flat, 200)[0][0, 3] == 0).all()


@pytest.mark.parametrize("smooth", ["lds", "ma", "none"])
def test_resattentionet(trials, smooth):
    smoothers = {"lds": LDSSmoother(), "ma": moving_average, "none": lambda x: x}
    features = differential_entropy(trials, 200, "bcmi", window=1.0)
    expected = smoothers[smooth](features)  # (2, 10, 19, 5)
    (cut,) = resattentionet_inputs(trials, 200, window=1.0, n_windows=4, smooth=smooth)
    torch.testing.assert_close(cut, expected[:, :4])
    (filled,) = inputs = resattentionet_inputs(trials, 200, window=1.0, n_windows=60, smooth=smooth)
    assert filled.shape == (2, 60, 19, 5) and inputs.trial.tolist() == [0, 1]
    torch.testing.assert_close(filled[:, :10], expected)
    assert (filled[:, 10:] == 0).all()


def test_goes_into_its_network(trials):
    network = ResAttentioNet(n_chans=19, n_outputs=2).eval()
    assert network(*resattentionet_inputs(trials.float(), 200)).shape == (2, 2)


MAKERS = {
    "ldm": lambda x: ldm_eeg_inputs(x, 200, NAMES),
    "sst": lambda x: sst_emotionnet_inputs(x, 200, NAMES, zscore="stack"),
    "hamnet": lambda x: hamnet_inputs(x, 200, statistics="trial"),
    "scalingnet": lambda x: scalingnet_inputs(x, 200),
    "resattentionet": lambda x: resattentionet_inputs(x, 200, window=1.0, n_windows=12),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_trials_one_by_one_or_together(make, trials):
    together = make(trials.reshape(1, 2, 19, 2000))
    apart = [make(trial) for trial in trials]
    for i, part in enumerate(together):
        torch.testing.assert_close(part, torch.cat([inputs[i] for inputs in apart]))
        assert len(part) == len(together.trial) == len(together.start)
    labels = torch.tensor([3, 7])[together.trial]
    assert labels.tolist() == [3] * len(apart[0][0]) + [7] * len(apart[1][0])


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_gradients_reach_the_signal(make, trials):
    x = trials[:, :, :1000].clone().requires_grad_()
    weights = [torch.randn(part.shape, dtype=x.dtype) for part in make(x.detach())]

    def loss(signal):
        return sum((w * part).sum() for w, part in zip(weights, make(signal), strict=True))

    (gradient,) = torch.autograd.grad(loss(x), x)
    direction = torch.randn_like(x)
    with torch.no_grad():
        h = 1e-4
        slope = (loss(x + h * direction) - loss(x - h * direction)) / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_single_precision(make, trials):
    for ours, exact in zip(make(trials.float()), make(trials), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=5e-4)


def test_maps_kept_from_inference_mode_can_be_trained_through():
    names = ["Fp1", "Fp2", "C3", "C4", "O1"]  # no other test keeps these
    x = 20 * torch.randn(5, 400)
    with torch.inference_mode():
        ldm_eeg_inputs(x, 200, names)
    ldm_eeg_inputs(x.requires_grad_(), 200, names)[0].square().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ldm_eeg_inputs(torch.zeros(4, 900), 200, SEED_CHANNELS), r"\(..., 62, n_times\)"),
        (lambda: ldm_eeg_inputs(torch.zeros(1, 900), 200, "Cz"), "sequence of names or Electrode"),
        (lambda: ldm_eeg_inputs(torch.zeros(1, 900), 200, ["M1"]), "no place .* for M1"),
        (lambda: ldm_eeg_inputs(torch.zeros(1, 300), 200, ["Cz"]), "has 300 samples .* 320"),
        (lambda: ldm_eeg_inputs(torch.zeros(1, 900), 128, ["Cz"]), "25.6 samples at 128 Hz"),
        (lambda: ldm_eeg_inputs(torch.zeros(1, 900), 200, ["Cz"], step=0.3), "whole number of win"),
        (lambda: ldm_eeg_inputs(torch.zeros(1, 900), 200, ["Cz"], n_steps=0), "n_steps must be"),
        (lambda: ldm_eeg_inputs(torch.zeros(1, 900), 200, ["Cz"], zscore="map"), "got 'map'"),
        (lambda: ldm_eeg_inputs(torch.zeros(1, 900), 200, ["Cz"], recipe="psd"), "got 'psd'"),
        (lambda: sst_emotionnet_inputs(torch.ones(1, 900), 128, ["Cz"]), "divide the 128 samples"),
        (lambda: hamnet_inputs(torch.zeros(3, 150), 200), "too few for one window of 200"),
        (lambda: hamnet_inputs(torch.zeros(3, 150), 0), "sfreq must be a positive number"),
        (lambda: hamnet_inputs(torch.zeros(9), 200), r"got shape \(9,\)"),
        (lambda: hamnet_inputs(torch.zeros(3, 400), 200, statistics="x"), "statistics must be"),
        (
            lambda: hamnet_inputs(torch.ones(3, 400), 200, statistics=(torch.ones(2),) * 2),
            r"two tensors of shape \(3,\)",
        ),
        (lambda: scalingnet_inputs(torch.zeros(3, 0), 200), "has 0 samples"),
        (lambda: channel_statistics(torch.zeros(3, 0)), "must not be empty"),
        (lambda: resattentionet_inputs(torch.ones(1, 900), 200, n_windows=0), "n_windows must be"),
        (lambda: resattentionet_inputs(torch.ones(1, 900), 200, smooth="x"), "smooth must be one"),
        (lambda: resattentionet_inputs(torch.ones(1, 700), 200), "too few for one window of 800"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("signal", [np.zeros((1, 900)), torch.zeros(1, 900, dtype=torch.int64)])
@pytest.mark.parametrize("make", [ldm_eeg_inputs, sst_emotionnet_inputs])
def test_signals_must_be_floating_point_tensors(make, signal):
    with pytest.raises(TypeError, match="signal must be a floating point torch.Tensor, got"):
        make(signal, 200, ["Cz"])
