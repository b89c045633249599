"""UCF-101, HMDB-51 and CCV: their official lists and the traps in them."""

import json
from collections import Counter
from pathlib import Path

import pytest

from actors.errors import UserError
from pipelines.data import Manifest, SplitSettings, read_dataset
from pipelines.data.ccv import CATEGORIES
from pipelines.data.hmdb51 import film_of


def read(root: Path, format: str, **settings) -> Manifest:
    return read_dataset(root, format, splits=SplitSettings(**settings), seed=0)


def touch(root: Path, names) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


# --- UCF-101 -------------------------------------------------------------------------------------


def ucf_clips(groups=range(1, 8)) -> list[str]:
    """Folder and file names of two classes, one of which spells its own name in two ways."""
    return [
        f"{folder}/v_{name}_g{g:02d}_c{c:02d}.avi"
        for folder, name in (("Archery", "Archery"), ("HandstandPushups", "HandStandPushups"))
        for g in groups
        for c in (1, 2)
    ]


def ucf(root: Path, lists: str = "ucfTrainTestlist", videos: str = ".") -> Path:
    clips = ucf_clips()
    numbers = {"Archery": 1, "HandstandPushups": 2}
    train = [f"{c} {numbers[c.split('/')[0]]}" for c in clips if "_g01_" not in c]
    (root / lists).mkdir(parents=True, exist_ok=True)
    (root / lists / "classInd.txt").write_text("1 Archery\r\n2 HandstandPushups\r\n\r\n")
    for number in (1, 2, 3):
        (root / lists / f"trainlist{number:02d}.txt").write_text("\n".join(train) + "\n")
        test = [c for c in clips if "_g01_" in c]
        (root / lists / f"testlist{number:02d}.txt").write_text("\r\n".join(test))
    touch(root / videos, clips)
    return root


@pytest.mark.parametrize(
    "lists, videos, data",
    [
        (".", ".", "."),
        ("ucfTrainTestlist", ".", "."),
        ("ucfTrainTestlist", "UCF-101", "."),
        ("ucfTrainTestlist", "UCF-101", "UCF-101"),
        ("splits", "UCF-101", "UCF-101"),
    ],
)
def test_ucf101_finds_its_lists_and_videos(tmp_path, lists, videos, data):
    manifest = read(ucf(tmp_path / "ucf", lists, videos) / data, "ucf101")
    assert manifest.classes == ("Archery", "HandstandPushups")
    assert [len(manifest.split(s)) for s in ("train", "val", "test")] == [20, 4, 4]
    assert all(Path(v.path).is_file() for v in manifest.videos)


def test_ucf101_groups_belong_to_their_class_and_stay_together(tmp_path):
    manifest = read(ucf(tmp_path), "ucf101")
    video = next(v for v in manifest.videos if "HandStandPushups_g03" in v.id)
    assert (video.labels, video.group) == (("HandstandPushups",), "HandstandPushups/g03")
    groups = Counter(v.group for v in manifest.split("val"))
    assert set(groups.values()) == {2} and len(groups) == 2


def test_ucf101_finds_other_spellings_and_containers(tmp_path):
    root = ucf(tmp_path)
    (root / "HandstandPushups").rename(root / "HandStandPushups")
    for file in sorted((root / "Archery").iterdir()):
        file.rename(file.with_suffix(".mp4"))
    manifest = read(root, "ucf101")
    assert all(Path(v.path).is_file() for v in manifest.videos)
    assert manifest.classes == ("Archery", "HandstandPushups")


def test_folds_override_the_official_split(tmp_path):
    root = ucf(tmp_path)
    tested = [v.id for f in (1, 2, 3) for v in read(root, "ucf101", folds=3, fold=f).split("test")]
    assert sorted(tested) == sorted(ucf_clips())


@pytest.mark.parametrize("number", [0, 4])
@pytest.mark.parametrize("format", ["ucf101", "hmdb51"])
def test_a_split_that_does_not_exist(tmp_path, format, number):
    ucf(tmp_path)
    with pytest.raises(UserError, match=rf"splits.number is {number}; .* official splits 1 to 3"):
        read(tmp_path, format, number=number)


def test_ucf101_without_its_lists(tmp_path):
    touch(tmp_path / "data", ucf_clips())
    with pytest.raises(
        UserError, match=r"no classInd.txt in .*data, nor in a subfolder or a folder next to it"
    ):
        read(tmp_path / "data", "ucf101")


def test_ucf101_with_one_list_missing(tmp_path):
    root = ucf(tmp_path)
    (root / "ucfTrainTestlist" / "testlist02.txt").unlink()
    assert len(read(root, "ucf101").videos) == 28
    with pytest.raises(UserError, match=r"testlist02.txt does not exist; unpack all"):
        read(root, "ucf101", number=2)


def test_ucf101_with_videos_missing(tmp_path):
    root = ucf(tmp_path)
    (root / "Archery" / "v_Archery_g02_c01.avi").unlink()
    message = r"name 28 clips .*, but 1 of them are not below .*: Archery/v_Archery_g02_c01.avi; un"
    with pytest.raises(UserError, match=message):
        read(root, "ucf101")


def test_ucf101_with_a_class_missing(tmp_path):
    root = ucf(tmp_path)
    (root / "Archery").rename(tmp_path / ".away")
    message = r"14 of them .*Archery/.*c01.avi and 11 more; no clip at all of class Archery; unpack"
    with pytest.raises(UserError, match=message):
        read(root, "ucf101")


@pytest.mark.parametrize(
    "line, message",
    [
        ("Rowing/v_Rowing_g01_c01.avi 1", "does not start with a class of classInd.txt"),
        ("Archery/v_Archery_g01_c01.avi 2", "class number 2 but Archery is 1 in classInd.txt"),
    ],
)
def test_ucf101_with_a_line_that_makes_no_sense(tmp_path, line, message):
    root = ucf(tmp_path)
    with open(root / "ucfTrainTestlist" / "trainlist01.txt", "a") as stream:
        stream.write(line + "\n")
    with pytest.raises(UserError, match=rf"trainlist01.txt line 25: .*{message}"):
        read(root, "ucf101")


@pytest.mark.parametrize(
    "text, message",
    [
        ("1 A\nB 2\n", "line 2: 'B 2' is not a class number and a name"),
        ("1 A\n3 B", "are not 1, 2, 3"),
    ],
)
def test_ucf101_with_a_broken_class_index(tmp_path, text, message):
    root = ucf(tmp_path)
    (root / "ucfTrainTestlist" / "classInd.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read(root, "ucf101")


def test_ucf101_official_counts(tmp_path, real_data):
    lists = real_data / "ucf101_splits"
    expected = json.loads((real_data / "checks" / "ucf101_splits_expected.json").read_text())
    for name in ("train", "test"):
        lines = (lists / f"{name}list01.txt").read_text().splitlines()
        touch(tmp_path / "UCF-101", [line.split()[0] for line in lines])
    (tmp_path / "ucfTrainTestlist").symlink_to(lists)
    for number in (1, 2, 3):
        manifest = read(tmp_path / "UCF-101", "ucf101", number=number)
        want = expected["splits"][str(number)]
        train, val, test = (manifest.split(s) for s in ("train", "val", "test"))
        assert len(manifest.classes) == expected["classes"]
        assert (manifest.classes[0], manifest.classes[-1]) == (expected["first"], expected["last"])
        assert (len(train) + len(val), len(test)) == (want["train"], want["test"])
        per_class = Counter(v.labels[0] for v in test)
        assert min(per_class.values()) == want["min_test_per_class"]
        assert max(per_class.values()) == want["max_test_per_class"]
        assert {v.labels[0] for v in val} == set(manifest.classes)
        assert abs(len(val) / want["train"] - 0.15) < 0.01
        groups = [{v.group for v in part} for part in (train, val, test)]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 2525


# --- HMDB-51 -------------------------------------------------------------------------------------


def hmdb_line(film: str, label: str, number: int, use: int) -> str:
    return f"{film}_{label}_f_nm_np1_fr_goo_{number}.avi {use} "


def hmdb(root: Path, lists: str = "testTrainMulti_7030_splits") -> Path:
    (root / lists).mkdir(parents=True, exist_ok=True)
    for label in ("wave", "brush_hair"):
        uses = [1] * 14 + [2] * 4 + [0] * 2
        lines = [hmdb_line(f"Film_{n // 2}", label, n, use) for n, use in enumerate(uses)]
        for split in (1, 2, 3):
            text = "\n".join(lines) + "\n"
            (root / lists / f"{label}_test_split{split}.txt").write_text(text)
        touch(root / label, [line.split()[0] for line in lines])
    return root


@pytest.mark.parametrize("lists", [".", "testTrainMulti_7030_splits", "any"])
def test_hmdb51_reads_an_official_split(tmp_path, lists):
    manifest = read(hmdb(tmp_path, lists), "hmdb51", number=2)
    assert manifest.classes == ("brush_hair", "wave")
    assert len(manifest.videos) == 36
    assert len(manifest.split("test")) == 8
    assert {v.group for v in manifest.split("test")} == {"Film_7", "Film_8"}
    val = Counter(v.group for v in manifest.split("val"))
    assert set(val.values()) == {4} and len(val) == 2
    assert all(Path(v.path).is_file() for v in manifest.videos)


@pytest.mark.parametrize(
    "name, label, film",
    [
        ("RATRACE_wave_f_nm_np1_fr_goo_37.avi", "wave", "RATRACE"),
        ("#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi", "clap", "#20_Rhythm"),
        ("April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair", "April_09"),
        ("AHF_Rapier_fencing_f_cm_np2_le_bad_1.avi", "fencing", "AHF_Rapier"),
        ("odd.name.avi", "wave", "odd.name"),
    ],
)
def test_hmdb51_film_of_a_clip(name, label, film):
    assert film_of(name, label) == film


def test_hmdb51_official_splits_are_kept_as_they_are(tmp_path):
    root = hmdb(tmp_path)
    file = root / "testTrainMulti_7030_splits" / "wave_test_split1.txt"
    file.write_text(file.read_text().replace("goo_0.avi 1", "goo_0.avi 2"))
    manifest = read(root, "hmdb51")
    assert {v.split for v in manifest.videos if v.group == "Film_0"} >= {"test"}
    assert len(manifest.split("test")) == 9


def test_hmdb51_with_a_line_that_makes_no_sense(tmp_path):
    root = hmdb(tmp_path)
    file = root / "testTrainMulti_7030_splits" / "wave_test_split1.txt"
    file.write_text(file.read_text() + "film.avi 3\n")
    with pytest.raises(UserError, match=r"wave_test_split1.txt line 21: 'film.avi 3' is not a fi"):
        read(root, "hmdb51")


def test_hmdb51_with_videos_missing(tmp_path):
    root = hmdb(tmp_path)
    for file in (root / "wave").glob("Film_1_*"):
        file.unlink()
    with pytest.raises(UserError, match=r"name 36 clips .*2 of them are not below .*: wave/Film_1"):
        read(root, "hmdb51")


def test_hmdb51_without_its_lists(tmp_path):
    touch(tmp_path / "data", ["wave/a.avi"])
    with pytest.raises(UserError, match=r"no \*_test_split1.txt in .*data"):
        read(tmp_path / "data", "hmdb51")


# --- CCV -----------------------------------------------------------------------------------------


def ccv(root: Path, classes=CATEGORIES) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 60), ("test", 40)):
        rows = []
        for number in range(count):
            row = [int(c == number % 22) for c in range(len(classes))]  # two of 22 have no label
            row[0] |= int(number % 10 == 3)
            rows.append(" ".join(map(str, row)) + " ")
        ids = [f"-{split}_{number:02d}" for number in range(count)]
        (root / f"{split}Label.txt").write_text("\n".join(rows) + "\n")
        (root / f"{split}VidID.txt").write_text("\n".join(ids) + "\n")
        touch(root / "videos" / split, [f"{i}.{'mp4' if split == 'test' else 'flv'}" for i in ids])
    return root


def test_ccv_is_multi_label_and_keeps_videos_without_a_label(tmp_path):
    manifest = read(ccv(tmp_path), "ccv")
    assert manifest.multi_label and manifest.classes == tuple(CATEGORIES)
    train, val, test = (manifest.split(s) for s in ("train", "val", "test"))
    assert (len(train) + len(val), len(test)) == (60, 40) and val
    assert {label for v in train for label in v.labels} == set(CATEGORIES)
    by_id = {v.id: v for v in manifest.videos}
    assert by_id["-train_03"].labels == ("Basketball", "IceSkating")
    assert manifest.targets(by_id["-train_03"]) == (0, 3)
    assert by_id["-train_20"].labels == ()
    assert by_id["-test_00"].path.endswith("videos/test/-test_00.mp4")
    assert all(Path(v.path).is_file() for v in manifest.videos)


def test_ccv_reads_category_names(tmp_path):
    names = [f"kind{i}" for i in range(20)]
    (ccv(tmp_path) / "categoryName.txt").write_text("\r\n".join(names) + "\r\n")
    assert read(tmp_path, "ccv").classes == tuple(names)


def test_ccv_keeps_videos_that_have_gone(tmp_path):
    root = ccv(tmp_path)
    before = read(root, "ccv").fingerprint
    (root / "videos" / "test" / "-test_00.mp4").unlink()
    manifest = read(root, "ccv")
    assert len(manifest.videos) == 100
    gone = next(v for v in manifest.videos if v.id == "-test_00")
    assert not Path(gone.path).exists() and gone.split == "test"
    assert manifest.fingerprint != before


def test_ccv_without_any_video(tmp_path):
    root = ccv(tmp_path)
    (root / "videos").rename(root / ".videos")
    with pytest.raises(UserError, match=r"none of the 100 videos .* is below .*-train_00.mp4"):
        read(root, "ccv")


def test_ccv_with_lists_of_different_length(tmp_path):
    root = ccv(tmp_path)
    with open(root / "testVidID.txt", "a") as stream:
        stream.write("another\n")
    with pytest.raises(UserError, match=r"testVidID.txt has 41 videos, but testLabel.txt has 40"):
        read(root, "ccv")


@pytest.mark.parametrize("row", ["1 0 1", "2" + " 0" * 19])
def test_ccv_with_a_row_that_makes_no_sense(tmp_path, row):
    root = ccv(tmp_path)
    lines = (root / "trainLabel.txt").read_text().splitlines()
    lines[6] = row
    (root / "trainLabel.txt").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"trainLabel.txt line 7: .* is not 20 zeros and ones"):
        read(root, "ccv")


def test_ccv_with_a_video_in_training_and_test(tmp_path):
    root = ccv(tmp_path)
    file = root / "testVidID.txt"
    file.write_text(file.read_text().replace("-test_07", "-train_09"))
    message = r"same clip is in two splits: -train_09 is train in .*line 10 and test in .*line 8"
    with pytest.raises(UserError, match=message):
        read(root, "ccv")


def test_ccv_without_its_lists(tmp_path):
    touch(tmp_path / "data", ["a.mp4"])
    with pytest.raises(UserError, match=r"no trainVidID.txt in .*data"):
        read(tmp_path / "data", "ccv")
