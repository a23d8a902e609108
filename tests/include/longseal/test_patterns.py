import pytest

from longseal.patterns import matches, matches_any


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("corp/app", "corp/app"),
        ("corp/*", "corp/app"),
        ("corp/*", "corp/"),
        ("corp/*-svc", "corp/a-svc"),
        ("*/*", "corp/app"),
        ("**", ""),
        ("**", "corp/team/app"),
        ("corp/**", "corp/team/app"),
        ("corp/**/app", "corp/a/b/app"),
        ("***", "corp/app"),
        ("https://stella.example/*/v1", "https://stella.example/sbom-delta/v1"),
        ("a.b+c[d]{2}(e)|f\\", "a.b+c[d]{2}(e)|f\\"),
        ("a**", "a\nb"),
    ],
)
def test_a_pattern_describes(pattern: str, text: str) -> None:
    assert matches(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("corp/app", "corp/app2"),
        ("corp/app", "acorp/app"),
        ("corp/app", "corp/app\n"),
        ("corp/*", "corp/team/app"),
        ("*", "corp/app"),
        ("corp/**/app", "corp/app"),
        ("corp.app", "corp-app"),
        ("corp/?pp", "corp/app"),
        ("corp/[a]pp", "corp/app"),
        ("CORP/*", "corp/app"),
        ("", "a"),
        ("https://stella.example/*", "https://stella.example.evil/v1"),
        ("https://stella.example/*", "https://stella-example/v1"),
    ],
)
def test_a_pattern_does_not_describe(pattern: str, text: str) -> None:
    assert not matches(pattern, text)


def test_one_of_several_is_enough_and_none_is_none() -> None:
    assert matches_any(("a", "b*"), "bc")
    assert not matches_any(("a", "b*"), "c")
    assert not matches_any((), "c")
