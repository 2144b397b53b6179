"""How far POPE and CHAIR of own annotations can be trusted: people and chance measured as if they were models.

`python benchmarks/own_objects.py FOLDER` (seconds): each image's first caption is taken as a model's, the
others are the truth. For CHAIR it is scored as it is, and shifted to the next image. For POPE two answerers that see no
image: one that always says yes, and one that says yes to the objects that are in more than half of their questions of a
setting, counted over the other images. Writes a dated JSON file into benchmarks/results.
"""

import argparse
import datetime
from collections import Counter
from pathlib import Path

from chiasm.core.device import environment
from chiasm.core.files import read_json, write_json
from chiasm.core.types import Caption, Example, Score
from chiasm.data.objects import FoundObjects, found_objects
from chiasm.data.sources import read_source
from chiasm.metrics.chair import chair_scores
from chiasm.metrics.pope import PopeItem, pope_questions, pope_scores

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    """Measure each language, print a table, store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data with several captions an image, such as flickr8k")
    parser.add_argument("--languages", default="en,zh")
    parser.add_argument("--split", default="val")
    arguments = parser.parse_args()
    measured = read_source(arguments.data, arguments.split, languages=()).examples
    learned = read_source(arguments.data, "train", languages=()).examples
    scores: dict[str, dict[str, dict[str, Score]]] = {}
    for language in arguments.languages.split(","):
        further = [caption.text for example in learned for caption in _spoken(example, language)]
        found = found_objects(measured, language, further)
        items = pope_questions(found.by_image, groups=found.vocabulary.groups)
        scores[language] = {
            "pope_always_yes": _pope([True] * len(items), items),
            "pope_by_frequency": _pope(by_frequency(items), items),
            **_people(measured, language, further),
        }
        print(f"{language}: {len(set(found.vocabulary.forms.values()))} objects, {_mean_objects(found):.1f} an image")
        for name, values in scores[language].items():
            for metric, score in values.items():
                print(f"  {name:24} {metric:28} {score.value:.3f} [{score.low:.3f}, {score.high:.3f}] n {score.n}")
    path = RESULTS / f"{datetime.datetime.now(datetime.UTC).date()}-own_objects.json"
    stored = read_json(path, "results") if path.is_file() else {}
    stored |= {
        language: {name: {metric: score.as_dict() for metric, score in values.items()} for name, values in each.items()}
        for language, each in scores.items()
    }
    write_json(path, stored | {"environment": environment()})
    print(path)


def by_frequency(items: list[PopeItem]) -> list[bool]:
    """Yes to an object that most questions of the setting about other images rightly answer yes."""
    asked = Counter((item.setting, item.object) for item in items)
    right = Counter((item.setting, item.object) for item in items if item.is_yes)
    said = []
    for item in items:  # An image asks for an object once a setting, so that its own question is all it takes out.
        key = item.setting, item.object
        said.append(2 * (right[key] - item.is_yes) > asked[key] - 1)
    return said


def _people(examples: list[Example], language: str, further: list[str]) -> dict[str, dict[str, Score]]:
    """CHAIR of people's first captions against the objects of the others: of the same image, and of the next."""
    rest = [Example(one.id, one.inputs, tuple(_spoken(one, language)[1:])) for one in examples]
    found = found_objects(rest, language, further)
    captions = [_spoken(one, language)[0].text for one in examples]
    places = range(len(captions))
    return {
        "chair_people": chair_scores(captions, found.by_image, found.vocabulary, places),
        "chair_people_shuffled": chair_scores(captions[1:] + captions[:1], found.by_image, found.vocabulary, places),
    }


def _spoken(example: Example, language: str) -> list[Caption]:
    return [caption for caption in example.captions if caption.language == language]


def _pope(said: list[bool], items: list[PopeItem]) -> dict[str, Score]:
    truth, setting, image = zip(*((item.is_yes, item.setting, item.image) for item in items), strict=True)
    return {
        name: score
        for name, score in pope_scores(said, truth, setting, image).items()
        if "accuracy" in name or "f1" in name
    }


def _mean_objects(found: FoundObjects) -> float:
    return sum(map(len, found.by_image)) / len(found.by_image)


if __name__ == "__main__":
    main()
