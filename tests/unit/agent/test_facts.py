"""Labels and properties as an operator writes them (AG-28…30)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kici.agent.facts import ReservedLabels, all_labels, host_facts, parse_properties


def test_labels_are_lower_case_unique_sorted_and_hold_the_automatic_ones() -> None:
    facts = host_facts()
    labels = all_labels(" GPU , big,gpu,, ", facts)
    assert labels == sorted(set(labels))
    assert {"big", "gpu", "kici:os:linux", f"kici:host:{facts.hostname.lower()}"} <= set(labels)
    assert all(label == label.lower() for label in labels)


@pytest.mark.parametrize("configured", ["kici:os:linux", "a,KICI:Role:builder", " kici: "])
def test_reserved_labels_are_refused_by_name(configured: str) -> None:
    with pytest.raises(ReservedLabels, match="kici:"):
        all_labels(configured, host_facts())


def test_properties_have_types() -> None:
    assert parse_properties("rack=7, load=0.5,fast=TRUE,slow=false,zone=eu=1,empty=,=x,") == {
        "rack": 7,
        "load": 0.5,
        "fast": True,
        "slow": False,
        "zone": "eu=1",
        "empty": "",
    }


@given(st.text())
def test_any_text_is_some_properties(text: str) -> None:
    assert all(name for name in parse_properties(text))
