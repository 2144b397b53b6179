"""Propose recipes for the user's files, the recommended one first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from chiasm.core.errors import InputError
from chiasm.core.types import Example
from chiasm.data.config import DataConfig
from chiasm.data.opening import open_dataset
from chiasm.recipes.table import OWN_DATA
from chiasm.tasks import build_tasks


@dataclass(frozen=True, slots=True)
class Proposal:
    """A recipe that fits the files.

    Attributes:
        recipe: its name.
        does: one-line summary of the recipe.
        needs: annotations that it trains on: "captions", "questions" or "labels".
        examples: number of training examples with these annotations.
    """

    recipe: str
    does: str
    needs: str
    examples: int


@dataclass(frozen=True, slots=True)
class Proposed:
    """The training split, and one or more proposals, best first."""

    path: str
    examples: int
    proposals: Sequence[Proposal]

    def text(self) -> str:
        """Message with the contents of the training split, and a command for each recipe."""
        kinds = {proposal.needs: proposal.examples for proposal in self.proposals}
        found = ", ".join(f"{count:,} with {needs}" for needs, count in kinds.items())
        width = max(len(self.command(proposal.recipe)) for proposal in self.proposals)
        lines = [f"{self.path}: {self.examples:,} images to train on, {found}. These recipes fit:"]
        lines += [f"  {self.command(proposal.recipe):{width}}  {proposal.does}" for proposal in self.proposals]
        return "\n".join(lines)

    def command(self, recipe: str) -> str:
        """The command of a recipe."""
        return f"chiasm train {recipe} --data {self.path}"


def propose(data: DataConfig) -> Proposed:
    """Propose the recipes of `OWN_DATA` that the training split has annotations for.

    They are sorted by the number of annotated images, then in the order of `OWN_DATA`.

    Raises:
        InputError: the files cannot be read, or fit no recipe.
    """
    # Without prompts, because captions made of class names would count as captions.
    dataset = open_dataset(replace(data, label_prompts=()), "train", 0)
    dataset.ledger.check(data.max_rejected)
    examples = [dataset.example(number) for number in range(len(dataset))]
    found = [_proposal(name, examples) for name in OWN_DATA]
    fed = sorted((proposal for proposal in found if proposal.examples), key=lambda proposal: -proposal.examples)
    if not fed:
        raise InputError(
            f"{data.path} has {len(examples)} images to train on, and no annotations: {dataset.ledger.summary()}",
            "captions, questions with answers, or labels in the training split",
            "add captions or questions, or sort the images into a folder for each class",
        )
    return Proposed(data.path, len(examples), fed)


def _proposal(name: str, examples: Sequence[Example]) -> Proposal:
    recipe = OWN_DATA[name]
    made = recipe()
    task = next(iter(build_tasks(made.tasks, made.model).values()))  # the first is what the recipe is for
    does = (recipe.__doc__ or "").strip().splitlines()[0]
    # A language model can be asked for captions and answers too; it is proposed where nothing smaller learns the rest.
    fed = (lambda example: bool(example.turns)) if task.needs == "conversations" else task.is_fed
    return Proposal(name, does, task.needs, sum(map(fed, examples)))
