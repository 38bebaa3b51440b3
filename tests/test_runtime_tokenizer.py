"""Text survives the tokenizer, and a stream of tokens never shows half a character."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbudget.gpu_runtime.answer import Answer
from tailbudget.gpu_runtime.params import SamplingParams
from tailbudget.gpu_runtime.tokenizer import ChatTemplateError, TextTokenizer
from tailbudget.gpu_runtime.weights import open_model
from tests.runtime_support import tiny_model, tiny_path


def _tokenizer() -> TextTokenizer:
    return tiny_model()[1]


@given(st.text().filter(lambda text: "<|" not in text))
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    assert _tokenizer().decode(_tokenizer().encode(text)) == text


@given(st.text(alphabet="aé€🙂", min_size=1, max_size=20))
def test_pieces_of_a_stream_hold_whole_characters_only(text: str) -> None:
    pieces = _tokenizer().pieces()
    parts = [pieces.feed(token) for token in _tokenizer().encode(text)]
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(parts)
    assert "".join(parts) + pieces.flush() == text


def test_a_character_that_never_completes_shows_as_replacement() -> None:
    pieces = _tokenizer().pieces()
    assert pieces.feed(_tokenizer().encode("🙂")[0]) == ""
    assert pieces.flush() == "\N{REPLACEMENT CHARACTER}"


def test_digits_are_tokens_of_their_own() -> None:
    vocabulary = open_model(tiny_path()).vocabulary
    merged = replace(
        vocabulary,
        tokens=[*vocabulary.tokens, "20"],
        types=[*vocabulary.types, 1],
        merges=[*vocabulary.merges, "2 0"],
    )
    assert len(TextTokenizer(merged).encode("20261")) == 5


def test_a_chat_is_rendered_by_the_models_own_template() -> None:
    tokenizer = _tokenizer()
    ids = tokenizer.encode_chat([{"role": "user", "content": "hi"}])
    assert tokenizer.decode(ids) == "user\nhi\nassistant\n"
    assert sum(index in tokenizer.encode("<|im_start|>") for index in ids) == 2


def test_a_template_cannot_reach_pythons_internals() -> None:
    vocabulary = open_model(tiny_path()).vocabulary
    evil = "{{ messages.__class__.__base__.__subclasses__() }}"
    tokenizer = TextTokenizer(replace(vocabulary, chat_template=evil))
    with pytest.raises(ChatTemplateError, match="unsafe"):
        tokenizer.encode_chat([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("source", ["{{ 'of ' + messages[0].name }}", "{% for i in range(10 ** 9) %}{% endfor %}"])
def test_a_template_that_breaks_over_a_message_refuses_it(source: str) -> None:
    tokenizer = TextTokenizer(replace(open_model(tiny_path()).vocabulary, chat_template=source))
    with pytest.raises(ChatTemplateError, match="refuses these messages"):
        tokenizer.encode_chat([{"role": "user", "content": "hi", "name": 5}])


def _say(text: str, *stop: str) -> tuple[list[str], str | None]:
    """Feed the tokens of a text to an answer; returns what was sent, and why it ended."""
    tokens = _tokenizer().encode(text)
    answer = Answer(_tokenizer(), SamplingParams(max_tokens=len(tokens), stop=stop))
    sent, finish = [], None
    for token in tokens:
        text, finish = answer.feed(token)
        sent.append(text)
        if finish:
            break
    return sent, finish


def test_nothing_from_a_stop_string_on_is_sent() -> None:
    sent, finish = _say("xyzSTOPabc", "STOP")
    assert ("".join(sent), finish) == ("xyz", "stop")


def test_the_earliest_of_several_stop_strings_wins() -> None:
    sent, finish = _say("one, two; three", ";", ",")
    assert ("".join(sent), finish) == ("one", "stop")


def test_what_only_looked_like_a_stop_string_is_sent_in_the_end() -> None:
    sent, finish = _say("xyzSTO", "STOP")
    assert ("".join(sent), finish) == ("xyzSTO", "length")


def test_an_end_token_ends_the_answer_unless_it_is_ignored() -> None:
    end = min(_tokenizer().end_ids)
    assert Answer(_tokenizer(), SamplingParams(max_tokens=9)).feed(end) == ("", "stop")
    assert Answer(_tokenizer(), SamplingParams(max_tokens=9, ignore_eos=True)).feed(end) == ("", None)
