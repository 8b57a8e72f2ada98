"""The program that measures `wording` on pictures of emoji: its captions, edits and queries, with small drawings."""

import json
import random
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rtd_plugin.evaluation.benchmarks.folder import Folder

COLLECTIONS = ("google", "facebook", "apple", "twitter")
COLOUR = (1, 2, 3)  # of all drawings, and of no backdrop
RECORDS = [
    ("MAN COOK", "person-role", {"1F3FB": "mc-light.png", "1F3FF": "mc-dark.png", "1F3FB-1F3FF": "mc-two.png"}),
    ("WOMAN COOK", "person-role", {"1F3FB": "wc-light.png"}),
    ("MAN: RED HAIR", "person", {}),
    ("RED APPLE", "food-fruit", {}),
    ("GRAPES", "food-fruit", {}),
    ("KEYCAP: *", "keycap", {}),
]


@pytest.fixture(scope="module")
def programs():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
        import emoji_pictures
        import real_pictures

        yield emoji_pictures, real_pictures


@pytest.fixture
def packages(tmp_path):
    """Packages in the form of `emoji-datasource-NAME`; only one has a drawing of the woman with a light skin tone."""
    records = [
        {
            "name": name,
            "category": "Symbols",
            "subcategory": category,
            "image": f"{index}.png",
            "skin_variations": {key: {"image": image} for key, image in tones.items()},
        }
        for index, (name, category, tones) in enumerate(RECORDS)
    ]
    for collection in COLLECTIONS:
        package = tmp_path / "packages" / collection / "package"
        images = package / "img" / collection / "64"
        images.mkdir(parents=True)
        (package / "emoji.json").write_text(json.dumps(records))
        files = [each["image"] for record in records for each in (record, *record["skin_variations"].values())]
        for file in files:
            if file != "wc-light.png" or collection == "google":
                Image.new("RGBA", (64, 64), (*COLOUR, 255)).save(images / file)
    return tmp_path / "packages"


def test_emoji_are_those_that_all_collections_draw(programs, packages):
    emoji = {(each.name, each.tone) for each in programs[0].read_emoji(packages, COLLECTIONS)}
    cooks = {("man cook", ""), ("man cook", "light"), ("man cook", "dark"), ("woman cook", "")}
    assert emoji == cooks | {("man with red hair", ""), ("red apple", ""), ("grapes", "")}


def test_captions_name_all_of_a_picture(programs):
    pictures, _ = programs
    cook = pictures.Picture(pictures.Emoji("man cook", "dark", "person-role", "x.png"), "large", "blue")
    assert pictures.describe(cook) == "a large man cook with dark skin tone on a blue background"
    assert pictures.describe(cook, details=False) == "a man cook on a blue background"
    grapes = pictures.Picture(pictures.Emoji("grapes", "", "food-fruit", "x.png"), "small", "orange")
    assert pictures.describe(grapes, "there is {}") == "there is small grapes on an orange background"


def test_a_picture_has_its_emoji_on_its_backdrop(programs, packages):
    pictures, _ = programs
    apple = next(each for each in pictures.read_emoji(packages, COLLECTIONS) if each.name == "red apple")
    renderer = pictures.Renderer(packages, "apple", [apple])
    for size, side in pictures.SIZES.items():
        pixels = renderer.render(pictures.Picture(apple, size, "green"), random.Random(0)).astype(int)
        drawn = (pixels == COLOUR).all(axis=2)
        assert drawn.sum() == side * side
        assert np.abs(pixels[~drawn] - pictures.BACKDROPS["green"]).max() < 15


def test_an_edit_changes_what_its_kind_says(programs, packages):
    pictures, _ = programs
    shown = pictures.list_pictures(pictures.read_emoji(packages, COLLECTIONS))
    edits = pictures.Edits(shown)
    kinds = set()
    for edit in (each for picture in shown for group in edits.list_from(picture).values() for each in group):
        kinds.add(edit.kind)
        changed = [each.name for each in fields(edit.target) if differs(edit, each.name)]
        assert changed == [edit.kind] if edit.kind in ("size", "backdrop") else changed == ["emoji"]
        before, after = edit.reference.emoji, edit.target.emoji
        assert (before.name == after.name) == (edit.kind not in ("gender", "thing"))
        assert (before.gender == after.gender) == (edit.kind != "gender")
        assert (before.tone == after.tone) == (edit.kind != "tone")
    assert kinds == {"backdrop", "size", "tone", "gender", "thing"}


def differs(edit, name):
    return getattr(edit.reference, name) != getattr(edit.target, name)


def test_wordings_name_the_new_value(programs, packages):
    """Those of triplets have no word of the others."""
    pictures, _ = programs
    rng = random.Random(0)
    edits = pictures.Edits(pictures.list_pictures(pictures.read_emoji(packages, COLLECTIONS)))
    draws = edits.draw(rng)
    for edit in (next(draws) for _ in range(100)):
        new = edit.name_values()[1]
        for group in ("seen", "unseen"):
            wordings = pictures.write_conditions(edit, group, 3, rng)
            assert len(set(wordings)) == 3
            for text in wordings:
                assert any(word in text for word in (new, pictures.COMPARATIVES.get(new, new), "larger"))
                assert group == "unseen" or pictures.UNSEEN_WORDS.isdisjoint(text.split())


def test_queries_are_about_held_out_pictures_in_both_groups_of_wordings(programs, packages, tmp_path, monkeypatch):
    pictures, program = programs
    monkeypatch.setattr(program, "QUERIES", {"development": 5, "test": 10})
    shown = []
    render = pictures.Renderer.render
    monkeypatch.setattr(pictures.Renderer, "render", lambda self, *args: shown.append(args[0]) or render(self, *args))
    program.Preparation(packages, tmp_path).write_benchmark(tmp_path / "unseen" / "queries-test.jsonl")
    assert all(picture.is_held_out for picture in shown)
    folder = tmp_path / "unseen"
    queries = Folder(data=folder, queries_file=folder / "queries-test.jsonl").queries()
    requests = {
        group: {(query.request, query.reference, query.targets) for query in queries if group in query.groups}
        for group in ("seen", "unseen")
    }
    assert len(queries) == 10 * 2 * program.WORDINGS
    assert requests["seen"] == requests["unseen"]
    assert len(requests["seen"]) == 10
    first = queries[0]
    edited = (shown[int(Path(name).stem)] for name in (first.reference, *first.targets))
    assert len(set(edited)) == 2


def test_triplets_with_held_out_pictures_or_unseen_words_are_left_out(programs, packages):
    pictures, _ = programs
    shown = pictures.list_pictures(pictures.read_emoji(packages, COLLECTIONS))
    held_out = next(picture for picture in shown if picture.is_held_out)
    trained = next(picture for picture in shown if not picture.is_held_out)
    background = pictures.BACKGROUND_WORDS[1]

    def triplet(reference, condition, target):
        captions = [pictures.describe(each, "A photo of {}", background) for each in (reference, target)]
        return {
            "reference_caption": captions[0],
            "conditioning_caption": condition,
            "target_caption": captions[1].replace("with a", "with"),
        }

    kept = triplet(trained, "make it red", trained)
    left_out = [triplet(held_out, "make it red", trained), triplet(trained, "make it red", held_out)]
    left_out.append(triplet(trained, "Swap it", trained))
    assert pictures.select_trainable([*left_out, kept], shown) == [kept]


def test_each_word_gets_the_meaning_of_a_names_word(programs):
    pictures, program = programs
    (apple,) = program.SimpleTokenizer().encode("apple")
    embedding = torch.zeros(50, 4)
    embedding[[3, 7]] = torch.randn(2, 4)
    embedding = torch.cat([embedding, torch.zeros(apple - 50, 4), torch.ones(1, 4)])
    meaningful = program.give_meaning(embedding, [pictures.Emoji("apple", "", "food-fruit", "x.png")])
    known = [3, 7, apple]
    assert meaningful[known].equal(embedding[known])
    others = torch.ones(len(embedding), dtype=torch.bool)
    others[known] = False
    assert (meaningful[others] == 1).all()
