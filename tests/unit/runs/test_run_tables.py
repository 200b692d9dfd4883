"""One table of the tables of all stacks: their rows, under the columns of all, and never all of them in memory."""

import csv
import json
import tracemalloc

import msgspec

from densecell_batch.runs.measured import Measured
from densecell_batch.runs.run_tables import write_run_tables
from densecell_batch.storage.records import described


def write_table(folder, name, lines):
    """A table of objects, and the record that makes it that of a measured stack."""
    content = "".join(f"{line}\n" for line in lines).encode()
    (folder / f"{name}_objects.csv").write_bytes(content)
    record = Measured(
        version="0", labels=name, labels_sha256="0" * 64, state="given", image=None, image_sha256=None,
        classes=("rest",), voxel_size_um=None, options={},
        outputs={"objects": described(f"{name}_objects.csv", content)},
    )  # fmt: skip
    (folder / f"{name}_objects.json").write_text(json.dumps(msgspec.to_builtins(record)))


def test_columns_are_those_of_all(tmp_path):
    write_table(tmp_path, "a", ["stack,object,one", "a,1,5", "a,2"])
    write_table(tmp_path, "b", ["stack,object,two"])
    write_table(tmp_path, "c", ["stack,two,object", 'c,"x,y",1'])
    write_table(tmp_path, "d", ["stack,object", "d,1,more than the head"])
    (path,) = write_run_tables(tmp_path)
    with path.open(newline="") as stream:
        found = list(csv.reader(stream))
    assert path.name == "objects-given.csv"
    assert found == [["stack", "object", "one", "two"], ["a", "1", "5", ""], ["a", "2", "", ""], ["c", "1", "", "x,y"]]


def test_what_is_there_already_is_not_written_again(tmp_path):
    write_table(tmp_path, "a", ["stack,object", "a,1"])
    (path,) = write_run_tables(tmp_path)
    before = path.stat()
    assert write_run_tables(tmp_path) == [path]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    write_table(tmp_path, "a", ["stack,object", "a,2"])
    assert write_run_tables(tmp_path) == [path]
    assert path.read_text() == "stack,object\na,2\n"
    path.write_text("mine")
    assert write_run_tables(tmp_path) == []
    assert path.read_text() == "mine"
    assert not [entry for entry in tmp_path.iterdir() if entry.name.endswith(".tmp")]


def test_memory_is_that_of_a_few_rows(tmp_path):
    def highest(n):
        write_table(tmp_path, "a", ["stack,object,x,y,z", *(f"a,{i},1.5,2.5,3.5" for i in range(n))])
        tracemalloc.start()
        write_run_tables(tmp_path)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    highest(10)  # what is imported and kept once
    assert highest(5000) < highest(1000) + 20 * 4000
