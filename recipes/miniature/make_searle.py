"""Train SEARLE's projection module for the miniature's CLIP, from images and sentences about concepts.

    python -m rtd_recipes.miniature.make_searle CLIP OUT --seed 0

reads CLIP/clip.safetensors and writes OUT/searle.safetensors. The objective is SEARLE's (Baldrati et al. 2023, section
3). First, textual inversion by optimisation: a pseudo token is optimised for each image, so that prompts with it are
encoded like the image, and sentences about the image's nearest concepts keep their meaning when it replaces the
concept. Then φ learns to map the images' features to these pseudo tokens, with the same regulariser.
"""

import random
from itertools import islice

import torch
from rtd_adapters.phi import Phi
from rtd_recipes.miniature.projections import encode_images, main, minimise
from torch import Tensor, nn
from torch.nn import functional as F

from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.clip.tokens import Prompt, pad, tokenize
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.miniature.language import OPENINGS, caption, with_article
from rtd_plugin.miniature.splits import draw_training_scenes
from rtd_plugin.miniature.world import COLOURS, HELD_OUT, SHAPES
from rtd_plugin.training.loss import rtd_loss

IMAGES = 3000
CONCEPTS = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES if (colour, shape) not in HELD_OUT]
NEAREST = 3  # concepts per image
SENTENCES = 60  # per concept
INVERSION_STEPS = 100
INVERSION_LEARNING_RATE = 0.3
REGULARISER = 0.1  # its weight beside the inversion and the distillation
TEMPERATURE = 0.02  # of the distillation; at 0.25 the details of a scene are lost
PEAK_LEARNING_RATE = 1e-3


class Sentences:
    """Captions about each concept, and the same with a placeholder instead of the concept.

    Args:
        tower: CLIP's text encoder.
        rng: of the scenes and their captions.
    """

    def __init__(self, tower: TextTower, rng: random.Random):
        self.tower = tower
        scenes = draw_training_scenes(rng)
        whole: dict[str, list[str]] = {concept: [] for concept in CONCEPTS}
        while any(len(captions) < SENTENCES for captions in whole.values()):
            scene = next(scenes)
            captions = whole[f"{scene.things[0].colour} {scene.things[0].shape}"]
            if len(scene.things) == 1 and len(captions) < SENTENCES:
                captions.append(caption(scene, rng))
        masked = [text.replace(concept, "$") for concept, captions in whole.items() for text in captions]
        self.masked = pad([Prompt(text).encode() for text in masked]).unflatten(0, (-1, SENTENCES))  # (C, S, L)
        with torch.no_grad():
            features = [tower.encode(tokenize(captions)) for captions in whole.values()]
            self.concepts = tower.encode(tokenize([f"a photo of {with_article(concept)}" for concept in CONCEPTS]))
        self.features = torch.stack(features)  # (C, S, D)

    def find_nearest(self, images: Tensor) -> Tensor:
        """Return the indices of the concepts nearest to each image: features (B, D) -> (B, NEAREST)."""
        return (F.normalize(images) @ F.normalize(self.concepts).T).topk(NEAREST).indices

    def measure_drift(self, pseudo_tokens: Tensor, concepts: Tensor) -> Tensor:
        """Return how much pseudo tokens (B, W) change sentences about the concepts (B, NEAREST): mean of 1 - cosine."""
        concept = concepts[:, torch.randint(NEAREST, ())]
        sentence = torch.randint(SENTENCES, ())
        changed = self.tower.encode(self.masked[concept, sentence], pseudo_tokens)
        return 1 - F.cosine_similarity(changed, self.features[concept, sentence]).mean()


def invert(images: Tensor, sentences: Sentences, steps: int) -> Tensor:
    """Invert images by optimisation: features (N, D) -> pseudo tokens (N, W)."""
    tower, concepts = sentences.tower, sentences.find_nearest(images)
    templates = pad([Prompt(opening.format("$")).encode() for opening in OPENINGS])
    pseudo_tokens = nn.Parameter(torch.zeros(len(images), tower.width))

    def loss() -> Tensor:
        prompts = templates[torch.randint(len(templates), ())].expand(len(images), -1)
        distance = 1 - F.cosine_similarity(tower.encode(prompts, pseudo_tokens), images).mean()
        rows = torch.randperm(len(images))[: len(images) // 4]  # sentences are long, and a quarter is enough
        return distance + REGULARISER * sentences.measure_drift(pseudo_tokens[rows], concepts[rows])

    minimise(loss, [pseudo_tokens], steps, INVERSION_LEARNING_RATE, "Inverting images")
    return pseudo_tokens.detach()


def distil(images: Tensor, pseudo_tokens: Tensor, sentences: Sentences, steps: int, batch_size: int) -> Phi:
    """Train a projection module that maps the images' features (N, D) to these pseudo tokens (N, W)."""
    concepts = sentences.find_nearest(images)
    phi = Phi(images.shape[1], pseudo_tokens.shape[1], dropout=0)
    phi.layers[-1].bias.data.copy_(pseudo_tokens.mean(dim=0))

    def loss() -> Tensor:
        rows = torch.randint(len(images), (batch_size,))
        projected = phi(images[rows])
        distillation = rtd_loss(projected, pseudo_tokens[rows], TEMPERATURE)
        return distillation + REGULARISER * sentences.measure_drift(projected, concepts[rows])

    minimise(loss, phi.parameters(), steps, PEAK_LEARNING_RATE, "Training SEARLE's projection")
    with torch.no_grad():  # the distillation compares angles only, so norms are matched here
        scale = pseudo_tokens.norm(dim=1).mean() / phi.eval()(images).norm(dim=1).mean()
        for parameter in phi.layers[-1].parameters():
            parameter *= scale
    return phi


def train(clip: Backbone, steps: int, batch_size: int, seed: int) -> Phi:
    """Return the projection module after `steps` batches of inverted images."""
    torch.manual_seed(seed)
    rng = random.Random(f"miniature searle {seed}")
    tower = clip.load_text_tower().requires_grad_(False)
    sentences = Sentences(tower, rng)
    images = encode_images(clip, list(islice(draw_training_scenes(rng), IMAGES)))
    return distil(images, invert(images, sentences, INVERSION_STEPS), sentences, steps, batch_size)


if __name__ == "__main__":
    main("searle", train, steps=300, batch_size=256)
