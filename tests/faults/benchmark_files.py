"""Small benchmarks in their own formats."""

import json
import zlib
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pyarrow import Table, parquet


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def draw(path: Path) -> None:
    """Write an image whose pixels depend on its name alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(zlib.crc32(path.name.encode()))
    pixels = torch.randint(256, (3, 3, 3), generator=generator).byte().numpy()
    Image.fromarray(pixels).resize((40, 30 + 8 * (len(path.name) % 3))).save(path)


def write_cirr(folder: Path) -> None:
    """Write CIRR: for each split three groups of six images, two queries in each group."""
    for split, prefix in (("val", "dev"), ("test1", "test1")):
        groups = [[f"{prefix}-{group}-{index}-img0" for index in range(6)] for group in range(3)]
        pairs = []
        for index, members in enumerate(group for group in groups for _ in range(2)):
            target = members[2 + index % 3]
            pair = {
                "pairid": 10 + index,
                "reference": members[index % 2],
                "caption": f"has {index + 2} red dogs",
                "img_set": {"id": index // 2, "members": members, "reference_rank": 0},
            }
            hidden = {"target_hard": target, "target_soft": {target: 1.0}}
            pairs.append(pair | (hidden if split == "val" else {}))
        write_json(folder / "cirr/captions" / f"cap.rc2.{split}.json", pairs)
        names = {name: f"./{prefix}/{name}.png" for group in groups for name in group}
        write_json(folder / "cirr/image_splits" / f"split.rc2.{split}.json", names)
        for path in names.values():
            draw(folder / path)


def write_circo(folder: Path, images: int = 60) -> None:
    """Write CIRCO: queries with one to three targets."""
    for split in ("val", "test"):
        queries = []
        for index in range(5):
            query = {"id": index, "reference_img_id": 100 + index, "relative_caption": f"shows {index + 2} boats"}
            targets = [110 + index + 7 * step for step in range(1 + index % 3)]
            aspects = ["cardinality", *["negation"] * (index % 2)]
            hidden = {"target_img_id": targets[0], "gt_img_ids": targets, "semantic_aspects": aspects}
            queries.append(query | {"shared_concept": "a boat"} | (hidden if split == "val" else {}))
        write_json(folder / "annotations" / f"{split}.json", queries)
    listed = [{"id": image, "file_name": f"{image:012d}.jpg", "license": 1} for image in range(100, 100 + images)]
    coco = folder / "COCO2017_unlabeled"
    write_json(coco / "annotations/image_info_unlabeled2017.json", {"info": {}, "images": listed})
    for image in listed:
        draw(coco / "unlabeled2017" / image["file_name"])


def write_fashioniq(folder: Path, captions: str = "captions", suffix: str = ".jpg") -> None:
    """Write FashionIQ: six queries and thirty images in each category; one image is in two categories."""
    for start, category in enumerate(("dress", "shirt", "toptee")):
        names = [f"B{100 * start + index:03d}" for index in range(30)] + (["B000"] if category == "shirt" else [])
        pairs = [
            {"candidate": names[index], "target": names[index + 9], "captions": ["is red.", f"has {index} dots, "]}
            for index in range(6)
        ]
        write_json(folder / captions / f"cap.{category}.val.json", pairs)
        write_json(folder / "image_splits" / f"split.{category}.val.json", names)
        for name in names:
            draw(folder / "images" / f"{name}{suffix}")


def write_genecis(folder: Path) -> None:
    """Write GeneCIS: three queries in each task; the images of attribute tasks are boxes of images."""

    def write_whole(image: int) -> dict[str, Any]:
        draw(folder / "val2017" / f"{image:012d}.jpg")
        return {"val_image_id": image}

    def write_crop(image: int) -> dict[str, Any]:
        draw(folder / ("VG_100K" if image % 2 else "VG_100K_2") / f"{2_400_000 + image}.jpg")
        return {"image_id": 2_400_000 + image, "instance_bbox": [3 + image % 5, 4, 12, 9.5], "instance_id": "7"}

    for start, task in enumerate(("focus_attribute", "change_attribute", "focus_object", "change_object")):
        write_picture = write_whole if task.endswith("object") else write_crop
        queries = [
            {
                "reference": write_picture(first),
                "target": write_picture(first + 1),
                "gallery": [write_picture(first + offset) for offset in range(2, 7)],
                "condition": f"colour {index}",
            }
            for index, first in enumerate(range(100 * start, 100 * start + 60, 20))
        ]
        write_json(folder / f"{task}.json", queries)


def write_folder(folder: Path) -> None:
    """Write a folder of images, four of them in a subfolder, and queries as CSV."""
    names = [*(f"{index}.png" for index in range(8)), *(f"more/{index}.jpg" for index in range(4))]
    for name in names:
        draw(folder / name)
    lines = ["reference,condition,target,group", "0.png,is red,1.png,colour", '2.png,"big, and blue",3.png;more/1.jpg,']
    (folder / "queries.csv").write_text("\n".join(lines) + "\n")


def write_pinpoint(folder: Path) -> None:
    """Write PinPoint: two requests of three wordings, and a query of two images."""
    signatures = [f"{index:032x}" for index in range(12)]
    queries = []
    for index, wording in enumerate(("is red", "in red", "How about red?") * 2):
        row = index // 3
        queries.append(
            {
                "query_id": f"query_{index:05d}",
                "query_image_signature": signatures[row],
                "query_image_signature2": "None" if index < 5 else signatures[11],
                "instruction": wording,
                "positive_candidates": [signatures[row + 2], signatures[row + 4]],
                "negative_candidates": [signatures[row], signatures[row + 6], signatures[row + 8], None],
                "token_count": 2,
                "query_category": ("Swap", "Context Fit")[row],
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(Table.from_pylist(queries), folder / "pinpoint_licensed.parquet")
    (folder / "index_signatures.txt").write_text("\n".join(signatures))
    for signature in signatures:
        draw(folder / "images" / f"{signature}.jpg")


WRITERS = {
    "cirr": write_cirr,
    "circo": write_circo,
    "fashioniq": write_fashioniq,
    "genecis": write_genecis,
    "pinpoint": write_pinpoint,
    "folder": write_folder,
}
