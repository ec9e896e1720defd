from puregen_transforms import attacks
from tests.test_imports import HEAVY, loaded_modules


def test_public_names():
    assert set(dir(attacks)) == {"ATTACKS", "Attack", "Attacker", "Poison", "craft"}
    assert all(hasattr(attacks, name) for name in attacks.__all__)


def test_importing_the_attacks_loads_nothing_heavy():
    assert not loaded_modules("import puregen_transforms.attacks") & {*HEAVY, "datasets", "numpy"}
