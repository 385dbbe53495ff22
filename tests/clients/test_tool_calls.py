"""A tool call is read in every form in which servers and models send it, and sent back as it came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflectioncoder.clients.chat import messages_of
from reflectioncoder.clients.messages import Turn
from reflectioncoder.clients.tool_calls import NOT_RUN, call_in_text, called_code, read_calls, sent_back

CODE = 'def f(x):\n    return {"a": x}\n\nassert f(1) == 2'
LITERAL = CODE.replace('"', '\\"')  # JSON text with literal line breaks
ARGUMENTS = {
    "the protocol's": json.dumps({"code": CODE}),
    "an object": {"code": CODE},
    "raw code": CODE,
    "raw code in a fence": f"```python\n{CODE}\n```",
    "literal line breaks": f'{{"code": "{LITERAL}"}}',
    "another key": json.dumps({"source_code": CODE}),
    "the only text": json.dumps({"snippet": CODE, "timeout": 5}),
    "among others": json.dumps({"explanation": "I test it.", "code": CODE}),
    "JSON of JSON": json.dumps(json.dumps({"code": CODE})),
    "JSON text of the code": json.dumps(CODE),
    "a Python literal": repr({"code": CODE}),
    "a list of lines": json.dumps({"code": CODE.split("\n")}),
    "a fence in JSON": json.dumps({"code": f"```python\n{CODE}\n```"}),
}


@pytest.mark.parametrize("form", ARGUMENTS)
@pytest.mark.parametrize("old", [False, True])
def test_arguments_in_any_form_hold_the_code(form: str, old: bool) -> None:
    function = {"name": "python", "arguments": ARGUMENTS[form]}
    message = {"function_call": function} if old else {"tool_calls": [{"id": "a", "function": function}]}
    call = read_calls(message)
    assert call is not None
    assert (call.code, call.id) == (CODE, "call" if old else "a")
    back = sent_back(message)
    sent = back["function_call"] if old else back["tool_calls"][0]["function"]
    arguments = json.loads(sent["arguments"])  # servers parse it again
    assert called_code(sent["arguments"]) == CODE
    assert isinstance(arguments, dict)


@pytest.mark.parametrize(
    "arguments", ["", "{}", None, 5, '{"code": "def f(', '{"code": 1}', '{"a": "x", "b": "y"}', []]
)
def test_arguments_without_code_are_no_code(arguments: Any) -> None:
    assert called_code(arguments) is None
    with pytest.raises(ValueError, match="a tool call without code"):
        read_calls({"tool_calls": [{"id": "a", "function": {"name": "python", "arguments": arguments}}]})


@given(st.text().filter(lambda text: "```" not in text))
def test_any_code_survives_the_protocol(code: str) -> None:
    assert called_code(json.dumps({"code": code})) == code == called_code({"code": code})


def test_our_tool_is_preferred_among_several_calls() -> None:
    calls = [
        {"id": "a", "function": {"name": "search", "arguments": '{"query": "how"}'}},
        {"id": "b", "function": {"name": "functions.python", "arguments": json.dumps({"code": CODE})}},
        {"id": "c", "function": {"name": "python", "arguments": '{"code": "2"}'}},
    ]
    call = read_calls({"tool_calls": calls})
    assert call is not None and (call.id, call.code) == ("b", CODE)
    call = read_calls({"tool_calls": [{"function": {"name": "execute", "arguments": "1"}}]})
    assert call is not None and (call.id, call.code) == ("call", "1")
    for none in ({}, {"tool_calls": []}, {"tool_calls": None}, {"content": "x", "function_call": None}):
        assert read_calls(none) is None


JSON_CALL = json.dumps({"name": "python", "arguments": {"code": CODE}})
IN_TEXT = {
    "Hermes": f"<tool_call>\n{JSON_CALL}\n</tool_call>",
    "Hermes, literal": f'<tool_call>\n{{"name": "python", "arguments": {{"code": "{LITERAL}"}}}}\n</tool_call>',
    "Hermes, text": f"<tool_call>{json.dumps({'name': 'python', 'arguments': json.dumps({'code': CODE})})}</tool_call>",
    "Qwen3-Coder": f"<tool_call>\n<function=python>\n<parameter=code>\n{CODE}\n</parameter>\n</function>\n</tool_call>",
    "Llama 3": f"<|python_tag|>{CODE}<|eom_id|>",
    "Llama 3, JSON": json.dumps({"name": "python", "parameters": {"code": CODE}}),
    "Llama 3.1": f"<function=python>{json.dumps({'code': CODE})}</function>",
    "GLM": f"<tool_call>python\n<arg_key>code</arg_key>\n<arg_value>{CODE}</arg_value>\n</tool_call>",
    "Mistral": f"[TOOL_CALLS] [{JSON_CALL}]",
    "Mistral, newer": f"[TOOL_CALLS]python[ARGS]{json.dumps({'code': CODE})}",
    "DeepSeek": f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>python\n```json\n"
    f"{json.dumps({'code': CODE})}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "DeepSeek V3.1": f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>python<｜tool▁sep｜>{json.dumps({'code': CODE})}"
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
}  # fmt: skip


@pytest.mark.parametrize("form", IN_TEXT)
def test_a_call_that_a_server_left_in_the_text_is_a_call(form: str) -> None:
    before = "" if form == "Llama 3, JSON" else "I write a test."
    assert call_in_text(f"{before}\n{IN_TEXT[form]}\n") == (before, CODE)


@pytest.mark.parametrize(
    "text",
    ["", "Plain.", f"```python\n{CODE}\n```", '{"a": 1}', "<tool_call>", "<tool_call>{}</tool_call>", "[TOOL_CALLS]"],
)
def test_other_text_is_no_call(text: str) -> None:
    assert call_in_text(text) is None


def test_each_call_gets_a_result_and_the_message_goes_back_as_it_came() -> None:
    came: dict[str, Any] = {
        "role": "assistant", "content": None, "refusal": None, "reasoning_content": "Hm.",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "python", "arguments": '{ "code":"1" }'},
             "extra_content": {"google": {"thought_signature": "c2ln"}}},
            {"id": "b", "type": "function", "function": {"name": "python", "arguments": '{"code": "2"}'}},
        ],
    }  # fmt: skip
    turns = [Turn("user", "Go."), Turn("assistant", "", "a", "1", sent_back(came)), Turn("tool", "one", "a")]
    assert messages_of(turns) == [
        {"role": "user", "content": "Go."},
        {key: value for key, value in came.items() if key != "refusal"},
        {"role": "tool", "tool_call_id": "a", "content": "one"},
        {"role": "tool", "tool_call_id": "b", "content": NOT_RUN},
    ]


def test_the_older_form_of_a_call_is_answered_in_its_form() -> None:
    old = {"content": None, "function_call": {"name": "python", "arguments": '{"code": "1"}'}}
    turns = [Turn("assistant", "", "call", "1", sent_back(old)), Turn("tool", "one", "call"), Turn("user", "Now?")]
    assert messages_of(turns) == [
        {"role": "assistant", **old},
        {"role": "function", "name": "python", "content": "one"},
        {"role": "user", "content": "Now?"},
    ]
