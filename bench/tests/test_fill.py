import pytest

from kivi_bench.fill import Load, Watch, plan


def simulate(loads: list[Load], budget: int) -> Watch:
    """An engine that computes prompts in order, in the tokens of a step that decoding sequences leave."""
    watch = Watch(loads)
    left = [load.prompt for load in loads]
    made = [0] * len(loads)
    ended: set[int] = set()
    while len(ended) < len(loads):
        decoding = [place for place in range(len(loads)) if left[place] == 0 and place not in ended]
        room = budget - len(decoding)
        fresh = []
        for place in range(len(loads)):
            chunk = min(left[place], room)
            left[place] -= chunk
            room -= chunk
            if chunk and left[place] == 0:
                fresh.append(place)
        answers = []
        for place in decoding + fresh:
            made[place] += 1
            if made[place] == loads[place].new:
                ended.add(place)
            answers.append((place, made[place], place in ended))
        watch.step(answers)
    return watch


@pytest.mark.parametrize(
    ("tokens", "block", "longest", "most", "budget"),
    [
        (46_592, 16, 4096, 16, 512),
        (776_880, 16, 34_816, 256, 2048),
        (2_881_920, 128, 34_816, 256, 2048),
        (640, 128, 1024, 8, 64),
    ],
)
def test_the_cache_is_full_at_one_moment(tokens: int, block: int, longest: int, most: int, budget: int) -> None:
    loads = plan(tokens, block, longest, most, budget)
    blocks = sum(-(-(load.prompt + load.new) // block) for load in loads)
    assert blocks * block <= tokens - block  # vLLM hands out all blocks but one
    watch = simulate(loads, budget)
    assert watch.peak_sequences == len(loads)
    assert watch.peak_tokens > 0.97 * (tokens - block) - block


def test_no_more_sequences_than_may_run_and_none_too_long() -> None:
    loads = plan(tokens=100_000, block_size=16, longest=1000, most=4, budget=512)
    assert [load.prompt + load.new for load in loads] == [992] * 4
    assert [load.new for load in loads] == sorted((load.new for load in loads), reverse=True)


def test_a_sequence_that_ended_or_has_no_answer_yet_is_not_counted() -> None:
    watch = Watch([Load(10, 2), Load(20, 5)])
    watch.step([(0, 1, False)])
    watch.step([(0, 2, True), (1, 1, False)])
    assert (watch.peak_tokens, watch.peak_sequences) == (11 + 20, 2)
    watch.step([(1, 2, False)])
    assert watch.peak_tokens == 31
