# SPDX-License-Identifier: BSD-3-Clause
"""What every network of the registry can do, by its example inputs."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from eegfast import models

# Small ones where the published network would take long.
SMALL = {
    "hamnet": dict(stage="pretrain", n_chans=19, n_times=120),
    "ldm-eeg": dict(n=1, c=2),
    "resattentionet": dict(n_chans=19, n_windows=12),
    "scalingnet": dict(n_chans=19, n_times=200, kernel_length=9),
    "sst-emotionnet": dict(grid=16, n_steps=8, frequency_depth=10, time_depth=10),
}
every = pytest.mark.parametrize("name", sorted(models.names()))


def make(name, **options):
    torch.manual_seed(0)
    return models.create(name, **(SMALL[name] | options))


def inputs_of(net, batch=3, seed=1):
    torch.manual_seed(seed)
    return net.example_inputs(batch)


@every
def test_published_defaults_take_their_example(name):
    net = models.create(name).eval()
    assert net(*inputs_of(net, 2)).shape == (2, net.config["n_outputs"])


@every
@pytest.mark.parametrize("n_outputs", [2, 5])
def test_logits(name, n_outputs):
    net = make(name, n_outputs=n_outputs)
    out = net(*inputs_of(net))
    assert out.shape == (3, n_outputs) and out.dtype == torch.float32
    assert out.min() < 0 or out.sum(1).sub(1).abs().max() > 1e-3  # no softmax


@every
def test_samples_do_not_see_each_other(name):
    net = make(name).eval()
    inputs = inputs_of(net, 4)
    one = net(*(x[2:3] for x in inputs))
    torch.testing.assert_close(net(*inputs)[2:3], one, rtol=1e-4, atol=1e-5)


@every
def test_every_parameter_gets_a_gradient(name):
    net = make(name)
    net(*inputs_of(net, 4)).square().sum().backward()
    missing = [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


@every
def test_same_numbers_again(name):
    def run():
        net = make(name)
        optimizer = torch.optim.Adam(net.parameters(), 1e-3)
        for step in range(2):
            torch.manual_seed(step)  # of dropout
            optimizer.zero_grad()
            net(*inputs_of(net, 4, step)).logsumexp(1).sum().backward()
            optimizer.step()
        return net.state_dict()

    first, second = run(), run()
    assert all(torch.equal(first[key], second[key]) for key in first)


@every
def test_learns_which_of_two_inputs_it_sees(name):
    net = make(name, n_outputs=2)
    inputs, labels = inputs_of(net, 8), torch.arange(8) % 2
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(*inputs), labels)
        loss.backward()
        optimizer.step()
        if loss < 0.1:
            break
    assert loss < 0.35


@every
def test_files_round_trip(name, tmp_path):
    net = make(name).eval()
    net(*inputs_of(net))
    path = net.save_pretrained(tmp_path / "net")
    assert path == tmp_path / "net.safetensors" and list(tmp_path.iterdir()) == [path]
    again = models.from_pretrained(path)
    assert type(again) is type(net) and again.config == net.config and not again.training
    inputs = inputs_of(net)
    assert torch.equal(net(*inputs), again(*inputs))
    assert type(net).from_pretrained(path).config == net.config
    assert json.loads(json.dumps(net.config)) == net.config
    assert torch.equal(copy.deepcopy(net)(*inputs), net(*inputs))


@every
def test_summary_counts_every_parameter(name):
    net = make(name)
    text = net.summary()
    total = sum(p.numel() for p in net.parameters())
    assert f"{total:,} parameters" in text and net.training
    assert len({len(line) for line in text.splitlines()[1:-1]}) == 1


@every
def test_state_dict_loads_strictly(name):
    net, other = make(name), make(name)
    net(*inputs_of(net))
    other.load_state_dict(net.state_dict())
    inputs = inputs_of(net)
    assert torch.equal(net.eval()(*inputs), other.eval()(*inputs))


@every
def test_compiles_whole(name):
    torch._dynamo.reset()
    net = make(name)
    twin = copy.deepcopy(net)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for mode in (True, False):
        net.train(mode), twin.train(mode)
        for module in (*net.modules(), *twin.modules()):
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        inputs = inputs_of(net, 4)
        torch.testing.assert_close(compiled(*inputs), net(*inputs), rtol=1e-4, atol=1e-5)
    for key, value in net.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[key], value, rtol=1e-5, atol=1e-6)


@every
def test_exports_without_our_operators(name):
    net = make(name)
    program = net.export()
    assert net.training
    assert not [n for n in program.graph.nodes if "eegfast" in str(n.target)]
    for batch in (1, 5):
        inputs = inputs_of(net, batch)
        expected = net.eval()(*inputs)
        torch.testing.assert_close(program.module()(*inputs), expected, rtol=1e-4, atol=1e-5)


@every
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx_gives_the_same(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = make(name).eval()
    path = net.export_onnx(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 4):
        inputs = inputs_of(net, batch)
        names = (i.name for i in session.get_inputs())
        (out,) = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        torch.testing.assert_close(
            torch.from_numpy(out), net(*inputs).detach(), rtol=1e-4, atol=1e-4
        )


@every
def test_autocast(name):
    net = make(name)
    inputs = inputs_of(net, 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(*inputs)
        loss = out.float().square().mean()
    loss.backward()
    assert all(p.grad.dtype == p.dtype for p in net.parameters() if p.grad is not None)
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    net.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = net(*inputs).float()
    with torch.no_grad():
        full = net(*inputs)
    assert (half - full).norm() <= 0.1 * full.norm().clamp(min=0.1)


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_files_that_are_no_network(tmp_path, capsys):
    net = make("resattentionet")
    path = net.save_pretrained(tmp_path / "net")
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors: no such file"):
        models.from_pretrained(tmp_path / "nowhere.safetensors")
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(path), bare)
    with pytest.raises(ValueError, match="bare.safetensors: weights without a configuration"):
        models.from_pretrained(bare)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="torn.safetensors: not a safetensors file"):
        models.from_pretrained(torn)
    pickled = tmp_path / "pickled.safetensors"
    torch.save(Evil(), pickled)
    with pytest.raises(ValueError, match="pickled.safetensors: not a safetensors file"):
        models.from_pretrained(pickled)
    assert "code ran" not in capsys.readouterr().out

    def rewritten(**changes):
        about = {"model": "resattentionet", "config": net.config} | changes
        save_file(load_file(path), bare, {"eegfast": json.dumps(about)})
        return bare

    with pytest.raises(ValueError, match="bare.safetensors: .*no model named 'transformer'"):
        models.from_pretrained(rewritten(model="transformer"))
    with pytest.raises(ValueError, match="bare.safetensors: .*'depth'"):
        models.from_pretrained(rewritten(config={"depth": 3}))
    with pytest.raises(ValueError, match=r"bare.safetensors: [\s\S]*size mismatch"):
        models.from_pretrained(rewritten(config=net.config | {"n_outputs": 7}))
    other = next(n for n in models.names() if n != "resattentionet")
    with pytest.raises(
        ValueError, match="net.safetensors: an? .* expected, this is resattentionet"
    ):
        type(make(other)).from_pretrained(path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    net = make("resattentionet")
    path = net.save_pretrained(tmp_path / "net")
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        net.save_pretrained(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
