"""What RFC 9113 and RFC 7541 ask of a server of HTTP/2, in the manner of h2spec: python3 http2_conformance.py HOST:PORT.

Frames and field blocks come from hyperframe and hpack, which know nothing of the server's own library. Each case has a
connection of its own; each failure is said; exits with 1 if there is one.
"""

import socket
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("packages")))

from hpack import Decoder, Encoder  # noqa: E402
from hyperframe.frame import (  # noqa: E402
    ContinuationFrame, DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, PriorityFrame,
    PushPromiseFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NO_ERROR, PROTOCOL, FLOW, STREAM_CLOSED, FRAME_SIZE, REFUSED, CANCEL, COMPRESSION, CALM = 0, 1, 3, 5, 6, 7, 8, 9, 11
CASES = []


class Ended(Exception):
    """The server has closed the connection."""


class Client:
    def __init__(self, address, settings=None, greet=True):
        self.socket = socket.create_connection(address, timeout=4)
        self.encoder, self.decoder = Encoder(), Decoder()
        self.buffer = b""
        if greet:
            self.raw(PREFACE)
            self.send(SettingsFrame(0, settings=settings or {}))
            self.until(lambda frame: isinstance(frame, SettingsFrame) and "ACK" in frame.flags)

    def raw(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # What the server has said before is still to be read.

    def send(self, *frames):
        self.raw(b"".join(frame.serialize() for frame in frames))

    def frame(self):
        while True:
            if len(self.buffer) >= 9:
                frame, length = Frame.parse_frame_header(memoryview(self.buffer[:9]))
                if len(self.buffer) >= 9 + length:
                    frame.parse_body(memoryview(self.buffer[9:9 + length]))
                    self.buffer = self.buffer[9 + length:]
                    return frame
            try:
                data = self.socket.recv(65536)
            except (ConnectionResetError, BrokenPipeError):
                raise Ended from None
            if not data:
                raise Ended
            self.buffer += data

    def until(self, wanted):
        while True:
            frame = self.frame()
            if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
                self.send(SettingsFrame(0, flags=["ACK"]))
            if wanted(frame):
                return frame

    def fields(self, more=(), path="/", method="GET", scheme="http", authority="a", drop=()):
        pseudo = [(":method", method), (":scheme", scheme), (":path", path), (":authority", authority)]
        return [pair for pair in pseudo if pair[0] not in drop] + list(more)

    def headers(self, stream=1, fields=None, flags=("END_HEADERS", "END_STREAM"), **kwargs):
        block = self.encoder.encode(self.fields(**kwargs) if fields is None else fields)
        return HeadersFrame(stream, block, flags=list(flags))

    # What the server does.

    def connection_error(self, *codes):
        """GOAWAY with one of the codes or the general one (RFC 9113 §7: it is for debugging), or simply the end."""
        try:
            frame = self.until(lambda frame: isinstance(frame, GoAwayFrame))
        except Ended:
            return
        assert frame.error_code in (PROTOCOL, *codes), f"GOAWAY {frame.error_code}, not {codes}"

    def stream_error(self, *codes, stream=1):
        """RST_STREAM or GOAWAY as above, or the end; a 4xx, or a 501, where the request is at fault."""
        def is_it(frame):
            return isinstance(frame, (RstStreamFrame, GoAwayFrame)) or (
                isinstance(frame, HeadersFrame) and frame.stream_id == stream)
        try:
            frame = self.until(is_it)
        except Ended:
            return
        if isinstance(frame, HeadersFrame):
            status = dict(self.decoder.decode(frame.data))[":status"]
            assert status.startswith("4") or status == "501", f"answered with {status}"
            return
        assert frame.error_code in (PROTOCOL, *codes), f"{type(frame).__name__} {frame.error_code}, not {codes}"

    def response(self, stream=1):
        frame = self.until(lambda frame: frame.stream_id == stream or isinstance(frame, GoAwayFrame))
        assert isinstance(frame, HeadersFrame), f"{frame} and no response"
        return dict(self.decoder.decode(frame.data))

    def is_well(self, stream=1):
        assert self.response(stream)[":status"] == "200"

    def pong(self, data=b"whatever"):
        frame = self.until(lambda frame: isinstance(frame, (PingFrame, GoAwayFrame)))
        assert isinstance(frame, PingFrame) and "ACK" in frame.flags and frame.opaque_data == data, frame


def case(function):
    CASES.append(function)
    return function


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


# 3.4 the preface

@case
def an_invalid_preface_ends_the_connection(connect):
    client = connect(greet=False)
    client.raw(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n")
    try:
        while client.socket.recv(4096):
            pass
    except ConnectionResetError:
        pass


@case
def settings_may_be_anything_known_or_not(connect):
    client = connect(settings={1: 0, 2: 0, 3: 100, 4: 1000, 5: 16384, 6: 65535, 77: 1})
    client.send(client.headers())
    client.is_well()


# 4.1, 4.2 frames

@case
def a_frame_of_an_unknown_kind_is_ignored(connect):
    client = connect()
    client.raw(frame(0xBB, 0xFF, 0, b"x" * 8))
    client.send(PingFrame(0, opaque_data=b"whatever"))
    client.pong()


@case
def unknown_flags_are_ignored(connect):
    client = connect()
    client.raw(frame(6, 0x16, 0, b"whatever"))
    client.pong()


@case
def the_reserved_bit_of_a_stream_is_ignored(connect):
    client = connect()
    client.raw(frame(6, 0, 0x80000000, b"whatever"))
    client.pong()


@case
def a_data_frame_that_is_too_large_is_an_error(connect):
    client = connect()
    client.send(client.headers(flags=["END_HEADERS"], method="POST"))
    client.raw(frame(0, 1, 1, b"x" * 16385))
    client.stream_error(FRAME_SIZE)


@case
def a_headers_frame_that_is_too_large_ends_the_connection(connect):
    client = connect()
    client.raw(frame(1, 5, 1, b"\x82" * 16385))
    client.connection_error(FRAME_SIZE)


# 4.3 field blocks

@case
def a_block_that_can_not_be_read_ends_the_connection(connect):
    client = connect()
    client.raw(frame(1, 5, 1, b"\x40"))
    client.connection_error(COMPRESSION)


@case
def an_index_that_is_not_there_ends_the_connection(connect):
    client = connect()
    client.raw(frame(1, 5, 1, b"\x82\x84\x86\xff\xff\x7f"))
    client.connection_error(COMPRESSION)


@case
def a_table_that_is_larger_than_allowed_ends_the_connection(connect):
    client = connect()
    client.raw(frame(1, 5, 1, b"\x3f\xe2\xff\x7f\x82\x84\x86\x41\x01a"))
    client.connection_error(COMPRESSION)


@case
def a_change_of_the_table_behind_a_field_ends_the_connection(connect):
    client = connect()
    client.raw(frame(1, 5, 1, b"\x82\x84\x86\x41\x01a\x20"))
    client.connection_error(COMPRESSION)


@case
def huffman_padding_longer_than_seven_bits_ends_the_connection(connect):
    client = connect()
    client.raw(frame(1, 5, 1, b"\x82\x84\x86\x41\x01a" + b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"))
    client.connection_error(COMPRESSION)


@case
def a_priority_between_the_parts_of_a_block_ends_the_connection(connect):
    client = connect()
    client.send(client.headers(flags=["END_STREAM"]), PriorityFrame(1, depends_on=0, stream_weight=255))
    client.connection_error(PROTOCOL)


@case
def headers_of_another_stream_between_the_parts_of_a_block_end_the_connection(connect):
    client = connect()
    client.send(client.headers(flags=["END_STREAM"]), client.headers(stream=3))
    client.connection_error(PROTOCOL)


# 5.1 states of streams

@case
def data_on_an_idle_stream_ends_the_connection(connect):
    client = connect()
    client.send(DataFrame(1, b"x", flags=["END_STREAM"]))
    client.connection_error(PROTOCOL, STREAM_CLOSED)


@case
def a_reset_of_an_idle_stream_ends_the_connection(connect):
    client = connect()
    client.send(RstStreamFrame(1, error_code=CANCEL))
    client.connection_error(PROTOCOL)


@case
def a_window_update_of_an_idle_stream_ends_the_connection(connect):
    client = connect()
    client.send(WindowUpdateFrame(1, window_increment=100))
    client.connection_error(PROTOCOL)


@case
def a_continuation_of_nothing_ends_the_connection(connect):
    client = connect()
    client.send(ContinuationFrame(1, client.encoder.encode(client.fields()), flags=["END_HEADERS"]))
    client.connection_error(PROTOCOL)


@case
def data_on_a_half_closed_stream_is_an_error(connect):
    client = connect()
    client.send(client.headers(path="/hang"), DataFrame(1, b"x", flags=["END_STREAM"]))
    client.stream_error(STREAM_CLOSED, PROTOCOL)


@case
def headers_on_a_half_closed_stream_are_an_error(connect):
    client = connect()
    client.send(client.headers(path="/hang"), client.headers())
    client.stream_error(STREAM_CLOSED, PROTOCOL)


@case
def data_on_a_closed_stream_is_an_error(connect):
    client = connect()
    client.send(client.headers())
    client.is_well()
    client.until(lambda frame: "END_STREAM" in frame.flags)
    client.send(DataFrame(1, b"x"))
    client.stream_error(STREAM_CLOSED, PROTOCOL)


@case
def an_even_stream_ends_the_connection(connect):
    client = connect()
    client.send(client.headers(stream=2))
    client.connection_error(PROTOCOL)


@case
def a_stream_with_a_lower_number_than_one_before_ends_the_connection(connect):
    client = connect()
    client.send(client.headers(stream=5))
    client.is_well(5)
    client.send(client.headers(stream=3))
    client.connection_error(PROTOCOL, STREAM_CLOSED)


@case
def more_streams_than_allowed_are_refused(connect):
    client = connect(greet=False)
    client.raw(PREFACE)
    client.send(SettingsFrame(0))
    most = client.until(lambda frame: isinstance(frame, SettingsFrame) and "ACK" not in frame.flags).settings[3]
    streams = range(1, 2 * most + 3, 2)
    client.send(*(client.headers(stream=stream, path="/hang") for stream in streams))
    client.stream_error(PROTOCOL, REFUSED, stream=streams[-1])


# 6 frames, kind by kind

@case
def data_of_no_stream_ends_the_connection(connect):
    client = connect()
    client.raw(frame(0, 0, 0, b"x"))
    client.connection_error(PROTOCOL)


@case
def padding_longer_than_the_data_ends_the_connection(connect):
    client = connect()
    client.send(client.headers(flags=["END_HEADERS"], method="POST"))
    client.raw(frame(0, 9, 1, b"\x06x"))
    client.connection_error(PROTOCOL)


@case
def padded_data_is_data(connect):
    client = connect()
    client.send(client.headers(flags=["END_HEADERS"], method="POST"))
    client.raw(frame(0, 9, 1, b"\x03abc\0\0\0"))
    client.is_well()


@case
def headers_of_no_stream_end_the_connection(connect):
    client = connect()
    client.raw(frame(1, 5, 0, client.encoder.encode(client.fields())))
    client.connection_error(PROTOCOL)


@case
def padding_longer_than_the_headers_ends_the_connection(connect):
    client = connect()
    client.raw(frame(1, 13, 1, b"\x0a\x82\x84"))
    client.connection_error(PROTOCOL)


@case
def headers_with_a_priority_are_headers(connect):
    client = connect()
    client.raw(frame(1, 0x25, 1, b"\0\0\0\0\xff" + client.encoder.encode(client.fields())))
    client.is_well()


@case
def a_priority_of_the_wrong_length_is_an_error(connect):
    client = connect()
    client.raw(frame(2, 0, 1, b"\0\0\0\1"))
    client.stream_error(FRAME_SIZE)


@case
def a_priority_of_no_stream_ends_the_connection(connect):
    client = connect()
    client.raw(frame(2, 0, 0, b"\0\0\0\1\xff"))
    client.connection_error(PROTOCOL)


@case
def a_reset_of_no_stream_ends_the_connection(connect):
    client = connect()
    client.raw(frame(3, 0, 0, b"\0\0\0\x08"))
    client.connection_error(PROTOCOL)


@case
def a_reset_of_the_wrong_length_ends_the_connection(connect):
    client = connect()
    client.send(client.headers(path="/hang"))
    client.raw(frame(3, 0, 1, b"\0\0\x08"))
    client.connection_error(FRAME_SIZE)


@case
def settings_with_ack_and_content_end_the_connection(connect):
    client = connect()
    client.raw(frame(4, 1, 0, b"\0\x03\0\0\0\1"))
    client.connection_error(FRAME_SIZE)


@case
def settings_of_a_stream_end_the_connection(connect):
    client = connect()
    client.raw(frame(4, 0, 1, b"\0\x03\0\0\0\1"))
    client.connection_error(PROTOCOL)


@case
def settings_of_the_wrong_length_end_the_connection(connect):
    client = connect()
    client.raw(frame(4, 0, 0, b"\0\x03\0"))
    client.connection_error(FRAME_SIZE)


@case
def settings_are_confirmed(connect):
    client = connect()
    client.send(SettingsFrame(0, settings={3: 50}))
    client.until(lambda frame: isinstance(frame, SettingsFrame) and "ACK" in frame.flags)


@case
def impossible_settings_end_the_connection(connect):
    for setting, value, codes in [(2, 2, [PROTOCOL]), (4, 2**31, [FLOW]), (5, 16383, [PROTOCOL]), (5, 2**24, [PROTOCOL])]:
        client = connect()
        client.raw(frame(4, 0, 0, struct.pack(">HI", setting, value)))
        client.connection_error(*codes)


@case
def a_push_promise_of_a_client_ends_the_connection(connect):
    client = connect()
    client.send(PushPromiseFrame(1, promised_stream_id=2, data=client.encoder.encode(client.fields()), flags=["END_HEADERS"]))
    client.connection_error(PROTOCOL)


@case
def a_ping_is_answered(connect):
    client = connect()
    client.send(PingFrame(0, opaque_data=b"12345678"))
    client.pong(b"12345678")


@case
def an_answer_to_no_ping_is_not_answered(connect):
    client = connect()
    client.send(PingFrame(0, opaque_data=b"invalid!", flags=["ACK"]), PingFrame(0, opaque_data=b"whatever"))
    client.pong()


@case
def a_ping_of_a_stream_or_of_the_wrong_length_ends_the_connection(connect):
    client = connect()
    client.raw(frame(6, 0, 1, b"12345678"))
    client.connection_error(PROTOCOL)
    client = connect()
    client.raw(frame(6, 0, 0, b"123456"))
    client.connection_error(FRAME_SIZE)


@case
def a_goaway_of_a_stream_ends_the_connection(connect):
    client = connect()
    client.raw(frame(7, 0, 1, b"\0\0\0\0\0\0\0\0"))
    client.connection_error(PROTOCOL)


@case
def a_window_update_by_nothing_or_too_much_is_an_error(connect):
    for stream, increments, codes in [(0, [0], [PROTOCOL]), (0, [2**31 - 1, 1], [FLOW])]:
        client = connect()
        client.raw(b"".join(frame(8, 0, stream, struct.pack(">I", increment)) for increment in increments))
        client.connection_error(*codes)
    for increments, codes in [([0], [PROTOCOL]), ([2**31 - 1, 1], [FLOW])]:
        client = connect()
        client.send(client.headers(path="/hang"))
        client.raw(b"".join(frame(8, 0, 1, struct.pack(">I", increment)) for increment in increments))
        client.stream_error(*codes)


@case
def a_window_update_of_the_wrong_length_ends_the_connection(connect):
    client = connect()
    client.raw(frame(8, 0, 0, b"\0\0\1"))
    client.connection_error(FRAME_SIZE)


@case
def no_more_is_sent_than_the_window_allows(connect):
    client = connect(settings={4: 3})
    client.send(client.headers(path="/long"))
    client.is_well()
    data = client.until(lambda frame: isinstance(frame, DataFrame) and frame.data)
    assert len(data.data) <= 3, len(data.data)
    client.send(WindowUpdateFrame(1, window_increment=2))
    data = client.until(lambda frame: isinstance(frame, DataFrame) and frame.data)
    assert len(data.data) <= 2, len(data.data)


@case
def a_window_that_settings_make_negative_is_filled_up_first(connect):
    client = connect(settings={4: 3})
    client.send(client.headers(path="/long"))
    client.is_well()
    client.until(lambda frame: isinstance(frame, DataFrame) and frame.data)
    client.send(SettingsFrame(0, settings={4: 2}), WindowUpdateFrame(1, window_increment=2))
    data = client.until(lambda frame: isinstance(frame, DataFrame) and frame.data)
    assert len(data.data) == 1, len(data.data)


@case
def a_block_may_come_in_many_parts(connect):
    client = connect()
    block = client.encoder.encode(client.fields())
    client.send(HeadersFrame(1, block[:1], flags=["END_STREAM"]))
    client.send(ContinuationFrame(1, block[1:2]), ContinuationFrame(1, b""), ContinuationFrame(1, block[2:], flags=["END_HEADERS"]))
    client.is_well()


@case
def a_continuation_behind_the_end_of_a_block_ends_the_connection(connect):
    client = connect()
    client.send(client.headers(flags=["END_HEADERS"], method="POST"), ContinuationFrame(1, b"\x82", flags=["END_HEADERS"]))
    client.connection_error(PROTOCOL)


# 8 messages

@case
def a_malformed_request_is_refused(connect):
    http = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")]
    for name, fields in [
        ("a name in upper case", http + [("X-Test", "1")]),
        ("an unknown pseudo-field", http + [(":unknown", "1")]),
        ("a pseudo-field of responses", http + [(":status", "200")]),
        ("a pseudo-field behind a field", [("x-test", "1")] + http),
        ("Connection", http + [("connection", "keep-alive")]),
        ("Transfer-Encoding", http + [("transfer-encoding", "chunked")]),
        ("Upgrade", http + [("upgrade", "h2c")]),
        ("TE other than trailers", http + [("te", "trailers, deflate")]),
        ("no :path", [pair for pair in http if pair[0] != ":path"]),
        ("an empty :path", [(name, "" if name == ":path" else value) for name, value in http]),
        ("no :method", http[1:]),
        ("no :scheme", [pair for pair in http if pair[0] != ":scheme"]),
        ("two :method", http[:1] + http),
        ("two :path", http + [(":path", "/")]),
        ("a line feed in a value", http + [("x-test", "a\nb")]),
        ("a NUL in a value", http + [("x-test", "a\0b")]),
        ("a blank in a name", http + [("x test", "1")]),
        ("another host", http + [("host", "b")]),
        ("two hosts", http + [("host", "a"), ("host", "a")]),
        ("nobody asked", http[:3]),
        ("CONNECT without a protocol", [(":method", "CONNECT"), (":authority", "a:443")]),
    ]:
        client = connect()
        client.send(client.headers(fields=fields))
        try:
            client.stream_error(PROTOCOL)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


@case
def te_trailers_is_allowed(connect):
    client = connect()
    client.send(client.headers(more=[("te", "trailers")]))
    client.is_well()


@case
def a_length_that_is_not_the_body_s_is_refused(connect):
    for length, parts in [("1", [b"test"]), ("1", [b"te", b"st"]), ("10", [b"test"])]:
        client = connect()
        client.send(client.headers(method="POST", more=[("content-length", length)], flags=["END_HEADERS"]))
        for at, part in enumerate(parts):
            client.send(DataFrame(1, part, flags=["END_STREAM"] if at + 1 == len(parts) else []))
        client.stream_error(PROTOCOL, CANCEL)


@case
def trailers_are_the_end(connect):
    client = connect()
    client.send(client.headers(method="POST", flags=["END_HEADERS"]), DataFrame(1, b"test"))
    client.send(HeadersFrame(1, client.encoder.encode([("x-sum", "4")]), flags=["END_HEADERS", "END_STREAM"]))
    client.is_well()


@case
def head_has_no_body(connect):
    client = connect()
    client.send(client.headers(method="HEAD"))
    end = client.until(lambda frame: "END_STREAM" in frame.flags)
    assert not (isinstance(end, DataFrame) and end.data)


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    failed = 0
    for function in CASES:
        try:
            function(lambda **options: Client((host, int(port)), **options))
        except (AssertionError, Ended, TimeoutError, OSError) as error:
            failed += 1
            print(f"{function.__name__}: {type(error).__name__} {error}")
    print(f"{len(CASES) - failed} of {len(CASES)} cases hold")
    sys.exit(1 if failed else 0)


main()
