"""Sample formats one by one, the fixed scale, and the decoder's blocks, limits and errors."""

import av
import numpy as np
import pytest

from actors.errors import MediaError
from actors.extract_settings import SoundSettings
from actors.media.sound import SoundDecoder, Spectrogram, spectrogram, to_mono

SETTINGS = SoundSettings()


def frame(samples, form="fltp", rate=16_000):
    """An audio frame of (channels, n) samples."""
    samples = np.asarray(samples)
    layout = {1: "mono", 2: "stereo"}[len(samples)]
    values = samples if form.endswith("p") else samples.T.reshape(1, -1)
    made = av.AudioFrame.from_ndarray(np.ascontiguousarray(values), format=form, layout=layout)
    made.sample_rate = rate
    return made


class FakeStream:
    """Stands for a stream whose packets hold these frames; an exception is what decoding raises."""

    thread_count = 0

    def __init__(self):
        self.codec_context = self

    def decode(self, packet):
        if isinstance(packet, Exception):
            raise packet
        return packet or []


def decode(packets, *, settings=SETTINGS, max_seconds=100.0):
    decoder = SoundDecoder(FakeStream(), settings=settings, max_seconds=max_seconds)
    for packet in packets:
        decoder.decode(packet)
    return decoder


@pytest.mark.parametrize("planar", ["", "p"])
@pytest.mark.parametrize(
    ("form", "samples", "expected"),
    [
        ("u8", np.array([[0, 128, 192], [0, 128, 255]], np.uint8), [-1, 0, (64 + 127) / 256]),
        ("s16", np.array([[-(2**15), 1], [-(2**15), 2]], np.int16), [-1, 1.5 / 2**15]),
        ("s32", np.array([[2**30 + 1, 2**30], [-(2**30), 0]], np.int32), [2**-32, 0.25]),
        ("flt", np.array([[1, -1], [0.5, -1]], np.float32), [0.75, -1]),
        ("dbl", np.array([[0.5 + 2**-40, 1], [-0.5, 0]], np.float64), [2**-41, 0.5]),
    ],
)
def test_every_sample_format_has_the_exact_mean_of_its_channels(form, planar, samples, expected):
    found = to_mono(frame(samples, form + planar))
    assert found.dtype == np.float32
    assert found.tolist() == np.float32(expected).tolist()
    alone = to_mono(frame(samples[1:], form + planar))
    assert alone.tolist() == to_mono(frame(samples[[1, 1]], form + planar)).tolist()


@pytest.mark.parametrize("form", ["s64", "s64p"])
def test_samples_of_64_bits_are_heard(form):
    samples = np.array([[0.5, -0.25, 1 / 2**20], [0.25, -0.25, 1 / 2**20]], np.float32)
    wide = av.AudioResampler(form, "stereo", 16_000).resample(frame(samples))
    assert np.concatenate([to_mono(f) for f in wide]).tolist() == [0.375, -0.25, 1 / 2**20]


def test_the_scale_is_fixed():
    # Silence is the floor of -100 dB, a full-scale sine 0 dB: (dB + 70) / 20.
    assert (spectrogram(np.zeros(4000), SETTINGS) == -1.5).all()
    bands = SoundSettings(bands=256)
    tone = np.sin(2 * np.pi * 1000 * np.arange(4000) / 16_000)
    assert spectrogram(tone, bands)[31, 12] == pytest.approx(3.5, abs=0.005)


@pytest.mark.parametrize("n", [0, 1, 159, 160, 250, 511, 512, 799, 800])
def test_there_is_a_column_at_every_hop(n):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, n).astype(np.float32)
    whole = spectrogram(samples, SETTINGS)
    assert whole.shape == (128, 1 + n // 160) and whole.dtype == np.float16
    grown = Spectrogram(SETTINGS)
    for sample in samples:
        grown.add(np.array([sample]))
    assert grown.finish() == pytest.approx(whole, abs=2e-3)


def test_samples_are_worked_on_a_second_at_a_time_in_one_thread():
    decoder = SoundDecoder(FakeStream(), settings=SETTINGS, max_seconds=100.0)
    counts = []
    for size in (15_999, 1, 15_999, 1, 4_000):
        decoder.decode([frame(np.zeros((1, size), np.float32))])
        counts.append(decoder.samples)
    assert counts == [0, 16_000, 16_000, 32_000, 32_000]
    assert decoder.stream.thread_count == 1
    decoder.finish()
    assert decoder.samples == 36_000 and decoder.seconds == 2.25


def test_the_rate_may_change_within_a_stream():
    tone = [np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)[None] for rate in (16_000, 8_000)]
    slow, fast = frame(tone[1].astype("f4"), rate=8_000), frame(tone[0].astype("f4"))
    decoder = decode([[fast], [slow], [fast]])
    columns, _ = decoder.finish()
    assert decoder.samples == pytest.approx(48_000, abs=20)
    band = columns[16].astype(float)
    assert np.ptp(band[[50, 150, 250]]) < 0.02


def test_sound_is_cut_within_a_later_block_and_no_more_is_decoded():
    packets = [[frame(np.full((1, 16_000), 0.5, np.float32))] for _ in range(3)]
    decoder = decode(packets[:2], max_seconds=1.5)
    assert decoder.done and decoder.cut and decoder.samples == 24_000
    decoder.decode(packets[2])
    assert decoder.finish()[0].shape == (128, 151)
    assert decoder.samples == 24_000


def test_sound_as_long_as_the_limit_is_not_cut():
    decoder = decode([[frame(np.full((1, 16_000), 0.5, np.float32))]], max_seconds=1.0)
    assert (decoder.samples, decoder.cut, decoder.done) == (16_000, False, False)
    decoder.finish()
    assert decoder.done and not decoder.cut


@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_too_loud_is_clipped_before_and_after_the_rate_changes(sign):
    # Three quarters of the time at one end, so that resampling overshoots there.
    square = np.where(np.arange(8000) % 80 < 60, 1.0, -0.2).astype(np.float32)[None] * sign
    columns, peaks = [], []
    for samples in (square, np.where(np.abs(square) == 1, 40 * square, square)):
        decoder = decode([[frame(samples, rate=8_000)]])
        columns.append(decoder.finish()[0])
        peaks.append(decoder.peak)
    assert peaks == [1.0, 1.0]
    assert np.array_equal(*columns)


def test_packets_that_do_not_decode_are_counted():
    broken = av.error.InvalidDataError(1, "broken")
    decoder = decode([broken, broken, ValueError("odd"), av.error.EOFError(1, "end")])
    assert decoder.errors == 3
    columns, reason = decoder.finish()
    assert columns is None and reason.kind == "empty"
    assert reason.message == "none of the sound stream's 3 packets can be decoded"


def test_sound_as_loud_as_the_limit_is_kept_and_a_quieter_one_is_named():
    sound = np.full((1, 1000), 1.0, np.float32)
    limit = SoundSettings(silence_dbfs=0.0)
    assert decode([[frame(sound)]], settings=limit).finish()[1] is None
    columns, reason = decode([[frame(sound * 0.01)]], settings=limit).finish()
    assert columns is None and reason.kind == "silent"
    assert "its peak of -40 dB is below silence_dbfs=0" in reason.message
    _, reason = decode([[frame(sound * 0)]]).finish()
    assert "its peak of -inf dB is below silence_dbfs=-80" in reason.message


def test_a_stream_without_a_decoder_is_refused():
    stream = FakeStream()
    stream.codec_context = None
    with pytest.raises(MediaError, match="FFmpeg can't decode"):
        SoundDecoder(stream, settings=SETTINGS, max_seconds=1.0)
