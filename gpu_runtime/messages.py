"""The messages and tools of a chat as the model's template takes them, and the error of a request that is wrong."""

import json
from typing import Any

JSON = dict[str, Any]
#: What a message may carry beside role and content; templates read them by these names.
CARRIED = ("name", "tool_call_id", "tool_calls", "reasoning_content")


class RequestError(Exception):
    """A request that gets an error body; `str()` is its message."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None, retry_s: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_s = status, param, code, retry_s

    @property
    def body(self) -> JSON:
        """The error as OpenAI's clients read it."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def wrong(body: JSON, name: str, expected: str) -> RequestError:
    """Return the error of a parameter that is not as expected."""
    given = repr(body[name])[:80] if name in body else "missing"
    return RequestError(f"{name} is {given}: expected {expected}", param=name)


def messages(body: JSON) -> list[JSON]:
    """Return the messages of a chat, content as one text; RequestError names the one that is wrong."""
    listed = body.get("messages")
    if not isinstance(listed, list) or not listed:
        raise wrong(body, "messages", "a list of messages")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(listed)]


def tools(body: JSON) -> list[JSON]:
    """Return the tools that the template is to name, none where `tool_choice` is `none`."""
    listed = body.get("tools") or []
    expected = "a list of {'type': 'function', 'function': {'name': ...}}"
    if not isinstance(listed, list) or not all(_is_tool(tool) for tool in listed):
        raise wrong(body, "tools", expected)
    choice = body.get("tool_choice")
    if choice not in (None, "none", "auto"):
        raise wrong(body, "tool_choice", "'none' or 'auto': this server does not force a model to call a tool")
    return [] if choice == "none" else listed


def _is_tool(tool: object) -> bool:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _message(message: object, name: str) -> JSON:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RequestError(f"{name} has no role: expected {{'role': ..., 'content': ...}}", param=name)
    content = message.get("content") or ""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    typed = [part for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    texts = [part["text"] for part in typed if isinstance(part.get("text"), str)]
    if len(texts) != len(parts):
        raise RequestError(f"{name} has content that is no text: this model reads text only", param=name)
    carried = {key: message[key] for key in CARRIED if message.get(key) is not None}
    if "tool_calls" in carried:
        carried["tool_calls"] = _calls(carried["tool_calls"], name)
    return {"role": message["role"], "content": "".join(texts), **carried}


def _calls(calls: object, name: str) -> list[JSON]:
    """Return tool calls with arguments as objects: that is what templates take, while the protocol has JSON in text."""
    try:
        if not isinstance(calls, list):
            raise TypeError
        return [{**call, "function": {**call["function"], "arguments": _arguments(call)}} for call in calls]
    except (TypeError, KeyError, ValueError) as error:
        raise RequestError(
            f"{name}.tool_calls is not understood: expected a list of "
            "{'id': ..., 'type': 'function', 'function': {'name': ..., 'arguments': '<JSON>'}}",
            param=f"{name}.tool_calls",
        ) from error


def _arguments(call: JSON) -> object:
    given = call["function"]["arguments"]
    return json.loads(given) if isinstance(given, str) else given
