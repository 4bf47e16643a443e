"""The server, by HTTP and by the official client."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from conifer_gguf.service.residency import EngineOptions, Residency
from conifer_gguf.store import library
from conifer_gguf.web.app import ServerOptions, create_app
from conifer_gguf.worker.messages import Generate, Started

from .conftest import TINY, Server, serving

CHAT = {"messages": [{"role": "user", "content": "The river rose"}], "max_tokens": 12}
Post = Callable[..., httpx.Response]


def engine_of(server: Server) -> psutil.Process:
    return next(
        p for p in psutil.Process(server.process.pid).children() if "conifer_gguf.worker.main" in p.cmdline()
    )


def test_models_lists_what_is_here_without_loading_it(server: Server) -> None:
    rows = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert [(row["id"], row["status"], row["runtime"]) for row in rows] == [
        ("model-f32", "ready", "llama.cpp"),
        ("conifer-demo-dense:Q8_0", "ready", "llama.cpp"),
        ("conifer-demo:Q8_0", "load-gated", "hybrid"),
    ]
    assert psutil.Process(server.process.pid).children() == []


def test_the_same_request_twice_gives_the_same_answer(post: Post) -> None:
    first, second = (post("/v1/chat/completions", CHAT).json() for _ in range(2))
    assert first["choices"][0]["message"]["content"] == second["choices"][0]["message"]["content"] != ""
    assert first["usage"]["completion_tokens"] == 12
    assert first["choices"][0]["finish_reason"] == "length"


def test_the_official_client_streams_a_chat_and_a_completion(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        whole = client.chat.completions.create(model="model-f32", seed=1, **CHAT)
        with client.chat.completions.create(
            model="model-f32", stream=True, stream_options={"include_usage": True}, seed=1, **CHAT
        ) as stream:
            chunks = list(stream)
        with client.completions.create(model="model-f32", prompt="Once", max_tokens=5, stream=True) as stream:
            text = "".join(chunk.choices[0].text for chunk in stream)
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert streamed == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    assert text


def test_the_official_client_gets_typed_errors(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            client.chat.completions.create(model="smolm2", messages=[{"role": "user", "content": "Hi"}])
        with pytest.raises(openai.BadRequestError) as long:
            client.completions.create(model="model-f32", prompt="river " * 600)
    assert unknown.value.code == "model_not_found"
    assert "did you mean" in unknown.value.message
    assert long.value.code == "context_length_exceeded"
    assert "512" in long.value.message


def test_logprobs_are_those_of_the_model(post: Post) -> None:
    body = post("/v1/chat/completions", {**CHAT, "max_tokens": 3, "logprobs": True, "top_logprobs": 4}).json()
    tokens = body["choices"][0]["logprobs"]["content"]
    assert len(tokens) == 3
    for token in tokens:
        assert token["logprob"] == max(t["logprob"] for t in token["top_logprobs"])  # greedy
        assert len(token["top_logprobs"]) == 4


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/chat/completions", b"{", 400, "invalid_request"),
        ("/v1/chat/completions", {"messages": []}, 400, "invalid_request"),
        ("/v1/chat/completions", {**CHAT, "model": "/etc/passwd"}, 404, "model_not_found"),
        ("/v1/chat/completions", {**CHAT, "model": "granite-4.0-h-1b"}, 404, "model_not_pulled"),
        ("/v1/chat/completions", {**CHAT, "temperature": -3}, 400, "invalid_request"),
        ("/v1/completions", {"prompt": "x", "logit_bias": {"999999": 1}}, 400, "invalid_request"),
        ("/v1/nothing", {}, 404, "not_found"),
    ],
)
def test_a_bad_request_is_refused_in_openais_shape(
    post: Post, path: str, body: Any, status: int, code: str
) -> None:
    response = post(path, body)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_other_hosts_and_other_pages_are_refused(server: Server) -> None:
    assert httpx.get(f"{server.url}/health", headers={"Host": "evil.example"}).status_code == 403
    assert httpx.get(f"{server.url}/health", headers={"Origin": "http://evil.example"}).status_code == 403
    assert httpx.get(f"{server.url}/health", headers={"Origin": server.url}).status_code == 200


def test_killing_the_engine_fails_its_request_and_the_next_one_works(server: Server, post: Post) -> None:
    post("/v1/chat/completions", CHAT)
    engine = engine_of(server)
    lines: list[str] = []

    def long_request() -> None:
        body = {"prompt": "Once upon", "stream": True, "logit_bias": {"3": -1000}}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as response:
            for line in response.iter_lines():
                lines.append(line)

    thread = threading.Thread(target=long_request)
    thread.start()
    deadline = time.monotonic() + 20
    while not lines and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(engine.pid, signal.SIGKILL)
    thread.join(timeout=20)
    assert "engine_died" in [line for line in lines if line][-1]
    assert "SIGKILL" in lines[-2] + lines[-1]
    assert post("/v1/chat/completions", CHAT).status_code == 200
    assert engine_of(server).pid != engine.pid


def test_a_client_that_leaves_stops_its_answer(server: Server, post: Post) -> None:
    body = {"prompt": "Once upon", "stream": True, "logit_bias": {"3": -1000}}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as response:
        next(response.iter_lines())
    started = time.monotonic()
    assert post("/v1/chat/completions", {**CHAT, "max_tokens": 1}).status_code == 200
    assert time.monotonic() - started < 10


def test_nothing_is_computed_for_a_client_that_has_hung_up(home: Path) -> None:
    model = library.find(str(TINY))
    residency = Residency(EngineOptions(n_ctx=512))
    client = create_app(residency, ServerOptions(served={model.name: model})).test_client()
    here = iter([False, False, True])  # as waitress tells: the connection breaks during the answer
    answer = client.post(
        "/v1/completions",
        json={"prompt": "Once upon", "max_tokens": 500, "logit_bias": {"3": -1000}},
        environ_overrides={"waitress.client_disconnected": lambda: next(here)},
    )
    assert (answer.status_code, answer.json["error"]["code"]) == (499, "cancelled")
    (engine,) = residency.loaded()
    events = engine.generate(Generate(engine.new_id(), prompt="Once", max_tokens=1))
    assert isinstance(next(events), Started)  # its one sequence is free again
    events.close()
    residency.close()


def test_ctrl_c_ends_a_server_that_is_answering_and_its_answer(home: Path) -> None:
    with serving(str(TINY), "--ctx", "4096", "--register", "bundled") as running:
        body = {"prompt": "Once upon", "stream": True, "logit_bias": {"3": -1000}}
        with httpx.stream("POST", f"{running.url}/v1/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            running.process.send_signal(signal.SIGINT)
            assert running.process.wait(timeout=4.5) == 0  # waitress alone would give the answer five seconds
            assert "engine_died" in [line for line in lines if line][-1]


def test_the_engine_dies_with_the_server(home: Path) -> None:
    with serving(str(TINY), "--ctx", "512") as running:
        httpx.post(f"{running.url}/v1/chat/completions", json=CHAT, timeout=60)
        engine = engine_of(running)
        running.process.kill()
        engine.wait(timeout=10)
    assert not engine.is_running()


def test_an_api_key_is_asked_for_and_needed_beyond_loopback(home: Path, cli: Any) -> None:
    refused = cli("serve", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 2
    assert "no API key" in refused.stderr
    with serving(str(TINY), "--api-key", "secret", "--ctx", "512") as running:
        assert httpx.get(f"{running.url}/v1/models").status_code == 401
        assert (
            httpx.get(f"{running.url}/v1/models", headers={"Authorization": "Bearer secret"}).status_code
            == 200
        )
        assert httpx.get(f"{running.url}/health").status_code == 200


def test_a_port_in_use_is_one_clear_error(home: Path, cli: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = cli("serve", str(TINY), "--port", str(port))
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert f"--port {port + 1}" in done.stderr


def test_several_answers_at_once_equal_single_ones(home: Path) -> None:
    prompts = ["The river", "When the snow melted", "How much is 12 + 30? It"]
    with serving(str(TINY), "--ctx", "512", "--cache-type", "f32", "--parallel", "3") as running:

        def ask(prompt: str) -> str:
            body = {"prompt": prompt, "max_tokens": 40}
            return str(
                httpx.post(f"{running.url}/v1/completions", json=body, timeout=60).json()["choices"][0][
                    "text"
                ]
            )

        single = [ask(p) for p in prompts]
        together = [""] * len(prompts)
        threads = [
            threading.Thread(target=lambda i=i: together.__setitem__(i, ask(prompts[i]))) for i in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert together == single
