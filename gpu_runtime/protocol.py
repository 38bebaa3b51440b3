"""The OpenAI HTTP protocol: what a request may say; whatever it says wrong is named."""

from dataclasses import dataclass, replace
from typing import Any

from .grammar import Grammar
from .messages import RequestError, messages, tools, wrong
from .params import SamplingParams

JSON = dict[str, Any]
#: OpenAI's default for /v1/completions; chats go on to the end of the context.
COMPLETION_MAX_TOKENS = 16
MAX_LOGPROBS = 20
MAX_CHOICES = 16
#: Parameters that are not built -> the values that ask for nothing. Anything else is refused, never silently dropped.
NOTHING: dict[str, tuple[object, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "web_search_options": (None,),
    # vLLM's and SGLang's own: clients that say all of their defaults say these.
    "use_beam_search": (None, False),
    "length_penalty": (None, 1),
    "stop_token_ids": (None, []),
    "include_stop_str_in_output": (None, False),
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, True),
    "add_special_tokens": (None, True),
    "add_generation_prompt": (None, True),
    "continue_final_message": (None, False),
    "truncate_prompt_tokens": (None,),
    "prompt_logprobs": (None,),
    "chat_template": (None,),
    "chat_template_kwargs": (None, {}),
    "return_token_ids": (None, False),
}
#: Parameters that say who asks or how it is billed: no answer depends on them here.
WITHOUT_EFFECT = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
#: What a number may be: smallest and largest value, what is taken where it is missing.
NUMBERS: dict[str, tuple[float, float, float]] = {
    "temperature": (0.0, 2.0, 1.0),
    "top_p": (1e-6, 1.0, 1.0),
    "min_p": (0.0, 1.0, 0.0),
    "presence_penalty": (-2.0, 2.0, 0.0),
    "frequency_penalty": (-2.0, 2.0, 0.0),
    "repetition_penalty": (0.01, 10.0, 1.0),
}
OTHERS = {
    "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "seed", "stop", "ignore_eos", "top_k",
    "logit_bias", "logprobs", "n", "priority", "response_format", "min_tokens",
}  # fmt: skip
#: Usage in a chunk after the last, or with `continuous_usage_stats` in every chunk; obfuscation is for OpenAI's own.
STREAM_OPTIONS = {"include_usage", "continuous_usage_stats", "include_obfuscation"}
OF_CHATS = {"messages", "tools", "tool_choice", "parallel_tool_calls", "top_logprobs"}
OF_COMPLETIONS = {"prompt"}


@dataclass(frozen=True)
class Asked:
    """A parsed request with one of `messages`, `text` and `ids`; `max_tokens` None goes on to the context's end."""

    model: str
    messages: list[JSON]
    tools: list[JSON]
    text: str
    ids: list[int]
    stream: bool
    include_usage: bool
    #: Whether every chunk says the usage so far.
    continuous_usage: bool
    max_tokens: int | None
    choices: int
    priority: int
    #: What the answer is to be held to, None for any text.
    schema: JSON | None
    sampling: SamplingParams

    @property
    def chat(self) -> bool:
        """Whether it came as a chat."""
        return bool(self.messages)

    def params(self, *, prompt_tokens: int, context: int, grammar: Grammar | None = None) -> SamplingParams:
        """Return how to sample; RequestError when prompt and answer do not fit into `context` tokens."""
        wanted = self.max_tokens or max(1, context - prompt_tokens)
        if prompt_tokens + wanted > context:
            raise RequestError(
                f"the maximum context is {context} tokens, this request needs {prompt_tokens + wanted} "
                f"({prompt_tokens} of the prompt, {wanted} of the answer): shorten the prompt or lower max_tokens",
                param="messages" if self.chat else "prompt",
                code="context_length_exceeded",
            )
        if self.sampling.min_tokens > wanted:
            message = f"min_tokens is {self.sampling.min_tokens}: the answer has {wanted} tokens at most"
            raise RequestError(message, param="min_tokens")
        return replace(self.sampling, max_tokens=wanted, grammar=grammar)


def parse(body: object, *, chat: bool, vocabulary: int) -> Asked:
    """Return what a request body asks for; RequestError names the parameter that is wrong or unknown."""
    if not isinstance(body, dict):
        raise RequestError("the body is no JSON object")
    _check_names(body, chat=chat)
    limit = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    prompt = "" if chat else _prompt(body)
    usage = _usage(body)
    return Asked(
        model=_text(body, "model"),
        messages=messages(body) if chat else [],
        tools=tools(body) if chat else [],
        text=prompt if isinstance(prompt, str) else "",
        ids=prompt if isinstance(prompt, list) else [],
        stream=_flag(body, "stream"),
        include_usage="include_usage" in usage,
        continuous_usage={"include_usage", "continuous_usage_stats"} <= usage,
        max_tokens=_whole(body, limit, low=1, default=None if chat else COMPLETION_MAX_TOKENS),
        choices=_whole(body, "n", low=1, high=MAX_CHOICES, default=None) or 1,
        priority=_whole(body, "priority", low=-100, high=100, default=None) or 0,
        schema=_schema(body),
        sampling=_sampling(body, chat=chat, vocabulary=vocabulary),
    )


def _check_names(body: JSON, *, chat: bool) -> None:
    for name, harmless in NOTHING.items():
        if body.get(name) not in harmless:
            raise RequestError(f"{name} is {body[name]!r}: this server has no {name}, leave it out", param=name)
    known = NOTHING.keys() | WITHOUT_EFFECT | NUMBERS.keys() | OTHERS | (OF_CHATS if chat else OF_COMPLETIONS)
    for name in body:
        if name not in known:
            raise RequestError(
                f"{name[:80]!r} is no parameter of this path: leave it out", param=name[:80], code="unknown_parameter"
            )


def _sampling(body: JSON, *, chat: bool, vocabulary: int) -> SamplingParams:
    numbers: dict[str, Any] = {name: _number(body, name) for name in NUMBERS}
    return SamplingParams(
        max_tokens=1,
        seed=_whole(body, "seed", low=-(2**63), default=None),
        stop=_stop(body),
        ignore_eos=_flag(body, "ignore_eos"),
        min_tokens=_whole(body, "min_tokens", low=0, default=None) or 0,
        top_k=max(0, _whole(body, "top_k", low=-1, default=None) or 0),
        logit_bias=_bias(body, vocabulary),
        logprobs=_chat_logprobs(body) if chat else _whole(body, "logprobs", low=0, high=MAX_LOGPROBS, default=None),
        grammar=None,
        **numbers,
    )


def _chat_logprobs(body: JSON) -> int | None:
    wanted = _flag(body, "logprobs")
    count = _whole(body, "top_logprobs", low=0, high=MAX_LOGPROBS, default=0) or 0
    if count and not wanted:
        raise RequestError(f"top_logprobs is {count}: it needs logprobs true", param="top_logprobs")
    return count if wanted else None


def _bias(body: JSON, vocabulary: int) -> tuple[tuple[int, float], ...]:
    value = body.get("logit_bias") or {}
    expected = f"token ids from 0 to {vocabulary - 1}, each with a number from -100 to 100"
    if not isinstance(value, dict):
        raise wrong(body, "logit_bias", expected)
    for token, bias in value.items():
        fits = token.isdecimal() and int(token) < vocabulary
        if not fits or isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise wrong(body, "logit_bias", expected)
    return tuple((int(token), float(bias)) for token, bias in value.items())


def _schema(body: JSON) -> JSON | None:
    """Return the JSON schema that `response_format` asks for, None for text."""
    wanted = body.get("response_format")
    expected = "{'type': 'text'}, {'type': 'json_object'} or {'type': 'json_schema', 'json_schema': {'schema': {...}}}"
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    given = wanted.get("json_schema") if isinstance(wanted, dict) and kind == "json_schema" else None
    schema = given.get("schema") if isinstance(given, dict) else None
    if not isinstance(schema, dict):
        raise wrong(body, "response_format", expected)
    return schema


def _usage(body: JSON) -> set[str]:
    """Return the options of a stream that are on."""
    options = body.get("stream_options")
    if options is None:
        return set()
    if not isinstance(options, dict) or not options.keys() <= STREAM_OPTIONS:
        raise wrong(body, "stream_options", '{"include_usage": true, "continuous_usage_stats": true}')
    if not body.get("stream"):
        raise RequestError("stream_options is set and stream is not: it is for streams only", param="stream_options")
    return {name for name in options if _flag(options, name)}


def _text(body: JSON, name: str) -> str:
    if not isinstance(body.get(name), str):
        raise wrong(body, name, "a string")
    return str(body[name])


def _flag(body: JSON, name: str) -> bool:
    if body.get(name) not in (None, False, True):
        raise wrong(body, name, "true or false")
    return bool(body.get(name))


def _whole(body: JSON, name: str, *, low: int, default: int | None, high: int | None = None) -> int | None:
    value = body.get(name)
    if value is None:
        return default
    above = high is not None and isinstance(value, int) and value > high
    if isinstance(value, bool) or not isinstance(value, int) or value < low or above:
        raise wrong(body, name, f"an integer from {low} " + ("on" if high is None else f"to {high}"))
    return value


def _number(body: JSON, name: str) -> float:
    low, high, default = NUMBERS[name]
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise wrong(body, name, f"a number from {low:g} to {high:g}")
    return float(value)


def _stop(body: JSON) -> tuple[str, ...]:
    value = body.get("stop") or []
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(stop, str) and stop for stop in stops):
        raise wrong(body, "stop", "a string or up to four strings")
    return tuple(stops)


def _prompt(body: JSON) -> str | list[int]:
    given = body.get("prompt")
    # A list of one prompt is what clients send that can ask for several at once.
    prompt = given[0] if isinstance(given, list) and len(given) == 1 and isinstance(given[0], str | list) else given
    if isinstance(prompt, str) and prompt:
        return prompt
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return prompt
    raise wrong(body, "prompt", "one text or one list of token ids")
