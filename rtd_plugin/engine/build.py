"""Combines the tricks."""

import copy
from dataclasses import replace

import torch
from accelerate import Accelerator

from rtd_plugin.engine.allocator import keep_freed_memory
from rtd_plugin.engine.caption_features import open_caption_features
from rtd_plugin.engine.cuda_graphs import GraphedUpdate
from rtd_plugin.engine.device_batches import DeviceBatches
from rtd_plugin.engine.frozen_encoder import CachedFrozen, PackedFrozen
from rtd_plugin.engine.packed_tower import PackedTower
from rtd_plugin.engine.partial_embedding import embed_used_tokens
from rtd_plugin.engine.prefetching import PrefetchedBatches
from rtd_plugin.training.batches import Batch, RunBatches, map_device_tensors, order_batches, stack_tokens
from rtd_plugin.training.loss import rtd_loss
from rtd_plugin.training.objective import is_published
from rtd_plugin.training.plain import Engine, copy_frozen
from rtd_plugin.training.run import Run


def build_engine(run: Run, accelerator: Accelerator) -> Engine:
    """Return a run's fast pair, with the tricks that fit its device; to leave one out, delete its lines."""
    recipe, device = run.recipe, accelerator.device
    # A plugin's objective may encode any token, so all embeddings are trained, but for those that word noise reads.
    partial = is_published() or recipe.wording.noise
    replaced = {id(run.tower.token_embedding): embed_used_tokens(run, device)} if partial else {}
    tower = copy.deepcopy(run.tower, replaced).to(device).requires_grad_(True)
    encoder = PackedTower(tower, device, recipe.activation_checkpointing, recipe.compile)
    build = _build_for_cpu if device.type == "cpu" else _build_for_gpu
    engine = build(run, accelerator, encoder)
    return replace(engine, contrast=torch.compile(rtd_loss, dynamic=True)) if recipe.compile else engine


def _build_for_cpu(run: Run, accelerator: Accelerator, encoder: PackedTower) -> Engine:
    keep_freed_memory()
    cache = open_caption_features(run, accelerator.device)
    order = order_batches(run, accelerator)
    frozen = CachedFrozen(*copy_frozen(run, accelerator.device), run.triplets, order, cache)
    return Engine(encoder.tower, encoder, frozen, RunBatches(run, accelerator, encoder.prepare, frozen))


def _build_for_gpu(run: Run, accelerator: Accelerator, encoder: PackedTower) -> Engine:
    recipe, device = run.recipe, accelerator.device
    frozen = PackedFrozen(*copy_frozen(run, device), compiled=recipe.compile)

    def finish(batch: Batch) -> Batch:
        captions = frozen.encoder.prepare(stack_tokens(batch.targets, batch.references))
        return map_device_tensors(torch.Tensor.pin_memory, replace(batch, packed_captions=captions))

    batches = PrefetchedBatches(RunBatches(run, accelerator, encoder.prepare, frozen), finish)
    engine = Engine(encoder.tower, encoder, frozen, DeviceBatches(batches, device))
    # A graph repeats the work of its capture, so it supports no gradient scale, no plugin's objective, and no φ that
    # reads prompts, which are on the CPU.
    single = accelerator.num_processes == run.count_batches(1) == 1 and accelerator.scaler is None
    if single and is_published() and not run.adapter.reads_queries:
        engine = replace(engine, capture=lambda update: GraphedUpdate(update, device))
    return engine
