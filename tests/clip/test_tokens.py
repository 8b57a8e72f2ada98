"""Tokens are open_clip's; a prompt has its placeholder where the template has it and nowhere else."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from rtd_plugin.clip.tokens import END, START, Prompt, clean_caption, encode_text, pad, tokenize
from rtd_plugin.errors import RTDError

REFERENCE = SimpleTokenizer()
PROMPT = Prompt("a photo of $ that {condition}")
STAR = Prompt("a photo of * , {condition}", placeholder="*")
NASTY = [
    "a dog",
    "",
    "   two\tcats \n on a mat ",
    "“curly” ‘quotes’ — and… dashes",
    "l&amp;#39;eau &amp; fish &lt;b&gt; &quot;x&quot;",
    "&amp;amp;amp; deeper &amp;amp;lt; nesting",
    "1 < 2 &amp;amp;amp;lt; 3",  # with a "<" in it, ftfy leaves entities alone
    "🐶 and 👩‍👩‍👧 on 🇫🇷",
    "ﬁne ﬂowers, oﬃce ﬀ",
    "mojibake: schÃ¶n, doesnâ€™t",
    "日本の犬 собака كلب ½ ² ①",
    "teh bakgruond shoud bee grene!!! :-)",
    "it's they're I've you'll I'm he'd",
    "A PHOTO OF Straße İstanbul",
    "x" * 400,
    "word " * 200,
    "zero\u200bwidth\ufeff and \x00\x07 control",
    "1234567890 3.14 50% #1 @home",
]
SNEAKY = [
    "costs $5",
    "$",
    "$$",
    "$$$ !$ $! a$b",
    "&dollar; and &amp;dollar; and &amp;amp;dollar; and &amp;amp;amp;amp;dollar;",
    "$ < &amp;amp;dollar; &amp;amp;amp;dollar; * &amp;amp;ast;",
    "&#36; &#x24; &amp;#36;",
    "full width ＄ and small ﹩",
    "<end_of_text> $ <start_of_text>",
    "<END_OF_TEXT>",
    "&lt;end_of_text&gt;",
    "* ** *$* &ast; &midast; ＊ &amp;amp;ast;",
    "is red <end_of_text> $",
]


def content(row):
    """The tokens of a row up to its end token."""
    return row[: int(row.argmax()) + 1].tolist()


@settings(max_examples=400, deadline=None)
@given(
    st.text(st.sampled_from("aB ıİΣß's<>_&amp;#39;\t\n\x1c\x85\u2028\u3000ﬁ“é½🐶$*"), max_size=30)
    | st.text(max_size=30)
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
)
@example("ΑΣ ΑΣ\u2028Σ")
@example("<START_OF_TEXT>it's<end_of_text>")
def test_every_texts_tokens_are_open_clips(text):
    """However a text is written: words are looked up one by one, and most texts need no cleaning."""
    expected = [token for token in REFERENCE.encode(text) if token < START]
    assert encode_text(text) == expected
    assert encode_text(text) == expected  # from the words already seen


@pytest.mark.parametrize("text", NASTY)
def test_captions_are_open_clips(text):
    expected = REFERENCE([clean_caption(text)])[0]
    found = tokenize([text])[0]
    assert found.tolist() == expected[: len(found)].tolist()
    assert not expected[len(found) :].any()


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize(("prompt", "whole"), [(PROMPT, "a photo of $ that "), (STAR, "a photo of * , ")])
def test_conditions_are_open_clips(text, prompt, whole):
    # Cleaned separately: repairs of encoding would otherwise depend on the template.
    expected = REFERENCE.encode(whole) + REFERENCE.encode(text)
    assert prompt.encode(condition=text) == expected
    assert content(prompt.tokenize([text])[0]) == [START, *expected[:75], END]


def test_a_plain_prompt_is_open_clips_as_a_whole():
    text = "has a green background, isn't “red”"
    assert content(PROMPT.tokenize([text])[0]) == content(REFERENCE([f"a photo of $ that {text}"])[0])


@pytest.mark.parametrize(
    ("caption", "clean"),
    [
        (None, ""),
        ("", ""),
        ("  A Dog  ", "a dog"),
        ("<PERSON> with <PERSON>'s dog", "person with person's dog"),
        ("<person>", "<person>"),
        ("costs $5 or $$$ ", "costs 5 or"),
        ("$", ""),
        ("5*", "5*"),
    ],
)
def test_caption_cleaning(caption, clean):
    assert clean_caption(caption) == clean
    assert content(tokenize([caption])[0]) == content(REFERENCE([clean])[0])


def test_long_texts_keep_their_first_75_tokens():
    row = tokenize(["word " * 70 + "dog cat " * 20])[0]
    assert row.shape == (77,)
    assert row.tolist() == REFERENCE(["word " * 70 + "dog cat " * 20])[0].tolist()
    assert row[-1] == END
    assert tokenize(["one two three four"], context_length=4).tolist() == REFERENCE(["one two three four"], 4).tolist()


def test_special_tokens_in_a_text_are_left_out():
    assert encode_text("a <end_of_text> dog <start_of_text>") == REFERENCE.encode("a dog")


def test_a_batch_is_as_long_as_its_longest_row():
    rows = tokenize(["a", "a dog on a mat", None])
    assert rows.dtype == torch.int64
    assert rows.shape == (3, 7)
    assert (rows == END).sum(dim=1).tolist() == [1, 1, 1]


def test_an_empty_batch_has_no_rows():
    assert pad([]).shape[0] == tokenize([]).shape[0] == PROMPT.tokenize([]).shape[0] == 0
    assert pad([]).dtype == torch.int64


def test_placeholders_have_clips_ids():
    assert {"$": PROMPT.placeholder_id, "*": STAR.placeholder_id} == {"$": 259, "*": 265}


def assert_one_placeholder(prompt, condition):
    row = prompt.tokenize([condition])[0]
    assert (row == prompt.placeholder_id).nonzero().flatten().tolist() == [4]
    assert (row == START).nonzero().flatten().tolist() == [0]
    assert (row == END).sum() == 1
    assert row[-1] == END
    assert len(row) <= 77
    assert row.max() == END


@pytest.mark.parametrize("condition", SNEAKY + NASTY)
@pytest.mark.parametrize("prompt", [PROMPT, STAR], ids=["dollar", "star"])
def test_a_prompt_has_one_placeholder_with_any_condition(prompt, condition):
    assert_one_placeholder(prompt, condition)


ENTITIES = st.sampled_from(
    ["$", "&", "amp;", "dollar;", "#36;", "ast;", "*", "＄", "﹩", "<", "end_of_text", ">", " ", "a"]
)


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.text(), st.lists(ENTITIES, max_size=20).map("".join)))
@example("&amp;amp;amp;amp;amp;dollar;")
def test_a_prompt_has_one_placeholder_with_any_text(condition):
    assert_one_placeholder(PROMPT, condition)
    assert_one_placeholder(STAR, condition)


@settings(deadline=None, max_examples=100)
@given(st.text())
def test_any_caption_is_open_clips(caption):
    ids = [token for token in REFERENCE.encode(clean_caption(caption)) if token < START]
    assert encode_text(clean_caption(caption)) == ids


def test_only_the_placeholder_is_removed_from_a_condition():
    words = REFERENCE.encode("a photo of $ that costs 5 euros")
    for condition in ("costs $5 euros", "costs $ 5 euros", "costs &dollar;5 euros", "costs ＄5 euros"):
        assert PROMPT.encode(condition=condition) == words
    assert STAR.encode(condition="costs $ 5*") == REFERENCE.encode("a photo of * , costs $ 5")


def test_prompts_have_two_conditions_or_none():
    prompt = Prompt("a photo of $ that {first} and {second}")
    found = prompt.encode(first="is $ red", second="has <end_of_text> dots")
    assert found == REFERENCE.encode("a photo of $ that is red and has dots")
    assert Prompt("a photo of $").encode() == REFERENCE.encode("a photo of $")
    assert Prompt("a photo of $ $ $").encode().count(259) == 3


def test_a_subject_replaces_the_placeholder():
    subject = encode_text("two dogs on a mat")
    found = PROMPT.encode(subject=subject, condition="is $ red")
    assert found == REFERENCE.encode("a photo of two dogs on a mat that is red")
    assert STAR.encode(subject, condition="red") == REFERENCE.encode("a photo of two dogs on a mat , red")
    assert PROMPT.encode(subject=[], condition="is red") == REFERENCE.encode("a photo of that is red")


def test_a_missing_condition_is_reported():
    with pytest.raises(RTDError, match="needs the condition 'second'"):
        Prompt("$ {first} {second}").encode(first="is red")


@pytest.mark.parametrize(
    "template", ["a photo of that {condition}", "a photo of $, {condition}", "$ and $, {condition}", "$$"]
)
def test_a_template_needs_its_placeholder_as_a_separate_word(template):
    with pytest.raises(RTDError, match=r"needs its placeholder '\$' as a separate word"):
        Prompt(template)


@pytest.mark.parametrize("placeholder", ["[$]", "<|replace|>"])
def test_a_placeholder_of_several_tokens_is_refused(placeholder):
    with pytest.raises(
        RTDError, match=r"the placeholder '.*' is not one token of CLIP's vocabulary: .* placeholder_id"
    ):
        Prompt(f"a photo of {placeholder}", placeholder)


def test_a_placeholder_may_have_another_id():
    """As in a host whose tokenizer has one token more or another; a condition cannot contain it."""
    prompt = Prompt("a photo of <|replace|> , {condition}", "<|replace|>", placeholder_id=49405)
    assert prompt.encode(condition="is red") == [320, 1125, 539, 49405, 267, 533, 736]
    assert prompt.encode([1929], condition="is red") == [320, 1125, 539, 1929, 267, 533, 736]
    assert encode_text("jekyll") == [49405]
    assert prompt.encode(condition="mr jekyll <|replace|> red") == prompt.encode(condition="mr red")


@pytest.mark.parametrize("placeholder_id", [49406, 49407, 49408, 0, -1])
def test_an_id_that_cannot_be_a_placeholder_is_refused(placeholder_id):
    with pytest.raises(RTDError, match=f"its placeholder_id {placeholder_id} is not between 1 and 49405"):
        Prompt("a photo of [$]", "[$]", placeholder_id=placeholder_id)


@pytest.mark.parametrize("sign", [*"!#$%&()*+,-./:;<=>?@[]^_`|~0aé", "sks", "dog"])
def test_ids_of_placeholders_are_clips(sign):
    ids = SimpleTokenizer().encode(sign)
    if len(ids) == 1:
        assert Prompt(f"a photo of {sign}", sign).placeholder_id == ids[0]
    else:
        with pytest.raises(RTDError, match="not one token"):
            Prompt(f"a photo of {sign}", sign)
