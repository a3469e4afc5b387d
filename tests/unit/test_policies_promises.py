"""What all rules promise the engine, whatever they decide."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import LIVELY, Player, computed_steps, courses, examples, lively, play, rows

from sencache.policies import METHODS, Fixed, Full, Schedule

FORCED = {"first_step", "warmup", "last_step", "no_cache", "forced"}
WITHOUT_SIGNALS = {"none", "fixed", "magcache"}


def test_every_method_is_among_those_played():
    assert {policy.name for policy in lively((2.0, 1.0)).values()} == set(METHODS)


@pytest.mark.parametrize("name", LIVELY)
@given(courses(least=4), st.sets(st.integers(0, 23)))
@examples(30)
def test_signals_are_measured_once_and_only_where_reuse_is_possible(name, course, uncached):
    policy = lively(course.timesteps)[name]
    decisions, measured = play(policy, course, uncached)
    judged = [i for i, d in enumerate(decisions) if d.reason in ("within_tolerance", "above_tolerance")]
    assert len(set(measured)) == len(measured)
    assert not [i for i in measured if decisions[i].reason in FORCED]
    if name not in WITHOUT_SIGNALS:
        assert measured == judged


def test_fixed_measures_nothing_at_steps_on_its_list():
    schedule = Schedule((9.0, 8.0, 7.0, 6.0))
    rule, reads = Fixed(interval=2).start(schedule), []
    for step in schedule:
        rule.decide(step, lambda i=step.index: reads.append(i) or {})
    assert reads == [1, 3]


@pytest.mark.parametrize("name", LIVELY)
@given(courses(least=4), st.sets(st.integers(0, 23), max_size=3))
@examples(30)
def test_the_books_are_kept(name, course, uncached):
    """Reference step, reuses in a row, reasons and scores say what happened."""
    decisions, _ = play(lively(course.timesteps)[name], course, uncached)
    reference = None
    for i, decision in enumerate(decisions):
        assert decision.reference_step == reference
        assert decision.reuses == (i - reference if decision.reuse else 0)
        assert (decision.reason == "first_step") == (i == 0)
        assert (decision.reason == "no_cache") == (i > 0 and i in uncached)
        assert (decision.score is None) == (decision.tolerance is None)
        if decision.reason != "scheduled":
            assert decision.reuse == (decision.reason == "within_tolerance")
        reference = reference if decision.reuse else i
    assert max(d.reuses for d in decisions) <= {"sencache": 3, "magcache": 3, "fixed": 2}.get(
        name, len(course)
    )


@pytest.mark.parametrize("name", LIVELY)
@given(courses(least=6), st.data())
@examples(30)
def test_a_lost_cache_starts_the_rule_afresh(name, course, data):
    """From the step where nothing is cached on, the run goes as if it had begun there."""
    policy = lively(course.timesteps)[name]
    lost = data.draw(st.integers(1, len(course) - 1))
    continued = play(policy, course, {lost})[0][lost:]
    fresh = play(policy, course, start=lost)[0]
    assert continued[0].reuse is False and continued[0].reason == "no_cache"
    assert rows(continued[1:]) == rows(fresh[1:])


@pytest.mark.parametrize("name", LIVELY)
@given(courses(least=6), courses(least=6), st.data())
@examples(15)
def test_runs_of_one_policy_share_nothing(name, one, other, data):
    policy = lively(one.timesteps)[name]
    players = [Player(policy, course) for course in (one, other)]
    order = data.draw(st.permutations([0] * len(one) + [1] * len(other)))
    for which in order:
        players[which].go(len(players[which].decisions))
    assert [player.decisions for player in players] == [play(policy, course)[0] for course in (one, other)]


@pytest.mark.parametrize("name", LIVELY)
@given(courses(least=4), st.sets(st.integers(1, 23), max_size=2))
@examples(30)
def test_a_trace_replays_from_its_signals_alone(name, course, uncached):
    policy = lively(course.timesteps)[name]
    decisions, _ = play(policy, course, uncached)
    rule = policy.start(course.schedule)
    replayed = [
        rule.decide(step, lambda d=decision: dict(d.signals), cached=decision.reason != "no_cache")
        for step, decision in zip(course.schedule, decisions, strict=True)
    ]
    assert replayed == decisions


@given(courses(least=2))
@examples(20)
def test_the_full_run_computes_every_step_and_measures_nothing(course):
    decisions, measured = play(Full(), course)
    assert computed_steps(decisions) == list(range(len(course))) and measured == []
    assert [d.reason for d in decisions[1:]] == ["forced"] * (len(course) - 1)


def test_a_schedule_gives_its_steps_with_their_sigmas():
    schedule = Schedule((900.0, 100.0), (0.9, 0.1))
    assert [(s.index, s.total, s.timestep, s.sigma) for s in schedule] == [
        (0, 2, 900.0, 0.9),
        (1, 2, 100.0, 0.1),
    ]
    assert Schedule((900.0,)).step(0).sigma is None
    with pytest.raises(IndexError):
        schedule.step(2)
