#!/usr/bin/env python3
"""A small training that saves its state in the background, and goes on from the newest whole version when it is started again.

    pip install ./libio/python torch
    python libio/examples/torch_training.py --set /checkpoints/example --steps 200     # kill it, start it again

Also with several ranks: torchrun --nproc-per-node 2 libio/examples/torch_training.py ... The result does not depend on how often it was killed.
"""

import argparse
import hashlib
import os
import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from hayate.dcp import HayateReader, HayateWriter, latest, prune


def batch(step):
    """The data of a step: the same in every run."""
    source = torch.Generator().manual_seed(step)
    x = torch.rand(64, 8, generator=source)
    return x, (x.sin().sum(1, keepdim=True) + x[:, :1] * x[:, 1:2])


def joined():
    """The group of all ranks: torchrun's, or this process alone."""
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    else:
        meeting = os.path.join(tempfile.mkdtemp(), "meeting")
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--set", required=True, help="directory of the checkpoints in the cluster")
    arguments.add_argument("--steps", type=int, default=200)
    arguments.add_argument("--every", type=int, default=10, help="steps between checkpoints")
    given = arguments.parse_args()
    joined()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    begin = 0
    if (newest := latest(given.set)) is not None:
        state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer)))
        dcp.load(state, storage_reader=HayateReader(given.set), checkpoint_id=str(newest))
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        begin = newest
        print(f"goes on from step {begin}", flush=True)

    writer, saving = HayateWriter(given.set), None
    for step in range(begin, given.steps):
        x, y = batch(step)
        loss = torch.nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % given.every == 0:
            if saving is not None:
                saving.result()  # One at a time; what went wrong is raised here.
                print(f"saved {writer.checkpoint_id}, loss {loss.item():.4f}", flush=True)
                if dist.get_rank() == 0:
                    prune(given.set, keep=2)
            state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer)))
            saving = dcp.async_save(state, storage_writer=writer, checkpoint_id=str(step + 1))
    if saving is not None:
        saving.result()
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values())).hexdigest()
    print(f"done: {digest}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
