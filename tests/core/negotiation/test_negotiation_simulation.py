"""The negotiation against itself: both ends converge, whatever the network does."""

from __future__ import annotations

import pytest

from tests.core.negotiation.world import StubbornEnd, World

SEEDS = 400
QUIET = 120.0


def burst(world: World, until: float) -> None:
    """Let both ends change what they send at random moments, often at the same one."""
    items = [f"item{k}" for k in range(4)]
    for end in (world.a, world.b):
        for _ in range(world.random.randint(0, 8)):
            item = f"{end.name}-{world.random.choice(items)}"
            world.at(round(world.random.uniform(0, until), 1), lambda e=end, i=item: e.change(i))


def settle(world: World, last_change: float) -> float:
    world.run(last_change)
    world.run(last_change + QUIET, done=lambda: world.converged)
    assert world.converged, "\n".join(world.trace[-60:])
    return world.now - last_change


@pytest.mark.parametrize("loss", [0.0, 0.15])
def test_both_ends_converge_after_bursts_of_changes(loss: float) -> None:
    for seed in range(SEEDS):
        world = World(seed, loss=loss)
        burst(world, until=5.0)
        settle(world, 5.0)


def test_without_loss_nothing_is_ever_rebuilt() -> None:
    for seed in range(SEEDS):
        world = World(seed, loss=0.0)
        burst(world, until=5.0)
        took = settle(world, 5.0)
        assert (world.a.rebuilds, world.b.rebuilds) == (0, 0), "\n".join(world.trace)
        assert took < 3.0


def test_glare_at_the_start_and_three_times_in_a_row_needs_no_rebuild() -> None:
    for seed in range(SEEDS):
        world = World(seed, loss=0.0, delay=(0.05, 0.1))
        for round_, moment in enumerate((0.0, 2.0, 4.0, 6.0)):
            for end in (world.a, world.b):
                world.at(moment, lambda e=end, i=f"{end.name}{round_}": e.change(i))
        settle(world, 6.0)
        assert (world.a.rebuilds, world.b.rebuilds) == (0, 0)
        assert len(world.a.connection.remote_items()) == 4
        assert world.a.negotiator.ignored_offers == 0  # the polite end never ignores


def test_an_end_replaced_in_mid_session_makes_the_other_replace_its_own() -> None:
    for seed in range(SEEDS):
        world = World(seed, loss=0.15 if seed % 2 else 0.0)
        burst(world, until=3.0)
        for _ in range(world.random.randint(1, 3)):
            end = world.random.choice([world.a, world.b])
            world.at(world.random.uniform(1, 3), end.recover)
        settle(world, 3.0)


def test_a_settled_pair_is_silent() -> None:
    world = World(1, loss=0.0)
    burst(world, until=2.0)
    settle(world, 2.0)
    before = len(world.trace)
    world.run(world.now + 300)
    assert len(world.trace) == before


def test_descriptions_refused_for_good_rebuild_nothing_and_are_not_repeated() -> None:
    """Each period of refusal is shorter than the time for which the other end repeats an unanswered offer."""
    refused = 0
    for seed in range(SEEDS):
        world = World(seed, loss=0.0)
        burst(world, until=8.0)
        for end in (world.a, world.b):
            if world.random.random() < 0.7:
                start, seconds = world.random.uniform(0, 6), world.random.uniform(0.1, 8)
                world.at(start, lambda e=end, s=seconds: e.mute(s))
        settle(world, 14.0)
        ends = world.a, world.b
        assert (world.a.rebuilds, world.b.rebuilds) == (0, 0), "\n".join(world.trace)
        assert all(end.refused <= 2 * (end.offers + end.peer.offers) for end in ends)
        refused += world.a.refused + world.b.refused
    assert refused > SEEDS


@pytest.mark.parametrize("loss", [0.0, 0.15])
def test_changes_without_room_in_an_offer_are_taken_back_and_the_rest_is_agreed_on(loss: float) -> None:
    taken_back = 0
    for seed in range(SEEDS):
        world = World(seed, loss=loss)
        burst(world, until=5.0)
        world.a.max_sections = world.b.max_sections = world.random.randint(1, 4)
        settle(world, 5.0)
        if not loss:
            assert (world.a.rebuilds, world.b.rebuilds) == (0, 0), "\n".join(world.trace)
        taken_back += world.a.taken_back + world.b.taken_back
    assert taken_back > SEEDS


def test_an_end_that_cannot_roll_back_is_never_stuck_behind_an_offer_of_this_end() -> None:
    collisions = 0
    for seed in range(SEEDS):
        world = World(seed, loss=0.0, a=StubbornEnd)
        burst(world, until=5.0)
        settle(world, 5.0)
        assert (world.a.rebuilds, world.b.rebuilds) == (0, 0), "\n".join(world.trace)
        collisions += world.b.negotiator.ignored_offers
    assert collisions > SEEDS / 4
