import json

import pytest

from kivi_bench import calls
from kivi_bench.text import TextError


def asked(count: int = 8, seed: int = 0) -> list[calls.Call]:
    return calls.calls(
        range(500), count, 100, seed, lambda tokens: " ".join(f"w{token}" for token in tokens), lambda text: [len(text)]
    )


def right(call: calls.Call) -> dict:
    return {"name": call.tool.name, "arguments": call.arguments}


def test_every_tool_is_asked_for_in_turn_and_alike_for_equal_seeds() -> None:
    made = asked()
    assert [call.tool.name for call in made] == [tool.name for tool in calls.TOOLS] * 2
    assert made == asked()
    assert [call.arguments for call in made] != [call.arguments for call in asked(seed=1)]
    with pytest.raises(TextError, match="500 tokens, fewer than the 501"):
        calls.calls(range(500), 1, 501, 0, str, lambda _: [])


def test_the_request_of_a_tool_is_a_call_by_its_own_schema() -> None:
    for call in asked(40):
        assert calls.is_valid(call.tool, right(call))


def test_counts_json_the_schema_and_the_arguments_apart() -> None:
    made = asked(4)
    weather, payment, order, _ = made
    answers = [
        "```json\n" + json.dumps(right(weather)) + "\n```",
        json.dumps({"name": "send_money", "arguments": {**payment.arguments, "amount": -1}}) + " and so on",
        json.dumps({"name": "order_item", "arguments": {"item": order.arguments["item"], "gift": "yes"}}),
        '{"name": "set_meeting", "arguments": {"people": ["Amara"',
    ]
    assert calls.summarize(made, answers) == {"json": 0.75, "valid": 0.5, "correct": 0.25}


@pytest.mark.parametrize("answer", ["", "I cannot do that.", "{", '{"name": "get_weather",}', "{'name': 'x'}"])
def test_what_a_program_cannot_read_is_no_json(answer: str) -> None:
    assert calls.first_object(answer) is None
    assert calls.summarize(asked(1), [answer]) == {"json": 0, "valid": 0, "correct": 0}


def test_a_call_of_another_tool_or_with_more_than_asked_is_not_valid() -> None:
    call = asked(1)[0]
    assert not calls.is_valid(call.tool, {**right(call), "name": "send_money"})
    assert not calls.is_valid(call.tool, {**right(call), "id": 3})
    assert not calls.is_valid(call.tool, {**right(call), "arguments": {**call.arguments, "unit": "C"}})
    assert not calls.is_valid(call.tool, [right(call)])
