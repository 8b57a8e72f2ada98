"""Train Pic2Word's projection module for the miniature's CLIP, from images alone.

    python -m rtd_recipes.miniature.make_pic2word CLIP OUT --seed 0

reads CLIP/clip.safetensors and writes OUT/pic2word.safetensors. The objective is Pic2Word's (Saito et al. 2023, section
3.1): CLIP's own contrastive loss between an image and the prompt "a photo of *" with the image's pseudo token.
"""

import random
from itertools import islice

import torch
from open_clip.loss import ClipLoss
from rtd_adapters.im2text import Im2Text
from rtd_adapters.pic2word import Pic2Word
from rtd_recipes.miniature.projections import encode_images, main, minimise
from torch import Tensor
from torch.nn import functional as F

from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.clip.tokens import pad
from rtd_plugin.miniature.splits import draw_training_scenes

IMAGES = 20_000
PEAK_LEARNING_RATE = 3e-3
LOGIT_SCALE = 10  # with CLIP's 34, distinguishing images is enough, and texts stay far from them


def train(clip: Backbone, steps: int, batch_size: int, seed: int) -> Im2Text:
    """Return the projection module after `steps` batches of images."""
    torch.manual_seed(seed)
    scenes = draw_training_scenes(random.Random(f"miniature pic2word {seed}"))
    features = encode_images(clip, list(islice(scenes, IMAGES)))
    tower = clip.load_text_tower().requires_grad_(False)
    prompt = pad([Pic2Word.unconditioned_prompt.encode()]).expand(batch_size, -1)
    placeholder = Pic2Word.unconditioned_prompt.placeholder_id
    contrast = ClipLoss()
    projection = Im2Text(tower.features, tower.width)

    def loss() -> Tensor:
        images = features[torch.randint(IMAGES, (batch_size,))]
        texts = tower.encode(prompt, projection(images), placeholder)
        return contrast(F.normalize(images), F.normalize(texts), LOGIT_SCALE)

    minimise(loss, projection.parameters(), steps, PEAK_LEARNING_RATE, "Training Pic2Word's projection")
    return projection


if __name__ == "__main__":
    main("pic2word", train, steps=200, batch_size=256)
