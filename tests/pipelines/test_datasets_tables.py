"""CSV and Parquet tables, and their mistakes, named with the line."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.errors import UserError
from pipelines.data import Manifest, SplitSettings, read_dataset

ROWS = [(f"{c}/{i}.mp4", c) for c in ("cat", "dog") for i in range(10)]


def write(folder: Path, text: str, *, media: bool = True, encoding: str = "utf-8") -> Path:
    """A table, and an empty file for every path in it."""
    table = folder / "clips.csv"
    table.write_text(text, encoding=encoding)
    for line in text.splitlines()[1:] if media else []:
        file = folder / line.split(",")[0]
        if file.suffix == ".mp4":
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    return table


def table_of(rows, header="path,label") -> str:
    return "\n".join([header, *(",".join(row) for row in rows)]) + "\n"


def read(table: Path, **settings) -> Manifest:
    return read_dataset(table, "csv", splits=SplitSettings(**settings), seed=0)


def refused(table: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(table)


def test_reads_paths_relative_to_the_table(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", table_of(ROWS))
    monkeypatch.chdir(tmp_path)
    manifest = read(Path("data/clips.csv"))
    assert manifest.classes == ("cat", "dog") and manifest.name == "clips"
    assert manifest.videos[0].id == "cat/0.mp4"
    assert manifest.videos[0].path == str(tmp_path / "data" / "cat" / "0.mp4")
    assert [len(manifest.split(s)) for s in ("train", "val", "test")] == [14, 2, 4]


def test_absolute_paths_quotes_other_columns_blank_lines_and_a_byte_order_mark(tmp_path):
    rows = [(f'"{tmp_path}/{path}"', f" {label} ", "x") for path, label in ROWS]
    write(tmp_path, table_of(ROWS))
    text = table_of(rows, "Path, Label,note").replace("\n", "\r\n") + "\r\n"
    manifest = read(write(tmp_path, text, media=False, encoding="utf-8-sig"))
    assert [v.id for v in manifest.videos] == [path for path, _ in ROWS]
    assert manifest.classes == ("cat", "dog")


def test_several_labels_make_it_multi_label(tmp_path):
    rows = [*ROWS, ("both.mp4", "dog|cat"), ("two.mp4", "cat | dog")]
    manifest = read(write(tmp_path, table_of(rows)))
    assert manifest.multi_label
    assert manifest.videos[-2].labels == ("dog", "cat")
    assert manifest.targets(manifest.videos[-2]) == (0, 1)


def test_splits_and_groups_of_the_table_are_kept(tmp_path):
    splits = ["train"] * 6 + ["Validation"] * 2 + ["test"] * 2
    rows = [(p, c, splits[i % 10], f"source{i % 10}") for i, (p, c) in enumerate(ROWS)]
    manifest = read(write(tmp_path, table_of(rows, "path,label,split,group")))
    assert [v.split for v in manifest.videos[:10]] == ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    assert {v.group for v in manifest.split("test")} == {"source8", "source9"}


def test_validation_is_cut_from_training_by_group(tmp_path):
    rows = [
        (p, c, "test" if i % 10 > 7 else "train", f"source{i % 10}")
        for i, (p, c) in enumerate(ROWS)
    ]
    manifest = read(write(tmp_path, table_of(rows, "path,label,split,group")))
    assert len(manifest.split("test")) == 4
    assert len({v.group for v in manifest.split("val")}) == 2
    assert len(manifest.split("val")) == 4
    assert manifest.grouping == "from the table"


def test_test_is_cut_where_the_table_gives_training_and_validation_only(tmp_path):
    rows = [(p, c, "val" if i % 10 == 0 else "train") for i, (p, c) in enumerate(ROWS)]
    manifest = read(write(tmp_path, table_of(rows, "path,label,split")))
    assert {v.id for v in manifest.split("val")} == {"cat/0.mp4", "dog/0.mp4"}
    assert len(manifest.split("test")) == 4


def test_folds_override_the_splits_of_the_table(tmp_path):
    rows = [(p, c, "test" if i % 10 > 7 else "train") for i, (p, c) in enumerate(ROWS)]
    table = write(tmp_path, table_of(rows, "path,label,split"))
    tested = {v.id for f in range(1, 6) for v in read(table, folds=5, fold=f).split("test")}
    assert tested == {p for p, _ in ROWS}


def test_parquet_is_read_alike(tmp_path):
    from_csv = read(write(tmp_path, table_of(ROWS)))
    columns = {"path": [p for p, _ in ROWS], "label": [c for _, c in ROWS]}
    pq.write_table(pa.table(columns), tmp_path / "clips.parquet")
    assert read(tmp_path / "clips.parquet") == from_csv
    columns["label"] = [[c] for _, c in ROWS]
    pq.write_table(pa.table(columns), tmp_path / "clips.parquet")
    assert read(tmp_path / "clips.parquet") == from_csv


def test_parquet_names_the_row(tmp_path):
    write(tmp_path, table_of(ROWS))
    labels = [c for _, c in ROWS]
    labels[4] = None
    table = pa.table({"path": [p for p, _ in ROWS], "label": labels})
    pq.write_table(table, tmp_path / "clips.parquet")
    refused(tmp_path / "clips.parquet", r"clips.parquet row 5: empty label in None")


def test_parquet_without_a_column(tmp_path):
    pq.write_table(pa.table({"file": ["a.mp4"], "label": ["x"]}), tmp_path / "clips.parquet")
    refused(tmp_path / "clips.parquet", r"clips.parquet: no column 'path'; the columns are: file,")


def test_what_is_no_parquet(tmp_path):
    (tmp_path / "clips.parquet").write_text("path,label\n")
    refused(tmp_path / "clips.parquet", r"clips.parquet cannot be read as Parquet: ")


def test_a_column_missing(tmp_path):
    table = write(tmp_path, table_of(ROWS, "path,lable"))
    message = (
        r"clips.csv line 1: no column 'label'; the columns are: path, lable; did you mean 'lable'\?"
    )
    refused(table, message)


def test_no_rows(tmp_path):
    refused(write(tmp_path, "path,label\n"), r"clips.csv has no rows")


def test_an_empty_file(tmp_path):
    refused(write(tmp_path, ""), r"clips.csv line 1: no column 'path'; the columns are: none")


@pytest.mark.parametrize("label", ["", "cat||dog", "cat|"])
def test_an_empty_label(tmp_path, label):
    table = write(tmp_path, table_of([*ROWS, ("new.mp4", label)]))
    refused(table, rf"clips.csv line 22: empty label in '{re.escape(label)}'")


def test_an_unknown_split(tmp_path):
    rows = [(p, c, "train") for p, c in ROWS] + [("new.mp4", "cat", "tset")]
    table = write(tmp_path, table_of(rows, "path,label,split"))
    refused(table, r"line 22: unknown split 'tset'; did you mean 'test'\? \(one of train, val, ")


def test_a_split_left_empty(tmp_path):
    rows = [(p, c, "train") for p, c in ROWS] + [("new.mp4", "cat", "")]
    table = write(tmp_path, table_of(rows, "path,label,split"))
    refused(table, r"line 22: split is empty while other rows have one \(1 such rows\)")


def test_a_row_of_another_length(tmp_path):
    table = write(tmp_path, table_of([*ROWS, ("new.mp4", "cat", "dog")]))
    refused(table, r"line 22: 3 cells, but the header has 2 columns")


def test_files_that_do_not_exist(tmp_path):
    table = write(tmp_path, table_of(ROWS))
    (tmp_path / "dog" / "3.mp4").unlink()
    (tmp_path / "dog" / "4.mp4").unlink()
    refused(
        table,
        r"clips.csv line 15: file .*/dog/3.mp4 does not exist; 2 of 20 listed files are missing: "
        r"dog/3.mp4, dog/4.mp4",
    )


def test_the_same_clip_twice(tmp_path):
    table = write(tmp_path, table_of([*ROWS, ("./cat/3.mp4", "dog")]))
    refused(table, r"same clip is listed twice: cat/3.mp4 in .*csv line 5 and in .*line 22; .*'\|'")


def test_the_same_clip_in_two_splits(tmp_path):
    rows = [(p, c, "train") for p, c in ROWS] + [("cat/3.mp4", "cat", "test")]
    table = write(tmp_path, table_of(rows, "path,label,split"))
    refused(
        table,
        r"the same clip is in two splits: cat/3.mp4 is train in .*line 5 and test in .*line 22; "
        "keep one",
    )


def test_the_same_group_in_two_splits(tmp_path):
    splits = ["train"] * 8 + ["test"] * 2
    rows = [(p, c, splits[i % 10], f"source{i % 9}") for i, (p, c) in enumerate(ROWS)]
    table = write(tmp_path, table_of(rows, "path,label,split,group"))
    refused(table, r"group 'source0' is in two splits: train in .*line 2 and test in .*line 11; ")


def test_groups_found_in_the_names_may_not_be_in_two_splits_either(tmp_path):
    rows = [
        (f"v_{c}_g{i // 2:02d}_c{i % 2:02d}.mp4", c, "test" if i > 14 else "train")
        for c in ("cat", "dog")
        for i in range(20)
    ]
    table = write(tmp_path, table_of(rows, "path,label,split"))
    refused(table, r"group 'g07' is in two splits: .* or set splits.group_pattern")
    assert len(read(table, group_pattern=None).split("test")) == 10


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_label_that_training_lacks(tmp_path, split):
    rows = [(p, c, "test" if i % 10 > 7 else "train") for i, (p, c) in enumerate(ROWS)]
    rows += [("a.mp4", "cow", split), ("b.mp4", "cow", split)]
    table = write(tmp_path, table_of(rows, "path,label,split"))
    refused(table, rf"label 'cow' is in {split} but no training clip has it \(.*line 22\); add")


def test_a_class_with_one_clip(tmp_path):
    table = write(tmp_path, table_of([*ROWS, ("new.mp4", "cow")]))
    refused(table, r"class with one clip .*: cow \(the first: .*clips.csv line 22\)")


def test_what_is_no_text(tmp_path):
    (tmp_path / "clips.csv").write_bytes(b"path,label\n\xff\xfe,cat\n")
    refused(tmp_path / "clips.csv", "clips.csv is not a CSV file in UTF-8")


def test_a_folder_where_a_table_is_read(tmp_path):
    write(tmp_path, table_of(ROWS))
    refused(tmp_path, "is a folder, but format 'csv' reads a file")
