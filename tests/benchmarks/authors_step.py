"""The training step of RTD's authors, from their modules, for `speed.py --authors` and `exactness.py --authors`.

These run this program in a Python with the authors' requirements (torch, transformers 4.44, clip) and write the index
of each step to stdin. At its end, it writes the trained weights to FOLDER/authors.pt. It imports nothing of rtd-plugin.

    python authors_step.py REPOSITORY FOLDER THREADS
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch

repository, folder, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
sys.path.insert(0, repository)
answers, sys.stdout = sys.stdout, sys.stderr

from encode_with_pseudo_tokens import encode_with_pseudo_tokens_HF  # noqa: E402
from models import Phi  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModelWithProjection  # noqa: E402
from utils import contrastive_loss  # noqa: E402

prepared = torch.load(Path(folder) / "prepared.pt", weights_only=True, mmap=True)
config = prepared["config"]


def load_encoder() -> CLIPTextModelWithProjection:
    model = CLIPTextModelWithProjection(CLIPTextConfig(**config))
    model.load_state_dict(prepared["huggingface"], strict=False)
    return model


frozen, trained = load_encoder().requires_grad_(False), load_encoder().train()
phi = Phi(config["projection_dim"], 4 * config["projection_dim"], config["hidden_size"], 0.5)
phi.load_state_dict(prepared["projection"])
phi.requires_grad_(False).eval()
optimizer = torch.optim.AdamW(trained.parameters(), lr=prepared["learning_rate"], weight_decay=0.01)


def take_step(batch: dict[str, torch.Tensor]) -> float:
    """Return the loss of a step."""
    queries = torch.cat((batch["queries"], batch["unconditioned"]))
    targets = torch.cat((batch["targets"], batch["references"]))
    target_features = frozen(input_ids=targets).text_embeds
    reference_features = frozen(input_ids=batch["references"]).text_embeds
    pseudo_tokens = phi(reference_features + batch["noise"])
    features, _ = encode_with_pseudo_tokens_HF(
        trained, queries, torch.cat((pseudo_tokens, pseudo_tokens)), return_last_states=True
    )
    loss = contrastive_loss(target_features, features, 0.07)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


print(json.dumps({"ready": True}), file=answers, flush=True)
for line in sys.stdin:
    batch = prepared["batches"][int(line)]
    wall, cpu = time.perf_counter(), time.process_time()
    loss = take_step(batch)
    answer = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "loss": loss}
    answer["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(answer), file=answers, flush=True)
torch.save(trained.state_dict(), Path(folder) / "authors.pt")
