"""Train one of the demo models on CPU: seeded, resumable, with longer rows as training goes on.

    python train.py conifer-demo --out runs --steps 10000
    python train.py conifer-demo --out runs --steps 10000 --stop-after 3600    # resume with the same command

Needs torch, transformers and tokenizers. A row's content depends on the step alone, so a resumed run continues the
same stream. The learning rate warms up, stays, and falls over the last fifth of `--steps`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812  # the name that every PyTorch reader knows
from corpus import HELD_OUT, Encoder, train_tokenizer
from model import MODELS

# (fraction of the run, row length): recall is first learned where it is near.
CURRICULUM = ((0.0, 256), (0.15, 512), (0.4, 1024), (0.7, 2048), (0.9, 4096))
TOKENS_PER_STEP = 4096
PEAK, WARMUP, DECAY = 1.5e-3, 200, 0.2


def row_length(step: int, steps: int) -> int:
    return max(length for start, length in CURRICULUM if step >= start * steps)


def learning_rate(step: int, steps: int) -> float:
    left = (steps - step) / (DECAY * steps)
    return PEAK * min(1.0, (step + 1) / WARMUP, max(left, 0.0) + 0.02)


def batch(encoder: Encoder, seed: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [B, length + 1] and their weights, B so that a batch has TOKENS_PER_STEP tokens."""
    rows = encoder.rows(seed, length)
    pairs = [next(rows) for _ in range(TOKENS_PER_STEP // length)]
    return torch.tensor([tokens for tokens, _ in pairs]), torch.tensor([weights for _, weights in pairs])


def loss_of(model: torch.nn.Module, tokens: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    each = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    weight = weights[:, 1:].flatten()
    return (each * weight).sum() / weight.sum()


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, encoder: Encoder) -> float:
    model.eval()
    losses = [float(loss_of(model, *batch(encoder, HELD_OUT + n, 512))) for n in range(4)]
    model.train()
    return sum(losses) / len(losses)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(MODELS))
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the tokenizer, checkpoints and the log"
    )
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--stop-after", type=float, default=float("inf"), metavar="SECONDS")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)

    folder = args.out / args.name
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = args.out / "tokenizer.json"
    if not tokenizer.exists():
        train_tokenizer().save(str(tokenizer))
    encoder = Encoder(tokenizer)

    model = MODELS[args.name]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.95), weight_decay=0.05)
    step = resume(folder, model, optimizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, step {step}", flush=True)

    # Fusing the elementwise work of the scan halves a step; each new row length compiles once.
    fused_loss = torch.compile(loss_of, dynamic=False)
    start = last = time.monotonic()
    while step < args.steps and time.monotonic() - start < args.stop_after:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps)
        length = row_length(step, args.steps)
        loss = fused_loss(model, *batch(encoder, step, length))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 20 == 0:
            now = time.monotonic()
            speed = round(20 * TOKENS_PER_STEP / (now - last))
            row = {"step": step, "length": length, "loss": round(loss.item(), 4), "tokens_per_s": speed}
            last = now
            if step % 200 == 0:
                row["held_out"] = round(held_out_loss(model, encoder), 4)
                save(folder, model, optimizer, step)
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
    save(folder, model, optimizer, step)


def save(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """The whole state to go on from, and the weights alone in bf16, small enough to commit."""
    temporary = folder / "state.tmp"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, temporary)
    temporary.replace(folder / "state.pt")
    weights = {
        name: value.to(torch.bfloat16)
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    torch.save({"model": weights, "step": step}, folder / "weights-bf16.pt")


def resume(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The step to go on from; a fresh clone has only the bf16 weights, and warms the optimizer up anew."""
    for name in ("state.pt", "weights-bf16.pt"):
        if (folder / name).exists():
            state = torch.load(folder / name, weights_only=True)
            model.load_state_dict(state["model"], strict=False)
            if "optimizer" in state:
                optimizer.load_state_dict(state["optimizer"])
            return int(state["step"])
    return 0


if __name__ == "__main__":
    main()
