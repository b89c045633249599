"""Streams by name: what YAML files and the command line make of them."""

from __future__ import annotations

import json
import pickle
from dataclasses import fields, replace
from pathlib import Path

import pytest

from actors.errors import UserError
from actors.neutral import is_neutral
from pipelines.cli.job_settings import JobSettings
from pipelines.cli.model_settings import RegistrySettings
from pipelines.cli.settings import Settings, parse_settings, presets, to_json
from pipelines.systems.hybrid_streams import default_streams
from trainers.settings import OptimizerSettings, SequenceSettings
from trainers.streams.settings import StreamSettings

CONFIGS = Path(__file__).resolve().parents[2] / "benchmarks" / "configs"
CLIP = "clip: {track: frames, encoder: 'timm:vit_tiny_patch16_224', frozen: true}"


def read(tmp_path: Path, content: str, *options: str) -> Settings:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    return parse_settings("", ["--config", str(file), *options])


def refused(tmp_path: Path, content: str, *options: str) -> str:
    with pytest.raises(UserError) as error:
        read(tmp_path, content, *options)
    return str(error.value).replace(str(tmp_path / "mine.yaml"), "FILE")


def test_a_file_adds_a_stream_to_those_of_the_system(tmp_path: Path) -> None:
    settings = read(tmp_path, f"streams: {{{CLIP}}}")
    assert list(settings.streams) == ["spatial", "motion", "audio", "clip"]
    assert settings.streams["clip"] == StreamSettings(
        track="frames", encoder="timm:vit_tiny_patch16_224", frozen=True
    )
    assert settings.tracks == ("frames", "flow", "sound")
    assert settings.system_settings.streams is settings.streams


def test_a_file_drops_a_stream(tmp_path: Path) -> None:
    settings = read(tmp_path, "streams: {audio: null, motion: null}")
    assert list(settings.streams) == ["spatial"] and settings.tracks == ("frames",)


def test_a_file_redefines_only_the_fields_it_gives(tmp_path: Path) -> None:
    preset = parse_settings("", []).streams["motion"]
    for content in ("streams: {motion: {fit: {lr: 0.5}}}", "motion: {fit: {lr: 0.5}}"):
        motion = read(tmp_path, content).streams["motion"]
        assert motion == replace(preset, fit=replace(preset.fit, lr=0.5))


def test_the_command_line_reaches_every_stream(tmp_path: Path) -> None:
    options = "--clip.frozen false --clip.sequence.model lstm --spatial.sequence.model none"
    settings = read(tmp_path, f"streams: {{{CLIP}}}", *options.split(), "--clip.fit.lr=1e-2")
    clip = settings.streams["clip"]
    assert not clip.frozen and clip.sequence == SequenceSettings() and clip.fit.lr == 0.01
    assert not settings.streams["spatial"].sequence.present


def test_streams_are_chosen_by_name_and_keep_their_order(tmp_path: Path) -> None:
    assert list(parse_settings("", ["--streams", "audio, spatial"]).streams) == ["spatial", "audio"]
    chosen = read(tmp_path, f"streams: {{{CLIP}}}", "--streams", "clip,spatial")
    assert list(chosen.streams) == ["spatial", "clip"]
    assert list(read(tmp_path, "streams: audio").streams) == ["audio"]
    assert list(read(tmp_path, "streams: [audio, motion]").streams) == ["motion", "audio"]
    line = parse_settings("", ["--streams", "{clip: {encoder: own:vgg_small}}"])
    assert line.streams["clip"].encoder == "own:vgg_small" and len(line.streams) == 4


def test_later_files_go_over_earlier_ones_and_options_over_files(tmp_path: Path) -> None:
    files = []
    for number, content in enumerate(
        ("seed: 1\nstreams: {clip: {crop: 32}}", "seed: 2\nclip: {stack: 3}", "streams: clip")
    ):
        files += ["--config", str(tmp_path / f"{number}.yaml")]
        Path(files[-1]).write_text(content)
    settings = parse_settings("", ["--clip.crop", "64", *files])
    assert settings.seed == 2 and list(settings.streams) == ["clip"]
    assert settings.streams["clip"] == StreamSettings(crop=64, stack=3)
    assert parse_settings("", ["--seed", "5", *files]).seed == 5


def test_a_group_can_be_given_as_yaml_or_as_a_file(tmp_path: Path) -> None:
    file = tmp_path / "fit.yaml"
    file.write_text("{name: sgd, lr: 3}")
    fit = parse_settings("", ["--spatial.fit", str(file)]).streams["spatial"].fit
    assert (fit.name, fit.lr) == ("sgd", 3.0) and isinstance(fit.lr, float)
    assert parse_settings("", ["--search", "{trials: 3}"]).system_settings.search.trials == 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("streams: {seed: {}}", "FILE: streams: a stream can't be called 'seed', which is another "
                                "setting's name"),
        ("streams: {fusion: {}}", "FILE: streams: a stream can't be called 'fusion', which is "
                                  "another setting's name"),
        ("streams: {preset: {}}", "FILE: streams: a stream can't be called 'preset', which is "
                                  "another setting's name"),
        ("streams: {my-clip: {}}", "FILE: streams: a stream can't be called 'my-clip'; use "
                                   "letters, digits and _, a letter first"),
        ("streams: {class: {}}", "FILE: streams: a stream can't be called 'class'; use letters, "
                                 "digits and _, a letter first"),
        ("streams: {adio: null}", "there is no stream 'adio'; FILE: streams takes some of "
                                  "spatial,motion,audio; did you mean 'audio'?"),
        ("streams: 3", "FILE: streams takes names separated by commas, or a mapping from names to "
                       "settings, not 3"),
        ("streams: {clip: 3}", "FILE: clip takes a YAML file with its settings, not 3"),
        ("streams: {spatial: null, motion: null, audio: null}",
         "FILE: streams drops every stream; keep one of spatial,motion,audio"),
        ("streams: {clip: {encodr: x}}",
         "FILE: there is no setting clip.encodr; did you mean 'clip.encoder'?"),
        ("streams: {clip: {fit: {lr: 0}}}", "FILE: clip.fit.lr must be above 0, not 0.0"),
        ("streams: {clip: {track: x}}", "FILE: clip.track takes one of frames, flow, sound, "
                                        "not 'x'"),
        ("clip: {crop: 32}", "FILE: there is no setting clip; --help shows the main options, "
                             "--help-all all of them"),
    ],
)  # fmt: skip
def test_mistakes_about_streams(tmp_path: Path, content: str, told: str) -> None:
    assert refused(tmp_path, content) == told


def test_a_file_without_settings(tmp_path: Path) -> None:
    assert "has no settings, such as seed: 1, but [1, 2]" in refused(tmp_path, "[1, 2]")
    assert "is not YAML" in refused(tmp_path, "a: [")
    assert read(tmp_path, "") == parse_settings("", [])


def test_saved_settings_give_the_same_settings_again(tmp_path: Path) -> None:
    settings = read(tmp_path, f"streams: {{audio: null, {CLIP}}}", "--preset", "paper")
    saved = tmp_path / "settings.json"
    saved.write_text(to_json(settings))
    assert parse_settings("", ["--config", str(saved)]) == settings
    assert json.loads(saved.read_text())["streams"]["audio"] is None
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301  made here


def test_the_presets_and_the_files_of_the_benchmarks() -> None:
    assert presets("hybrid") == ["demo", "paper"]
    paper = parse_settings("", ["--preset", "paper"])
    assert paper.streams == default_streams() and paper.extract.short_side == 256
    demo = parse_settings("", [])
    cnn = OptimizerSettings(
        name="adam", lr=2e-3, weight_decay=0.0, batch_size=32, max_steps=80, lr_drop_every=60,
        evaluate_every=20, checkpoint_every=20, patience=None, keep="loss", loader_threads=1,
    )  # fmt: skip
    motion = demo.streams["motion"]
    assert motion.fit == cnn and motion.encoder == "own:cnn_m_small" and motion.hidden_dim == 2048
    assert demo.streams["spatial"].fit == replace(cnn, max_steps=140, lr_drop_every=100)
    assert demo.streams["audio"].fit == replace(cnn, max_steps=60, lr_drop_every=40)
    assert {one.embed.max_steps for one in demo.streams.values()} == {12}
    assert [one.sequence.model for one in demo.streams.values()] == ["lstm", "lstm", "none"]
    for file in sorted(CONFIGS.glob("*.yaml")):
        assert parse_settings("", ["--config", str(file)]).registry.name.startswith(file.stem[:5])


def test_settings_without_effect_on_results_are_marked() -> None:
    marked = {one.name for one in fields(JobSettings) if is_neutral(one)}
    assert marked == {"data", "storage", "report", "resources", "tracking"}
    assert [one.name for one in fields(RegistrySettings) if is_neutral(one)] == ["margin"]
