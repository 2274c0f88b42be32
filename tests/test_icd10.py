"""ICD-10 codes: their form, their titles, and the categories of procedures."""

import pytest

from data_prep.code_systems import icd10


@pytest.mark.parametrize(
    ("kind", "written", "code"),
    [
        ("dx", "I10", "I10"),
        ("dx", " i5023 ", "I50.23"),
        ("dx", "I50.23", "I50.23"),
        ("dx", "C7A.1", "C7A.1"),
        ("dx", "T814XXA", "T81.4XXA"),
        ("dx", "S72001A", "S72.001A"),
        ("dx", "I1", None),
        ("dx", "4280", None),
        ("dx", "I50..2", None),
        ("dx", "I50.23456", None),
        ("dx", "I50.", None),
        ("pr", "02100Z9", "02100Z9"),
        ("pr", "0dtj4zz ", "0DTJ4ZZ"),
        ("pr", "0210", None),
        ("pr", "02100I9", None),
        ("pr", "02100O9", None),
    ],
)
def test_form(kind, written, code):
    assert icd10.dotted(kind, written) == code


def test_every_procedure_of_the_package_has_a_system_and_a_title():
    codes = icd10.procedure_titles()
    assert len(codes) == 78_603
    assert {code[:2] for code in codes} <= set(icd10.procedure_systems())
    assert all(icd10.dotted("pr", code) == code for code in codes)
    assert all(codes.values())
    assert icd10.title("pr", "0DTJ4ZZ") == (
        "Resection of Appendix, Percutaneous Endoscopic Approach"
    )
    assert icd10.title("pr", "0000000") == ""


def test_systems_are_told_apart():
    systems = icd10.procedure_systems()
    assert len(set(systems.values())) == len(systems)
    assert list(systems) == sorted(systems)
    assert systems["0D"] == "Medical and surgical: gastrointestinal system"


def test_a_category_is_called_after_its_most_used_member():
    found = icd10.categories({("dx", "I10"): 1, ("dx", "R05"): 2, ("pr", "0DTJ4ZZ"): 1})
    assert found["dx", "I10"].code == "CIR007"
    assert found["dx", "I10"].title == "Circulatory system: Essential (primary) hypertension"
    assert found["pr", "0DTJ4ZZ"].code == "PCS:0D"
    uses = {("dx", "I50.21"): 1, ("dx", "I50.23"): 3}
    both = icd10.categories(uses)
    assert both["dx", "I50.21"] == both["dx", "I50.23"]
    assert both["dx", "I50.21"].title.endswith(
        "Acute on chronic systolic (congestive) heart failure"
    )
    assert ("dx", "Z99.Z") not in icd10.categories({("dx", "Z99.Z"): 1})
