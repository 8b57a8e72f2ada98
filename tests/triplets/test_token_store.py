"""A token store has the tokens of each triplet, and is written once and atomically."""

import mmap
import resource
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_triplets import read_store, tokenise_triplet

from rtd_plugin.clip.tokens import Prompt
from rtd_plugin.errors import RTDError
from rtd_plugin.triplets import arrow_triplets as tables
from rtd_plugin.triplets import token_store as module
from rtd_plugin.triplets import tokenisation as tokenising
from rtd_plugin.triplets.mixture import Mixture
from rtd_plugin.triplets.sources import ParquetSource
from rtd_plugin.triplets.token_store import open_token_store
from rtd_plugin.triplets.triplet import Triplet, TripletSet

PROMPT = Prompt("a photo of $ that {condition}")
TRIPLETS = [
    Triplet("A <PERSON> with $5", "costs $6", "a person with six"),
    Triplet("two dogs", "one dog &amp; a cat", "One DOG"),
    Triplet("one dog", "two dogs", "two dogs"),
    Triplet("“curly” ½", "🐶", "$"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def as_set(triplets, digest="digest"):
    return TripletSet(triplets, digest)


def files(store, cache):
    return {
        path.name: path.read_bytes() for path in (cache / "tokens" / store.key).iterdir() if path.name != "index.json"
    }


def plainly(triplets, prompt=PROMPT):
    """The files of a store, made by a loop."""
    numbers, rows = {}, []
    for triplet in triplets:
        rows.append([numbers.setdefault(tuple(text), len(numbers)) for text in tokenise_triplet(triplet, prompt)])
    tokens = [token for text in numbers for token in text]
    return {
        "tokens.u16": np.array(tokens, np.uint16).tobytes(),
        "starts.i64": np.cumsum([0, *map(len, numbers)], dtype=np.int64).tobytes(),
        "triplets.u32": np.array(rows, np.uint32).tobytes(),
        "vocabulary.u16": np.unique(np.array(tokens, np.uint16)).tobytes(),
    }


class Unreadable(list):
    def __iter__(self):
        raise AssertionError("the store was made already")


def test_a_store_has_each_triplets_tokens():
    store = open_token_store([as_set(TRIPLETS[:1], "one"), as_set(TRIPLETS[1:], "two")], PROMPT)
    assert len(store) == 4
    triplets = read_store(store)
    assert triplets == [tokenise_triplet(triplet, PROMPT) for triplet in TRIPLETS]
    assert 259 not in triplets[0][1]
    assert triplets[3][2] == []
    used = {token for triplet in triplets for text in triplet for token in text}
    assert store.vocabulary == sorted(used)


def test_gathering_gives_rows_in_any_order():
    store = open_token_store([as_set(TRIPLETS)], PROMPT).reorder(Mixture([1, 3], [1, 2]))
    rows = np.array([4, 0, 2, 4])
    batch = store.gather(rows)
    for column, texts in enumerate(batch[:3]):
        assert texts.values.dtype == np.uint16
        for row, text in zip(rows, np.split(texts.values, np.cumsum(texts.lengths)[:-1]), strict=True):
            assert text.tolist() == read_store(store)[row][column]
    assert batch.captions.tolist() == store.gather(np.arange(len(store))).captions[rows].tolist()
    assert batch.captions.dtype == np.int64
    assert [len(texts.lengths) for texts in store.gather(rows[:0])[:3]] == [0, 0, 0]
    with pytest.raises(IndexError):
        store.gather(np.array([5]))


def test_equal_texts_are_stored_once():
    store = open_token_store([as_set(TRIPLETS * 3)], PROMPT)
    assert store.texts == 9  # "one dog" and "One DOG" are one, as are "two dogs" and the condition of that name
    captions = store.gather(np.arange(12)).captions
    assert captions[1, 1] == captions[2, 0] == captions[5, 1]
    numbers = {
        tuple(text): number
        for (reference, _, target), pair in zip(read_store(store), captions.tolist(), strict=True)
        for text, number in zip((reference, target), pair, strict=True)
    }
    assert len(set(numbers.values())) == len(numbers)


# Possible differences of the two ways of tokenising: cleaning, cases, white space, placeholders, ids that are left out.
SPELT = st.text(st.characters(codec="utf-8"), max_size=20) | st.lists(
    st.sampled_from(
        ["dog", "DOG", "<PERSON>", "<person>", "$", "&dollar;", "*", "é", "İ", " ", "\t", "\0", "<end_of_text>"]
    )
).map("".join)


@pytest.mark.parametrize(
    "prompt", [PROMPT, Prompt("a photo of * , {condition}", "*"), Prompt("a dog , {condition}", "dog")]
)
@settings(max_examples=50, deadline=None)
@given(triplets=st.lists(st.tuples(SPELT, SPELT, SPELT).map(Triplet._make), min_size=1, max_size=9))
def test_any_triplets(triplets, prompt):
    store = open_token_store([as_set(triplets, repr(triplets))], prompt)
    assert read_store(store) == [tokenise_triplet(triplet, prompt) for triplet in triplets]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("kind", ["list", "arrow", "parquet", "dictionaries"])
def test_a_store_does_not_depend_on_threads_and_on_where_triplets_are(threads, kind, cache, tmp_path, monkeypatch):
    words = ["a", "dog", "Dog", "an <PERSON>", "$5", "&amp;", "café", "runs"]
    triplets = [Triplet(*(f"{words[n % 8]} {words[n // 3 % 8]} {n % k}" for k in (5, 7, 11))) for n in range(600)]
    monkeypatch.setattr(module, "count_processors", lambda: threads)
    monkeypatch.setattr(module, "MAX_THREADS", 5)
    monkeypatch.setattr(module, "CHUNK", 23)
    monkeypatch.setattr(tables, "MAX_ROWS_IN_MEMORY", 128)
    monkeypatch.setattr(tables, "BATCH", 32)
    if kind == "list":
        part = as_set(triplets)
    elif kind == "arrow":
        part = as_set(tables.collect(iter(triplets)))
    else:
        columns = [pa.array(column) for column in zip(*triplets, strict=True)]
        if kind == "dictionaries":
            columns = [column.dictionary_encode() for column in columns]
        pq.write_table(pa.table(columns, Triplet._fields), tmp_path / "t.parquet", row_group_size=250)
        part = ParquetSource(path=tmp_path / "t.parquet").load()
    assert files(open_token_store([part], PROMPT), cache) == plainly(triplets)


def test_half_a_surrogate_pair():
    """No file can have it, but a plugin's triplets may."""
    triplets = [Triplet("a \ud83d dog", "\ud83d\udc36", "b \udc36")]
    store = open_token_store([as_set(triplets)], PROMPT)
    assert read_store(store) == [tokenise_triplet(triplet, PROMPT) for triplet in triplets]


def test_a_broken_row_of_parquet_stops_the_store(tmp_path, cache):
    rows = [*TRIPLETS[:2], ("a", " $ ", "b")]
    pq.write_table(pa.table([pa.array(column) for column in zip(*rows, strict=True)], Triplet._fields), tmp_path / "t")
    with pytest.raises(RTDError) as raised:
        open_token_store([ParquetSource(path=tmp_path / "t").load()], PROMPT)
    assert (
        str(raised.value)
        == f"{tmp_path / 't'}, row 3: `condition` is empty; repair the file or set `skip_invalid: true`"
    )
    assert [path.suffix for path in (cache / "tokens").iterdir()] in ([], [".lock"])


def test_long_files_are_written_in_pieces(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    calls = []
    store = open_token_store([as_set(TRIPLETS * 2)], PROMPT, lambda *numbers: calls.append(numbers[:2]))
    assert calls == [(3, 8), (6, 8), (8, 8)]
    assert read_store(store) == [tokenise_triplet(triplet, PROMPT) for triplet in TRIPLETS] * 2


def test_a_store_is_made_once(cache):
    first = open_token_store([as_set(TRIPLETS)], PROMPT)
    again = open_token_store([as_set(Unreadable(TRIPLETS))], PROMPT)
    assert read_store(again) == read_store(first)
    assert again.key == first.key
    assert set(files(first, cache)) == {"tokens.u16", "starts.i64", "triplets.u32", "vocabulary.u16"}


@pytest.mark.parametrize(
    ("sets", "prompt"),
    [
        ([as_set(TRIPLETS, "another")], PROMPT),
        ([as_set(TRIPLETS[:2]), as_set(TRIPLETS[2:])], PROMPT),
        ([as_set(TRIPLETS)], Prompt("a photo of * , {condition}", placeholder="*")),
    ],
)
def test_other_triplets_and_placeholders_have_separate_stores(sets, prompt):
    assert open_token_store(sets, prompt).key != open_token_store([as_set(TRIPLETS)], PROMPT).key


def test_simultaneous_processes_write_one_store(monkeypatch):
    made = []
    write = module._write
    monkeypatch.setattr(module, "_write", lambda *arguments, **options: made.append(1) or write(*arguments, **options))
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: open_token_store([as_set(TRIPLETS * 500)], PROMPT), range(4)))
    assert sum(made) == 1
    assert len({store.key for store in stores}) == 1


def test_a_store_is_written_atomically(cache):
    class Breaking(list):
        def __iter__(self):
            yield TRIPLETS[0]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_token_store([as_set(Breaking(TRIPLETS))], PROMPT)
    assert [path.suffix for path in (cache / "tokens").iterdir()] in ([], [".lock"])
    assert len(open_token_store([as_set(TRIPLETS)], PROMPT)) == 4


def test_a_thread_that_fails(cache, monkeypatch):
    def failing(columns, prompt):
        raise MemoryError

    monkeypatch.setattr(tokenising, "tokenise_columns", failing)
    with pytest.raises(MemoryError):
        open_token_store([as_set(TRIPLETS * 100)], PROMPT)
    assert [path.suffix for path in (cache / "tokens").iterdir()] in ([], [".lock"])


def test_a_full_disk(cache):
    """Simulated by a limit on file sizes, which fails like a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(RTDError, match=r"tokens/\w+: cannot be written \(.*File too large\)"):
            open_token_store([as_set(TRIPLETS * 2000)], PROMPT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.suffix for path in (cache / "tokens").iterdir()] in ([], [".lock"])


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path / "file"))
    with pytest.raises(RTDError, match=r"file/tokens: cannot be written .*: set RTD_PLUGIN_CACHE"):
        open_token_store([as_set(TRIPLETS)], PROMPT)


def test_a_store_is_mapped_not_read():
    store = open_token_store([as_set(TRIPLETS)], PROMPT)
    for part in (store._tokens, store._starts, store._triplets):
        while isinstance(part, np.ndarray):
            part = part.base
        assert isinstance(part, mmap.mmap)


def make_groups(count):
    """Triplets of as many reference captions, each of one to three triplets."""
    return [
        Triplet(f"picture {index}", f"is {step}", f"picture {index} {step}")
        for index in range(count)
        for step in range(1 + index % 3)
    ]


def list_references(store):
    return [tuple(reference) for reference, _, _ in read_store(store)]


def test_triplets_of_a_reference_caption_are_held_out_together():
    """A share of the triplets, chosen by the seed; the rest stays in its order."""
    store = open_token_store([as_set(make_groups(150))], PROMPT)
    rest, held_out = store.hold_out(0.1, 1000, seed=5)
    assert 30 <= len(held_out) <= 32
    assert len(rest) + len(held_out) == len(store) == 300
    assert not set(list_references(rest)) & set(list_references(held_out))
    triplets = read_store(store)
    assert sorted(read_store(rest) + read_store(held_out)) == sorted(triplets)
    assert read_store(rest) == [triplet for triplet in triplets if triplet in read_store(rest)]
    again, other = store.hold_out(0.1, 1000, seed=5), store.hold_out(0.1, 1000, seed=6)
    assert [*map(read_store, again)] == [read_store(rest), read_store(held_out)]
    assert read_store(other[1]) != read_store(held_out)
    assert len({store.key, rest.key, other[0].key}) == 3
    assert 7 <= len(store.hold_out(0.1, 7, seed=5)[1]) <= 9


def test_held_out_triplets_are_in_no_position_of_a_mixture():
    """Repeated ones are held out once."""
    first, second = make_groups(30), [Triplet("dog", "is red", "red dog"), Triplet("cat", "is red", "red cat")]
    store = open_token_store([as_set(first), as_set(second)], PROMPT).reorder(Mixture([len(first), 2], [1, 1]))
    for seed in range(20):
        rest, held_out = store.hold_out(0.3, 1000, seed)
        assert not set(list_references(rest)) & set(list_references(held_out))
        assert len(held_out) == len({tuple(map(tuple, triplet)) for triplet in read_store(held_out)})
        repeated = [reference for reference in list_references(rest) if len(reference) == 1]
        assert len(repeated) in (0, len(first) // 2, len(first))
