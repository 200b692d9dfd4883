"""The Slurm scripts, and what real Slurm does with them."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from imagej_app import MISSING_PYTHON
from slurm import MISSING, slurm, states_of, wait_for_jobs

from densecell_batch.data import SAMPLE
from densecell_batch.errors import OptionError
from densecell_batch.runs.slurm import ArrayJob, array_script, assemble_script, write_scripts

# Scripts


def job(**changes):
    return ArrayJob(**{"stacks": [Path("/data/cells.tif")], "out": Path("/data/out"), "tasks": 4, **changes})


def test_script_is_bash_that_parses_whatever_the_paths(tmp_path):
    nasty = tmp_path / 'it\'s "50 %" $(touch hacked) `x`; é'
    scripts = write_scripts(job(stacks=[nasty / "a b.tif"], out=nasty, gpus=2, image=nasty / "d.sif", time="1-0:00:00"))
    for script in (scripts.array, scripts.assemble):
        subprocess.run(["bash", "-n", script], check=True)
    text = scripts.array.read_text()
    words = text.split("apptainer", 1)[1]
    # What bash makes of the words of the command.
    echoed = subprocess.run(
        ["bash", "-c", "printf '%s\\n' apptainer" + words.split(" &\n")[0]],
        capture_output=True, text=True, check=True, env={"SLURM_ARRAY_TASK_ID": "3", "PATH": os.environ["PATH"]},
    ).stdout.splitlines()  # fmt: skip
    assert echoed[:3] == ["apptainer", "run", "--nv"]
    assert echoed[echoed.index("segment") + 1] == str(nasty / "a b.tif")
    assert echoed[-3:] == ["--shard", "3/4", "--array-task"]
    assert not (tmp_path / "hacked").exists()
    assert "#SBATCH --gres=gpu:2\n" in text
    assert "#SBATCH --time=1-0:00:00\n" in text
    assert "50 %%" in text.split("--output=")[1].splitlines()[0]


def test_scripts_hold_what_was_asked():
    text = array_script(job(cpus=8, memory="32G", partition="gpu", extra="--account=lab --qos='a b'"), Path("x.sbatch"))
    for line in ("--array=1-4", "--cpus-per-task=8", "--mem=32G", "--partition=gpu", "--account=lab", "--requeue"):
        assert f"#SBATCH {line}\n" in text
    assert "--assemble" not in text
    assert "--shard" not in assemble_script(job())


def test_code_never_comes_out_of_the_folder_that_a_task_runs_in():
    for text in (array_script(job(), Path("x.sbatch")), assemble_script(job())):
        assert f"{sys.executable} -P -m densecell_batch segment" in text


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [(None, 120), ("4:00:00", 120), ("8", 120), ("8:00", 120), ("4", 60), ("2:00", 30), ("0-0:2", 30), ("0:1:0", 15),
     ("1-0", 120), ("0", 120)],
)  # fmt: skip
def test_how_long_before_its_time_limit_a_task_is_told_to_stop(limit, seconds):
    """Not as soon as it starts, however short the limit is."""
    assert f"#SBATCH --signal=B:USR1@{seconds}\n" in array_script(job(time=limit), Path("x.sbatch"))


@pytest.mark.parametrize(("n", "tasks", "last"), [(3, 3, 1), (100, 100, 1), (101, 51, 1), (1000, 100, 10)])
def test_each_stack_has_its_verdict_in_one_task(n, tasks, last):
    stacks = [Path(f"/data/{i} $(x).tif") for i in range(n)]
    text = assemble_script(job(stacks=stacks))
    assert f"#SBATCH --array=1-{tasks}\n" in text
    body, _, command = text.partition("exec ")
    seen = []
    for task in {1, 2, tasks}:
        done = subprocess.run(
            ["bash", "-c", f"{body}\nprintf '%s\\n' {command}"],
            capture_output=True, text=True, check=True, env={"SLURM_ARRAY_TASK_ID": str(task)},
        )  # fmt: skip
        words = done.stdout.splitlines()
        seen.append(words[words.index("segment") + 1 : words.index("-o")])
        assert words[-1] == "--assemble"
    assert seen[0][0] == str(stacks[0])
    assert seen[-1] == [str(stack) for stack in stacks[-last:]]


@pytest.mark.parametrize(
    ("change", "expected"), [({}, 3), ({"summary": False}, 2), ({"stacks": [Path("/data/a.tif")]}, 2)]
)
def test_several_stacks_have_a_last_job_that_makes_a_page(tmp_path, change, expected):
    stacks = [Path(f"/data/{i} $(touch hacked) '.tif") for i in range(2)]
    scripts = write_scripts(job(**{"stacks": stacks, "out": tmp_path, **change}))
    assert len(scripts.paths) == expected
    if scripts.summary is not None:
        text = scripts.summary.read_text()
        words = shlex.split(text[text.index("exec ") :])
        assert words[words.index("summary") :] == ["summary", str(tmp_path), *(f"--expect={path}" for path in stacks)]


def test_what_an_image_has_to_see(tmp_path):
    """The folders of stacks, links, outputs and models, also those with characters that --bind splits at."""
    for name in ("stacks", "real", "models", "a,b:c"):
        (tmp_path / name).mkdir()
    (tmp_path / "real/x.tif").touch()
    (tmp_path / "models/m.zip").touch()
    (tmp_path / "stacks/link.tif").symlink_to(tmp_path / "real/x.tif")
    text = array_script(
        job(
            stacks=[tmp_path / "stacks/link.tif", tmp_path / "a,b:c/y.tif"],
            out=tmp_path / "out",
            segment=["--model", str(tmp_path / "models/m.zip"), "--tile", "5,64,64"],
            files=[tmp_path / "models/m.zip"],
            image=Path("/images/d.sif"),
        ),
        Path("x.sbatch"),
    )
    words = shlex.split(next(line for line in text.splitlines() if line.startswith("apptainer")))
    binds = {words[i + 1] for i, word in enumerate(words) if word in ("--bind", "--mount")}
    odd = f'type=bind,"source={tmp_path}/a,b:c","destination={tmp_path}/a,b:c"'
    assert binds == {odd, *(str(tmp_path / name) for name in ("stacks", "real", "models", "out"))}
    assert words[words.index("/images/d.sif") + 1] == "segment"


def test_a_container_sees_the_files_that_the_options_name(tmp_path):
    (tmp_path / "macros").mkdir()
    (tmp_path / "Fiji.app").mkdir()
    macro = tmp_path / "macros/clean.ijm"
    macro.touch()
    text = array_script(job(image=Path("/d.sif"), files=[macro, tmp_path / "Fiji.app"]), Path("x.sbatch"))
    for folder in ("/data", "/data/out", tmp_path / "macros", tmp_path / "Fiji.app"):
        assert f"--bind {folder} " in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": "lots"}, "memory is 'lots'"),
        ({"time": "1h"}, "time is '1h'"),
        ({"partition": "a b"}, "partition"),
        ({"name": "a\n#SBATCH --wrap"}, "name"),
        ({"extra": "--x\ny"}, "--extra has 'y'"),
        ({"extra": "'--x\ny'"}, "expected options of sbatch"),
        ({"extra": "'"}, "No closing quotation"),
        ({"stacks": [Path("a\nb.tif")]}, "line break"),
    ],
)
def test_what_a_script_cannot_hold(changes, message):
    with pytest.raises(OptionError, match=message):
        job(**changes)


# The command


def densecell(*words, env=None):
    command = [sys.executable, "-m", "densecell_batch", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=env)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    path = tmp_path_factory.mktemp("a folder") / "cells é.tif"
    volume = np.tile(tifffile.imread(SAMPLE)[:, :160, :160], (3, 1, 1))
    tifffile.imwrite(path, volume, imagej=True, metadata={"axes": "ZYX"})
    return path


@pytest.fixture(scope="module")
def options(data):
    return ["--model", data / "fly-vnc-small.zip", "--tile", "5,64,64", "--precision", "float32", "--no-preview"]


def test_options_of_segment_are_passed_on(stack, options, tmp_path):
    done = densecell(
        "slurm", stack, "-o", tmp_path, "--array", 3, "--dry-run", *options, "--instances", "glia and extracellular"
    )
    assert done.returncode == 0, done.stderr
    for part in (
        "--tile 5,64,64",
        "--precision float32",
        "--no-preview",
        "--instances 'glia and extracellular'",
        "fly-vnc-small.zip",
    ):
        assert part in done.stdout
    assert "--stitch" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_macros_are_named_in_full(stack, tmp_path, monkeypatch):
    (tmp_path / "clean.ijm").write_text("x = 1;")
    monkeypatch.chdir(tmp_path)
    words = ["--pre-macro", "clean.ijm", "--post-macro", "clean.ijm", "--macro-timeout", "60", "--image", "clean.ijm"]
    done = densecell("slurm", stack, "-o", tmp_path / "out", "--array", 3, "--dry-run", *words)
    assert done.returncode == 0, done.stderr
    assert f"--pre-macro {tmp_path}/clean.ijm --post-macro {tmp_path}/clean.ijm --macro-timeout 60" in done.stdout
    assert f"--bind {tmp_path} " in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--tile", "5"], 2, "three whole numbers"),
        (["--stitch", "x"], 2, "not one of"),
        (["--array", "0"], 2, "0 is not in the range"),
        (["--time", "soon"], 2, "'soon'"),
        (["--image", "none.sif"], 2, "none.sif: no such image"),
        (["--overwrite"], 2, "No such option"),
        (["--model", "nosuch"], 3, "no model 'nosuch'"),
        (["--instances", "nosuch"], 2, "there is no class 'nosuch'"),
        (["--min-volume", "1"], 2, "say of which class"),
        (["--post-macro", "none.ijm"], 2, "none.ijm: the macro cannot be read"),
    ],
)
def test_bad_options(words, code, message, stack, tmp_path):
    done = densecell("slurm", stack, "-o", tmp_path, "--array", 3, *words)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_model_may_be_that_of_the_image(stack, tmp_path):
    (tmp_path / "d.sif").touch()
    done = densecell("slurm", stack, "-o", tmp_path, "--array", 3, "--image", tmp_path / "d.sif", "--model", "theirs")
    assert done.returncode == 0, done.stderr
    assert "whether the image has a model theirs is seen when the tasks run" in done.stderr
    assert "--model theirs" in (tmp_path / "slurm/densecell.sbatch").read_text()


def test_results_are_no_stacks_of_the_next_array(stack, tmp_path):
    cells = tmp_path / "cells.tif"
    cells.write_bytes(stack.read_bytes())
    done = densecell("slurm", cells, cells.with_suffix(".tiff"), "-o", tmp_path, "--array", 3)
    assert done.returncode == 2
    assert "would both be written to" in done.stderr
    assert not (tmp_path / "slurm").exists()


def test_no_slurm_here(stack, tmp_path):
    done = densecell("slurm", stack, "-o", tmp_path, "--array", 3, "--submit", env={**os.environ, "PATH": "/nowhere"})
    assert done.returncode == 3
    assert "there is no sbatch here; submit it on a login node" in done.stderr
    assert (tmp_path / "slurm/densecell.sbatch").exists()


def test_a_script_that_was_changed_is_kept(tmp_path):
    job = ArrayJob([tmp_path / "a.tif"], tmp_path / "out", 3)
    for _ in range(2):
        array = write_scripts(job).array
    array.write_text("mine")
    write_scripts(job)
    assert sorted(path.name.partition(".old-")[0] for path in array.parent.iterdir()) == [
        "densecell-assemble.sbatch", "densecell.sbatch", "densecell.sbatch"
    ]  # fmt: skip
    (kept,) = array.parent.glob("*.old-*")
    assert kept.read_text() == "mine"


# Slurm


@pytest.fixture(scope="module")
def cluster():
    if MISSING:
        pytest.skip(f"Slurm is not installed: {', '.join(MISSING)}")
    with slurm() as environment:
        yield environment


@pytest.fixture(scope="module")
def expected(stack, options, tmp_path_factory):
    """The labels of an undivided run."""
    out = tmp_path_factory.mktemp("alone")
    assert densecell("segment", stack, "-o", out, *options).returncode == 0
    return (out / "cells é_labels.tif").read_bytes()


def submitted(cluster, stack, out, options, *words):
    """Submit; the number of the array."""
    done = densecell("slurm", stack, "-o", out, "--submit", *options, *words, env=cluster)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\t")[0]


def logs(out):
    return {path.name: path.read_text() for path in sorted((out / "slurm").glob("*.log"))}


def whole(out, expected):
    """Whether the outputs are those of an undivided run, made once, with nothing left over."""
    verdicts = [line for text in logs(out).values() for line in text.splitlines() if line.startswith("DENSECELL")]
    print("\n".join(verdicts))
    skipped = sum(text.count("was done before: skipped") for text in logs(out).values())
    assert sum(line.startswith("DENSECELL\tok\t") for line in verdicts) == skipped + 1
    names = {path.name for path in out.iterdir()}
    assert names == {"cells é_labels.tif", "cells é_report.json", "slurm"}, logs(out)
    report = json.loads((out / "cells é_report.json").read_text())
    assert report["outputs"]["labels"]["file"] == "cells é_labels.tif"
    return (out / "cells é_labels.tif").read_bytes() == expected


@pytest.mark.slow
def test_an_array_makes_the_same_bytes(cluster, stack, options, expected, tmp_path):
    out = tmp_path / "o u t"
    number = submitted(cluster, stack, out, options, "--array", 3)
    wait_for_jobs(cluster)
    assert whole(out, expected)
    assert {f"{number}_{i}.log" for i in (1, 2, 3)} < set(logs(out))


@pytest.mark.slow
@pytest.mark.fiji
@pytest.mark.skipif(bool(MISSING_PYTHON), reason=f"not installed: {', '.join(MISSING_PYTHON)}")
def test_macros_of_the_user_in_an_array(cluster, stack, options, tmp_path, monkeypatch):
    """Each is run once, by one of the tasks; the others wait for the first one's stack."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("clean", 'run("Invert", "stack");'), ("count", 'setResult("n", 0, nSlices); updateResults();')):
        Path(f"{name}.ijm").write_text(f'File.append("ran", "{tmp_path}/{name}");\n{text}')
    out = tmp_path / "out"
    submitted(cluster, stack, out, options, "--array", 3, "--pre-macro", "clean.ijm", "--post-macro", "count.ijm")
    wait_for_jobs(cluster)
    assert [Path(name).read_text().split() for name in ("clean", "count")] == [["ran"], ["ran"]], logs(out)
    names = {path.name for path in out.iterdir()}
    assert names == {"cells é_labels.tif", "cells é_report.json", "cells é_macro_results.csv", "slurm"}, logs(out)
    assert (out / "cells é_macro_results.csv").read_text() == "n\n30\n"


def piece_of(out, cluster):
    """Wait until there is a piece."""
    until = time.monotonic() + 120
    while not list(out.glob(".*.parts-*/piece-*.npz")):
        assert time.monotonic() < until, logs(out)
        time.sleep(0.1)


def starts(out, number, task):
    """How many times a task began."""
    return logs(out).get(f"{number}_{task}.log", "").count("stack 1 of 1")


@pytest.mark.slow
@pytest.mark.parametrize("task", [1, 2])
def test_when_the_time_is_nearly_up_just_that_task_is_requeued(task, cluster, stack, options, expected, tmp_path):
    """USR1, as Slurm sends it before the time limit; also to the last task, which bears the number of the array."""
    number = submitted(cluster, stack, tmp_path, options, "--array", 2)
    piece_of(tmp_path, cluster)
    subprocess.run(["scancel", "--signal=USR1", "--batch", f"{number}_{task}"], env=cluster, check=True)
    wait_for_jobs(cluster)
    assert whole(tmp_path, expected)
    assert "stopped by SIGTERM" in logs(tmp_path)[f"{number}_{task}.log"], logs(tmp_path)
    assert (starts(tmp_path, number, task), starts(tmp_path, number, 3 - task)) == (2, 1)
    assert states_of(cluster, number) == {"1": "COMPLETED", "2": "COMPLETED"}


@pytest.mark.slow
def test_an_array_that_is_cancelled_stays_cancelled(cluster, stack, options, tmp_path):
    number = submitted(cluster, stack, tmp_path, options, "--array", 2)
    piece_of(tmp_path, cluster)
    subprocess.run(["scancel", number], env=cluster, check=True)
    wait_for_jobs(cluster)
    time.sleep(8)  # longer than what is requeued waits
    assert states_of(cluster, number) == {"1": "CANCELLED", "2": "CANCELLED"}
    assert not list(tmp_path.glob("*.tif"))
    assert max(starts(tmp_path, number, task) for task in (1, 2)) == 1
    assert "Traceback" not in "".join(logs(tmp_path).values())


@pytest.mark.slow
def test_slurm_itself_requeues_what_it_preempts(cluster, stack, options, expected, tmp_path):
    number = submitted(cluster, stack, tmp_path, options, "--array", 2, "--partition", "debug")
    piece_of(tmp_path, cluster)
    words = ["sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap", "true"]
    subprocess.run(words, env=cluster, check=True, capture_output=True)
    wait_for_jobs(cluster)
    assert whole(tmp_path, expected)
    assert "DUE TO PREEMPTION" in "".join(logs(tmp_path).values()), logs(tmp_path)
    assert states_of(cluster, number) == {"1": "COMPLETED", "2": "COMPLETED"}


@pytest.mark.slow
def test_one_bad_stack_of_three_is_one_task_that_failed(cluster, stack, options, tmp_path):
    """The tasks that did their part are well, and so are the verdicts of the other two stacks."""
    stacks = [tmp_path / name for name in ("a.tif", "b.tif", "c.tif")]
    for path in stacks:
        path.write_bytes(stack.read_bytes() if path.name != "b.tif" else b"no stack")
    done = densecell("slurm", *stacks, "-o", tmp_path / "out", "--submit", "--array", 2, *options, env=cluster)
    assert done.returncode == 0, done.stderr
    array, verdicts, last = (line.split("\t")[0] for line in done.stdout.splitlines())
    wait_for_jobs(cluster)
    said = logs(tmp_path / "out")
    assert states_of(cluster, array) == {"1": "COMPLETED", "2": "COMPLETED"}, said
    assert states_of(cluster, verdicts) == {"1": "COMPLETED", "2": "FAILED", "3": "COMPLETED"}, said
    assert "DENSECELL\tfailed" in said[f"assemble_{verdicts}_2.log"]
    assert "b.tif: not a TIFF file" in said[f"assemble_{verdicts}_2.log"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "slurm", "summary.html", "summary.csv", ".densecell-tables.json",
        *(f"{name}_{what}" for name in "ac" for what in ("labels.tif", "report.json")),
    }  # fmt: skip
    assert "summary.html" in said[f"summary_{last}.log"]
    rows = (tmp_path / "out/summary.csv").read_text().splitlines()
    assert [row.split(",")[3] for row in rows] == ["stack", "b", "a", "c"]
    assert "failed: it has no results" in rows[1]


@pytest.mark.slow
def test_a_failed_task_is_run_again_alone(cluster, stack, options, expected, tmp_path):
    """SIGKILL, as when a node runs out of memory: the task fails, the job after the array says what is missing."""
    number = submitted(cluster, stack, tmp_path, options, "--array", 3)
    until = time.monotonic() + 120
    # The oldest: what a process starts looks like the process itself until it becomes another program.
    command = ["pgrep", "--oldest", "-f", f"{tmp_path}.* --shard 2/3"]
    while not (pids := subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()):
        assert time.monotonic() < until, logs(tmp_path)
        time.sleep(0.1)
    # Not with scancel: it sends a SIGTERM first, after which the task goes back into the queue.
    (pid,) = pids
    os.kill(int(pid), signal.SIGKILL)
    wait_for_jobs(cluster)
    assert states_of(cluster, number) == {"1": "COMPLETED", "2": "FAILED", "3": "COMPLETED"}, logs(tmp_path)
    assert not list(tmp_path.glob("*.tif"))
    assert "pieces are missing: run the shards that did not finish again" in "".join(logs(tmp_path).values())
    command = ["sbatch", "--wait", "--array=2", tmp_path / "slurm/densecell.sbatch"]
    subprocess.run(command, env=cluster, check=True, capture_output=True)
    assert whole(tmp_path, expected)
