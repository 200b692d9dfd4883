"""Real signals, in processes of their own."""

import signal
import subprocess
import sys
import time

import pytest

START = """
import sys, time
from densecell_batch.errors import Stopped
from densecell_batch.signals import Stop
stop = Stop()
stop.install()
def say(*words):
    print(*words, flush=True)
"""


def run(code: str, number: int = signal.SIGTERM, after: float = 0.3) -> tuple[int, list[str], float]:
    """Exit code, lines, and seconds from the signal to the end."""
    words = [sys.executable, "-c", START + code]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(after)
    begun = time.monotonic()
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said.splitlines(), time.monotonic() - begun


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_heeded_at_once(number):
    code, said, seconds = run(
        "try:\n"
        "    with stop.heeded():\n"
        "        say('ready')\n"
        "        time.sleep(30)\n"
        "except Stopped as error:\n"
        "    say(error)\n",
        number,
    )
    assert (code, said) == (0, [f"stopped by {number.name}; run the same command again to continue"])
    assert seconds < 8


def test_put_off_while_a_state_is_written():
    code, said, _ = run(
        "say('ready')\n"
        "time.sleep(1.5)\n"
        "say('written')\n"
        "try:\n"
        "    with stop.heeded():\n"
        "        say('begun')\n"
        "except Stopped:\n"
        "    say('stopped')\n"
    )
    assert (code, said) == (0, ["written", "stopped"])


def test_one_block_in_another():
    code, said, _ = run(
        "try:\n"
        "    with stop.heeded():\n"
        "        with stop.heeded():\n"
        "            pass\n"
        "        say('ready')\n"
        "        time.sleep(30)\n"
        "except Stopped:\n"
        "    say('stopped')\n"
    )
    assert (code, said) == (0, ["stopped"])


def test_never_for_long():
    """Somebody swallowed it, or a network file system does not answer."""
    code, said, seconds = run("say('ready')\nwhile True:\n    time.sleep(1)\n")
    assert (code, said) == (75, [])
    assert 6 < seconds < 15
