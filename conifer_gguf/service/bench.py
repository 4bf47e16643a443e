"""Measures models: every runtime and setting in a process of its own, taking turns at every depth."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from ..arch import geometry
from ..engine import memory
from ..errors import BadRequest
from ..gguf import Header, read_header
from ..native_api.bandwidth import read_bandwidth
from ..native_api.state import cpu_name
from ..runtimes import tuning
from ..runtimes.llama import LlamaSetting
from ..runtimes.repack import repacking_is_safe
from ..runtimes.threads import default_threads
from ..store import results
from ..store.library import LocalModel
from ..store.results import Measured
from ..worker.gauge import Opened, Round, Subject
from ..worker.gauge_process import GaugeProcess
from . import status

OURS = "ours"  # the setting in which this package runs a file by itself
DEFAULTS = "defaults"  # the setting in which llama.cpp does
# Weight repacking and flash attention are llama.cpp's two choices that matter on a CPU; its own are the first.
LLAMA_SETTINGS = {
    DEFAULTS: LlamaSetting(repack=True, flash="auto"),
    "no-repack": LlamaSetting(repack=False, flash="auto"),
    "no-flash": LlamaSetting(repack=True, flash=False),
    "plain": LlamaSetting(repack=False, flash=False),
}
WARM_UP = 64  # tokens
FILL = 1024  # tokens between two signs of progress
Tell = Callable[[str, int], None]  # what is going on, and how many tokens of the work are done with it


@dataclass(frozen=True)
class Wish:
    """What to measure. Depths in tokens, ascending; `settings` are those of llama.cpp."""

    depths: tuple[int, ...] = (0,)
    n_prompt: int = 512
    n_decode: int = 32
    rounds: int = 3
    n_threads: int | None = None
    cache_type: str = "f16"
    runtime: str = "auto"
    settings: tuple[str, ...] = ()

    def tokens(self, n_lanes: int) -> int:
        """The whole work, for a progress bar."""
        return n_lanes * (self.depths[-1] + len(self.depths) * self.rounds * (self.n_prompt + self.n_decode))

    def window(self, depth: int) -> int:
        return depth + self.n_prompt + self.n_decode


@dataclass(frozen=True)
class Lane:
    """One line of results: a runtime with a setting."""

    runtime: str
    setting: str
    subject: Subject

    @property
    def label(self) -> str:
        return self.runtime if self.setting == OURS else f"{self.runtime} {self.setting}"


def lanes_of(model: LocalModel, wish: Wish) -> list[Lane]:
    """Raises UnsupportedModel or ModelLoadGated before anything is loaded, BadRequest for a window beyond the model's."""
    header = read_header(model.path)
    runtime = status.require_ready(model.name, header, wish.runtime).runtime or ""
    native = geometry(header).n_ctx_train
    longest = wish.window(wish.depths[-1])
    if native and longest > native:
        raise BadRequest(
            f"a depth of {wish.depths[-1]} needs a window of {longest} tokens, `{model.name}` was made for {native}",
            "depths",
        )
    # One number for every lane, so that a ratio is not one of threads.
    threads = wish.n_threads or (tuning.n_threads() if runtime == "hybrid" else default_threads())

    def lane(runtime: str, setting: str, llama: LlamaSetting | None) -> Lane:
        subject = Subject(model.path, model.name, runtime, threads, wish.cache_type, llama)
        return Lane(runtime, setting, subject)

    if wish.settings:
        status.require_ready(model.name, header, "llama.cpp")
    theirs = [lane("llama.cpp", s, LLAMA_SETTINGS[s]) for s in wish.settings]
    if runtime == "llama.cpp" and theirs:
        return theirs  # a model that llama.cpp runs anyway has no lane of ours
    return [lane(runtime, OURS, None), *theirs]


def possible(settings: Sequence[str], cache_type: str) -> tuple[str, ...]:
    """Those that this machine can run: where repacking crashes nothing is repacked, and each cache has its attention."""
    return tuple(
        s
        for s in settings
        if (not LLAMA_SETTINGS[s].repack or repacking_is_safe())
        and not (cache_type == "q8_0" and LLAMA_SETTINGS[s].flash is False)
        and not (cache_type == "f32" and LLAMA_SETTINGS[s].flash is not False)
    )


def measure(model: LocalModel, wish: Wish, tell: Tell) -> list[Measured]:
    """Measure and keep the results."""
    header = read_header(model.path)
    lanes = lanes_of(model, wish)
    shape = geometry(header)
    need = memory.plan(shape, wish.window(wish.depths[-1]), wish.cache_type).total
    together = need * len(lanes) <= memory.free_memory()
    _read_once(model.path)
    found: list[Measured] = []
    for group in [lanes] if together else [[lane] for lane in lanes]:
        for depth, lane, opened, turns in _turns(group, wish, tell):
            found.append(_point(model, header, wish, depth, lane, opened, turns, together))
    results.keep(found)
    return found


def _read_once(path: Path) -> None:
    """Into the page cache: the lane that loads first would read from the disk for all others."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


@dataclass(frozen=True)
class Turn:
    """A round, and the bytes a second that the machine read right after it: on a shared one they change by the minute."""

    round: Round
    bandwidth: float


def _turns(
    lanes: Sequence[Lane], wish: Wish, tell: Tell
) -> Iterator[tuple[int, Lane, Opened, Sequence[Turn]]]:
    """Fill every context once, from depth to depth; at each, round by round, the lanes take turns."""
    with ExitStack() as stack:
        gauges = [stack.enter_context(GaugeProcess(lane.subject)) for lane in lanes]
        reached = 0
        for depth in wish.depths:
            opened = []
            for lane, gauge in zip(lanes, gauges, strict=True):
                tell(f"loading · {lane.label}", 0)
                opened.append(gauge.open(wish.window(depth)))
                _fill(gauge, depth - reached, lane, tell)
                gauge.mark()
                # Once unmeasured: memory is touched for the first time.
                gauge.round(min(WARM_UP, wish.n_prompt), 1)
            reached = depth
            turns: list[list[Turn]] = [[] for _ in lanes]
            for n in range(wish.rounds):
                for i in range(len(lanes)):
                    which = (i + n) % len(lanes)
                    taken = gauges[which].round(wish.n_prompt, wish.n_decode)
                    turns[which].append(Turn(taken, read_bandwidth(opened[which].info.n_threads)))
                    tell(f"at {depth:,} tokens · {lanes[which].label}", wish.n_prompt + wish.n_decode)
            for lane, how, of_lane in zip(lanes, opened, turns, strict=True):
                yield depth, lane, how, of_lane


def _fill(gauge: GaugeProcess, n_tokens: int, lane: Lane, tell: Tell) -> None:
    while n_tokens:
        step = min(FILL, n_tokens)
        gauge.fill(step)
        tell(f"filling · {lane.label}", step)
        n_tokens -= step


def _point(
    model: LocalModel,
    header: Header,
    wish: Wish,
    depth: int,
    lane: Lane,
    opened: Opened,
    turns: Sequence[Turn],
    together: bool,
) -> Measured:
    rounds = [turn.round for turn in turns]
    read = decode_bytes(header, depth + wish.n_prompt, wish.cache_type)
    prefill = tuple(r.n_prompt / r.ttft_s for r in rounds)
    decode = tuple(r.n_decode / r.decode_s for r in rounds)
    return Measured(
        model=model.name,
        file=model.path.name,
        content_id=results.content_id(header),
        architecture=header.architecture,
        runtime=lane.runtime,
        setting=lane.setting,
        is_default=lane.setting in (OURS, DEFAULTS),
        depth=depth,
        n_prompt=wish.n_prompt,
        n_decode=wish.n_decode,
        rounds=len(rounds),
        n_threads=opened.info.n_threads,
        cache_type=opened.info.cache_type,
        ttft_s=statistics.median(r.ttft_s for r in rounds),
        prefill_tps=statistics.median(prefill),
        prefill_tps_rounds=prefill,
        decode_tps=statistics.median(decode),
        decode_tps_rounds=decode,
        rss_bytes=max(r.rss_bytes for r in rounds),
        load_s=opened.load_s,
        bandwidth_share=statistics.median(
            speed * read / turn.bandwidth for speed, turn in zip(decode, turns, strict=True)
        ),
        read_bandwidth=statistics.median(turn.bandwidth for turn in turns),
        interleaved=together,
        machine=cpu_name(),
        version=version("conifer-gguf"),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        accelerators=opened.info.accelerators,
        by_ggml=opened.info.by_ggml,
    )


def decode_bytes(header: Header, context: int, cache_type: str) -> float:
    """What one decoded token reads: the weights that it uses, the cache of `context` tokens, and the carry, read and written."""
    shape = geometry(header)
    experts = int(header.get(".expert_count", 0))
    used = int(header.get(".expert_used_count", 0)) / experts if experts else 1.0
    skipped = _unused_blocks(header)
    tied = "output.weight" not in header.tensors
    weights = 0.0
    for name, tensor in header.tensors.items():
        if name.startswith(skipped) or (name == "token_embd.weight" and not tied):
            continue  # of an embedding one row is read
        weights += tensor.nbytes * (used if "_exps." in name else 1.0)
    cache = shape.cache_elements * memory.CACHE_BYTES[cache_type] * context
    return weights + cache + 2 * shape.carry_bytes


def _unused_blocks(header: Header) -> tuple[str, ...]:
    """Layers that predict further tokens, at the end of the file; nothing here reads them."""
    n_block, n_more = (int(header.get(k, 0)) for k in (".block_count", ".nextn_predict_layers"))
    return tuple(f"blk.{i}." for i in range(n_block - n_more, n_block))


@dataclass(frozen=True)
class Ratio:
    """Our speed over llama.cpp's in one phase at one depth: medians of the ratios of each round."""

    model: str
    depth: int
    phase: str
    equal_layout: float | None
    defaults: float | None
    best: float
    best_setting: str


def ratios(points: Sequence[Measured]) -> list[Ratio]:
    """Where our lane and llama.cpp's were measured together. Equal layout: weights as they lie in the file."""
    found = []
    for ours in (p for p in points if p.setting == OURS):
        theirs = [p for p in points if p.setting != OURS and (p.model, p.depth) == (ours.model, ours.depth)]
        for phase in ("prefill", "decode") if theirs else ():
            by = {p.setting: _ratio(ours, p, phase) for p in theirs}
            best = min(by, key=lambda s: by[s])
            equal = [by[s] for s in by if not LLAMA_SETTINGS[s].repack]
            found.append(
                Ratio(
                    ours.model, ours.depth, phase, min(equal, default=None), by.get(DEFAULTS), by[best], best
                )
            )
    return found


def _ratio(ours: Measured, theirs: Measured, phase: str) -> float:
    name = f"{phase}_tps_rounds"
    pairs = zip(getattr(ours, name), getattr(theirs, name), strict=True)
    return float(statistics.median(a / b for a, b in pairs))
