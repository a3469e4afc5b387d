"""What the worst files cost in memory, each in a process of its own that a sound file is held against."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import hostile_archives
import hostile_profiles
import numpy as np
import pytest
from hostile_archives import TIMESTEPS, npy, packed

import sencache

ROOT = Path(sencache.__file__).parents[1]

# Ten times the largest file that is read at all.
ALLOWED_KB = 40_000

FEED = """
import os, sys
from sencache.errors import SencacheError
from sencache.hub.npz import import_npz
from sencache.policies.loading import load_profile

def read(path):
    if path.endswith(".npz"):
        import_npz(path, model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", shift=5.0, latent=(16, 21, 60, 104))
    else:
        load_profile(path)

for path in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            read(path)
        except SencacheError:
            os._exit(3)
        except BaseException:
            os._exit(4)
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    print(os.waitstatus_to_exitcode(status), usage.ru_maxrss, os.path.basename(path))
"""


def worst() -> dict[str, bytes]:
    """The largest of both tables of cases, and the largest archive that is sound."""
    files = {}
    for cases, suffix in ((hostile_profiles.CASES, "json"), (hostile_archives.CASES, "npz")):
        large = [content for name, (content, _) in cases.items() if len(content) > 150_000 or "bombs" in name]
        # Of files that differ in the place of the fault alone, one will do.
        for k, content in enumerate({(len(content), content[-9:]): content for content in large}.values()):
            files[f"{k}.{suffix}"] = content
    return files


@pytest.mark.skipif(sys.platform != "linux", reason="kilobytes and fork as on Linux")
def test_memory_is_bounded(nothing_stays: Path) -> None:
    raw = np.ones((19_000, len(TIMESTEPS), 2), np.float16)
    sound = {
        "sound.json": hostile_profiles.SOUND,
        "sound.npz": hostile_archives.SOUND,
        "large.npz": packed({"timesteps.npy": npy(TIMESTEPS), "raw_data.npy": npy(raw)}),
    }
    files = {**sound, **worst()}
    assert len(files) > 20
    for name, content in files.items():
        (nothing_stays / name).write_bytes(content)
    command = [sys.executable, "-c", FEED, *(str(nothing_stays / name) for name in files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd=ROOT)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [name for _, _, name in rows] == list(files), done.stderr
    codes = {name: int(code) for code, _, name in rows}
    assert {name: codes[name] for name in sound} == dict.fromkeys(sound, 0)
    assert {name: code for name, code in codes.items() if code != 3 and name not in sound} == {}
    peak = {name: int(kilobytes) for _, kilobytes, name in rows}
    usual = max(peak["sound.json"], peak["sound.npz"])
    assert {name: cost - usual for name, cost in peak.items() if cost - usual > ALLOWED_KB} == {}
