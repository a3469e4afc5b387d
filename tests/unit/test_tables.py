"""What the command line says of a calibration and of a run."""

from __future__ import annotations

import json
from statistics import fmean

from documents import changed

from sencache.cli.tables import calibration_summary
from sencache.policies.loading import load_profile, parse_profile
from sencache.profiles.library import bundled_profile
from sencache.profiles.profile import Profile

OWN = load_profile(bundled_profile("tiny-wan.unipc-50"))


def spreads(profile: Profile) -> str:
    (line,) = [line for line in calibration_summary(profile) if "spread over the videos" in line]
    return line


def test_the_standard_error_is_an_average_over_the_timesteps_and_one_video_tells_of_none() -> None:
    table = OWN.sensitivity
    assert table is not None and table.alpha_x_std is not None and table.samples == 8
    share = fmean(std / mean for std, mean in zip(table.alpha_x_std, table.alpha_x, strict=True))
    line = spreads(OWN)
    assert line.startswith("on average over the timesteps: spread over the videos alpha_x ")
    assert f"spread over the videos alpha_x {share:.0%}," in line
    assert f"standard error of the means alpha_x {share / 7**0.5:.0%}," in line
    single = spreads(parse_profile(json.dumps(changed("sensitivity/samples", 1))))
    assert single.endswith("spread over the videos unknown; standard error of the means unknown")
