"""The prompt for triplets of a caption, and the parser of answers to it."""

import json

from rtd_plugin.printable import holds_secret
from rtd_plugin.triplets.checks import find_problems
from rtd_plugin.triplets.records import find_fault
from rtd_plugin.triplets.triplet import Triplet

SYSTEM = """You help to build training data for composed image retrieval. You get the caption of a picture. Think of \
other pictures that somebody might look for who has this picture as a starting point. For each, write the condition, a \
short request or remark that says how the other picture differs, and the target, the caption of the other picture.
Change one or two things only: an object, a colour, a number, a place, an action, something added or removed. Leave \
all else of the caption as it is. The condition must not repeat the whole target. Vary the style of the conditions.
Answer with a JSON array of objects with the keys "condition" and "target", and with nothing else."""
EXAMPLES = (
    (
        "A brown dog is lying on a blanket next to a red ball .",
        [
            (
                "Make the ball yellow and have the dog sit up.",
                "A brown dog is sitting on a blanket next to a yellow ball .",
            ),
            ("same but without the ball", "A brown dog is lying on a blanket ."),
        ],
    ),
    (
        "Two women are drinking coffee at a table outside a cafe",
        [
            ("shows three women instead of two", "Three women are drinking coffee at a table outside a cafe"),
            ("Is indoors, in a kitchen", "Two women are drinking coffee at a table in a kitchen"),
        ],
    ),
    (
        "a long blue dress with short sleeves",
        [
            ("is shorter and has a floral print", "a short blue floral dress with short sleeves"),
            ("has no sleeves and is black", "a long black sleeveless dress"),
        ],
    ),
)


def build_messages(caption: str, count: int) -> list[dict[str, str]]:
    """Return the few-shot conversation that asks for `count` triplets of a caption."""
    messages = [{"role": "system", "content": SYSTEM}]
    for text, answers in EXAMPLES:
        messages.append({"role": "user", "content": _build_request(text, len(answers))})
        answer = [{"condition": condition, "target": target} for condition, target in answers]
        messages.append({"role": "assistant", "content": json.dumps(answer)})
    return [*messages, {"role": "user", "content": _build_request(caption, count)}]


def _build_request(caption: str, count: int) -> str:
    return f"Caption: {' '.join(caption.split())}\nPictures: {count}"


def strip_fence(answer: str) -> str:
    """Return an answer without the fence that some models put around code."""
    text = answer.strip()
    return text[3:-3].removeprefix("json").strip() if text.startswith("```") and text.endswith("```") else text


def parse_answer(reference: str, answer: str, count: int) -> tuple[list[Triplet], int]:
    """Parse the triplets in an answer.

    Args:
        reference: the caption that the model was asked about.
        count: triplets to use at most.

    Returns:
        The triplets in which `triplets check` finds no problem, and how many objects of the answer are left out.

    Raises:
        ValueError: the answer is not a JSON array of objects with the two keys.
    """
    try:
        objects = json.loads(strip_fence(answer))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(objects, list) or not objects:
        raise ValueError("not an array, or an empty one")
    triplets: list[Triplet] = []
    for item in objects:
        if not isinstance(item, dict) or set(item) != {"condition", "target"}:
            raise ValueError("an object with other keys")
        if find_fault(item["condition"]) or find_fault(item["target"]):
            raise ValueError("a value that is not text, or empty")
        triplets.append(Triplet(reference, item["condition"].strip(), item["target"].strip()))
    distinct = list(dict.fromkeys(triplets[:count]))
    sound = [triplet for triplet in distinct if not find_problems(triplet) and not any(map(holds_secret, triplet[1:]))]
    return sound, len(objects) - len(sound)
