"""RAFT behind the flow interface, with random weights; what needs trained ones is skipped."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch
from torchvision.models import optical_flow

from actors.errors import UserError
from actors.flow import raft
from actors.flow.choice import RAFT
from actors.flow.devices import Fitting
from actors.flow.raft import RAFTEngine, padding
from actors.weights import cached_file


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files of random weights that move the field by some pixels."""
    folder = tmp_path_factory.mktemp("raft")
    for size in ("small", "large"):
        torch.manual_seed(1)
        network = getattr(optical_flow, f"raft_{size}")()
        state = {k: v.contiguous() for k, v in network.state_dict().items()}
        safetensors.torch.save_file(state, folder / f"{size}.safetensors")
        torch.save(state, folder / f"{size}.pth")
    return folder


@pytest.fixture(scope="module")
def engine(weights):
    return RAFTEngine(RAFT(weights=str(weights / "small.safetensors"), updates=3))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def plain(network, first, second, updates):
    """torchvision's own forward pass on uint8 RGB frames (N, 3, H, W)."""
    first, second = (torch.from_numpy(f).float() / 127.5 - 1 for f in (first, second))
    with torch.inference_mode():
        return network(first, second, num_flow_updates=updates)[-1].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("size", ["small", "large"])
def test_equals_torchvisions_forward_pass(weights, size):
    settings = RAFT(size=size, weights=str(weights / f"{size}.pth"), updates=2)
    frames = noise(3, 3, 128, 136)
    ours = RAFTEngine(settings)(frames)
    theirs = plain(raft.load_network(settings), frames[:-1], frames[1:], 2)
    assert ours.shape == (2, 2, 128, 136) and ours.dtype == np.float32
    assert np.abs(theirs).max() > 0.1
    assert np.allclose(ours, theirs, atol=1e-3)


def test_gray_is_three_equal_channels_and_pairs_are_neighbors(engine):
    gray = noise(4, 128, 128)
    fields = engine(gray)
    assert fields.shape == (3, 2, 128, 128)
    assert np.array_equal(fields, engine(np.repeat(gray[:, None], 3, axis=1)))
    pairs = np.stack([gray[:-1], gray[1:]], axis=1)
    assert np.allclose(engine(pairs), fields, atol=1e-3)
    assert np.abs(fields).max() > 0.1


def test_odd_sizes_are_padded_by_their_edge(engine):
    frames = noise(2, 3, 131, 150)
    left, right, top, bottom = padding(131, 150)
    assert (left, right, top, bottom) == (1, 1, 2, 3)
    sides = ((0, 0), (0, 0), (top, bottom), (left, right))
    padded = engine(np.pad(frames, sides, mode="edge"))
    assert padded.shape == (1, 2, 136, 152)
    assert np.array_equal(engine(frames), padded[:, :, top : top + 131, left : left + 150])


def test_small_frames_are_padded_to_what_the_network_takes(engine):
    assert padding(16, 17) == (55, 56, 56, 56)
    field = engine(noise(2, 16, 17))
    assert field.shape == (1, 2, 16, 17) and np.isfinite(field).all()
    with pytest.raises(ValueError, match="40x15 pixels; flow needs at least 16x16"):
        engine(noise(2, 15, 40))


@pytest.mark.slow
def test_batches_change_nothing(engine, monkeypatch):
    frames = noise(6, 128, 128)
    whole = engine(frames)
    assert np.array_equal(whole, engine(frames))
    monkeypatch.setattr(raft, "CPU_BYTES", 2 * raft.pair_bytes(128, 128))
    assert engine._pairs_at_once(128, 128) == 2
    assert np.allclose(engine(frames), whole, atol=1e-3)
    pairs = np.stack([frames[:-1], frames[1:]], axis=1)
    assert np.allclose(engine(pairs), whole, atol=1e-3)
    monkeypatch.setattr(raft, "CPU_BYTES", 1)
    assert np.allclose(engine(frames), whole, atol=1e-3)


@pytest.fixture
def small_memory(engine, monkeypatch):
    """The engine's memory runs out above so many pairs, late in a batch; what it tried."""
    refine, tried = engine._refine, []

    def limited(first, *others):
        field = refine(first, *others)
        tried.append(len(first))
        if len(first) > small_memory.room:
            raise torch.cuda.OutOfMemoryError
        return field

    def small_memory(room):
        small_memory.room = room
        return tried

    monkeypatch.setattr(raft, "MOST_PAIRS", 4)
    monkeypatch.setattr(engine, "_refine", limited)
    monkeypatch.setattr(engine, "_fitting", Fitting(engine.device, 1.0))
    monkeypatch.setattr("actors.flow.devices.free_memory", lambda device, share: 7 * 2**20)
    return small_memory


@pytest.mark.slow
@pytest.mark.parametrize("room", [2, 1])
def test_halves_a_batch_that_does_not_fit(engine, small_memory, room):
    frames = noise(6, 128, 128)
    tried = small_memory(room=4)
    whole = engine(frames)
    assert tried == [4, 1]
    small_memory(room)
    tried.clear()
    for _ in range(2):
        assert np.allclose(engine(frames), whole, atol=1e-3)
    # What did not fit is not tried again.
    assert tried == [4, *[2, 2, 1] * 2] if room == 2 else tried == [4, 2, *[1] * 10]


def test_no_memory_for_a_single_pair(engine, small_memory):
    small_memory(room=0)
    needed = raft.pair_bytes(128, 136) / 2**20
    words = rf"pair of 136x128 pixels, which takes about {needed:,.0f} MiB; 7 MiB are free. Use"
    with pytest.raises(UserError, match=words):
        engine(noise(3, 128, 136))


def test_strides_and_no_pairs(engine):
    frames = noise(4, 256, 256)
    view = frames[::2, ::2, ::-2]
    assert np.array_equal(engine(view), engine(view.copy()))
    for n in (0, 1):
        assert engine(frames[:n]).shape == (0, 2, 256, 256)


def test_wrong_frames_are_refused(engine):
    with pytest.raises(ValueError, match="float32"):
        engine(np.zeros((2, 32, 32), np.float32))
    with pytest.raises(ValueError, match=r"\(2, 4, 32, 32\)"):
        engine(np.zeros((2, 4, 32, 32), np.uint8))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size": "smal"}, "size 'smal' does not exist .*did you mean 'small'"),
        ({"weights": ""}, "weights is empty"),
        ({"updates": 0}, "updates is 0; it must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, words):
    with pytest.raises(UserError, match=words):
        RAFT(**wrong)


def test_weights_of_another_network_are_refused(weights, tmp_path):
    with pytest.raises(UserError, match="are not of torchvision's RAFT large"):
        RAFTEngine(RAFT(size="large", weights=str(weights / "small.safetensors")))
    with pytest.raises(UserError, match="no such file"):
        RAFTEngine(RAFT(weights=str(tmp_path / "gone.pth")))


def test_weights_that_are_nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def unreachable(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(
        UserError, match=r"RAFT small can't be fetched \(no route to host\)"
    ) as told:
        RAFTEngine(RAFT())
    kept = cached_file(optical_flow.Raft_Small_Weights.DEFAULT)
    assert str(kept) in str(told.value) and kept.parent == tmp_path / "checkpoints"
    assert "raft.weights" in str(told.value)


def test_finds_a_known_shift():
    if not cached_file(optical_flow.Raft_Small_Weights.DEFAULT).is_file():
        pytest.skip("RAFT's trained weights are not in torchvision's cache")
    texture = np.asarray(
        torch.nn.functional.interpolate(
            torch.from_numpy(noise(1, 1, 40, 44)).float(), size=(160, 176), mode="bicubic"
        ).clamp(0, 255)
    )[0, 0].astype(np.uint8)
    field = RAFTEngine(RAFT())(np.stack([texture[4:148, 6:166], texture[6:150, 3:163]]))[0]
    inner = field[:, 16:-16, 16:-16]
    assert np.allclose(inner.mean(axis=(1, 2)), (3.0, -2.0), atol=0.2)
