"""Claims about random streams: they never change, never meet, and depend on nothing but their key."""

import itertools

import numpy as np
import pytest

from rl_transformer.runtime.random_streams import Stream, generator, seed_sequence

# Written down from version 0.1.0: every released result depends on these numbers.
RELEASED = {
    "WINDOWS": 0x5A,
    "VALIDATION_SPLIT": 0x5B,
    "SYNTHETIC_SEQUENCES": 0x5C,
    "GRAPH": 0x6A,
    "TEXT": 0x7E,
    "ATTENTION_WINDOWS": 0xA7,
    "ACTION_SAMPLING": 0xAC,
    "DATA_COLLECTION": 0xBE,
    "DROPOUT": 0xD0,
    "DATA_SUBSET": 0xDA,
    "ENTROPY": 0xE0,
}


def test_released_streams_keep_their_values():
    assert {name: int(Stream[name]) for name in RELEASED} == RELEASED


def test_no_two_streams_share_a_value():
    # An alias of an enum is in __members__ but not in the iteration.
    assert len(Stream.__members__) == len(set(Stream)) == len({int(stream) for stream in Stream})


def test_a_generator_is_numpys_of_key_and_stream():
    drawn = generator(Stream.WINDOWS, 3, 7).integers(0, 2**63, 100)
    expected = np.random.default_rng([3, 7, 0x5A]).integers(0, 2**63, 100)
    assert np.array_equal(drawn, expected)


def test_draws_made_once_have_a_key_of_one_number():
    assert generator(Stream.GRAPH, 3).random() == np.random.default_rng([3, 0x6A]).random()


@pytest.mark.parametrize("key", [(0,), (0, 1), (2**40, 10**9)])
def test_streams_of_the_same_key_draw_different_numbers(key):
    drawn = {stream: generator(stream, *key).integers(0, 2**63) for stream in Stream}
    assert all(one != other for one, other in itertools.combinations(drawn.values(), 2))


def test_a_generator_starts_afresh_every_time():
    first = generator(Stream.TEXT, 3, 7)
    first.random(1000)
    assert generator(Stream.TEXT, 3, 7).random() == np.random.default_rng([3, 7, 0x7E]).random()


def test_the_first_process_draws_what_a_single_process_draws_and_others_do_not():
    single = np.random.SeedSequence([3, 7, 0xD0]).generate_state(4)
    assert np.array_equal(seed_sequence(Stream.DROPOUT, 3, 7).generate_state(4), single)
    assert np.array_equal(seed_sequence(Stream.DROPOUT, 3, 7, rank=0).generate_state(4), single)
    second = seed_sequence(Stream.DROPOUT, 3, 7, rank=1).generate_state(4)
    assert np.array_equal(second, np.random.SeedSequence([3, 7, 0xD0, 1]).generate_state(4))
    assert not np.array_equal(second, single)
