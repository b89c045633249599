import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from clips import ArrayClip

from actors.errors import UserError
from trainers.encoders.specification import InputSpecification
from trainers.streams.clips import ClipCache
from trainers.streams.kinds import make_stream
from trainers.streams.settings import StreamSettings
from trainers.streams.stream import Stream

SETTINGS = StreamSettings(crop=16, stack=10, window_seconds=2.0)


def stream_of(track, settings=SETTINGS, **options):
    return make_stream("any", replace(settings, track=track, **options))


def test_a_stack_is_ten_fields_with_x_and_y_in_turn():
    clip = ArrayClip(0)
    stack = stream_of("flow").cut(clip, [2])
    assert stack.shape == (1, 20, 24, 24)
    assert torch.equal(stack[0, 0::2], clip.flow(range(2, 12))[:, 0])
    assert torch.equal(stack[0, 1::2], clip.flow(range(2, 12))[:, 1])


def test_a_clip_shorter_than_a_stack_repeats_its_last_field():
    clip = ArrayClip(0, n_flow=3)
    assert stream_of("flow").count_positions(clip) == 1
    stack = stream_of("flow").cut(clip, [0])
    assert torch.equal(stack[0, 4:], clip.flow([2] * 8).flatten(0, 1))


def test_positions_reach_the_end_and_no_further():
    clip = ArrayClip(0)
    counts = [stream_of(t).count_positions(clip) for t in ("frames", "flow", "sound")]
    assert counts == [8, 6, 41]
    stream_of("flow").cut(clip, [5])
    assert stream_of("sound").cut(clip, [40]).shape == (1, 1, 24, 40)
    assert stream_of("flow").count_positions(ArrayClip(0, n_flow=0)) == 0


def test_a_short_soundtrack_is_repeated():
    clip = ArrayClip(0, columns=15)
    window = stream_of("sound").cut(clip, [0])[0, 0]
    assert torch.equal(window, clip.spectrogram().repeat(1, 3)[:, :40])


@pytest.mark.parametrize("track", ["frames", "flow"])
def test_all_channels_of_a_sample_are_cut_at_the_same_place(track):
    rows = torch.arange(24, dtype=torch.uint8)
    samples = (rows[:, None] * 10 + rows % 10)[None, None].repeat(3, 20, 1, 1)
    places = [(0.0, 0.0), (0.999, 0.999), (0.5, 0.0)]
    out = stream_of(track).crop(samples, places=places)
    for got, (top, left) in zip(out, [(0, 0), (8, 8), (4, 0)], strict=True):
        expected = samples[0, 0, top : top + 16, left : left + 16]
        assert all(torch.equal(channel, expected) for channel in got)


def test_a_mirrored_stack_moves_the_other_way():
    clip, flow, frames = ArrayClip(0), stream_of("flow"), stream_of("frames")
    out = flow.normalize(flow.crop(flow.cut(clip, [0, 0]), flips=[False, True]))
    assert torch.equal(out[1, 0::2], -out[0, 0::2].flip(-1))
    assert torch.equal(out[1, 1::2], out[0, 1::2].flip(-1))
    out = frames.crop(frames.cut(clip, [0, 0]), flips=[False, True])
    assert torch.equal(out[1], out[0].flip(-1))


def test_frames_are_normalized_as_torchvision_does():
    frames = stream_of("frames").cut(ArrayClip(1), [0])
    crop = stream_of("frames").crop(frames)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (crop / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(stream_of("frames").normalize(crop), expected)


def test_mean_displacements_are_subtracted_where_asked():
    moving = replace(SETTINGS, subtract_mean_flow=True)
    stack = stream_of("flow").crop(stream_of("flow").cut(ArrayClip(0), [0]))
    assert stream_of("flow", moving).normalize(stack).mean((2, 3)).abs().max() < 1e-5
    assert stream_of("flow").normalize(stack).mean((2, 3)).abs().max() > 0.1


def test_small_pictures_are_scaled_up_to_the_crop():
    clip = ArrayClip(0)
    assert stream_of("frames", crop=40).sample_shape(clip) == (3, 40, 40)
    assert stream_of("flow", crop=40).sample_shape(clip) == (20, 40, 40)
    wide = torch.zeros(1, 3, 20, 30, dtype=torch.uint8)
    assert stream_of("frames", crop=40).crop(wide).shape == (1, 3, 40, 40)


def test_sound_is_resized_only_where_a_crop_is_set():
    assert stream_of("sound").sample_shape(ArrayClip(0)) == (1, 16, 16)
    assert stream_of("sound", crop=None).sample_shape(ArrayClip(0)) == (1, 24, 40)


def test_uniform_samples_weigh_repeated_positions():
    samples, weights = stream_of("frames").uniform_samples(ArrayClip(0), 25)
    assert len(samples) == 8
    assert float(weights.sum()) == pytest.approx(1)
    counts = np.bincount([(2 * i + 1) * 8 // 50 for i in range(25)])
    np.testing.assert_allclose(weights.numpy(), counts / 25, rtol=1e-6)


def test_what_was_decoded_is_not_decoded_again():
    clip = ArrayClip(0)
    clips = ClipCache(open_files=1, cache_mb=1, opener=lambda _: clip)
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

    clips = ClipCache(open_files=2, cache_mb=0, opener=opener)
    for name in "0110212":
        clips[name].frames([0])
    assert opened == list("0121")  # of 0 and 1, 1 was unused for longer when 2 came
    assert len(clips._readers) == 2
    assert not any(clips._kept.values())


def test_threads_may_read_at_once():
    clip = ArrayClip(0)
    clips = ClipCache(open_files=1, cache_mb=1, opener=lambda _: clip)
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


def test_an_encoders_specification_decides_where_the_settings_leave_it_open():
    frames = stream_of("frames", crop=None)
    cut = frames.cut(ArrayClip(0), [0, 3])
    given = InputSpecification(size=12, mean=(127.5,) * 3, std=(50.0,) * 3)
    out = frames.normalize(frames.crop(cut, given), given)
    expected = (cut[:, :, 6:18, 6:18].float() - 127.5) / 50
    torch.testing.assert_close(out, expected)
    assert stream_of("frames").sample_shape(ArrayClip(0), given) == (3, 16, 16)
    mono = InputSpecification(channels=1, size=12)
    assert stream_of("sound", crop=None).sample_shape(ArrayClip(0), mono) == (1, 12, 12)
    assert frames.crop(cut) is cut


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_squeezed_picture_keeps_its_borders(interpolation):
    frames = stream_of("frames", crop=None)
    given = InputSpecification(size=16, fit="squeeze", interpolation=interpolation)
    wide = torch.zeros(1, 3, 40, 80, dtype=torch.uint8)
    wide[..., :20] = 200
    out = frames.crop(wide, given, flips=[True])
    assert out.shape == (1, 3, 16, 16)
    assert out.dtype == torch.uint8
    assert (out[..., 13:] > 190).all()
    assert (out[..., :10] < 10).all()


def test_a_kind_of_samples_is_found_by_name_or_as_a_function():
    assert stream_of("flow", samples="flow_stacks").channels == 20
    named = stream_of("frames", samples=f"{__name__}:gray_stream")
    assert named.channels == 1
    for options, message in [
        ({"track": "frame"}, "did you mean 'frames'"),
        ({"samples": "flow_stack"}, "did you mean 'flow_stacks'"),
        ({"samples": "spectrograms"}, "cut from the track 'sound', not 'frames'"),
        ({"samples": "os:getcwd"}, "os:getcwd is"),
    ]:
        with pytest.raises(UserError, match=message):
            make_stream("any", replace(SETTINGS, **options))


class Gray(Stream):
    track = "frames"
    channels = 1

    def count_positions(self, clip):
        return clip.n_frames

    def cut(self, clip, positions):
        return clip.frames(positions)[:, :1]

    def positions_per_second(self, clip):
        return 4.0


def gray_stream(name: str, settings: StreamSettings) -> Gray:
    return Gray(name, settings)


def test_a_kind_of_a_few_lines_is_a_whole_stream():
    gray, clip = gray_stream("gray", SETTINGS), ArrayClip(2)
    samples, weights = gray.uniform_samples(clip, 4)
    assert samples.shape == (4, 1, 24, 24)
    assert weights.tolist() == [0.25] * 4
    assert gray.sample_shape(clip) == (1, 24, 24)
    assert gray.times(clip, [0, 2]).tolist() == [0.0, 0.5]
    assert gray.preview(clip, 3).values.shape == (3, 24, 24, 3)


def test_previews_are_what_a_report_draws():
    clip = ArrayClip(0)
    clip.metadata["flow_bound"] = 20.0
    frames, flow, sound = (stream_of(t).preview(clip, 4) for t in ("frames", "flow", "sound"))
    assert (frames.display, frames.values.shape) == ("pictures", (4, 24, 24, 3))
    assert np.array_equal(frames.values, clip.frames([1, 3, 5, 7]).permute(0, 2, 3, 1).numpy())
    assert (flow.display, flow.values.shape) == ("flow", (2, 24, 24))
    assert (sound.display, sound.values.shape) == ("heat", (24, 80))
