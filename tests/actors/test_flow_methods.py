"""Flow methods by name, and the engines they stand for."""

from __future__ import annotations

import pickle
import re
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from actors.errors import UserError
from actors.extract_settings import ExtractSettings
from actors.flow import TVL1, CPUEngine, get_engine, quantize
from actors.flow.choice import METHODS, RAFT, choose
from actors.flow.engine import is_on_gpu
from actors.flow.methods import QuantizingEngine, find_quantized
from actors.flow.raft import load_network
from actors.flow.settings import SCHEDULES

QUICK = TVL1(scales=1, warps=1, outer_iterations=1, inner_iterations=3)


def test_every_method_and_every_schedule_has_its_name():
    assert set(METHODS) == {"tvl1", "raft", *SCHEDULES}
    raft = RAFT(size="large")
    assert choose("tvl1", QUICK, raft) is QUICK
    assert choose("raft", QUICK, raft) is raft
    for name, schedule in SCHEDULES.items():
        assert choose(name, QUICK, raft) == schedule
    with pytest.raises(UserError, match="flow method 'fats' does not exist.*'fast'"):
        choose("fats", QUICK, raft)


def test_extraction_takes_its_flow_by_name():
    assert ExtractSettings(flow=QUICK).chosen_flow == QUICK
    assert ExtractSettings(flow=QUICK, flow_method="fast").chosen_flow == SCHEDULES["fast"]
    assert ExtractSettings(flow_method="raft").chosen_flow == RAFT()


def test_engines_by_device(monkeypatch):
    assert get_engine(QUICK) == CPUEngine(QUICK)

    class CUDAEngine:
        def __init__(self, settings, device, *, share):
            self.settings, self.device = settings, device

    module = ModuleType("actors.flow.cuda.engine")
    module.CUDAEngine = CUDAEngine
    monkeypatch.setitem(sys.modules, "actors.flow.cuda.engine", module)
    engine = get_engine(QUICK, "cuda:1")
    assert isinstance(engine, CUDAEngine)
    assert (engine.settings, engine.device) == (QUICK, "cuda:1")
    for name in ("tpu", "cuda:", "cuda:x", "cpu:0"):
        with pytest.raises(UserError, match=f"no optical flow for device '{name}'"):
            get_engine(QUICK, name)


def test_raft_on_a_gpu_that_is_not_there_is_refused_before_its_weights_are_sought(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="'cuda:7', but PyTorch finds 1 GPU"):
        get_engine(RAFT(weights="nowhere.pth"), "cuda:7")


@pytest.fixture
def gpu_seen(monkeypatch):
    """PyTorch seems to see a new GPU, where there may be none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU of a test")
    return monkeypatch


def no_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)


def no_compiler(monkeypatch):
    def run_smallest(device):
        raise RuntimeError("Failed to find C compiler.\nLong story.")

    gpu_solver = pytest.importorskip("actors.flow.cuda.solver")
    monkeypatch.setattr(gpu_solver, "run_smallest", run_smallest)


def no_assembler(monkeypatch):
    def run_smallest(device):
        raise pytest.importorskip("triton.runtime.errors").PTXASError("does not know it")

    gpu_solver = pytest.importorskip("actors.flow.cuda.solver")
    monkeypatch.setattr(gpu_solver, "run_smallest", run_smallest)


def too_old(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))


UNUSABLE = [
    (no_triton, "needs Triton, which can't be imported"),
    (no_compiler, "can't run a kernel on 'cuda' \\(RuntimeError: Failed to find C compiler"),
    (no_assembler, "can't run a kernel on 'cuda' \\(PTXASError: PTXAS error: does not know it"),
    (too_old, "GPU of a test has compute capability 6.1, and Triton needs 7.0 or above"),
]


@pytest.mark.parametrize(("breakage", "cause"), UNUSABLE)
def test_a_gpu_that_triton_cannot_use_leaves_auto_to_the_cpu(gpu_seen, caplog, breakage, cause):
    breakage(gpu_seen)
    engine = get_engine(QUICK, "auto", threads=2)
    assert engine == CPUEngine(QUICK, 2)
    assert re.search(f"on the CPU because the GPU can't be used: .*{cause}", engine.note)
    assert "Long story" not in engine.note
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [("WARNING", engine.note)]
    with pytest.raises(UserError, match=f"{cause}.*choose device 'cpu'") as raised:
        get_engine(QUICK, "cuda")
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)  # noqa: S301


def test_auto_takes_a_usable_gpu_and_else_says_nothing(gpu_seen, caplog):
    gpu_solver = pytest.importorskip("actors.flow.cuda.solver")
    tried = []
    gpu_seen.setattr(gpu_solver, "run_smallest", tried.append)
    engine = get_engine(QUICK, "auto")
    assert str(engine.device) == "cuda" and tried == [engine.device]
    assert is_on_gpu(engine)
    gpu_seen.setattr(torch.cuda, "is_available", lambda: False)
    engine = get_engine(QUICK, "auto")
    assert engine == CPUEngine(QUICK) and engine.note is None
    assert not is_on_gpu(CPUEngine(QUICK)) and not is_on_gpu(None)
    assert not caplog.records


def test_auto_hides_no_other_mistake(gpu_seen):
    with pytest.raises(UserError, match="nowhere.safetensors"):
        get_engine(RAFT(weights="nowhere.safetensors"), "auto")


def test_raft_by_name(tmp_path):
    import safetensors.torch
    from torchvision.models.optical_flow import raft_small

    path = tmp_path / "small.safetensors"
    safetensors.torch.save_file(raft_small().state_dict(), path)
    engine = get_engine(RAFT(weights=str(path), updates=1))
    assert engine.color
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8)
    assert find_quantized(engine, frames, 20.0).shape == (1, 2, 32, 32)
    assert not load_network(engine.settings).training


def test_bytes_are_the_engines_own_where_it_gives_them():
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    plain = CPUEngine(QUICK)
    assert np.array_equal(find_quantized(plain.__call__, frames, 5.0), quantize(plain(frames), 5.0))

    class Own:
        def __call__(self, frames):
            raise AssertionError("bytes are to be asked for")

        def quantized(self, frames, bound):
            return np.full((len(frames) - 1, 2, *frames.shape[1:]), bound, np.uint8)

    assert isinstance(Own(), QuantizingEngine)
    assert (find_quantized(Own(), frames, 7.0) == 7).all()
