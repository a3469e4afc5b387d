"""The constants that others published: each file against what its authors and papers say of it.

Schedules were simulated from the authors' arrays and rule before this software existed; two of them, 25 and
21 of 50 on Wan 2.1 1.3B, are also the evaluations that the SenCache paper gives for MagCache.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest

from sencache.policies import make_policy
from sencache.policies.base import Schedule
from sencache.policies.loading import load_all_bundled

PUBLISHED = {
    name: profile for name, profile in load_all_bundled().items() if profile.provenance.kind == "published"
}
MAGCACHE, TEACACHE = (
    "Zehong-Ma/MagCache@df81cb181776c2c61477c08e1d21f87fda1cd938",
    "ali-vilab/TeaCache@7c10efc4702c6b619f47805f7abe4a7a08085aa0",
)
LIGHTX2V = "ModelTC/LightX2V@f8aee98b5462cca8d7288888146ebd95592bf266"


@dataclass(frozen=True)
class Said:
    """What is said of one profile. Ratios by step, polynomial with the highest power first."""

    model: str
    steps: int
    ratios: dict[int, float] | None = None
    polynomial: tuple[float, ...] | None = None
    signal: str = "time_embedding"
    forced: tuple[int, int] = (1, 1)
    thresholds: tuple[float, ...] = ()
    line: str = ""


WAN, COG = "Wan-AI/Wan2.1-{}-Diffusers", "THUDM/CogVideoX{}"
RETENTION = {"signal": "time_projection", "forced": (5, 0)}
COG_5B = (-1538.80483, 843.202495, -134.363087, 7.97131516, -0.0523162339)

SAID = {
    "wan2.1-t2v-1.3b": Said(
        WAN.format("T2V-1.3B"),
        50,
        {1: 1.0124, 25: 0.9927, 49: 0.81838},
        (2396.76752, -1311.10545, 201.331979, -8.29855975, 0.137887774),
        thresholds=(0.05, 0.08),
        line=":912",
    ),
    "wan2.1-t2v-1.3b.retention": Said(
        WAN.format("T2V-1.3B"),
        50,
        None,
        (-52186.2437, 9230.41404, -528.275948, 13.6987616, -0.0499875664),
        **RETENTION,
        thresholds=(0.05, 0.1),
        line=":883",
    ),
    "wan2.1-t2v-14b": Said(
        WAN.format("T2V-14B"),
        50,
        {1: 1.02504, 25: 0.99216, 49: 0.86111},
        (-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404),
        thresholds=(0.14, 0.2),
        line=":910",
    ),
    "wan2.1-t2v-14b.retention": Said(
        WAN.format("T2V-14B"),
        50,
        None,
        (-303318.725, 49053.7029, -2655.30556, 58.7365115, -0.315583525),
        **RETENTION,
        thresholds=(0.1, 0.2),
        line=":885",
    ),
    "wan2.1-i2v-14b-480p": Said(
        WAN.format("I2V-14B-480P"),
        40,
        {1: 0.98783, 25: 0.98149, 39: 0.92617},
        (-302.33167, 223.948934, -52.546397, 5.8734844, -0.201973289),
        thresholds=(0.13, 0.26),
        line=":1002",
    ),
    "wan2.1-i2v-14b-480p.retention": Said(
        WAN.format("I2V-14B-480P"),
        40,
        None,
        (257151.496, -35422.9917, 1402.86849, -13.5890334, 0.132517977),
        **RETENTION,
        thresholds=(0.2, 0.3),
        line=":967",
    ),
    "wan2.1-i2v-14b-720p": Said(
        WAN.format("I2V-14B-720P"),
        40,
        {1: 0.99428, 25: 0.98497, 39: 0.8679},
        (-114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683),
        thresholds=(0.18, 0.3),
        line=":1004",
    ),
    "wan2.1-i2v-14b-720p.retention": Said(
        WAN.format("I2V-14B-720P"),
        40,
        None,
        (8107.0546, 2133.93892, -372.934672, 16.6203073, -0.0417769401),
        **RETENTION,
        thresholds=(0.2, 0.3),
        line=":969",
    ),
    "wan2.2-t2v-a14b": Said(
        "Wan-AI/Wan2.2-T2V-A14B-Diffusers", 40, {1: 1.00124, 26: 0.65523, 39: 0.80263}, line=":695"
    ),
    "wan2.2-i2v-a14b": Said(
        "Wan-AI/Wan2.2-I2V-A14B-Diffusers", 40, {1: 0.99191, 15: 0.91076, 39: 0.79823}, line=":771"
    ),
    "wan2.2-ti2v-5b": Said(
        "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        50,
        {1: 0.99505, 25: 0.98959, 49: 0.96949},
        (157472.669, -115702.395, 31076.1669, -3831.16651, 221.608777, -4.81179567),
        thresholds=(0.26,),
        line=":736",
    ),
    "wan2.2-ti2v-5b.image": Said(
        "Wan-AI/Wan2.2-TI2V-5B-Diffusers", 50, {1: 0.99512, 25: 0.9899, 49: 0.96655}, line=":738"
    ),
    "cogvideox-2b": Said(
        COG.format("-2b"),
        50,
        None,
        (-31.0658903, 25.4732368, -5.92380459, 1.75769064, -0.00361568434),
        thresholds=(0.1, 0.2),
    ),
    "cogvideox-5b": Said(COG.format("-5b"), 50, None, COG_5B, thresholds=(0.1, 0.2)),
    "cogvideox-5b-i2v": Said(COG.format("-5b-I2V"), 50, None, COG_5B, thresholds=(0.1, 0.2)),
    "cogvideox1.5-5b": Said(
        COG.format("1.5-5B"),
        50,
        None,
        (250.210439, -165.061612, 35.7804877, -0.781551492, 0.0358559703),
        thresholds=(0.1, 0.3),
    ),
    "cogvideox1.5-5b-i2v": Said(
        COG.format("1.5-5B-I2V"),
        50,
        None,
        (122.842302, -104.088754, 26.2981677, -0.306009921, 0.037121322),
        thresholds=(0.1, 0.3),
    ),
    "ltx-video-0.9.1": Said(
        "a-r-r-o-w/LTX-Video-0.9.1-diffusers",
        50,
        None,
        (21.4700694, -12.8016453, 2.31279151, 0.792487521, 0.00969274326),
        signal="modulated_input",
        thresholds=(0.03, 0.05),
    ),
}


@pytest.fixture(params=sorted(SAID))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_published_profile_is_spoken_of():
    assert set(PUBLISHED) == set(SAID)


def test_whom_it_serves_and_whence_it_comes(name):
    profile, said = PUBLISHED[name], SAID[name]
    assert (profile.model.id, profile.schedule.steps) == (said.model, said.steps)
    family = {"wan": "Wan-AI/", "cogvideox": "THUDM/CogVideoX", "ltx": "a-r-r-o-w/LTX"}
    assert profile.model.id.startswith(family[profile.model.architecture])
    assert re.fullmatch(r"(wan|cogvideox|ltx-video)[0-9a-z.-]+", name)
    source = profile.provenance.source
    assert profile.provenance.licence == "Apache-2.0"
    assert (MAGCACHE in source) == (said.ratios is not None)
    assert (TEACACHE in source or LIGHTX2V in source) == (said.polynomial is not None)
    assert re.search(rf"\.(py|json){said.line}\b", source)


def test_nothing_is_claimed_that_no_source_gives(name):
    profile = PUBLISHED[name]
    parts = (profile.schedule.timesteps, profile.schedule.sigmas, profile.shape, profile.dtype)
    assert (*parts, profile.sensitivity, profile.calibration) == (None,) * 6
    assert profile.model.revision is None


def test_ratios_are_those_of_the_conditional_branch(name):
    profile, said = PUBLISHED[name], SAID[name]
    assert (profile.magcache is None) == (said.ratios is None)
    if profile.magcache and said.ratios:
        ratios = profile.magcache.ratios
        assert len(ratios) == said.steps and ratios[0] == 1.0
        assert {step: ratios[step] for step in said.ratios} == said.ratios


@pytest.mark.parametrize(("name", "dip"), [("wan2.2-t2v-a14b", 26), ("wan2.2-i2v-a14b", 15)])
def test_two_experts_show_as_a_dip_where_they_change(name, dip):
    ratios = PUBLISHED[name].magnitude_ratios(40)
    inner = ratios[2:-6]
    assert 2 + int(np.argmin(inner)) == dip
    assert ratios[dip] < min(ratios[dip - 1], ratios[dip + 1]) - 0.07


def test_polynomials_and_what_they_rescale(name):
    fit, said = PUBLISHED[name].teacache, SAID[name]
    assert (fit is None) == (said.polynomial is None)
    if fit and said.polynomial:
        assert fit.coefficients == said.polynomial
        assert fit.signal == said.signal
        assert (fit.forced_first, fit.forced_last) == said.forced
    presets = PUBLISHED[name].presets.values()
    thresholds = tuple(preset["teacache"]["threshold"] for preset in presets if "teacache" in preset)
    assert thresholds == said.thresholds


FIRST_10, FIRST_8 = range(10), range(8)
SLOW = [*FIRST_10, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 44, 46, 48, 49]
TI2V = [*FIRST_10, 12, 15, 18, 21, 24, 27, 30, 33, 36, 38, 40, 42, 44, 46, 48]

SCHEDULES = {
    ("wan2.1-t2v-1.3b", "slow"): SLOW,
    ("wan2.1-t2v-1.3b", "fast"): [*FIRST_10, 14, 19, 24, 29, 34, 38, 41, 44, 46, 48, 49],
    ("wan2.1-t2v-14b", "slow"): SLOW,
    ("wan2.1-t2v-14b", "fast"): [*FIRST_10, 16, 23, 30, 36, 41, 44, 47, 49],
    ("wan2.1-i2v-14b-480p", "slow"): [*FIRST_8, 12, 17, 21, 25, 28, 31, 34, 36, 38],
    ("wan2.1-i2v-14b-480p", "fast"): [*FIRST_8, 14, 20, 25, 30, 34, 37, 39],
    ("wan2.1-i2v-14b-720p", "slow"): [*FIRST_8, 12, 17, 22, 26, 30, 33, 35, 37, 39],
    ("wan2.1-i2v-14b-720p", "fast"): [*FIRST_8, 14, 21, 27, 32, 35, 38],
    ("wan2.2-ti2v-5b", "slow"): TI2V,
    ("wan2.2-ti2v-5b.image", "slow"): sorted([*TI2V, 47]),
}
COUNTS = {"slow": (25, 25, 17, 17, 25, 26), "fast": (21, 18, 15, 14)}


@pytest.mark.parametrize(("name", "preset"), SCHEDULES)
def test_magcache_presets_compute_the_published_steps(name, preset):
    profile = PUBLISHED[name]
    schedule = Schedule(tuple(range(profile.schedule.steps, 0, -1)))
    rule = make_policy("magcache", profile.presets[preset]["magcache"], profile).start(schedule)
    computed = [step.index for step in schedule if not rule.decide(step, dict).reuse]
    assert computed == list(SCHEDULES[name, preset])


@pytest.mark.parametrize("preset", COUNTS)
def test_as_many_as_published(preset):
    listed = {name: steps for (name, of), steps in SCHEDULES.items() if of == preset}
    assert tuple(map(len, listed.values())) == COUNTS[preset]
    assert {n for n, profile in PUBLISHED.items() if "magcache" in profile.presets.get(preset, {})} == set(
        listed
    )
