"""Text leaves the stream in whole characters and never past a stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from conifer_gguf.worker.text import TextStream


def test_a_character_cut_across_tokens_appears_when_it_is_whole() -> None:
    stream = TextStream()
    assert [stream.feed(bytes([b])) for b in "é🙂".encode()] == ["", "é", "", "", "", "🙂"]


def test_half_a_character_at_the_end_becomes_a_replacement() -> None:
    stream = TextStream()
    stream.feed("🙂".encode()[:2])
    assert stream.finish() == "�"


def test_a_stop_string_is_found_across_tokens_and_dropped() -> None:
    stream = TextStream(["</end>"])
    pieces = [stream.feed(p.encode()) for p in ("Hello </", "en", "d> and more", " text")]
    assert "".join(pieces) + stream.finish() == "Hello "
    assert stream.stopped == "</end>"


def test_what_only_looked_like_a_stop_string_is_released() -> None:
    stream = TextStream(["</end>"])
    assert stream.feed(b"a </en") == "a "
    assert stream.feed(b"try") == "</entry"


def test_the_earliest_of_several_stop_strings_counts() -> None:
    stream = TextStream(["zz", "b"])
    assert stream.feed(b"aabzz") == "aa"
    assert stream.stopped == "b"


@given(
    text=st.text(max_size=40),
    cuts=st.lists(st.integers(1, 7), max_size=40),
    stop=st.text(min_size=1, max_size=4),
)
def test_any_cutting_gives_the_text_before_the_stop(text: str, cuts: list[int], stop: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    stream, out, position = TextStream([stop]), "", 0
    for cut in [*cuts, len(data)]:
        out += stream.feed(data[position : position + cut])
        position += cut
    expected = data.decode("utf-8", "replace").partition(stop)[0]
    assert out + stream.finish() == expected
