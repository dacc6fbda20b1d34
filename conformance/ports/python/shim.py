"""Answers the conformance suite on stdin and stdout (profile core of SHIM.md)."""
import json
import sys

import compression
import link
from messages import Limits, LocalFailure, Request, Response

CAN = ("client server none deflate tls tls-required limits cancel idle batch-delay next-id hold-output goodbye "
       "frames").split()
ABOUT = {"name": "teleport-python", "version": "1", "profile": "core",
         "can": CAN + ["snappy"] * (compression.SNAPPY in compression.DECODERS)}
METHODS = {"eof": "receive_eof", "timeout": "handle_timeout", "tls-established": "tls_established",
           "flush": "flush", "goodbye": "goodbye", "close": "close"}
EVENTS = {link.Connected: "connected", link.StartTls: "start-tls", link.Refused: "refused",
          link.Unmatched: "unmatched", link.Closed: "closed"}

class Shim:
    def answer(self, command: dict) -> dict:
        if command["command"] == "describe":
            return ABOUT
        try:
            result = self.run(command["command"], command)
        except LocalFailure as failure:
            result = {"error": str(failure)}
        except LookupError as error:
            return {"nack": f"there is no {error}"}
        events, out, data = [], b"", b"?"
        while data:
            while (event := self.link.next_event()) is not None:
                events.append(self.told(event))
            data = b"" if self.is_held else self.link.data_to_send()
            out += data
        return {"consumed": 0, "out": out.hex(), "events": events, "timer": self.link.next_timeout(),
                "reads": self.link.wants_read} | result

    def run(self, name: str, command: dict) -> dict:
        if name == "new":
            self.link, self.calls, self.is_held = new_link(command["role"], command["config"]), {}, False
            return {}
        self.link.now = command["now"]
        match name:
            case "input":
                return {"consumed": self.link.receive_data(bytes.fromhex(command["hex"]))}
            case "request" | "oneway":
                request = Request(raw(command["method"]), raw(command["target"]), *content(command))
                call = self.link.request(request, command.get("deadline"), is_oneway=name == "oneway")
                call.number = command.get("tag")
                self.calls[call.number] = call
            case "cancel" | "discard":
                getattr(self.link, name)(self.calls[command.get("tag", command.get("ticket"))])
            case "respond":
                self.link.respond(self.calls[command["ticket"]], Response(command["status"], *content(command)))
            case "next-id":
                self.link.next_id = command["id"]
            case "hold-output" | "release-output":
                self.is_held = name == "hold-output"
            case _:
                getattr(self.link, METHODS[name])()
        return {}

    def told(self, event) -> dict:
        match event:
            case link.RequestReceived(call, message):
                if not call.id:
                    return {"event": "oneway"} | shown(message)
                call.number = len(self.calls)
                self.calls[call.number] = call
                return {"event": "request", "ticket": call.number, "id": call.id} | shown(message)
            case link.ResponseReceived(call, message):
                return {"event": "response", "tag": call.number} | shown(message)
            case link.RequestFailed(call, code, maybe):
                return {"event": "failed", "tag": call.number, "code": code, "maybe_delivered": maybe}
            case _:
                return {"event": EVENTS[type(event)]} | event._asdict()

def new_link(role: str, config: dict) -> link.Link:
    config |= {"compression": getattr(compression, config["compression"].upper()),
               "tls": config["tls"] not in (False, "off"), "tls_required": config["tls"] == "required",
               "limits": Limits(**config["limits"])}
    return {"client": link.Client, "server": link.Server}[role](**config)

def raw(text: str) -> bytes:
    return text.encode("latin-1")

def content(command: dict) -> tuple[list[tuple[bytes, bytes]], bytes]:
    return [(raw(name), raw(value)) for name, value in command["fields"]], bytes.fromhex(command["body"])

def shown(message: Request | Response) -> dict:
    return message._asdict() | {"body": message.body.hex()}

if __name__ == "__main__":
    shim = Shim()
    for line in sys.stdin:
        print(json.dumps(shim.answer(json.loads(line)), default=lambda data: data.decode("latin-1")), flush=True)
