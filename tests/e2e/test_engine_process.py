"""An engine process serves many threads, dies alone, and does not import from the working directory."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conifer_gguf.errors import BadModelFile, BadRequest, EngineDied
from conifer_gguf.worker.messages import Finished, Generate, Load, Text
from conifer_gguf.worker.process import EngineProcess

MODEL = Path(__file__).parents[1] / "golden" / "lfm2" / "model-f32.gguf"


def start(path: Path = MODEL, n_ctx: int = 300, parallel: int = 3) -> EngineProcess:
    return EngineProcess(Load(str(path), "lfm2", "auto", n_ctx, 1, "f32", parallel))


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    made = start()
    yield made
    made.close()


def answer(engine: EngineProcess, prompt: str, max_tokens: int) -> tuple[str, Finished | None]:
    text, end = "", None
    for event in engine.generate(Generate(engine.new_id(), prompt=prompt, max_tokens=max_tokens)):
        text += event.text if isinstance(event, Text) else ""
        end = event if isinstance(event, Finished) else None
    return text, end


def test_threads_are_answered_together_with_the_text_of_each_alone(engine: EngineProcess) -> None:
    prompts = ["one two", "three", "four five six", "seven"]  # one more than there are sequences
    alone = [answer(engine, prompt, 7)[0] for prompt in prompts]
    together: dict[str, str] = {}

    def ask(prompt: str) -> None:
        together[prompt] = answer(engine, prompt, 7)[0]

    threads = [threading.Thread(target=ask, args=[prompt]) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[prompt] for prompt in prompts] == alone


def test_cancelling_ends_one_request_with_what_it_has_written(engine: EngineProcess) -> None:
    request = Generate(engine.new_id(), prompt="one", max_tokens=290)
    events = engine.generate(request)
    next(e for e in events if isinstance(e, Text))
    engine.cancel(request.id)
    end = list(events)[-1]
    assert isinstance(end, Finished)
    assert end.reason == "cancelled" or end.n_generated < 290  # it may have ended by itself first


def test_a_killed_engine_fails_its_request_with_the_signals_name(engine: EngineProcess) -> None:
    events = engine.generate(Generate(engine.new_id(), prompt="one", max_tokens=290))
    next(events)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineDied, match="killed by SIGKILL"):
        list(events)
    assert not engine.alive
    with pytest.raises(EngineDied):
        next(engine.generate(Generate(engine.new_id(), prompt="one")))


def test_the_error_of_a_request_arrives_as_the_class_that_it_was(engine: EngineProcess) -> None:
    with pytest.raises(BadRequest, match="`max_tokens` is 0") as refused:
        answer(engine, "one", 0)
    assert refused.value.parameter == "max_tokens"
    assert engine.alive


def test_a_file_that_cannot_be_loaded_is_the_error_of_starting(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(MODEL.read_bytes()[:5000])
    with pytest.raises(BadModelFile, match=r"broken\.gguf"):
        start(broken)


def test_the_working_directory_is_not_imported_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    engine = start()
    assert answer(engine, "one", 3)[1] is not None
    engine.close()
