import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from clips import ArrayClip

from trainers.streams.samples import (
    Clips,
    count_positions,
    crop_samples,
    cut,
    normalize,
    sample_shape,
    uniform_samples,
)
from trainers.streams.settings import StreamSettings

SETTINGS = StreamSettings(crop=16, stack=10, window_seconds=2.0)


def test_a_stack_is_ten_fields_with_x_and_y_in_turn():
    clip = ArrayClip(0)
    stack = cut(clip, "motion", SETTINGS, [2])
    assert stack.shape == (1, 20, 24, 24)
    assert torch.equal(stack[0, 0::2], clip.flow(range(2, 12))[:, 0])
    assert torch.equal(stack[0, 1::2], clip.flow(range(2, 12))[:, 1])


def test_a_clip_shorter_than_a_stack_repeats_its_last_field():
    clip = ArrayClip(0, n_flow=3)
    assert count_positions(clip, "motion", SETTINGS) == 1
    stack = cut(clip, "motion", SETTINGS, [0])
    assert torch.equal(stack[0, 4:], clip.flow([2] * 8).flatten(0, 1))


def test_positions_reach_the_end_and_no_further():
    clip = ArrayClip(0)
    assert [count_positions(clip, s, SETTINGS) for s in ("spatial", "motion", "audio")] == [
        8,
        6,
        41,
    ]
    cut(clip, "motion", SETTINGS, [5])
    assert cut(clip, "audio", SETTINGS, [40]).shape == (1, 1, 24, 40)
    assert count_positions(ArrayClip(0, n_flow=0), "motion", SETTINGS) == 0


def test_a_short_soundtrack_is_repeated():
    clip = ArrayClip(0, columns=15)
    window = cut(clip, "audio", SETTINGS, [0])[0, 0]
    assert torch.equal(window, clip.spectrogram().repeat(1, 3)[:, :40])


@pytest.mark.parametrize("stream", ["spatial", "motion"])
def test_all_channels_of_a_sample_are_cut_at_the_same_place(stream):
    rows = torch.arange(24, dtype=torch.uint8)
    samples = (rows[:, None] * 10 + rows % 10)[None, None].repeat(3, 20, 1, 1)
    places = [(0.0, 0.0), (0.999, 0.999), (0.5, 0.0)]
    out = crop_samples(samples, stream, SETTINGS, places=places)
    for got, (top, left) in zip(out, [(0, 0), (8, 8), (4, 0)], strict=True):
        expected = samples[0, 0, top : top + 16, left : left + 16]
        assert all(torch.equal(channel, expected) for channel in got)


def test_a_mirrored_stack_moves_the_other_way():
    clip = ArrayClip(0)
    stack = cut(clip, "motion", SETTINGS, [0, 0])
    out = normalize(
        crop_samples(stack, "motion", SETTINGS, flips=[False, True]), "motion", SETTINGS
    )
    assert torch.equal(out[1, 0::2], -out[0, 0::2].flip(-1))
    assert torch.equal(out[1, 1::2], out[0, 1::2].flip(-1))
    frames = cut(clip, "spatial", SETTINGS, [0, 0])
    out = crop_samples(frames, "spatial", SETTINGS, flips=[False, True])
    assert torch.equal(out[1], out[0].flip(-1))


def test_frames_are_normalized_as_torchvision_does():
    frames = cut(ArrayClip(1), "spatial", SETTINGS, [0])
    crop = crop_samples(frames, "spatial", SETTINGS)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (crop / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(normalize(crop, "spatial", SETTINGS), expected)


def test_mean_displacements_are_subtracted_where_asked():
    moving = replace(SETTINGS, subtract_mean_flow=True)
    stack = crop_samples(cut(ArrayClip(0), "motion", moving, [0]), "motion", moving)
    assert normalize(stack, "motion", moving).mean((2, 3)).abs().max() < 1e-5
    assert normalize(stack, "motion", SETTINGS).mean((2, 3)).abs().max() > 0.1


def test_small_pictures_are_scaled_up_to_the_crop():
    large = replace(SETTINGS, crop=40)
    assert sample_shape(ArrayClip(0), "spatial", large) == (3, 40, 40)
    assert sample_shape(ArrayClip(0), "motion", large) == (20, 40, 40)
    wide = torch.zeros(1, 3, 20, 30, dtype=torch.uint8)
    assert crop_samples(wide, "spatial", large).shape == (1, 3, 40, 40)


def test_sound_is_resized_only_where_a_crop_is_set():
    assert sample_shape(ArrayClip(0), "audio", SETTINGS) == (1, 16, 16)
    assert sample_shape(ArrayClip(0), "audio", replace(SETTINGS, crop=None)) == (1, 24, 40)


def test_uniform_samples_weigh_repeated_positions():
    samples, weights = uniform_samples(ArrayClip(0), "spatial", SETTINGS, 25)
    assert len(samples) == 8
    assert float(weights.sum()) == pytest.approx(1)
    counts = np.bincount([(2 * i + 1) * 8 // 50 for i in range(25)])
    np.testing.assert_allclose(weights.numpy(), counts / 25, rtol=1e-6)


def test_what_was_decoded_is_not_decoded_again():
    clip = ArrayClip(0)
    clips = Clips(open_files=1, cache_mb=1, opener=lambda _: clip)
    first = clips["a"].frames([3, 5, 3])
    assert torch.equal(clips["a"].frames([5, 3]), first[[1, 0]])
    assert clip.reads == 1
    assert torch.equal(clips["a"].frames([5, 4]), clip._frames[[5, 4]])
    assert clip.reads == 2


def test_no_more_is_kept_than_memory_and_files_allow():
    opened = []

    def opener(name):
        opened.append(name)
        return ArrayClip(int(name))

    clips = Clips(open_files=2, cache_mb=0, opener=opener)
    for name in "0110212":
        clips[name].frames([0])
    assert opened == list("0121")  # of 0 and 1, 1 was unused for longer when 2 came
    assert len(clips._readers) == 2
    assert not any(clips._kept.values())


def test_threads_may_read_at_once():
    clip = ArrayClip(0)
    clips = Clips(open_files=1, cache_mb=1, opener=lambda _: clip)
    wrong = []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(50):
            wanted = rng.integers(0, 8, 4).tolist()
            if not torch.equal(clips["a"].frames(wanted), clip._frames[wanted]):
                wrong.append(wanted)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
