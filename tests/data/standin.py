"""A local server as an OpenAI-compatible endpoint: it translates, fails, stalls and limits the rate."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: A word in the script of each language.
WORDS = {
    "Bulgarian": "въпрос", "Chinese": "问题", "Egyptian Arabic": "سؤال", "Filipino": "tanong",
    "French": "question", "Japanese": "しつもん", "Portuguese": "pergunta", "Russian": "вопрос",
    "Spanish": "pregunta",
}  # fmt: skip
_LANGUAGE = re.compile(r"from English into ([A-Za-z ]+)\.")


def translated(prompt: str) -> dict[str, Any]:
    """A made-up translation of the record in a prompt: every text with a word of the language in front."""
    found = _LANGUAGE.search(prompt)
    assert found is not None
    word, record = WORDS[found.group(1)], json.loads(prompt.rpartition("\n")[2])
    return {
        "question": f"{word} {record['question']}",
        "answer": f"{word} {record['answer']}",
        "answers": [f"{word} {answer}" for answer in record["answers"]],
    }


@dataclass
class StandIn:
    """What the server does, and what it was asked.

    Attributes:
        troubles: by the number of a request, from 1: a status, "stall", "drip", "rubbish", "cut".
        sayings: replies by a piece of the prompt, instead of a translation.
        pause: seconds before an answer.
        stall: seconds that a stalled request takes.
    """

    troubles: dict[int, str] = field(default_factory=dict)
    sayings: dict[str, str] = field(default_factory=dict)
    echoes: bool = False  # say what was sent in refusals
    pause: float = 0.0
    stall: float = 5.0
    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    def begin(self, prompt: str, key: str) -> str:
        """Note a request; the trouble that it gets."""
        with self._lock:
            self.asked[prompt] += 1
            self.keys.add(key)
            self.times.append(time.monotonic())
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            return self.troubles.get(len(self.times), "")

    def end(self) -> None:
        with self._lock:
            self._now -= 1

    def reply(self, prompt: str) -> str:
        said = next((text for piece, text in self.sayings.items() if piece in prompt), None)
        return json.dumps(translated(prompt), ensure_ascii=False) if said is None else said


def _handler(standin: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = asked["messages"][0]["content"]
            trouble = standin.begin(prompt, self.headers.get("Authorization", ""))
            time.sleep(standin.stall if trouble == "stall" else standin.pause)
            standin.end()  # before the answer, upon which the client may send its next request
            with suppress(OSError):  # the client has gone
                self._answer(trouble, prompt)

        def _answer(self, trouble: str, prompt: str) -> None:
            completion = {"choices": [{"message": {"role": "assistant", "content": standin.reply(prompt)}}]}
            body = json.dumps(completion).encode()
            status = int(trouble) if trouble.isdigit() else 200
            body = b"<html>not here" if trouble == "rubbish" or status != 200 else body
            if standin.echoes:  # some servers say what they were sent
                body = body.replace(b"not here", self.headers["Authorization"].encode() * 40)
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "0.3")
            if status == 302:
                self.send_header("Location", f"{standin.url}/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            sent, step = body[:10] if trouble == "cut" else body, 1 if trouble == "drip" else len(body)
            for at in range(0, len(sent), step):
                time.sleep(0.1 if trouble == "drip" else 0)
                self.wfile.write(sent[at : at + step])

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def serving(standin: StandIn) -> Iterator[StandIn]:
    """The server, on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(standin))
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    standin.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield standin
    finally:
        server.shutdown()
        server.server_close()
