"""HTTP messages (chapter 5) and the frames in which they travel (4.1): how they are written and read."""
import http.client
import re
from collections import namedtuple

from compression import Reader, first, judge

MAX_LENGTH = 2**63 - 1
TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
TEXT = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
VISIBLE, TARGET = re.compile(rb"[\x21-\x7e]*"), re.compile(rb"\*|/[\x21-\x7e]*")
REQUEST_LINE = re.compile(rb"([^ ]+) (.*) (HTTP/1\.[0-9])")
STATUS_LINE = re.compile(rb"(HTTP/1\.[0-9]) ([0-9]{3})(?: (.*))?")
FIELD_LINE = re.compile(rb"(%s):(%s)" % (TOKEN.pattern, TEXT.pattern))
FRAMING_NAME = re.compile(rb"content-length|transfer-encoding", re.IGNORECASE)
PLAIN_NUMBER, READ_LENGTH = re.compile(rb"0|[1-9][0-9]{0,18}"), re.compile(rb" *0*([0-9]{1,19}) *")
EMPTY_LINE, HEAD_END = re.compile(rb"\r?\n"), re.compile(rb"\n\r?\n")
CHUNK_LINE_BEGIN = re.compile(rb"[0-9A-Fa-f]{1,16}(\r\n?)?")
NEVER_SENT = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
              b"upgrade", b"expect", b"teleport-head-length", b"content-length"}
REFUSAL_STATUS = {"version": 400, "method": 400, "method-connect": 501, "target": 400, "field": 400,
                  "too-many-fields": 431, "body-too-large": 413}                    # 5.3
Fields = list[tuple[bytes, bytes]]
Request = namedtuple("Request", "method target fields body", defaults=((), b""))
Response = namedtuple("Response", "status fields body", defaults=((), b""))
Limits = namedtuple("Limits", "head fields body message pending abandoned output", defaults=(
    65_536, 128, 67_108_864, 1_073_741_824, 1_000, 10_000, 16_777_216))             # 7.1
Frame = namedtuple("Frame", "id message refusal")   # refusal: the code, if the message is refused (5.3)

class LocalFailure(Exception):
    """A message cannot be sent, and nothing of it was written; the text is the code of errors.md."""

def values(fields: Fields, name: bytes) -> list[bytes]:
    return [value.strip(b" \t") for key, value in fields if key.lower() == name]

def plain_number(found: list[bytes]) -> bytes | None:
    """The one value, if it has the form in which a sender gives lengths."""
    is_plain = len(found) == 1 and PLAIN_NUMBER.fullmatch(found[0]) and int(found[0]) <= MAX_LENGTH
    return found[0] if is_plain else None

# 5.1 What a sender writes

def write_request(request: Request, limits: Limits) -> bytes:
    hosts = values(request.fields, b"host")
    has_body = request.method not in (b"GET", b"HEAD")
    judge({
        "method": not TOKEN.fullmatch(request.method),                              # R-write-method
        "method-connect": request.method == b"CONNECT",
        "target": not TARGET.fullmatch(request.target),                             # R-write-target
        "missing-host": not hosts,                                                  # R-write-host
        "host": len(hosts) > 1 or not all(map(VISIBLE.fullmatch, hosts)),
        "body-not-allowed": not has_body and request.body != b"",                   # R-write-no-body
    }, LocalFailure)
    length = [(b"Content-Length", b"%d" % len(request.body))] if has_body else []   # R-write-length
    start_line = b"%s %s HTTP/1.1" % (request.method, request.target)
    return write_message(start_line, request.fields, length, request.body, limits)

def write_response(response: Response, answers_head: bool, limits: Limits) -> bytes:
    status, fields, body = response
    judge({"status": not 200 <= status <= 599}, LocalFailure)                       # R-write-no-interim
    given = plain_number(values(fields, b"content-length"))
    length = [(b"Content-Length", b"%d" % len(body))]                               # R-write-length
    if status in (204, 304):                                                        # R-write-no-content
        body, length = b"", [(b"Content-Length", given)] if given and status == 304 else []
    elif answers_head:                                                              # R-head-response
        true_length = given or (b"%d" % len(body) if body else b"none")
        body, length = b"", [(b"Content-Length", b"0"), (b"Teleport-Head-Length", true_length)]
    start_line = b"HTTP/1.1 %d %s" % (status, http.client.responses.get(status, "").encode())
    return write_message(start_line, fields, length, body, limits)

# R-goodbye: the one message with a Connection field
GOODBYE = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

def is_goodbye(response: Response) -> bool:
    """Whether a response that answers nothing is one (R-goodbye-heed)."""
    options = b",".join(values(response.fields, b"connection")).lower().split(b",")
    return response.status == 503 and b"close" in map(bytes.strip, options)

def write_message(start_line: bytes, fields: Fields, length: Fields, body: bytes, limits: Limits) -> bytes:
    named = b",".join(values(fields, b"connection")).lower().split(b",")            # R-write-no-hop-by-hop
    dropped = NEVER_SENT | {name.strip() for name in named} - {b"host"}             # R-write-given
    fields = [(name, value.strip(b" \t")) for name, value in fields if name.lower() not in dropped] + length
    head = b"\r\n".join([start_line, *(b"%s: %s" % line for line in fields), b"\r\n"])
    judge({
        "field": not all(TOKEN.fullmatch(name) and TEXT.fullmatch(value) for name, value in fields),
        "too-many-fields": len(fields) > limits.fields,                             # R-limit-fields
        "head-too-large": len(head) > limits.head,                                  # R-write-head-size
        "body-too-large": len(body) > limits.body,                                  # R-limit-body
    }, LocalFailure)
    return head + body

# 5.2 What a receiver reads

def read_fields(lines: list[bytes]) -> tuple[Fields, bool]:
    """The well-formed field lines, and whether there are malformed ones."""
    matches = [FIELD_LINE.fullmatch(line) for line in lines]
    for i, line in enumerate(lines):
        if line.startswith((b" ", b"\t")) and i > 0:            # folded: it continues the line before it
            matches[i - 1] = None
        if b":" not in line and i + 1 < len(lines):             # some readers look for it in the next line
            matches[i + 1] = None
    malformed = [line for line, match in zip(lines, matches) if not match]
    judge({"field-line": any(map(FRAMING_NAME.search, malformed))})                 # R-read-field-framing
    return [match.groups() for match in matches if match], malformed != []

def read_framing(fields: Fields, version: bytes, may_have_body: bool = True) -> tuple[int | None, bool]:
    """The Content-Length and whether the body is chunked (faults by R-read-judge-order)."""
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    codings = [value.strip(b" ").lower() for name, value in fields if name.lower() == b"transfer-encoding"]
    match = READ_LENGTH.fullmatch(lengths[0]) if len(lengths) == 1 else None
    length = int(match[1]) if match else None
    judge({
        "content-length": lengths != [] and not (match and length <= MAX_LENGTH),   # R-read-length
        "body-not-allowed": not may_have_body and bool(length or codings),          # R-read-body-not-allowed
        "transfer-encoding": codings not in ([], [b"chunked"]) or codings != [] and version != b"HTTP/1.1",
        "length-and-chunked": lengths != [] and codings != []})
    return length, codings != []

def shown(fields: Fields, with_length: bool = True) -> Fields:
    """What the handler or caller sees (R-read-deliver, R-read-head-length)."""
    hidden = (b"transfer-encoding", b"teleport-head-length", b"" if with_length else b"content-length")
    return [(name, value.strip(b" \t")) for name, value in fields if name.lower() not in hidden]

class FrameReader(Reader):              # reads frames from plain bytes
    def __init__(self, limits: Limits, answers_head=None):
        super().__init__()
        self._limits, self._answers_head = limits, answers_head
        self._size = -4             # how many bytes of the message were taken; its id is before it

    def at_boundary(self) -> bool:
        return self._size == -4 and not self._bytes

    def _things(self):
        while True:
            self._size = -4
            frame_id = int.from_bytes((yield from self._take(4)), "little")         # R-frame-id-le
            yield from self._read_frame(frame_id)

    def _take(self, count: int):
        data = yield from super()._take(count)
        self._announce(count)
        self._size += count
        return data

    def _announce(self, count: int) -> None:
        """So many more bytes belong to the message (R-limit-message)."""
        judge({"message-too-large": self._size + count > self._limits.message})

    def _read_head(self):
        """The start line and the field lines of the next head."""
        while True:                                                                 # R-read-empty-lines
            yield from self._need(1)
            self._announce(1)
            yield from self._need(2 if self._bytes[:1] == b"\r" else 1)
            if not (line := EMPTY_LINE.match(self._bytes)):
                break
            yield from self._take(line.end())
        scanned, end = 0, None
        while not end:
            end = HEAD_END.search(self._bytes, max(0, scanned - 2))
            scanned = len(self._bytes)
            least = end.end() if end else scanned + 1
            has_room = self._size + self._limits.head <= self._limits.message     # else R-limit-message
            judge({"head-too-large": least > self._limits.head and has_room})       # R-limit-head
            self._announce(min(least, scanned))
            if not end:
                yield None
        head = yield from self._take(least)
        return [line.removesuffix(b"\r") for line in head.split(b"\n")[:-2]]        # R-read-line-end

    def _read_body(self, length: int, is_chunked: bool, refusal: str | None):
        """The body and the refusal. What nobody will see is not stored (R-read-discard-body)."""
        body, total, size = bytearray(), 0, 1
        while size:
            size = left = (yield from self._read_chunk_size()) if is_chunked else length - total
            self._announce(size)
            total += size
            if total > self._limits.body:                                           # R-limit-body
                refusal = refusal or "body-too-large"
            while left:
                piece = yield from self._take_some(left)
                left -= len(piece)
                body += b"" if refusal else piece
            if is_chunked:
                for expected in (b"\r", b"\n"):
                    judge({"chunked-body": (yield from self._take(1)) != expected})
        return bytes(body), refusal

    def _read_chunk_size(self):
        """What does not fit is found at its first byte, too great a size at its line end (R-read-chunked)."""
        line = b""
        while not line.endswith(b"\n"):
            line += yield from self._take(1)
            judge({"chunked-body": not CHUNK_LINE_BEGIN.fullmatch(line)})
        judge({"chunked-body": int(line, 16) > MAX_LENGTH})
        return int(line, 16)

class RequestReader(FrameReader):
    def _read_frame(self, frame_id: int):
        start_line, *lines = yield from self._read_head()
        match = REQUEST_LINE.fullmatch(start_line)
        judge({"start-line": not match})                                            # R-read-unparsable
        method, target, version = match.groups()
        fields, has_malformed = read_fields(lines)
        has_body = method not in (b"GET", b"HEAD")
        length, is_chunked = read_framing(fields, version, may_have_body=has_body)
        refusal = first({                                                           # R-read-refuse
            "version": version > b"HTTP/1.1",                                       # R-read-version
            "method": not TOKEN.fullmatch(method),
            "method-connect": method == b"CONNECT",
            "target": not TARGET.fullmatch(target),
            "field": has_malformed or len(values(fields, b"host")) > 1,
            "too-many-fields": len(lines) > self._limits.fields})                   # R-limit-fields
        body, refusal = yield from self._read_body(length or 0, is_chunked, refusal)
        yield Frame(frame_id, Request(method, target, shown(fields, has_body), body), refusal)

class ResponseReader(FrameReader):
    def _read_frame(self, frame_id: int):
        status = 100
        while status == 100:                                                        # R-read-continue
            start_line, *lines = yield from self._read_head()
            match = STATUS_LINE.fullmatch(start_line)
            judge({"start-line": not match})                                        # R-read-unparsable
            version, status, reason = match[1], int(match[2]), match[3] or b""
            fields, has_malformed = read_fields(lines)
            length, is_chunked = read_framing(fields, version)
        refusal = first({                                                           # R-read-refuse
            "version": version > b"HTTP/1.1",                                       # R-read-version
            "status": status < 100 or not TEXT.fullmatch(reason),                   # R-read-status
            "field": has_malformed,
            "too-many-fields": len(lines) > self._limits.fields,                    # R-limit-fields
            "interim-response": 101 <= status <= 199})
        if 101 <= status <= 199 or status in (204, 304):                            # R-read-no-body
            yield Frame(frame_id, Response(status, shown(fields, with_length=status != 204)), refusal)
        elif self._answers_head(frame_id):                          # R-response-match, R-read-head-response
            yield Frame(frame_id, Response(status, fields_for_head(fields, length)), refusal)
            judge({"head-ambiguous": length != 0})
        else:
            judge({"length-required": length is None and not is_chunked})           # R-read-no-length
            body, refusal = yield from self._read_body(length or 0, is_chunked, refusal)
            yield Frame(frame_id, Response(status, shown(fields), body), refusal)

def fields_for_head(fields: Fields, length: int | None) -> Fields:
    """What the caller of HEAD sees: the length that GET would have had, if it is known."""
    found = [value.lower() for value in values(fields, b"teleport-head-length")]
    number = plain_number(found)
    if length != 0 or not number and found != [b"none"]:
        return shown(fields)
    return shown(fields, with_length=False) + ([(b"Content-Length", number)] if number else [])
