"""Train one of the demo models on CPU: seeded, resumable, with longer rows as training goes on.

    python tools/demo_model/train.py conifer-demo --out runs --steps 3000
    python tools/demo_model/train.py conifer-demo --out runs --steps 6000    # goes on from where the rate began to fall

Needs torch, transformers and tokenizers. A row's content depends on the step alone, so a resumed run continues the
same stream. The learning rate warms up, stays, and falls over the last part of `--steps`.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812  # the name that every PyTorch reader knows
from chats import HELD_OUT
from checkpoint import CHECKPOINTS, read_checkpoint
from corpus import TOKENIZER, Encoder, train_tokenizer
from model import MODELS
from muon import Muon

# (first step, row length): recall is first learned where it is near.
CURRICULUM = ((0, 256), (400, 1024))
# (first step, every so many batches, length of their rows)
LONGEST_EVERY = ((640, 3, 4096), (1250, 2, 4096), (1950, 2, 8192))
TOKENS_PER_STEP = 4096
PEAK, WARMUP, DECAY = 4e-3, 60, 0.25
OUTSIDE = 0.3  # of the rate, for the embedding and whatever is not a matrix


def row_length(step: int) -> int:
    longest = [(every, length) for start, every, length in LONGEST_EVERY if step >= start]
    if longest and step % longest[-1][0] == 0:
        return longest[-1][1]
    return max(length for start, length in CURRICULUM if step >= start)


def decay_start(steps: int) -> int:
    return round(steps * (1 - DECAY))


def learning_rate(step: int, steps: int, warm_from: int) -> float:
    left = (steps - step) / (steps - decay_start(steps))
    return PEAK * min(1.0, (step - warm_from + 1) / WARMUP, max(left, 0.0) + 0.01)


def batch(encoder: Encoder, seed: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [B, length + 1] and their weights, B so that a batch has TOKENS_PER_STEP tokens or one row."""
    rows = encoder.rows(seed, length)
    pairs = [next(rows) for _ in range(max(1, TOKENS_PER_STEP // length))]
    return torch.tensor([tokens for tokens, _ in pairs]), torch.tensor([weights for _, weights in pairs])


def losses_of(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """The loss of each token after the first of its row, flat."""
    # Without bfloat16 instructions it takes 2.2 times as long as float32.
    with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")


compiled_losses = torch.compile(
    losses_of, dynamic=False
)  # twice as fast; once for each length of the curriculum


def weighted(each: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    weight = weights[:, 1:].flatten()
    return (each * weight).sum() / weight.sum()


@torch.no_grad()
def held_out_losses(model: torch.nn.Module, encoder: Encoder) -> dict[str, float]:
    """The weighted loss and that of what only a planted fact tells, near and far."""
    model.eval()
    row = {}
    for length in (512, 2048):
        tokens, weights = batch(encoder, HELD_OUT, length)
        each = losses_of(model, tokens)
        recalled = each[weights[:, 1:].flatten() > 1]
        row[f"held_out_{length}"] = round(float(weighted(each, weights)), 4)
        row[f"recall_{length}"] = round(float(recalled.mean()), 4)
    model.train()
    return row


@dataclass
class Run:
    """A model, its two optimizers (matrices of the layers; all else) and where it is."""

    folder: Path
    model: torch.nn.Module
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer]
    step: int = 0
    warm_from: int = 0  # where the optimizers began

    @classmethod
    def create(cls, name: str, folder: Path) -> Run:
        model = MODELS[name]()
        matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
        inside = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in inside]
        adam = torch.optim.AdamW(rest, lr=OUTSIDE * PEAK, betas=(0.9, 0.95), weight_decay=0.0)
        return cls(folder, model, (Muon(matrices, lr=PEAK), adam))

    def advance(self, encoder: Encoder, steps: int) -> float:
        rate = learning_rate(self.step, steps, self.warm_from)
        tokens, weights = batch(encoder, self.step, row_length(self.step))
        loss = weighted(compiled_losses(self.model, tokens), weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, share in zip(self.optimizers, (1.0, OUTSIDE), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def save(self, name: str, steps: int) -> None:
        """The whole state to go on from."""
        temporary = self.folder / "state.tmp"
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        state = {
            "model": self.model.state_dict(),
            "optimizers": optimizers,
            "step": self.step,
            "steps": steps,
            "warm_from": self.warm_from,
        }
        torch.save(state, temporary)
        temporary.replace(self.folder / name)

    def resume(self, steps: int) -> None:
        """Go on from the newest state that lies on the path to `steps`: one of the same plan, or one at which the
        rate had not begun to fall. A fresh clone has only the checkpoint, and warms the optimizers up anew."""
        for name in ("state.pt", "stable.pt"):
            if not (self.folder / name).exists():
                continue
            state = torch.load(self.folder / name, weights_only=True)
            if state["steps"] != steps and state["step"] > decay_start(state["steps"]):
                continue
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.warm_from = state["step"], state["warm_from"]
            return
        checkpoint = CHECKPOINTS / f"{self.folder.name}-BF16.gguf"
        if checkpoint.exists():
            weights, self.step = read_checkpoint(checkpoint, self.model)
            self.model.load_state_dict(weights)
            self.warm_from = self.step


def run(trained: Run, encoder: Encoder, steps: int) -> None:
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    last, losses, start = time.monotonic(), [], time.process_time()
    while trained.step < steps and not stopped:
        losses.append(trained.advance(encoder, steps))
        if trained.step == decay_start(steps):
            trained.save("stable.pt", steps)
        if trained.step % 20 == 0 or trained.step == steps:
            row = {"step": trained.step, "steps": steps, "length": row_length(trained.step - 1), "loss": round(sum(losses) / len(losses), 4),
                   "seconds": round(time.monotonic() - last, 1), "cpu_seconds": round(time.process_time() - start, 1)}  # fmt: skip
            last, losses, start = time.monotonic(), [], time.process_time()
            if trained.step % 100 == 0 or trained.step == steps:
                row |= held_out_losses(trained.model, encoder)
                trained.save("state.pt", steps)
            with (trained.folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
    trained.save("state.pt", steps)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(MODELS))
    parser.add_argument("--out", type=Path, required=True, help="folder for the states and the log")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    folder = args.out / args.name
    folder.mkdir(parents=True, exist_ok=True)
    if not TOKENIZER.exists():
        train_tokenizer().save(str(TOKENIZER))
    trained = Run.create(args.name, folder)
    trained.resume(args.steps)
    print(
        f"{sum(p.numel() for p in trained.model.parameters()):,} parameters, step {trained.step}", flush=True
    )
    run(trained, Encoder(TOKENIZER), args.steps)


if __name__ == "__main__":
    main()
