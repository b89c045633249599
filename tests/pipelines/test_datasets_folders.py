"""One folder per class; the manifest; what is wrong with a folder."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from actors.errors import UserError
from pipelines.data import FORMATS, Manifest, SplitSettings, read_dataset


def tree(root: Path, **classes: int) -> Path:
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"clip{number}.mp4").write_bytes(b"x" * number)
    return root


def read(root: Path, **settings) -> Manifest:
    return read_dataset(root, "folders", splits=SplitSettings(**settings), seed=0)


def test_reads_classes_ids_and_absolute_paths(tmp_path, monkeypatch):
    tree(tmp_path / "clips", Wave=10, Bend=10)
    monkeypatch.chdir(tmp_path)
    manifest = read(Path("clips"))
    assert manifest.classes == ("Bend", "Wave")
    assert manifest.name == "clips" and not manifest.multi_label
    first = manifest.videos[0]
    assert (first.id, first.labels) == ("Bend/clip0.mp4", ("Bend",))
    assert first.path == str(tmp_path / "clips" / "Bend" / "clip0.mp4")
    assert manifest.targets(manifest.videos[-1]) == (1,)
    assert [len(manifest.split(s)) for s in ("train", "val", "test")] == [14, 2, 4]


def test_media_of_any_kind_count_and_other_files_do_not(tmp_path):
    root = tree(tmp_path / "clips", Wave=3)
    (root / "Bend" / "deeper").mkdir(parents=True)
    pictures = ["a.avi", "b.GIF", "c.Mkv", "d.mov", "e.mp4", "f.mpg", "g.webm", "h.wmv", "i.flv"]
    sounds = ["j.OGG", "k.wav", "l.mp3", "m.flac", "n.m4a"]
    media = [*pictures, *sounds]
    for name in [*media, "notes.txt", "list.csv", "about.md", "x.json", ".hidden.mp4", "bare"]:
        (root / "Bend" / "deeper" / name).touch()
    (root / ".cache").mkdir()
    (root / ".cache" / "z.mp4").touch()
    (root / "README.txt").touch()
    ids = [v.id for v in read(root).videos if v.labels == ("Bend",)]
    assert ids == [f"Bend/deeper/{name}" for name in media]


def test_manifest_goes_through_a_table_and_back(tmp_path):
    manifest = read(tree(tmp_path / "clips", Wave=5, Bend=5))
    assert Manifest.from_table(manifest.to_table()) == manifest
    with pytest.raises(ValueError, match="not the table of a manifest"):
        Manifest.from_table(manifest.to_table().replace_schema_metadata(None))


def test_unknown_split_name(tmp_path):
    manifest = read(tree(tmp_path / "clips", Wave=5, Bend=5))
    with pytest.raises(ValueError, match="'valid' is not one of train, val, test"):
        manifest.split("valid")  # type: ignore[arg-type]


def test_fingerprint_follows_settings_and_files_but_not_the_place(tmp_path):
    root = tree(tmp_path / "clips", Wave=9, Bend=9)
    before = read(root).fingerprint
    assert read(root).fingerprint == before
    assert read(root, validation_share=0.4).fingerprint != before

    root.rename(tmp_path / "elsewhere")
    assert read(tmp_path / "elsewhere").fingerprint == before

    clip = tmp_path / "elsewhere" / "Wave" / "clip1.mp4"
    state = clip.stat()
    os.utime(clip, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert read(tmp_path / "elsewhere").fingerprint != before
    os.utime(clip, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert read(tmp_path / "elsewhere").fingerprint == before


def test_fingerprint_notes_a_file_that_has_gone(tmp_path):
    manifest = read(tree(tmp_path / "clips", Wave=5, Bend=5))
    before = manifest.fingerprint
    (tmp_path / "clips" / "Wave" / "clip2.mp4").unlink()
    assert replace(manifest).fingerprint != before


def test_stamp_belongs_to_one_file(tmp_path):
    root = tree(tmp_path / "clips", Wave=5, Bend=5)
    before = {v.id: v.stamp() for v in read(root).videos}
    assert len(set(before.values())) == 10
    (root / "Wave" / "clip3.mp4").write_bytes(b"other content")
    after = {v.id: v.stamp() for v in read(root).videos}
    assert {name for name in after if after[name] != before[name]} == {"Wave/clip3.mp4"}


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"ucf101", "hmdb51"}))
def test_a_numbered_split_where_there_are_none(tmp_path, format):
    with pytest.raises(UserError, match=f"splits.number is 9, but the format '{format}' has no"):
        read_dataset(tmp_path, format, splits=SplitSettings(number=9), seed=0)


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_path_that_does_not_exist(tmp_path, format):
    with pytest.raises(UserError, match=r"nowhere does not exist; give .* --data"):
        read_dataset(tmp_path / "nowhere", format, splits=SplitSettings(), seed=0)


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_an_empty_folder(tmp_path, format):
    with pytest.raises(UserError, match=rf"{tmp_path} is an empty folder"):
        read_dataset(tmp_path, format, splits=SplitSettings(), seed=0)


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"csv"}))
def test_a_file_where_a_folder_is_read(tmp_path, format):
    (tmp_path / "clips.csv").write_text("path,label\n")
    with pytest.raises(UserError, match=rf"clips.csv is a file, but format '{format}' reads a fol"):
        read_dataset(tmp_path / "clips.csv", format, splits=SplitSettings(), seed=0)


def test_unknown_format(tmp_path):
    message = r"unknown format 'folder'; did you mean 'folders'\? \(one of folders, csv, ucf101, "
    with pytest.raises(UserError, match=message):
        read_dataset(tmp_path, "folder", splits=SplitSettings(), seed=0)


def test_a_class_with_one_clip(tmp_path):
    root = tree(tmp_path / "clips", Wave=5, Bend=1, Jump=1)
    message = r"a class with one clip cannot be both trained and tested: Bend, Jump \(.*clip0.mp4\)"
    with pytest.raises(UserError, match=message):
        read(root)


def test_a_class_folder_without_media(tmp_path):
    root = tree(tmp_path / "clips", Wave=5, Bend=5, Jump=0)
    (root / "Jump" / "readme.txt").touch()
    with pytest.raises(UserError, match=rf"class folder {root}/Jump has no media files; add"):
        read(root)


def test_a_single_class(tmp_path):
    with pytest.raises(UserError, match="clips has only the class 'Wave'; a classifier needs at"):
        read(tree(tmp_path / "clips", Wave=5))


def test_no_class_folders(tmp_path):
    (tmp_path / "readme.txt").touch()
    with pytest.raises(UserError, match="has no class folders; make one folder per class"):
        read(tmp_path)


def test_media_outside_of_any_class_folder(tmp_path):
    root = tree(tmp_path / "clips", Wave=5, Bend=5)
    (root / "stray.mp4").touch()
    with pytest.raises(UserError, match=r"1 media file\(s\) outside of any class folder: stray"):
        read(root)


def test_the_same_file_in_two_classes(tmp_path):
    root = tree(tmp_path / "clips", Wave=5, Bend=5)
    (root / "Bend" / "again.mp4").symlink_to(root / "Wave" / "clip2.mp4")
    message = r"the same clip is listed twice: Wave/clip2.mp4 in .*Bend/again.mp4 and in .*clip2"
    with pytest.raises(UserError, match=message):
        read(root)


@pytest.mark.parametrize(
    "name, classes, count",
    [("weizmann4", 4, 56), ("weizmann_av8_synthetic", 8, 112), ("fight_surv", 2, 165)],
)
def test_real_folders_are_cut_by_group(real_data, name, classes, count):
    manifest = read(real_data / name)
    assert (len(manifest.classes), len(manifest.videos)) == (classes, count)
    groups = [{v.group for v in manifest.split(s)} for s in ("train", "val", "test")]
    assert all(groups)
    assert sum(map(len, groups)) == len(groups[0] | groups[1] | groups[2])
    for split in ("train", "val", "test"):
        assert {v.labels[0] for v in manifest.split(split)} == set(manifest.classes)


def test_real_sounds_are_cut_by_their_folds(real_data):
    manifest = read(real_data / "esc10", group_pattern=r"/(\d)-", folds=4, fold=2)
    assert len(manifest.classes) == 10
    assert [len(manifest.split(s)) for s in ("train", "val", "test")] == [160, 80, 80]
