"""A link without sockets and clock: the hello, ids, batches, timers and the end (chapters 2, 4, 6 and 7).

Whoever drives a `Client` or a `Server` sets `now` to the time since the connection began, in the unit of the
time-outs, and reports what happens: bytes (while `wants_read`), end of file, a `next_timeout` that has come,
TLS that is established after `StartTls`. Then, until both have nothing more, it takes events by `next_event`
and, when the transport can take it, what `data_to_send` gives: that counts as transmitted from then on.
"""
from collections import deque, namedtuple
from dataclasses import dataclass
from enum import Enum

from compression import DECODERS, DEFLATE, LinkError, encoder, judge
from messages import (GOODBYE, REFUSAL_STATUS, Frame, Limits, LocalFailure, Request, RequestReader, Response,
                      ResponseReader, is_goodbye, write_request, write_response)

HELLO_BEGIN, HELLO_SIZE = b"httpteleport\x00", 15           # 2.1 Layout: magic and version
MAX_ID, BATCH_SIZE = 2**32 - 1, 65_536                      # R-id-nonzero, R-batch-size
State = Enum("State", "HELLO TLS OPEN DRAINING CLOSED")
Connected, StartTls = namedtuple("Connected", ""), namedtuple("StartTls", "")
RequestReceived = namedtuple("RequestReceived", "call request")
Refused = namedtuple("Refused", "id code")                  # a request, which is answered
ResponseReceived = namedtuple("ResponseReceived", "call response")
RequestFailed = namedtuple("RequestFailed", "call code maybe_delivered")
Unmatched = namedtuple("Unmatched", "id")                   # a response for which nobody waited
Closed = namedtuple("Closed", "code")                       # None: in order

@dataclass(eq=False)
class Call:                         # a request on its way
    id: int                         # 0: a oneway
    method: bytes

@dataclass(eq=False)
class Link:
    """What both ends have in common."""
    compression: int = DEFLATE      # of what this side sends
    tls: bool = False               # client: asks for TLS; server: has TLS
    tls_required: bool = False
    limits: Limits = Limits()
    hello_timeout: float = 3.0
    max_batch_delay: float = 0.0
    idle_timeout: float | None = None
    drain_timeout: float = 5.0
    next_id: int = 1                # client: of the next request
    now: float = 0.0

    def __post_init__(self):
        self._state, self._reason = State.HELLO, None       # reason: why the link drains
        self._has_eof = self._seal_now = False
        self._is_leaving = False                            # client: has read a goodbye; server: has said it
        self._deadlines = {"hello": self.hello_timeout}     # by timer or call (R-deadline-fixed)
        self._events, self._hello_in, self._hello_out = deque(), b"", b""
        self._encode, self._decoder = encoder(self.compression), None
        self._queue: dict[Call, bytes] = {}                 # the output buffer (4.4)
        self._pending: dict[int | Call, Call] = {}          # client: in flight, by id; server: to be answered

    def receive_data(self, data: bytes) -> int:
        """Gives how many bytes were taken. What comes behind the hello may be for TLS (R-tls-boundary)."""
        taken = 0
        if self._state is State.HELLO:
            taken = min(HELLO_SIZE - len(self._hello_in), len(data))
            self._hello_in += data[:taken]
            try:
                self._check_hello(self._hello_in)
            except LinkError as error:
                self._close(str(error))
        if self._state is not State.OPEN:
            return taken
        self._decoder.feed(data[taken:])                    # R-hello-early-frames
        self._restart_idle()
        return len(data)

    def receive_eof(self) -> None:                          # 6.3
        self._has_eof = True
        if self._state in (State.HELLO, State.TLS):
            self._close("hello-truncated" if self._state is State.HELLO else "transport")

    def tls_established(self) -> None:
        self._state = State.OPEN

    def transport_failed(self) -> None:                     # R-transport-failed, R-tls-handshake-failed
        self._close("transport")

    def next_timeout(self) -> float | None:
        return min(self._deadlines.values(), default=None)

    def handle_timeout(self) -> None:
        while self._deadlines and self.next_timeout() <= self.now:
            self._fire(min(self._deadlines, key=self._deadlines.get))

    def flush(self) -> None:
        self._seal_now = True

    @property
    def wants_read(self) -> bool:
        return self._state in (State.HELLO, State.OPEN) and not self._has_eof and not self._is_paused()

    def next_event(self):
        while not self._events and self._read_on():
            pass
        return self._events.popleft() if self._events else None

    def data_to_send(self) -> bytes:
        data, self._hello_out = self._hello_out, b""
        if self._state in (State.OPEN, State.DRAINING):
            if self._queue and (self._seal_now or self._queue_size() >= BATCH_SIZE):        # R-batch-seal
                data += self._encode(b"".join(self._queue.values()))
                self._queue.clear()
                self._deadlines.pop("batch", None)
            if data:
                self._restart_idle()
        return data

    def _check_hello(self, hello: bytes) -> None:           # 2.3
        judge({"hello-magic": len(hello) >= 12 and hello[:12] != HELLO_BEGIN[:12],
               "hello-version": len(hello) >= 13 and hello[:13] != HELLO_BEGIN})
        if len(hello) < HELLO_SIZE:
            return
        use_tls = self._agree(hello[13] not in DECODERS, hello[14] != 0)                    # R-tls-byte-read
        self._decoder = DECODERS[hello[13]]()               # R-compression-independent
        self._state = State.TLS if use_tls else State.OPEN
        self._events += [StartTls()] * use_tls

    def _read_on(self) -> bool:
        """Reads one frame. False: there is none before something else happens."""
        if self._state is State.OPEN and not self._hello_out and self._deadlines.pop("hello", None) is not None:
            self._restart_idle()                            # the hello is complete (2.4)
            self._events.append(Connected())
            return True
        is_done = "drain" in self._deadlines or self._is_leaving and isinstance(self, Client)
        if is_done and not self._queue and not self._pending:
            self._close(None)
        if self._state is not State.OPEN or self._is_paused() or "hello" in self._deadlines:
            return False
        try:
            if frame := self._reader.read():
                self._on_frame(frame)
            elif plain := self._decoder.read():
                self._reader.feed(plain)
            elif self._has_eof:                             # R-eof-truncated
                judge({"truncated": not (self._reader.at_boundary() and self._decoder.at_boundary())})
                self._end(None)                             # R-eof-clean
            else:
                return False
        except LinkError as error:
            self._end(str(error))
        return True

    def _enqueue(self, call: Call, message: bytes) -> None:
        if not self._queue:                                 # R-batch-begin, R-batch-no-extend
            self._seal_now = self.max_batch_delay <= 0 or "drain" in self._deadlines
            if not self._seal_now:
                self._deadlines["batch"] = self.now + self.max_batch_delay
        self._queue[call] = call.id.to_bytes(4, "little") + message

    def _queue_size(self) -> int:
        return sum(map(len, self._queue.values()))

    def _is_paused(self) -> bool:                           # R-backpressure; R-no-deadlock: a client reads on
        return isinstance(self, Server) and self._queue_size() >= self.limits.output

    def _fire(self, timer: str | Call) -> None:
        if timer == "batch":
            del self._deadlines["batch"]
            self._seal_now = True
        elif timer == "idle":
            self._end("idle-timeout")
        elif isinstance(timer, Call):
            self._events.append(RequestFailed(timer, "timeout", timer not in self._queue))
            self.cancel(timer)
        else:
            self._close(f"{timer}-timeout")

    def _restart_idle(self) -> None:                        # R-idle
        if self.idle_timeout is not None and not {"hello", "drain"} & self._deadlines.keys():
            self._deadlines["idle"] = self.now + self.idle_timeout

    def _drain(self) -> None:
        self._deadlines.setdefault("drain", self.now + self.drain_timeout)
        self._deadlines.pop("batch", None)
        self._deadlines.pop("idle", None)
        self._seal_now = True

    def _close(self, code: str | None) -> None:
        if self._state is not State.CLOSED:                 # R-error-once
            self._state = State.CLOSED
            self._queue.clear()
            self._deadlines.clear()
            self._events.append(Closed(self._reason or code))

class Client(Link):
    def __post_init__(self):
        super().__post_init__()
        self._hello_out = HELLO_BEGIN + bytes([self.compression, self.tls])
        self._reader = ResponseReader(self.limits, self._answers_head)
        self._abandoned: dict[int, Call] = {}

    def request(self, request: Request, deadline: float | None = None, is_oneway: bool = False) -> Call:
        is_closing = self._state is State.CLOSED or "drain" in self._deadlines or self._is_leaving
        judge({"closing": is_closing}, LocalFailure)
        message = write_request(request, self.limits)
        judge({"pending-overflow": not is_oneway and len(self._pending) >= self.limits.pending,
               "output-full": self._queue_size() >= self.limits.output}, LocalFailure)
        call = Call(0 if is_oneway else self._new_id(), request.method)
        if not is_oneway:
            self._pending[call.id] = call                   # R-register-before-write
        if deadline is not None:
            self._deadlines[call] = deadline
        self._enqueue(call, message)
        return call

    def _new_id(self) -> int:                               # R-id-order, R-id-unique, R-id-nonzero
        while self.next_id in self._pending or self.next_id in self._abandoned:
            self.next_id = self.next_id % MAX_ID + 1
        new_id, self.next_id = self.next_id, self.next_id % MAX_ID + 1
        return new_id

    def cancel(self, call: Call) -> bool | None:            # R-deadline
        """Whether the request was maybe delivered. None: it has had another outcome (R-outcome-once)."""
        if self._pending.get(call.id) is not call:
            return None
        del self._pending[call.id]
        self._deadlines.pop(call, None)
        if self._queue.pop(call, None):
            return False
        self._abandoned[call.id] = call
        if len(self._abandoned) > self.limits.abandoned:    # R-abandoned-limit
            self._close("abandoned-limit")
        return True

    def close(self) -> None:                                # R-close-graceful
        if self._state is not State.CLOSED:
            self._drain()

    def _agree(self, is_unknown: bool, has_agreed: bool) -> bool:
        judge({"hello-compression": is_unknown,             # R-hello-compression
               "tls-refused": self.tls and not has_agreed}) # R-tls-refused
        return self.tls                                     # R-tls-plain-ignores

    def _answers_head(self, frame_id: int) -> bool:
        call = self._pending.get(frame_id) or self._abandoned.get(frame_id)
        return call is not None and call.method == b"HEAD"

    def _on_frame(self, frame: Frame) -> None:              # R-response-match
        call = self._pending.pop(frame.id, None)
        self._deadlines.pop(call, None)
        abandoned = call or self._abandoned.pop(frame.id, None)                     # R-response-abandoned
        if abandoned in self._queue:                        # it leaves all the same (R-response-match)
            self._abandoned[frame.id] = abandoned
        if not call:                                        # R-response-unmatched, R-id-zero-response
            self._events.append(Unmatched(frame.id))
            if frame.id == 0 and not frame.refusal and is_goodbye(frame.message):           # R-goodbye-heed
                self._is_leaving = self._seal_now = True
        elif frame.refusal:                                 # R-refuse-client
            self._events.append(RequestFailed(call, frame.refusal, True))
        else:
            self._events.append(ResponseReceived(call, frame.message))

    def _close(self, code: str | None) -> None:             # R-fail-in-flight
        if self._pending:
            code = code or "closed"
        for call in self._pending.values():
            self._events.append(RequestFailed(call, code, call not in self._queue))
        self._pending.clear()
        super()._close(code)

    _end = _close

class Server(Link):
    def respond(self, call: Call, response: Response) -> None:
        """The handler's answer, once for each call that is no oneway (R-id-copy, R-id-oneway)."""
        judge({"closing": self._state is State.CLOSED, "output-full": self._is_paused()}, LocalFailure)
        message = write_response(response, call.method == b"HEAD", self.limits)
        del self._pending[call]
        self._enqueue(call, message)

    def discard(self, call: Call) -> None:                  # the handler will not answer
        self._pending.pop(call, None)

    def goodbye(self) -> None:                              # R-goodbye
        if self._state is State.OPEN and not self._is_leaving and "hello" not in self._deadlines:
            self._is_leaving = True
            self._enqueue(Call(0, b""), GOODBYE)
            self._seal_now = True

    def close(self) -> None:                                # R-close-graceful
        if "hello" in self._deadlines:
            self._hello_out = b""
            self._close(None)
        self._end(None)

    def _agree(self, is_unknown: bool, has_asked: bool) -> bool:
        self._reader = RequestReader(self.limits)
        is_required = self.tls_required and not has_asked
        answer = self.tls and (has_asked or is_required)                            # R-tls-echo
        self._hello_out = HELLO_BEGIN + bytes([self.compression, answer])
        judge({"hello-compression": is_unknown,             # R-hello-compression
               "tls-unavailable": has_asked and not self.tls,                       # R-tls-unavailable
               "tls-required": is_required})                # R-tls-required
        return has_asked

    def _on_frame(self, frame: Frame) -> None:              # R-id-opaque, R-id-duplicate-request
        call = Call(frame.id, frame.message.method)
        if frame.refusal:
            self._events.append(Refused(frame.id, frame.refusal))
            answer = Response(REFUSAL_STATUS[frame.refusal], [(b"Content-Type", b"text/plain")])
        else:
            self._events.append(RequestReceived(call, frame.message))
        if call.id and frame.refusal:                       # R-refuse-server
            self._enqueue(call, write_response(answer, call.method == b"HEAD", self.limits))
        elif call.id:
            self._pending[call] = call

    def _end(self, code: str | None) -> None:               # R-server-drain
        if self._state is State.OPEN:
            self._state, self._reason = State.DRAINING, code
            self._drain()
