"""The tables of mutants stay true; `make mutations` runs them."""

import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

from jaxnets import optim
from tests.optim.mutations import MUTANTS, mutated

TESTS = Path(__file__).parent


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in MUTANTS}))
def test_the_text_that_is_replaced_occurs_once(file):
    for mutant in MUTANTS:
        if mutant.file == file:
            compile(mutated(mutant), file, "exec")


def test_each_mutant_is_made_once():
    counts = Counter((m.optimizer, m.mutation, m.file) for m in MUTANTS)
    assert [key for key, count in counts.items() if count > 1] == []
    assert max(Counter((m.file, m.old, m.new) for m in MUTANTS).values()) == 1


def test_the_tests_exist():
    for mutant in MUTANTS:
        file, *name = re.match(r"(\w+\.py)(?:::(\w+))?", mutant.tests).groups()
        assert (f"def {name[0]}" if name[0] else "def test_") in (TESTS / file).read_text()


def test_every_optimizer_has_its_mutants():
    """Those of a training script; the others are combinations of these."""
    optimizers = """
        sgd noisy_sgd adagrad adadelta rmsprop adam adamw amsgrad nadam nadamw adamax adamaxw
        adabelief radam adan yogi novograd lion lamb lars adafactor sm3 rprop sign_sgd signum
        fromage optimistic_gradient_descent optimistic_adam optimistic_adam_v2 polyak_sgd lbfgs
        zoom backtracking muon schedule_free prodigy sophia sam ademamix simplified_ademamix adopt
        mechanize dog dowg soap shampoo
    """
    assert set(optimizers.split()) <= {mutant.optimizer for mutant in MUTANTS}


# what its mutants must get wrong, where an optimizer has such an argument
WRONG = {
    "eps": r"\beps",
    "mu_dtype": r"\bmu_dtype|\bdtypes",
    "nu_dtype": r"\bnu|\bdtypes|\bmaximum in",
    "weight_decay": r"^decay (before|after|outside|without)",
    "weight_decay_rate": r"^decay (before|after|times)",
    "accumulator_dtype": r"\baccumulator_dtype",
}


@pytest.mark.parametrize("optimizer", sorted({m.optimizer for m in MUTANTS} & set(optim.__all__)))
def test_what_an_optimizer_takes_is_got_wrong(optimizer):
    """Of its own: that it hands an argument on is tested for each, whatever does the arithmetic."""
    mutations = [m.mutation for m in MUTANTS if m.optimizer == optimizer]
    taken = inspect.signature(getattr(optim, optimizer)).parameters.keys() & WRONG
    assert {a for a in taken if not any(re.search(WRONG[a], m) for m in mutations)} == set()
