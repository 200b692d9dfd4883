"""Real signals, in processes of their own."""

import inspect
import signal
import subprocess
import sys
import time

import pytest

from densecell_batch.signals import Stop

START = """
import sys, time
from densecell_batch.errors import Stopped
from densecell_batch.signals import Stop
stop = Stop({patience})
stop.install()
def say(*words):
    print(*words, flush=True)
"""


def run(code: str, number: int = signal.SIGTERM, patience: str = "") -> tuple[int, list[str]]:
    """Exit code and lines of a process that gets a signal once it is ready."""
    words = [sys.executable, "-c", START.replace("{patience}", patience) + code]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said.splitlines()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_heeded_at_once(number):
    """Not when its patience is over: that would be after this test, and with another exit code."""
    code, said = run(
        "try:\n"
        "    with stop.heeded():\n"
        "        say('ready')\n"
        "        time.sleep(600)\n"
        "except Stopped as error:\n"
        "    say(error)\n",
        number,
        "patience=600",
    )
    assert (code, said) == (0, [f"stopped by {number.name}; run the same command again to continue"])


def test_put_off_while_a_state_is_written():
    code, said = run(
        "say('ready')\n"
        "sys.stdin.read()\n"  # to its end, which comes after the signal
        "say('written')\n"
        "try:\n"
        "    with stop.heeded():\n"
        "        say('begun')\n"
        "except Stopped:\n"
        "    say('stopped')\n"
    )
    assert (code, said) == (0, ["written", "stopped"])


def test_one_block_in_another():
    code, said = run(
        "try:\n"
        "    with stop.heeded():\n"
        "        with stop.heeded():\n"
        "            pass\n"
        "        say('ready')\n"
        "        time.sleep(600)\n"
        "except Stopped:\n"
        "    say('stopped')\n"
    )
    assert (code, said) == (0, ["stopped"])


def test_never_for_long():
    """Somebody swallowed it, or a network file system does not answer."""
    begun = time.monotonic()
    code, said = run("say('ready')\ntime.sleep(600)\n", patience="patience=0.5")
    assert (code, said) == (75, [])
    assert time.monotonic() - begun > 0.5  # it had its time


def test_its_patience():
    """Less than Slurm and systemd have before they kill, by far."""
    assert inspect.signature(Stop).parameters["patience"].default == 8
