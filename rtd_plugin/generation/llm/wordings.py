"""The prompt for other wordings of a condition, and the parser and the checks of answers to it."""

import json

from rtd_plugin.generation.llm.asking import Messages, Rows
from rtd_plugin.generation.llm.prompt import strip_fence
from rtd_plugin.generation.statistics import find_changes
from rtd_plugin.printable import holds_secret
from rtd_plugin.triplets.checks import find_problems, hash_triplet
from rtd_plugin.triplets.records import find_fault
from rtd_plugin.triplets.triplet import Triplet
from rtd_plugin.triplets.wording import COMMON_WORDS, split_words

SYSTEM = """You help to build training data for composed image retrieval. You get the caption of a picture, the \
caption of another picture that somebody looks for, and a condition: what that person writes to ask for the other \
picture, given the first. Write further conditions that ask for exactly the same, in other words: as a request, as a \
remark, as a fragment, naming the old first or the new first, short and long, formal and careless.
Name every change that the condition names, with the same values (a red hat stays red, three stay three). Add nothing \
that it does not ask for. Do not repeat the caption of the other picture.
Answer with a JSON array of strings, and with nothing else."""
EXAMPLES = (
    (
        Triplet(
            "A brown dog lies on a blanket next to a red ball .",
            "Make the ball yellow.",
            "A brown dog lies on a blanket next to a yellow ball .",
        ),
        ["the ball should be yellow, not red", "swap the red ball for a yellow one", "has a yellow ball instead"],
    ),
    (
        Triplet(
            "a long blue dress with short sleeves",
            "is sleeveless and black",
            "a long black sleeveless dress",
        ),
        ["same length but in black and sleeveless", "no blue, I want a black sleeveless one"],
    ),
)


def build_messages(triplet: Triplet, count: int) -> Messages:
    """Return the few-shot conversation that asks for `count` further wordings of a triplet's condition."""
    messages = [{"role": "system", "content": SYSTEM}]
    for example, wordings in EXAMPLES:
        messages.append({"role": "user", "content": _build_request(example, len(wordings))})
        messages.append({"role": "assistant", "content": json.dumps(wordings)})
    return [*messages, {"role": "user", "content": _build_request(triplet, count)}]


def _build_request(triplet: Triplet, count: int) -> str:
    reference, condition, target = (" ".join(text.split()) for text in triplet)
    return f"Caption: {reference}\nOther picture: {target}\nCondition: {condition}\nWordings: {count}"


def parse_wordings(triplet: Triplet, answer: str, count: int) -> tuple[Rows, int]:
    """Parse the wordings in an answer.

    Args:
        triplet: whose condition was to be reworded.
        count: wordings to use at most.

    Returns:
        The wordings that pass `is_sound_wording`, each a row, and how many of the answer are left out.

    Raises:
        ValueError: the answer is not a JSON array of strings.
    """
    try:
        wordings = json.loads(strip_fence(answer))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(wordings, list) or not wordings:
        raise ValueError("not an array, or an empty one")
    if any(find_fault(text) for text in wordings):
        raise ValueError("a value that is not text, or empty")
    seen, sound = {hash_triplet(triplet)}, Rows()
    for text in wordings:
        reworded = triplet._replace(condition=" ".join(text.split()))
        key = hash_triplet(reworded)
        if key not in seen and len(sound) < count and is_sound_wording(triplet, reworded.condition):
            seen.add(key)
            sound.append([reworded.condition])
    return sound, len(wordings) - len(sound)


def is_sound_wording(triplet: Triplet, wording: str) -> bool:
    """Return whether a wording can replace a triplet's condition.

    `triplets check` finds no problem in it; of each change that the condition names it names a word too; and it names
    no new word of a change that the condition leaves out.
    """
    if find_problems(triplet._replace(condition=wording)) or holds_secret(wording):
        return False
    before, after = _list_stems(triplet.condition), _list_stems(wording)
    for old, new in find_changes(triplet.reference, triplet.target):
        removed, added = _list_stems(old), _list_stems(new)
        named = (added or removed) & before
        if named and not named & after:
            return False
        if added - removed and not added & before and (added - removed) & after:
            return False
    return True


def _list_stems(text: str) -> set[str]:
    """Return the words of a text, those about any subject left out, without the ending of a plural."""
    return {word.removesuffix("s") if len(word) > 3 else word for word in set(split_words(text)) - COMMON_WORDS}
