"""Composes for the training of a projection, and validates it: `train_phi.py CHECKPOINT OUTPUT`."""

import sys

import torch
from validate import retrieve

if __name__ == "__main__":
    torch.save(retrieve(sys.argv[1]), sys.argv[2])
