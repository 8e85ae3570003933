from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlenv_operator.kube.lines import LineSplitter

line = st.binary(min_size=1).map(lambda b: b.replace(b"\n", b"."))


@given(st.lists(line), st.data())
def test_lines_come_whole_however_the_stream_is_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(one + b"\n" for one in lines) + b"the rest waits"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    splitter = LineSplitter()
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [one for piece in pieces for one in splitter.feed(piece)] == lines
