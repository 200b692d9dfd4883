"""`densecell-batch fiji macro` with real ImageJ: macros that work, fail, hang, open a dialog; what may be missing."""

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
from imagej_app import MISSING_PYTHON, jar_of

from densecell_batch.errors import MacroError, OptionError
from densecell_batch.imagej import worker
from densecell_batch.imagej.macro import Macro, MacroTask, run_apart

real = [
    pytest.mark.fiji,
    pytest.mark.skipif(bool(MISSING_PYTHON), reason=f"not installed: {', '.join(MISSING_PYTHON)}"),
]


def needs_imagej(test):
    for mark in real:
        test = mark(test)
    return test


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "densecell_batch", "fiji", "macro", *map(str, arguments)]


def run(*arguments, **environment):
    """Run a macro as a user does; a value of None takes a variable away."""
    env = {name: str(value) for name, value in (os.environ | environment).items() if value is not None}
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120, check=False, env=env)


@pytest.fixture
def macro(tmp_path):
    """Writes a macro."""

    def write(text: str, name: str = "my macro, é.ijm", encoding: str = "utf-8") -> Path:
        (tmp_path / name).write_bytes(text.encode(encoding))
        return tmp_path / name

    return write


def alone(path: Path) -> dict[str, str]:
    """An environment whose PATH has Java and nothing else of ours: no Xvfb; and no DISPLAY."""
    (path / "bin").mkdir()
    (path / "bin/java").symlink_to(Path(shutil.which("java")).resolve())
    return {"PATH": str(path / "bin"), "DISPLAY": None}


# Reading


def test_the_text_of_a_macro(macro):
    found = Macro.read(macro("a = 1;\r\nb = 2;\n"))
    assert (found.line(2), found.line(0), found.line(9)) == ("b = 2;", "", "")
    assert found.sha256 != Macro.read(macro("a = 1;\nb = 2;\n")).sha256
    assert Macro.read(macro("// é", encoding="latin-1")).text == "// é"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.py", b"print()", "expected an ImageJ macro, whose name ends in .ijm or .txt"),
        ("a.ijm", b"", "expected the text of an ImageJ macro, found none"),
        ("a.ijm", b" \n", "found none"),
        ("a.txt", b"a\0b", "found binary data"),
    ],
)
def test_no_macro(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OptionError, match=message):
        Macro.read(tmp_path / name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.ijm"], "none.ijm: the macro cannot be read: No such file"),
        ([], "Missing argument 'FILE.ijm'"),
        (["none.ijm", "--time-limit", "0"], "0.0 is not in the range x>0"),
        (["none.ijm", "--time-limit", "soon"], "'soon' is not a valid"),
        (["none.ijm", "a", "b"], "unexpected extra argument"),
    ],
)
def test_misuse(arguments, message):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


# Running


RAMP = 'newImage("a", "8-bit ramp", 64, 64, 3);\n'
MACROS = [
    ("value", 'return "got " + getArgument();', 0, "got a, é b\n", "^$"),
    ("no value", "x = 1;", 0, "", "^$"),
    ("print", 'print("to whom, é"); return "1";', 0, "1\n", "^to whom, é\n$"),
    ("commands", RAMP + 'run("Gaussian Blur...", "sigma=2 stack"); return "" + getPixel(32, 32);', 0, "128\n", "^$"),
    ("regions", RAMP + 'makeRectangle(1,1,5,5); roiManager("add"); return "" + roiManager("count");', 0, "1\n", "^$"),
    ("exit", "if (1) exit;\nreturn 1;", 0, "", "^$"),
    ("undefined", "x = 1;\nfoo(3);", 1, "", r"é\.ijm: line 2: Undefined identifier: foo\(3\);"),
    ("exit with a message", '\nexit("no cells found");', 1, "", r"line 2: it stopped: no cells found: exit\("),
    ("no such command", 'run("Frobnicate");', 1, "", 'line 1: Unrecognized command: "Frobnicate"'),
    ("no such file", 'open("/nowhere.tif");', 1, "", r"File not found: /nowhere\.tif"),
    ("dialog", 'Dialog.create("Cells");\nDialog.addMessage("How many");\nDialog.show();', 1, "",
     r"line 3: it opened a dialog, and nobody is there to answer: Cells \| How many: Dialog\.show"),
    ("dialog of a command", RAMP + 'run("Median 3D...");', 1, "", r"line 2: it opened a dialog.*3D Median \| X radius"),
    ("wait for the user", 'waitForUser("Hm", "draw a box");', 1, "", r"it opened a dialog.*Hm \| draw a box"),
    ("plain question", 'x = getNumber("How many?", 3);', 1, "", r"it opened a dialog.*How many\?"),
    ("hangs", "x = 1;\nwhile (true) {\n  x++; }", 1, "", "line [23]: still running after its limit of 3 s: "),
    ("chatty", 'for (i = 0; i < 4000; i++) print("a line of fifty characters, over and over again ....");', 0, "",
     "over and over"),
]  # fmt: skip


QUICK = ("commands", "undefined", "dialog")  # also with the newest ImageJ


@needs_imagej
@pytest.mark.parametrize(
    ("imagej", "text", "code", "stdout", "stderr"),
    [
        pytest.param(imagej, *row, id=f"{name}-{imagej}", marks=[pytest.mark.slow] if slow else [])
        for imagej in ("debian", "newest")
        for name, *row in MACROS
        for slow in [imagej == "newest" and name not in QUICK]
    ],
)
def test_macros(macro, imagej, text, code, stdout, stderr):
    done = run(macro(text), "a, é b", "--imagej", jar_of(imagej), "--time-limit", "3")
    assert done.stdout == stdout, done.stderr
    assert re.search(stderr, done.stderr), done.stderr
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 4000 if "over and over" in stderr else len(done.stderr) < 2000


@needs_imagej
def test_a_folder_with_plugins(macro, tmp_path):
    """Laid out as Fiji is, without its gateway; ImageJ finds the plugins."""
    folder = tmp_path / "Some Fiji.app"
    (folder / "jars").mkdir(parents=True)
    (folder / "plugins").mkdir()
    jar = jar_of("newest")
    shutil.copy(jar, folder / "jars" / jar.name)
    (folder / "plugins/Count_Cells.ijm").write_text('setResult("cells", 0, 42); updateResults();')
    done = run(macro('run("Count Cells"); return "" + getResult("cells", 0);'), "--imagej", folder)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


@needs_imagej
def test_the_gateway(macro):
    """`imagej.init()` with Maven Central as the only repository."""
    code = (
        "from scyjava import config\n"
        "where = 'net.imagej:imagej+net.imglib2:imglib2-imglyb'\n"
        "config.get_repositories().clear()\n"
        "from densecell_batch.errors import ImageJError\n"
        "from densecell_batch.imagej.jvm import start_imagej\n"
        "try: print(start_imagej(where, download=True).gateway.getVersion())\n"
        "except ImageJError as error: print('none:', error)\n"
        "import os, sys; sys.stdout.flush(); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    said = done.stdout.splitlines()[-1]
    if said.startswith("none: "):
        assert "its jars cannot be had" in said
        missing = "net.imagej:imagej, net.imagej:imagej-legacy, net.imglib2:imglib2-imglyb"
        pytest.skip(f"{missing} are not on Maven Central (docs/design/0007)")
    assert re.match(r"2\.\d+", said)


@needs_imagej
@pytest.mark.parametrize("endpoint", ["net.imagej:imagej:2.17.0", "net.imagej:ij:1.99z", "no.such:thing"])
def test_nothing_is_fetched_unasked(macro, endpoint, tmp_path):
    done = run(macro("return 1;"), "--imagej", endpoint, HOME=tmp_path, XDG_CACHE_HOME=tmp_path)
    assert done.returncode == 3
    assert f"{endpoint}: its jars cannot be had" in done.stderr
    assert (
        "fetch them once, where there is a network: densecell-batch fiji macro FILE --imagej ... --download"
        in done.stderr
    )
    assert not list(tmp_path.rglob("*.jar"))


@needs_imagej
def test_an_endpoint_that_was_fetched_before(macro):
    jar = jar_of("newest")
    endpoint = f"net.imagej:ij:{re.search(r'ij-(.*).jar', jar.name)[1]}"
    done = run(macro("return getVersion();"), "--imagej", endpoint)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().split("/")[-1].startswith(endpoint.rpartition(":")[2])


@needs_imagej
def test_what_may_be_fetched_is_fetched(tmp_path):
    """From Maven Central into an empty repository; the next one needs no permission."""
    version = re.search(r"ij-(.*).jar", jar_of("newest").name)[1]
    code = (
        "import sys\n"
        "from scyjava import config\n"
        "config.get_repositories().clear()\n"
        "from densecell_batch.imagej.find import find_imagej\n"
        "for download in (True, False): print(*find_imagej(sys.argv[1], download=download).jars)"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "M2_REPO": str(tmp_path / "m2")}
    done = subprocess.run(
        [sys.executable, "-c", code, f"net.imagej:ij:{version}"],
        capture_output=True, text=True, timeout=300, check=True, env=environment,
    )  # fmt: skip
    first, second = map(Path, done.stdout.splitlines())
    assert first == second
    assert first.read_bytes() == jar_of("newest").read_bytes()
    assert list((tmp_path / "m2").rglob(first.name))


# Whose code, and whose screen


@pytest.fixture
def handed_over(tmp_path):
    """Working folders of a stranger, in which ImageJ would find commands and macros."""
    for folder in (tmp_path / "stack", tmp_path / "my plugins"):
        for place, name in (("plugins", "Evil_Command.ijm"), (".", "Evil_Command.ijm"), ("macros", "helper.ijm"),
                            ("macros", "helper.txt"), ("macros", "StartupMacros.txt")):  # fmt: skip
            (folder / place).mkdir(parents=True, exist_ok=True)
            (folder / place / name).write_text(f'File.saveString("x", "{tmp_path}/RAN"); return "1";')
        (folder / "IJ_Prefs.txt").write_text(".densecell.evil=1\n")
        (folder / "notes.txt").write_text("a note")
    return tmp_path


@needs_imagej
@pytest.mark.parametrize(
    ("folder", "text", "code"),
    [
        ("stack", 'run("Evil Command");', 1),
        ("my plugins", 'run("Evil Command");', 1),
        ("stack", RAMP + 'run("Invert", "stack"); runMacro("helper");', 1),
        ("my plugins", 'runMacro("helper.ijm");', 1),
        # What is no code is found where the user is.
        ("stack", RAMP + 'run("Invert", "stack"); return call("ij.Prefs.get", "densecell.evil", "no") '
         '+ File.exists("notes.txt") + File.length("notes.txt");', 0),
    ],
    ids=["plugin", "folder called plugins", "macro", "macro, folder called plugins", "files"],
)  # fmt: skip
def test_the_working_folder_is_no_source_of_code(macro, handed_over, monkeypatch, folder, text, code):
    path = macro(text)
    monkeypatch.chdir(handed_over / folder)
    done = run(path, "--time-limit", "20")
    assert not (handed_over / "RAN").exists()
    assert (done.returncode, done.stdout) == (code, "" if code else "no16\n"), done.stderr
    assert not code or re.search("Unrecognized command|not found", done.stderr), done.stderr


def answer_of_screen(number: int, name: bytes, cookie: bytes) -> int:
    """What an X server says to somebody who connects: 0 no, 1 yes."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(f"/tmp/.X11-unix/X{number}")
        padded = [word.ljust(-(-len(word) // 4) * 4, b"\0") for word in (name, cookie)]
        client.sendall(struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(cookie)) + b"".join(padded))
        return client.recv(1)[0]


@needs_imagej
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the screen's socket where Linux has it")
def test_the_screen_is_for_those_who_know_the_cookie(macro, tmp_path):
    """Not even root, or the same user, gets in without it."""
    path = macro(
        f"""
File.saveString(call("java.lang.System.getenv", "DISPLAY") + "|" + call("java.lang.System.getenv", "XAUTHORITY"),
  "{tmp_path}/begun");
while (!File.exists("{tmp_path}/go")) wait(50);
newImage("a", "8-bit ramp", 64, 64, 3); run("Invert", "stack");
return "drawn";
"""
    )
    process = subprocess.Popen(command(path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "begun").exists() or "|" not in (tmp_path / "begun").read_text():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
        screen, authority = (tmp_path / "begun").read_text().strip().split("|")
        number, file = int(screen.removeprefix(":")), Path(authority)
        assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        cookie = file.read_bytes()[-16:]
        name = b"MIT-MAGIC-COOKIE-1"
        assert answer_of_screen(number, b"", b"") == 0
        assert answer_of_screen(number, name, bytes(16)) == 0
        assert answer_of_screen(number, name, cookie[:15] + bytes([cookie[15] ^ 1])) == 0
        assert answer_of_screen(number, name, cookie) == 1
    finally:
        (tmp_path / "go").touch()
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (0, "drawn\n"), stderr
    assert not file.parent.exists()


def test_each_screen_has_a_cookie_of_its_own(tmp_path):
    found = set()
    for name in "abc":
        (tmp_path / name).mkdir()
        found.add(Path(worker._write_authority(tmp_path / name)).read_bytes())
    assert len(found) == 3
    assert {len(content) for content in found} == {2 + 2 + 2 + 2 + 18 + 2 + 16}
    with pytest.raises(FileExistsError):  # never into what somebody else put there
        worker._write_authority(tmp_path / "a")


# What is missing


@needs_imagej
@pytest.mark.parametrize(
    ("text", "code", "stdout", "stderr"),
    [
        ('setResult("a", 0, 1); return "" + nResults;', 0, "1\n", "^$"),
        (
            RAMP + 'run("Invert", "stack");',
            1,
            "",
            "line 2: .*runs without a screen.* install Xvfb and a whole Java",
        ),
        ("x = 1;\nfoo(3);", 1, "", "line 2: Undefined identifier: foo"),
        (
            'waitForUser("Hm", "draw");',
            1,
            "",
            "line 1: .*HeadlessException .*runs without a screen: there are no dialogs",
        ),
        ('exit("no cells");', 1, "", "it stopped: no cells"),
    ],
    ids=["tables", "command", "error", "dialog", "exit"],
)
def test_without_a_screen(macro, tmp_path, text, code, stdout, stderr):
    done = run(macro(text), **alone(tmp_path))
    assert (done.returncode, done.stdout) == (code, stdout), done.stderr
    assert re.search(stderr, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


@needs_imagej
def test_a_java_without_windows(macro, tmp_path):
    """Debian's openjdk-17-jre-headless lacks a library; Xvfb is of no use to it."""
    home = Path(shutil.which("java")).resolve().parents[1]
    java = tmp_path / "java"
    (java / "lib").mkdir(parents=True)
    for entry in [*home.iterdir(), *(home / "lib").iterdir()]:
        if entry != home / "lib" and entry.name != "libawt_xawt.so":
            (java / entry.relative_to(home)).symlink_to(entry)
    done = run(macro('setResult("a", 0, 1); return "" + nResults;'), JAVA_HOME=java)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    done = run(macro('open("a.tif");'), JAVA_HOME=java)
    assert done.returncode == 1
    assert "runs without a screen" in done.stderr


@needs_imagej
def test_the_screen_of_another_machine(macro, tmp_path):
    """A job inherits DISPLAY from the login node; nobody answers there."""
    done = run(macro('return "7";'), **alone(tmp_path) | {"DISPLAY": "localhost:93.0"})
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"PATH": "/nowhere", "JAVA_HOME": None},
            "there is no Java: JAVA_HOME is not set and no java is on the PATH; install",
        ),
        ({"JAVA_HOME": "/nowhere"}, "JAVA_HOME is /nowhere, where there is no bin/java; install Java 11"),
    ],
)
def test_no_java(macro, environment, message):
    done = run(macro("return 1;"), **environment)
    assert (done.returncode, done.stdout) == (3, "")
    assert message in done.stderr


@needs_imagej
@pytest.mark.parametrize(
    ("where", "message"),
    [("/nowhere", "/nowhere: no such file or folder; give --imagej"), ("{tmp}", "no ImageJ in it; expected an ij.jar")],
)
def test_no_imagej(macro, tmp_path, where, message):
    done = run(macro("return 1;"), "--imagej", where.format(tmp=tmp_path))
    assert (done.returncode, done.stdout) == (3, "")
    assert message in done.stderr


@needs_imagej
def test_a_jar_that_is_none(macro, tmp_path):
    (tmp_path / "ij.jar").write_bytes(b"not a zip")
    done = run(macro("return 1;"), "--imagej", tmp_path)
    assert done.returncode == 3
    assert re.search("ImageJ does not start .*; is the folder whole", done.stderr), done.stderr


@needs_imagej
def test_a_fiji_with_damaged_jars(macro, tmp_path):
    """The gateway is looked for, and said to be missing; nothing is fetched in its stead."""
    folder = tmp_path / "Fiji.app"
    (folder / "jars").mkdir(parents=True)
    shutil.copy(jar_of("debian"), folder / "jars/ij-1.53t.jar")
    for name in ("imagej-2.17.0.jar", "imagej-legacy-2.0.1.jar"):
        with zipfile.ZipFile(folder / "jars" / name, "w") as jar:
            jar.writestr("nothing.txt", "")
    done = run(macro("return 1;"), "--imagej", folder)
    assert done.returncode == 3
    assert re.search("does not start .Class net.imagej.ImageJ is not found.; is the folder whole", done.stderr)


@needs_imagej
def test_without_the_python_side(macro, tmp_path):
    """As if the extra were not installed."""
    (tmp_path / "scyjava.py").write_text("raise ImportError('No module named scyjava')")
    done = run(macro("return 1;"), PYTHONPATH=tmp_path)
    assert done.returncode == 3
    assert "pip install 'densecell-batch[fiji]'" in done.stderr


# Stopped and killed


KILLS = (signal.SIGTERM, signal.SIGKILL)


def family(pid: int) -> list[int]:
    """Descendants of a process."""
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [each for child in map(int, children) for each in (child, *family(child))]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@needs_imagej
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [*KILLS, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_nothing_is_left_of_it(macro, tmp_path, number):
    path = macro(f'File.saveString("x", "{tmp_path}/begun");\nwhile (true) wait(100);')
    process = subprocess.Popen(command(path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    running = family(process.pid)
    assert len(running) >= 2  # Java's process and its screen
    (java,) = (pid for pid in running if b"imagej.worker" in Path(f"/proc/{pid}/cmdline").read_bytes())
    caught = int(re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{java}/status").read_text())[1], 16)
    assert not caught >> (signal.SIGTERM - 1) & 1  # Java would shut down below a thread that is in it, which crashes
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert stdout == ""
    assert process.returncode == (-9 if number == signal.SIGKILL else 75), stderr
    until = time.monotonic() + 20
    while any(map(alive, running)):
        assert time.monotonic() < until
        time.sleep(0.1)


@needs_imagej
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_java_that_does_not_answer(macro, tmp_path):
    """The time limit holds all the same."""
    path = macro(f'File.saveString("x", "{tmp_path}/begun");\nwhile (true) wait(100);')
    stopped = []

    def stop():
        while not (tmp_path / "begun").exists():
            time.sleep(0.02)
        running = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in family(os.getpid())}
        stopped.extend(pid for pid, words in running.items() if b"imagej.worker" in words)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(MacroError, match="still running after its limit of 1 s"):
        run_apart(MacroTask(Macro.read(path), time_limit=1), grace=0.2)
    thread.join()
    assert stopped
    until = time.monotonic() + 20
    while any(map(alive, stopped)):
        assert time.monotonic() < until
        time.sleep(0.1)


@needs_imagej
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_java_that_dies(macro, tmp_path):
    path = macro(f'File.saveString("x", "{tmp_path}/begun");\nwhile (true) wait(100);')
    process = subprocess.Popen(command(path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    (worker, *_) = family(process.pid)
    os.kill(worker, signal.SIGKILL)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "the process that ran it ended with -9" in stderr
