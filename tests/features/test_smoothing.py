# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
import torch

from eegfast.features import LDS_VARIANTS, LDSSmoother, moving_average

from . import oracles


def features(windows=50, n_chans=3, bands=2, seed=0):
    rng = np.random.default_rng(seed)
    return 15 + rng.standard_normal((windows, n_chans, bands)).cumsum(0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("windows", [1, 2, 47, 240])
def test_bcmi_is_pykalman(causal, windows):
    pykalman = pytest.importorskip("pykalman")
    y = features(windows)
    expected = np.zeros_like(y)
    for c, b in np.ndindex(y.shape[1:]):
        model = pykalman.KalmanFilter(
            transition_matrices=1,
            observation_matrices=1,
            transition_covariance=0.001,
            observation_covariance=1,
            initial_state_mean=y[:, c, b].mean(),
            initial_state_covariance=0.1,
        )
        run = model.filter if causal else model.smooth
        expected[:, c, b] = run(y[:, c, b])[0][:, 0]
    ours = LDSSmoother(causal=causal)(torch.from_numpy(y)).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("variant", ["torcheeg", "libeer"])
@pytest.mark.parametrize("windows", [1, 2, 300])
def test_forward_only_variants(variant, windows):
    y = features(windows)
    smoother = LDSSmoother(variant=variant)
    assert smoother.causal
    expected = oracles.forward_kalman(y, subtract_mean=variant == "torcheeg")
    np.testing.assert_allclose(smoother(torch.from_numpy(y)).numpy(), expected, rtol=0, atol=1e-10)


def test_torcheeg_is_the_installed_hook():
    hooks = pytest.importorskip("torcheeg.transforms", exc_type=ImportError)
    y = features(60)
    expected = np.stack(hooks.after_hook_linear_dynamical_system(list(y)))
    ours = LDSSmoother(variant="torcheeg")(torch.from_numpy(y)).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-10)


def test_only_the_first_window_as_prior_is_causal():
    y = torch.from_numpy(features(40))
    changed = y.clone()
    changed[20:] += 5
    causal = LDSSmoother(causal=True, prior="first")
    torch.testing.assert_close(causal(changed)[:20], causal(y)[:20])
    torch.testing.assert_close(causal(y)[0], y[0])
    for smoother in (LDSSmoother(causal=True), LDSSmoother(prior="first")):
        assert not torch.allclose(smoother(changed)[:20], smoother(y)[:20])


@pytest.mark.parametrize("variant", LDS_VARIANTS)
def test_smoother_takes_any_shape_and_gradients(variant):
    smoother = LDSSmoother(variant=variant)
    y = torch.from_numpy(features(12)).expand(2, 2, 12, 3, 2)
    torch.testing.assert_close(smoother(y)[1, 0], smoother(y[1, 0]))
    assert smoother(y.float()).dtype == torch.float32
    assert smoother(torch.zeros(4, 0, 3, 2)).shape == (4, 0, 3, 2)
    assert torch.autograd.gradcheck(smoother, y[0, 0, :, :2].clone().requires_grad_())


def test_impossible_smoothers():
    with pytest.raises(ValueError, match="variant must be one of bcmi, torcheeg, libeer"):
        LDSSmoother(variant="seed")
    with pytest.raises(ValueError, match="prior must be"):
        LDSSmoother(prior="median")
    with pytest.raises(ValueError, match="is for variant 'bcmi'"):
        LDSSmoother(variant="libeer", prior="first")


@pytest.mark.parametrize("length", [1, 3, 5, 41])
def test_moving_average(length):
    y = features(17)
    half = length // 2
    expected = np.stack([y[max(0, t - half) : t + half + 1].mean(0) for t in range(17)])
    ours = moving_average(torch.from_numpy(y), length)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=1e-12)
    batch = torch.from_numpy(y).expand(2, 5, *y.shape)
    torch.testing.assert_close(moving_average(batch, length)[1, 3], ours)


def test_moving_average_edges():
    assert moving_average(torch.zeros(0, 3, 2)).shape == (0, 3, 2)
    y = torch.from_numpy(features(6)).requires_grad_()
    assert torch.autograd.gradcheck(moving_average, y)
    for length in (0, 4, 2.5):
        with pytest.raises(ValueError, match="odd number of windows"):
            moving_average(y, length)
    with pytest.raises(ValueError, match="windows, n_chans, bands"):
        moving_average(torch.zeros(3, 2))
