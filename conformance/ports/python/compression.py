"""Compression streams (chapter 3): what the plain bytes of a direction are on the wire."""
import re
import zlib

try:
    import snappy
except ImportError:
    snappy = None                   # R-compression-support is a SHOULD: without the package, no snappy

DEFLATE, NONE, SNAPPY = 0, 1, 2     # 3.1 Registry
PIECE = 65_536                      # plain bytes decompressed at a time (R-decompress-bound)
FLUSH_POINT = b"\x00\x00\xff\xff"   # the end of a sync flush
STREAM_ID = b"\xff\x06\x00\x00sNaPpY"

class LinkError(Exception):
    """The link ends; the text is the code of errors.md."""

def first(faults: dict[str, bool]) -> str | None:
    return next((code for code, is_there in faults.items() if is_there), None)

def judge(faults: dict[str, bool], error: type[Exception] = LinkError) -> None:
    if code := first(faults):
        raise error(code)

class Reader:
    """Bytes come in by `feed`; `read` gives the next thing that they are, or None when it needs more.

    The reading is a generator, which stops with None wherever it needs more bytes. So it is written as if all
    were there, and it does not matter how they are cut (R-cut-any). It raises LinkError only when everything
    before the fault has been read (R-error-after-good).
    """

    def __init__(self):
        self._bytes = bytearray()
        self.read = self._things().__next__

    def feed(self, data: bytes) -> None:
        self._bytes += data

    def at_boundary(self) -> bool:                          # whether the end of file may be here (6.3)
        return not self._bytes

    def _need(self, count: int):
        while len(self._bytes) < count:
            yield None

    def _take(self, count: int):
        yield from self._need(count)
        data = bytes(self._bytes[:count])
        del self._bytes[:count]
        return data

    def _take_some(self, most: int):
        yield from self._need(1)
        return (yield from self._take(min(most, len(self._bytes))))

class NoneDecoder(Reader):              # the decoders read pieces of plain bytes
    def _things(self):
        while True:
            yield (yield from self._take_some(PIECE))

class DeflateDecoder(Reader):           # raw DEFLATE (3.2)
    _last = FLUSH_POINT             # the last four wire bytes; a stream without any is at a flush point, too

    def feed(self, data: bytes) -> None:
        super().feed(data)
        self._last = (self._last + data[-4:])[-4:]

    def at_boundary(self) -> bool:
        return self._last == FLUSH_POINT                    # R-eof-deflate

    def _things(self):
        inflate, is_corrupt = zlib.decompressobj(wbits=-15), False
        while not inflate.eof and not is_corrupt:
            wire = yield from self._take_some(64)           # bounds the plain bytes (R-decompress-bound)
            before = inflate.copy()
            try:
                plain = inflate.decompress(wire)
            except zlib.error:
                plain, is_corrupt = plain_before_fault(before, wire), True
            if plain:
                yield plain
        judge({"deflate-corrupt": is_corrupt, "deflate-ended": True})   # R-deflate-read, R-deflate-no-final

def plain_before_fault(inflate, wire: bytes) -> bytes:
    """zlib loses the output of the call that fails, so its input is decoded again byte by byte."""
    plain = b""
    try:
        for byte in wire:
            plain += inflate.decompress(bytes([byte]))
    except zlib.error:
        return plain

class SnappyDecoder(Reader):            # the framing format (3.4)
    _is_inside = False

    def at_boundary(self) -> bool:
        return not self._bytes and not self._is_inside

    def _things(self):
        is_identified = False
        while True:
            self._is_inside = False
            header = yield from self._take(4)
            self._is_inside = True
            kind, length = header[0], int.from_bytes(header[1:], "little")
            judge({                                         # R-snappy-judge
                "snappy-stream-id": (kind == 0xFF or not is_identified) and header != STREAM_ID[:4],
                "snappy-chunk-type": 0x02 <= kind <= 0x7F,
                "snappy-chunk-length": kind < 0x02 and not 4 <= length <= (76_494, 65_540)[kind]})
            if 0x80 <= kind <= 0xFE:                        # R-snappy-skip
                while length:
                    length -= len((yield from self._take_some(length)))
                continue
            payload = yield from self._take(length)
            if kind == 0xFF:
                judge({"snappy-stream-id": payload != STREAM_ID[4:]})
                is_identified = True
                continue
            plain = payload[4:] if kind else read_block(payload[4:])
            judge({"snappy-checksum": payload[:4] != masked_crc(plain)})
            if plain:
                yield plain

def read_block(block: bytes) -> bytes:
    """The stated length goes first, so that no block can ask for too much memory (R-snappy-corrupt)."""
    stated = re.match(rb"[\x80-\xff]{0,4}[\x00-\x7f]?", block)[0]
    judge({"snappy-corrupt": sum((byte & 127) << 7 * i for i, byte in enumerate(stated)) > 65_536})
    try:
        return bytes(snappy.uncompress(block))
    except Exception:                                       # packages differ in what they raise
        raise LinkError("snappy-corrupt")

def write_chunk(plain: bytes) -> bytes:                     # R-snappy-write-chunks
    block = snappy.compress(plain)
    return b"\x00" + (4 + len(block)).to_bytes(3, "little") + masked_crc(plain) + block

def masked_crc(plain: bytes) -> bytes:
    """3.4, Checksum."""
    crc = 0xFFFFFFFF
    for byte in plain:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")

CRC_TABLE = list(range(256))
for _ in range(8):
    CRC_TABLE = [crc >> 1 ^ (0x82F63B78 if crc & 1 else 0) for crc in CRC_TABLE]
DECODERS = {DEFLATE: DeflateDecoder, NONE: NoneDecoder} | ({SNAPPY: SnappyDecoder} if snappy else {})

def encoder(compression: int):
    """A function that adds a batch to the one stream of a direction (R-stream-one, R-flush-boundary)."""
    if compression == SNAPPY:       # R-snappy-stream-id
        begin = iter([STREAM_ID])
        chunks = lambda plain: (write_chunk(plain[at:at + PIECE]) for at in range(0, len(plain), PIECE))
        return lambda plain: b"".join([*begin, *chunks(plain)])
    if compression == DEFLATE:      # R-deflate-sync-flush
        deflate = zlib.compressobj(wbits=-15)
        return lambda plain: deflate.compress(plain) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return bytes
