"""What every source of examples looks like to the rest: indexable, and a pure function of (index, epoch)."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol

from chiasm.core.errors import InputError, nearest
from chiasm.core.random import counter_rng, counter_seed
from chiasm.core.types import Caption, Example, ImageRef, Question, Source
from chiasm.data.config import DataConfig
from chiasm.data.files import open_files, open_other_files
from chiasm.data.generated import scenes, sort_of_clevr
from chiasm.data.generated.boxes import questions as boxes_questions
from chiasm.data.generated.boxes import render as boxes
from chiasm.data.generated.boxes.questions import NumberQuestion, number_questions
from chiasm.data.generated.boxes.statements import Statement, statements
from chiasm.data.generated.scene_language import LANGUAGES, SceneTruth, caption, questions
from chiasm.data.image_refs import image_ref_from_array
from chiasm.data.ledger import Ledger
from chiasm.data.mixture import MixedDataset

KINDS_LOOKED_FOR = 200
"""Examples of a generator among which every kind of question is expected to occur."""


class Dataset(Protocol):
    """Examples of one split."""

    split: str

    @property
    def ledger(self) -> Ledger:
        """What was not used, and why."""
        ...

    def __len__(self) -> int:
        """Number of usable examples."""
        ...

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return an example; a generator may ask new questions in each epoch, files ignore it."""
        ...


class ListDataset:
    """Examples that were read from files, or were encoded by a frozen tower."""

    def __init__(self, split: str, examples: Sequence[Example], ledger: Ledger) -> None:
        self.split, self.examples, self.ledger = split, examples, ledger

    def __len__(self) -> int:
        return len(self.examples)

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return example `index`, the same in every epoch."""
        return self.examples[index]


class ChosenKinds:
    """A generator of which only some kinds of question are asked, as for a first stage of training."""

    def __init__(self, dataset: Dataset, kinds: tuple[str, ...]) -> None:
        self.dataset, self.kinds, self.split = dataset, kinds, dataset.split

    @property
    def ledger(self) -> Ledger:
        """Of the whole set: an example without a question left is still used."""
        return self.dataset.ledger

    def __len__(self) -> int:
        return len(self.dataset)

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return example `index` with the questions of these kinds alone."""
        return _asked(self.dataset.example(index, epoch), self.kinds)


def _asked(example: Example, kinds: tuple[str, ...]) -> Example:
    return replace(example, questions=tuple(one for one in example.questions if one.kind in kinds))


class SceneDataset:
    """Scenes, drawn when they are asked for; held-out splits have no two pictures of one description."""

    def __init__(self, split: str, config: DataConfig, seed: int) -> None:
        self.split, self.config, self.seed, self.ledger = split, config, seed, Ledger()
        self.length = config.train_pictures if split == "train" else config.eval_pictures
        self.fixed = None if split == "train" else scenes.distinct_scenes(split, self.length, seed)
        self.ledger.offer(self.length)
        self.ledger.use(self.length)

    def __len__(self) -> int:
        return self.length

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return scene `index`, with a caption in each language and questions that are new in each epoch."""
        scene = scenes.scene_at(self.split, index, self.seed) if self.fixed is None else self.fixed[index]
        rng = random.Random(counter_seed("scene questions", self.seed, self.split, index, epoch))
        languages = tuple(dict.fromkeys(self.config.languages))
        return Example(
            id=f"scene-{self.split}-{index}",
            inputs={"image": image_ref_from_array(scenes.render(scene))},
            captions=tuple(caption(scene, language) for language in languages),
            questions=tuple(questions(scene, self.config.questions_per_picture, rng, self.config.languages)),
            source=Source("scenes", index),
            truth=SceneTruth(scene),
        )


class SortOfClevrDataset:
    """Sort-of-CLEVR's pictures with their twenty questions each; `data.symmetries` varies the training pictures."""

    def __init__(self, split: str, config: DataConfig, seed: int) -> None:
        self.split, self.seed, self.ledger = split, seed, Ledger()
        self.language = config.languages[0]
        self.varies = config.symmetries and split == "train"
        self.length = (config.train_pictures if split == "train" else 0) or sort_of_clevr.PICTURES[split]
        self.ledger.offer(self.length)
        self.ledger.use(self.length)
        self._made: dict[int, Example] = {}

    def __len__(self) -> int:
        return self.length

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return picture `index`: the same in every epoch, and then kept, unless `data.symmetries` varies it."""
        if self.varies and epoch > 0:
            rng = random.Random(counter_seed("sort_of_clevr symmetry", self.seed, index, epoch))
            return self._make(sort_of_clevr.transformed(self._picture(index), rng), index)
        if index not in self._made:
            self._made[index] = self._make(self._picture(index), index)
        return self._made[index]

    def _picture(self, index: int) -> sort_of_clevr.Picture:
        return sort_of_clevr.picture_at(self.split, index, self.seed)

    def _make(self, picture: sort_of_clevr.Picture, index: int) -> Example:
        return Example(
            id=f"sort-of-clevr-{self.split}-{index}",
            inputs={"image": image_ref_from_array(sort_of_clevr.render(picture))},
            questions=tuple(sort_of_clevr.questions(picture, self.split, index, self.seed, self.language)),
            source=Source("sort_of_clevr", index),
        )


class BoxesTruth(NamedTuple):
    """The objects of a picture of boxes, and what is asked with its meaning, in the order of the questions."""

    picture: boxes.BoxesPicture
    statements: tuple[Statement, ...]
    numbers: tuple[NumberQuestion, ...]


class BoxesDataset:
    """Boxes in the manner of NLVR with statements to judge, the answers being "true" and "false", and numbers to tell.

    Examples 2 k and 2 k + 1 are a pair: in every epoch both have the same statements, each true of exactly one. Half of
    a picture's questions, rounded down, ask for a number instead. The caption names all items.
    """

    def __init__(self, split: str, config: DataConfig, seed: int) -> None:
        self.split, self.seed, self.ledger = split, seed, Ledger()
        self.count = config.questions_per_picture
        self.length = config.train_pictures if split == "train" else config.eval_pictures
        self.ledger.offer(self.length)
        self.ledger.use(self.length)

    def __len__(self) -> int:
        return self.length

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return picture `index`, with statements that are new in each epoch."""
        number, side = divmod(index, 2)
        pair = boxes.pair_at(self.split, number, self.seed)
        rng = random.Random(counter_seed("box statements", self.seed, self.split, number, epoch))
        judged = statements(pair, self.count - self.count // 2, rng)
        counted = number_questions(pair, self.count // 2, rng)
        return Example(
            id=f"boxes-{self.split}-{index}",
            inputs={"image": ImageRef(partial(boxes.render, pair[side]), partial(_drawn_key, pair[side]))},
            captions=(Caption(boxes.inventory(pair[side]), "en"),),
            questions=(
                *(Question(one.text, ("true" if one.truth[side] else "false",), one.kind, "en") for one in judged),
                *(Question(one.text, (str(one.counts[side]),), boxes_questions.KIND, "en") for one in counted),
            ),
            source=Source("boxes", index),
            truth=BoxesTruth(pair[side], tuple(judged), tuple(counted)),
        )


def _drawn_key(picture: boxes.BoxesPicture) -> str:
    return image_ref_from_array(boxes.render(picture)).content_key()


def open_dataset(config: DataConfig, split: str, seed: int) -> Dataset:
    """Open one split of what the config names: a generator, or files whose layout is recognised.

    "train" is `config.train_split` of files, mixed with the sets of `config.others`; every other split is of the main
    set alone.
    """
    main = _of_kinds(_open_main(config, split, seed), config.question_kinds)
    if split != "train" or not config.others:
        return main
    parts: dict[str, Dataset] = {"data": main}
    taken = {example.id for example in main.examples} if isinstance(main, ListDataset) else set()
    for name, other in config.others.items():
        if name in parts:
            raise InputError(f"data.others has a set called {name!r}", "another name", "rename it")
        parts[name] = ListDataset(split, *open_other_files(name, other, config.label_prompts, taken))
    weights = [1.0, *(other.weight for other in config.others.values())]
    return MixedDataset(parts, weights, config.mixture_temperature, seed)


def _open_main(config: DataConfig, split: str, seed: int) -> Dataset:
    if config.source != "files" and config.fold:
        raise InputError(
            f"data.fold is {config.fold!r} with data.source {config.source!r}",
            "files; a generator makes test pictures of its own",
            "drop data.fold",
        )
    spoken = ("en",) if config.source == "boxes" else LANGUAGES
    unknown = [language for language in config.languages if language not in spoken]
    if config.source != "files" and unknown:
        raise InputError(
            f"data.languages has {unknown[0]!r}, which the generator {config.source!r} does not speak",
            "languages of " + ", ".join(spoken),
            "--set data.languages=en",
        )
    if config.source == "boxes":
        return BoxesDataset(_known(split, boxes.SPLITS), config, seed)
    if config.source == "scenes":
        return SceneDataset(_known(split, scenes.SPLITS), config, seed)
    if config.source == "sort_of_clevr":
        return SortOfClevrDataset(_known(split, tuple(sort_of_clevr.PICTURES)), config, seed)
    return ListDataset(split, *open_files(config, split))


def _of_kinds(dataset: Dataset, kinds: tuple[str, ...]) -> Dataset:
    """Leave out questions of other kinds; refuse kinds that none of the first examples has."""
    if not kinds:
        return dataset
    is_list = isinstance(dataset, ListDataset)
    count = len(dataset) if is_list else min(len(dataset), KINDS_LOOKED_FOR)
    looked_at = [dataset.example(number) for number in range(count)]
    found = {question.kind for example in looked_at for question in example.questions}
    missing = [kind for kind in kinds if kind not in found]
    if missing:
        raise InputError(
            f"data.question_kinds has {missing[0]!r}{nearest(missing[0], found)}",
            "kinds of this data's questions: " + ", ".join(sorted(found)),
            "choose among them; () takes all",
        )
    if is_list:
        return ListDataset(dataset.split, [_asked(one, kinds) for one in looked_at], dataset.ledger)
    return ChosenKinds(dataset, kinds)


def _known(split: str, splits: Sequence[str]) -> str:
    if split not in splits:
        raise InputError(
            f"unknown split {split!r}{nearest(split, splits)}", "one of " + ", ".join(splits), "choose one"
        )
    return split


def order(length: int, seed: int, epoch: int) -> Sequence[int]:
    """Return the shuffled order of an epoch: a permutation that depends on (length, seed, epoch) alone."""
    return counter_rng("order", seed, epoch).permutation(length).tolist()


def choose_captions(example: Example, count: int, seed: int, epoch: int) -> list[Caption]:
    """Draw up to `count` different captions of an example for an epoch, independent of its place in the batch."""
    if len(example.captions) <= count:
        return list(example.captions)
    chosen = counter_rng("caption", seed, epoch, example.id).permutation(len(example.captions))[:count]
    return [example.captions[number] for number in chosen]


def first_examples(dataset: Dataset, generated: int) -> Iterator[Example]:
    """All examples of files, the first `generated` of a generator; of a mixture, those of each set."""
    if isinstance(dataset, MixedDataset):
        for part in dataset.parts.values():
            yield from first_examples(part, generated)
        return
    count = len(dataset) if isinstance(dataset, ListDataset) else min(len(dataset), generated)
    yield from (dataset.example(number) for number in range(count))


def texts_of(examples: Iterable[Example]) -> Iterable[str]:
    """Every caption, question and answer, for learning a vocabulary."""
    for example in examples:
        yield from (caption.text for caption in example.captions)
        yield from (question.text for question in example.questions)
        yield from (answer for question in example.questions for answer in question.answers)
