"""Sound of any format to a spectrogram on a fixed scale."""

import wave

import av
import numpy as np
import pytest
import torch
from media_files import sine, write_sound

from actors.errors import UserError
from actors.extract_settings import SoundSettings
from actors.media.decode import open_media, packets
from actors.media.sound import FLOOR_DB, MEAN_DB, SPREAD_DB, SoundDecoder, Spectrogram, spectrogram

SETTINGS = SoundSettings()


def decibels(columns):
    return columns.astype(np.float32) * SPREAD_DB + MEAN_DB


def read(path, *, max_seconds=100.0, settings=SETTINGS):
    with open_media(str(path)) as media:
        decoder = SoundDecoder(media.streams.audio[0], settings=settings, max_seconds=max_seconds)
        for packet in packets(media, [decoder.stream]):
            decoder.decode(packet)
        return *decoder.finish(), decoder


def test_a_full_scale_sine_is_zero_decibels_in_its_band():
    settings = SoundSettings(bands=256)  # a band per frequency of the window
    shown = decibels(spectrogram(sine(1.0, amplitude=1.0), settings))
    assert shown.shape == (256, 101)
    loudest = shown[:, 50].argmax()
    assert loudest == round(1000 / (16_000 / 512)) - 1
    assert shown[loudest, 50] == pytest.approx(0.0, abs=0.1)


def test_agrees_with_torch_stft_of_the_whole():
    rng = np.random.default_rng(3)
    samples = (0.1 * rng.standard_normal(16_000)).astype(np.float32)
    settings = SoundSettings(bands=64)
    window = torch.hann_window(512)
    bins = torch.stft(
        torch.from_numpy(samples), 512, 160, window=window, pad_mode="constant", return_complex=True
    )
    power = (bins.abs()[1:] / (window.sum() / 2)) ** 2
    expected = 10 * np.log10(power.reshape(64, 4, -1).mean(1).numpy())
    assert np.abs(decibels(spectrogram(samples, settings)) - expected).max() < 0.05


@pytest.mark.parametrize("size", [1, 37, 160, 513, 5000])
def test_does_not_depend_on_how_samples_come(size):
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 5_000).astype(np.float32)
    whole = spectrogram(samples, SETTINGS)
    grown = Spectrogram(SETTINGS)
    for start in range(0, len(samples), size):
        grown.add(samples[start : start + size])
    assert grown.finish() == pytest.approx(whole, abs=2e-3)
    assert whole.shape[1] == 1 + len(samples) // SETTINGS.hop


@pytest.mark.parametrize(
    ("codec", "rate", "channels"),
    [
        ("pcm_u8", 8_000, 1),
        ("pcm_s16le", 44_100, 2),
        ("pcm_s32le", 48_000, 1),
        ("pcm_f32le", 22_050, 2),
        ("pcm_f64le", 16_000, 1),
        ("pcm_s16le", 16_000, 16),
    ],
)
def test_sample_formats_rates_and_channels_agree(tmp_path, codec, rate, channels):
    tone = sine(1.0, rate=rate)
    path = write_sound(tmp_path / "a.wav", np.stack([tone] * channels), rate=rate, codec=codec)
    columns, reason, decoder = read(path)
    assert reason is None
    assert decoder.seconds == pytest.approx(1.0, abs=0.01)
    assert decoder.peak == pytest.approx(0.5, abs=0.02)
    expected = decibels(spectrogram(sine(1.0), SETTINGS))
    band = expected[:, 50].argmax()
    assert abs(decibels(columns)[band, 20:80] - expected[band, 20:80]).max() < 0.5


def test_silent_and_empty_sound_is_absent_with_the_reason(tmp_path):
    quiet = write_sound(tmp_path / "quiet.wav", np.zeros((1, 8000), np.float32))
    columns, reason, _ = read(quiet)
    assert columns is None
    assert reason.kind == "silent"
    assert "below silence_dbfs=-80" in reason.message
    faint = write_sound(tmp_path / "faint.wav", sine(1, amplitude=0.01)[None])
    assert read(faint)[1] is None
    assert read(faint, settings=SoundSettings(silence_dbfs=-30.0))[1].kind == "silent"
    with wave.open(str(tmp_path / "empty.wav"), "wb") as empty:
        empty.setparams((1, 2, 16_000, 0, "NONE", ""))
    assert read(tmp_path / "empty.wav")[1].message == "the sound stream is empty"


@pytest.mark.parametrize("channels", [8, 16])
def test_many_channels_in_planes_of_their_own(tmp_path, channels):
    # PyAV's own conversion of such a frame to an array ends the process.
    tone = np.stack([sine(0.5)] * channels)
    path = write_sound(tmp_path / "a.wv", tone, codec="wavpack")
    columns, reason, decoder = read(path)
    assert reason is None
    assert decoder.peak == pytest.approx(0.5, abs=0.01)
    expected = decibels(spectrogram(sine(0.5), SETTINGS))
    loud = expected > -50  # below lies the noise of 16-bit samples
    assert loud.sum() > 50
    assert decibels(columns)[loud] == pytest.approx(expected[loud], abs=0.5)


def test_no_number_and_too_loud_samples_do_no_harm(tmp_path):
    wild = sine(1.0)
    wild[1000:1010], wild[2000], wild[3000] = np.nan, np.inf, 1e30
    columns, reason, decoder = read(write_sound(tmp_path / "w.wav", wild[None], codec="pcm_f32le"))
    assert reason is None
    assert decoder.peak == 1.0
    assert np.isfinite(columns).all()
    assert decibels(columns).min() >= FLOOR_DB - 0.1


def test_long_sound_is_cut(tmp_path):
    columns, _, decoder = read(write_sound(tmp_path / "a.wav", sine(3.0)[None]), max_seconds=1.0)
    assert decoder.cut
    assert decoder.samples == 16_000
    assert columns.shape[1] == 101


def test_settings_out_of_range_are_refused():
    with pytest.raises(UserError, match="bands is 400, but n_fft=512"):
        SoundSettings(bands=400)
    with pytest.raises(UserError, match="hop is 600"):
        SoundSettings(hop=600)
    with pytest.raises(UserError, match="sample_rate is 0"):
        SoundSettings(sample_rate=0)


def test_agrees_with_torchcodec_on_real_sound(real_data):
    with av.open(str(real_data / "checks" / "torchcodec_nasa_13013.mp4")) as media:
        media_rate = media.streams.audio[0].rate
    _, reason, decoder = read(
        real_data / "checks" / "torchcodec_nasa_13013.mp4",
        settings=SoundSettings(sample_rate=media_rate),
    )
    assert reason is None
    assert decoder.seconds == pytest.approx(13.06, abs=0.03)
    assert 0.3 < decoder.peak < 0.5637325 + 1e-3  # the louder channel's; ours is the mean of two
