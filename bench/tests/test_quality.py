import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kivi_bench import divergence, greedy, needle, reference
from kivi_bench.text import TextError, opening


def logs(*rows: tuple[float, ...]) -> np.ndarray:
    return np.log(np.array(rows))


def test_equal_distributions_do_not_diverge() -> None:
    likeliest = logs((0.5, 0.3), (0.9, 0.1))
    assert divergence.kl_divergence(likeliest, likeliest).tolist() == [0, 0]


def test_divergence_is_that_of_the_definition_with_the_rest_as_one_outcome() -> None:
    kl = divergence.kl_divergence(logs((0.5, 0.3)), logs((0.2, 0.4)))
    expected = 0.5 * math.log(0.5 / 0.2) + 0.3 * math.log(0.3 / 0.4) + 0.2 * math.log(0.2 / 0.4)
    assert kl == pytest.approx([expected])


def test_a_move_within_the_rest_is_not_seen_and_one_out_of_it_is() -> None:
    # Of tokens A, B, C, D the reference keeps A: equal mass on it hides the others, less mass does not.
    assert divergence.kl_divergence(logs((0.4,)), logs((0.4,)))[0] == 0
    assert divergence.kl_divergence(logs((0.4,)), logs((0.1,)))[0] > 0.1


def test_divergence_is_never_above_that_of_the_whole_vocabulary() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(50), 20), rng.dirichlet(np.ones(50), 20)
    whole = (p * np.log(p / q)).sum(axis=1)
    order = np.argsort(-p, axis=1)[:, :10]
    top = np.log(np.take_along_axis(p, order, 1)), np.log(np.take_along_axis(q, order, 1))
    kept = divergence.kl_divergence(*top)
    assert (kept <= whole + 1e-12).all()
    unlisted = top[1].copy()
    unlisted[:, 3] = np.nan
    assert (divergence.kl_divergence(top[0], unlisted) <= kept + 1e-12).all()


def test_an_unlisted_token_joins_the_rest_on_both_sides() -> None:
    kl = divergence.kl_divergence(logs((0.5, 0.3)), np.array([[math.log(0.2), math.nan]]))
    assert kl == pytest.approx([0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)])


def test_float32_rounding_over_a_full_list_gives_no_divergence_and_no_nan() -> None:
    # All mass on the listed tokens, and a sum a little above one.
    full = np.log(np.full((1, 3), 1 / 3, dtype=np.float32) + np.float32(1e-7))
    assert divergence.kl_divergence(full, full).tolist() == [0]
    assert divergence.kl_divergence(full, full - np.float32(1e-6))[0] < 1e-5


def test_figures_of_all_positions_and_of_each_window() -> None:
    tokens = np.array([[7, 8], [7, 8], [5, 6], [5, 6]], dtype=np.int32)
    base = logs(*[(0.6, 0.3)] * 4)
    cache = np.concatenate([base[:3], np.array([[math.log(0.3), math.nan]])])
    found = divergence.summarize(base, tokens, cache, top=[7, 8, 5, 6], windows=2)
    last = 0.6 * math.log(0.6 / 0.3) + 0.4 * math.log(0.4 / 0.7)
    assert found["kl_mean"] == pytest.approx(last / 4)
    assert found["window_kl"] == pytest.approx([0, last / 2])
    assert found["kl_p99"] == pytest.approx(0.97 * last)  # between the third and the fourth of four, at 2.97
    assert found["top1_agreement"] == 0.5
    assert found["unlisted_mass"] == pytest.approx(0.3 / 4)


def entry(*likeliest: tuple[int, float], own: tuple[int, int, float] | None = None) -> dict[int, SimpleNamespace]:
    """One position as vLLM lists it: the likeliest tokens, and the text's own with its rank if not among them."""
    listing = {token: SimpleNamespace(rank=i + 1, logprob=value) for i, (token, value) in enumerate(likeliest)}
    if own is not None:
        listing = {own[0]: SimpleNamespace(rank=own[1], logprob=own[2]), **listing}
    return listing


def test_the_text_s_own_token_is_no_likeliest_one() -> None:
    position = entry((4, -0.1), (9, -3.0), own=(2, 800, -9.0))
    assert divergence.likeliest(position, 2) == ([4, 9], [-0.1, -3.0])
    assert divergence.likeliest(position, 1) == ([4], [-0.1])
    found = divergence.listed(position, [9, 1, 2])
    assert found[::2] == [-3.0, -9.0]
    assert math.isnan(found[1])


def test_a_short_listing_and_a_broken_model_are_errors() -> None:
    with pytest.raises(TextError, match="listed 1 of the 2"):
        divergence.likeliest(entry((4, -0.1)), 2)
    broken = entry((4, math.nan))
    with pytest.raises(TextError, match="not finite"):
        divergence.likeliest(broken, 1)
    with pytest.raises(TextError, match="not finite"):
        divergence.listed(broken, [4])


def test_prompts_are_different_places_of_the_text_and_reproducible() -> None:
    made = greedy.prompts(range(100), 8, 10, seed=3, prefix=[999])
    assert made == greedy.prompts(range(100), 8, 10, seed=3, prefix=[999])
    assert made != greedy.prompts(range(100), 8, 10, seed=4, prefix=[999])
    assert len({prompt[1] for prompt in made}) == 8
    for prompt in made:
        assert prompt == [999, *range(prompt[1], prompt[1] + 9)]


def test_a_text_with_too_few_places_is_an_error() -> None:
    assert len(greedy.prompts(range(12), 3, 10, seed=0)) == 3
    with pytest.raises(TextError, match="12 tokens, too few for 4 different prompts of 10"):
        greedy.prompts(range(12), 4, 10, seed=0)
    with pytest.raises(TextError, match="too few"):
        greedy.prompts(range(12), 1, 1, seed=0, prefix=[999])


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [([1, 2, 3], [1, 2, 3], 3), ([1, 2, 3], [1, 9, 3], 1), ([2], [1], 0), ([1, 2], [1, 2, 3], 2), ([], [1], 0)],
)
def test_the_common_prefix_ends_at_the_first_difference(one: list[int], other: list[int], length: int) -> None:
    assert greedy.common_prefix(one, other) == length


def test_agreement_is_the_mean_prefix_and_the_identical_part() -> None:
    assert greedy.summarize([[1, 2], [3, 4]], [[1, 2], [3, 5]]) == {
        "prefix_tokens": 1.5,
        "identical": 0.5,
        "prefix_lengths": [2, 1],
    }


def words(text: str) -> list[int]:
    """A tokenizer of one token a character."""
    return [ord(letter) for letter in text]


CODEC = needle.Codec(decode=lambda tokens: "".join(map(chr, tokens)), render=words)
TEXT = words("One two three. Four five six! Seven, 8.5 and eight? Nine. " * 40)


@pytest.mark.parametrize(
    ("depth", "text"),
    [(0, "N. A b. C d. E f."), (30, "A b. N. C d. E f."), (60, "A b. C d. N. E f."), (100, "A b. C d. E f. N.")],
)
def test_the_needle_goes_to_the_sentence_end_nearest_to_its_depth(depth: int, text: str) -> None:
    assert needle.insert("A b. C d. E f.", "N.", depth) == text


def test_a_text_without_sentences_takes_the_needle_at_its_nearer_end() -> None:
    assert needle.insert("words only", "N.", 20) == "N. words only"
    assert needle.insert("", "N.", 50) == "N."


def test_a_needle_prompt_fills_its_length_and_holds_its_key() -> None:
    asked = needle.build(TEXT, 600, 50, "12345", CODEC)
    text = CODEC.decode(asked.prompt)
    assert 590 <= len(asked.prompt) <= 600
    assert text.count("12345") == 2
    assert 0.35 < text.index("12345") / len(text) < 0.65
    assert text.rstrip().endswith("number only.")


def test_a_prompt_grows_less_than_its_length_when_joined_text_takes_more_tokens() -> None:
    longer = needle.Codec(decode=CODEC.decode, render=lambda text: words(text) + [0] * (len(text) // 10))
    assert len(needle.build(TEXT, 600, 50, "12345", longer).prompt) <= 600


def test_the_grid_has_each_length_and_depth_with_keys_of_their_own() -> None:
    grid = needle.questions(TEXT, [400, 800], [0, 100], 3, seed=1, codec=CODEC)
    assert [(q.length, q.depth) for q in grid[::3]] == [(400, 0), (400, 100), (800, 0), (800, 100)]
    assert len({q.key for q in grid}) == 12
    assert grid == needle.questions(TEXT, [400, 800], [0, 100], 3, seed=1, codec=CODEC)
    assert [q.key for q in grid] != [
        q.key for q in needle.questions(TEXT, [400, 800], [0, 100], 3, seed=2, codec=CODEC)
    ]


def test_a_text_or_a_length_too_short_for_a_needle_is_an_error() -> None:
    with pytest.raises(TextError, match="fewer than a needle prompt of 99999"):
        needle.questions(TEXT, [99_999], [50], 1, 0, CODEC)
    with pytest.raises(TextError, match="100 tokens has no room for text"):
        needle.questions(TEXT, [100], [50], 1, 0, CODEC)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("12345", True),
        (" The pass key is 12,345.", True),
        ("12345\n67890", True),
        ("67890 or 12345", False),
        ("123456", False),
        ("1234", False),
        ("", False),
    ],
)
def test_an_answer_is_right_when_its_first_number_is_the_key(answer: str, right: bool) -> None:
    assert needle.is_answered(answer, "12345") is right


def test_accuracy_is_told_in_all_and_for_each_place() -> None:
    asked = [needle.Question(512, depth, "11111", []) for depth in (10, 10, 90, 90)]
    found = needle.summarize(asked, ["11111", "2", "2", "none"])
    assert found["accuracy"] == 0.25
    assert found["grid"] == [
        {"length": 512, "depth": 10, "accuracy": 0.5},
        {"length": 512, "depth": 90, "accuracy": 0.0},
    ]


WINDOWS, PROMPTS = [[1, 2, 3]], [[4, 5], [6, 7]]


def kept() -> reference.Reference:
    return reference.Reference(
        windows=np.array(WINDOWS, dtype=np.int32),
        tokens=np.array([[8, 9], [9, 8]], dtype=np.int32),
        logprobs=np.array([[-0.5, -2], [-0.25, -3]], dtype=np.float32),
        prompts=np.array(PROMPTS, dtype=np.int32),
        answers=np.array([[1], [2]], dtype=np.int32),
    )


def test_a_reference_is_read_back_with_the_hash_it_was_written_with(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    digest = reference.write(path, kept())
    found, its = reference.read(path, WINDOWS, PROMPTS)
    assert its == digest
    assert found.tokens.tolist() == kept().tokens.tolist()
    assert found.logprobs.dtype == np.float32
    assert [entry.name for entry in tmp_path.iterdir()] == ["reference.npz"]


def test_a_reference_of_other_prompts_or_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    with pytest.raises(reference.ReferenceMismatchError, match="no reference of the bf16 cell"):
        reference.read(path, WINDOWS, PROMPTS)
    reference.write(path, kept())
    with pytest.raises(reference.ReferenceMismatchError, match="other windows"):
        reference.read(path, [[1, 2, 4]], PROMPTS)
    with pytest.raises(reference.ReferenceMismatchError, match="other prompts"):
        reference.read(path, WINDOWS, [[4, 5]])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(reference.ReferenceMismatchError, match="no reference"):
        reference.read(path, WINDOWS, PROMPTS)


def test_a_text_opens_as_the_tokenizer_opens_it() -> None:
    with_bos = SimpleNamespace(bos_token_id=1, encode=lambda _: [1, 5])
    assert opening(with_bos) == [1]
    assert opening(SimpleNamespace(bos_token_id=1, encode=lambda _: [5])) == []
    assert opening(SimpleNamespace(encode=lambda _: [5])) == []
