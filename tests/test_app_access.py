"""The pages can be read by everybody: contrast from the theme's own colours, and no signal that colour alone gives."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tailbudget.app import dashboard
from tailbudget.app.pages.parts import alerts, cards, charts, diagnosed, leads

from .test_app_charts import NAMES, _contrast, _values

SETTINGS = dashboard.settings()
THEMES = ("dark", "light")
#: Streamlit writes captions and axes in the text's colour at 60 %.
CAPTION = 0.6
#: WCAG 1.4.3 for text, 1.4.11 for what is no text.
TEXT, MARK = 4.5, 3.0
#: Fills whose edge or end is drawn apart: rooms of budgets, cells of heatmaps.
SURFACES = {"#1c2c47", "#1f4468", "#247a8a", "#4fae84", "#b9bf5b", "#2c3140", "#0f1117", "#f2a83b"}


def _theme(theme: str, name: str) -> str:
    return str(SETTINGS[f"theme.{theme}.{name}"])


def _blend(over: str, under: str, share: float) -> str:
    parts = [
        round(share * int(over[place : place + 2], 16) + (1 - share) * int(under[place : place + 2], 16))
        for place in (1, 3, 5)
    ]
    return "#" + "".join(f"{part:02x}" for part in parts)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("surface", ["backgroundColor", "secondaryBackgroundColor"])
def test_text_captions_and_links_stand_out_in_each_theme(theme: str, surface: str) -> None:
    background = _theme(theme, surface)
    text = _theme(theme, "textColor")
    shown = {"text": text, "caption": _blend(text, background, CAPTION), "link": _theme(theme, "primaryColor")}
    assert {name: colour for name, colour in shown.items() if _contrast(colour, background) < TEXT} == {}


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("part", [alerts, cards, diagnosed, leads], ids=lambda part: part.__name__.split(".")[-1])
def test_words_of_alerts_cards_and_links_stand_out_in_each_theme(theme: str, part: object) -> None:
    """A rule of the light theme replaces that of the dark one with the same selector."""
    rules = dict(_rules(part.STYLE))  # type: ignore[attr-defined]
    if theme == "light":
        rules |= dict(_rules(part.LIGHT))  # type: ignore[attr-defined]
    assert rules
    backgrounds = {_theme(theme, "backgroundColor"), *_tints(part.STYLE, theme)}  # type: ignore[attr-defined]
    lost = {selector for selector, colour in rules.items() for under in backgrounds if _contrast(colour, under) < TEXT}
    assert lost == set()
    assert not re.search(r"opacity", re.sub(r"[^{}]*bar {[^}]*}", "", part.STYLE))  # type: ignore[attr-defined]


def _tints(style: str, theme: str) -> Iterator[str]:
    """Yield what a surface of a rule becomes that lets the page's background through."""
    for *parts, share in re.findall(r"rgba\((\d+), (\d+), (\d+), ([\d.]+)\)", style):
        over = "#" + "".join(f"{int(part):02x}" for part in parts)
        yield _blend(over, _theme(theme, "backgroundColor"), float(share))


def _rules(style: str) -> Iterator[tuple[str, str]]:
    for selectors, body in re.findall(r"([^{}]+){([^}]*)}", style):
        if colour := re.search(r"(?:^|[ ;])color: (#[0-9a-f]{6})", body):
            for selector in selectors.replace("<style>", "").split(","):
                yield selector.strip(), colour[1]


@pytest.mark.parametrize("theme", THEMES)
def test_axes_and_legends_stand_out_in_each_theme(theme: str) -> None:
    config = charts.spec("heatmap", light=theme == "light")["config"]
    inks = {config[part][name] for part in ("axis", "legend") for name in ("labelColor", "titleColor")}
    assert [ink for ink in inks if _contrast(ink, _theme(theme, "backgroundColor")) < TEXT] == []


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", NAMES)
def test_marks_stand_out_from_the_background_of_each_theme(name: str, theme: str) -> None:
    light = theme == "light"
    surfaces = SURFACES | {charts.LIGHT.get(colour, colour) for colour in SURFACES} if light else SURFACES
    colours = set(re.findall(r"#[0-9a-f]{6}", json.dumps(charts.spec(name, light=light)))) - surfaces
    background = _theme(theme, "backgroundColor")
    assert [colour for colour in sorted(colours) if _contrast(colour, background) < MARK] == []


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_pale_where_n_is_small_still_stands_out(name: str, theme: str) -> None:
    """A fill may be pale inside its own outline; a mark that is pale as a whole is lost on a light page."""
    background = _theme(theme, "backgroundColor")
    for layer in _layers(charts.spec(name, light=theme == "light")):
        mark, encoding = layer["mark"], layer.get("encoding", {})
        if "fillOpacity" in encoding:
            assert "stroke" in mark or "stroke" in encoding
        for share in _values(encoding.get("opacity", {}), "value"):
            colours = set(re.findall(r"#[0-9a-f]{6}", json.dumps([mark, encoding])))
            assert [one for one in colours if _contrast(_blend(one, background, float(share)), background) < MARK] == []  # type: ignore[arg-type]


def _layers(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    inner = spec.get("layer", [])
    yield from [spec] if "mark" in spec else []
    for one in inner:
        yield from _layers(one)


#: What a column of words holds besides, since Python writes them: chart -> names.
WORDED = {"burn_down": {"unsure"}, "comparison": {"state"}}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_colour_says_is_said_by_a_shape_a_place_or_a_word_too(name: str) -> None:
    spec = charts.spec(name)
    said = WORDED.get(name, set()) | _said(spec)
    for colour in _values(spec, "color"):
        told = json.dumps(colour)
        fields = {str(field) for field in _values(colour, "field")} | set(re.findall(r"datum\.(\w+)", told))
        assert fields <= said, f"only the colour says {fields - said}"


def _said(spec: dict[str, object]) -> set[str]:
    """Return the fields that a place, a shape or a word shows, and those that are made of them alone."""
    said: set[str] = set()
    for channel in ("x", "y", "shape", "strokeDash", "text", "tooltip", "opacity"):
        said |= {str(field) for one in _values(spec, channel) for field in _values(one, "field")}
    made = {str(one["as"]): _names(one["calculate"]) for one in _transforms(spec) if "calculate" in one}
    made |= {str(sum_of["as"]): {str(sum_of["field"])} for sum_of in _sums(spec) if "field" in sum_of}
    for _ in made:
        said |= {name for alias in said & made.keys() for name in made[alias]}  # what a shown word is made of
        said |= {alias for alias, names in made.items() if names <= said}  # what follows from what is shown
    return said


def _names(expression: object) -> set[str]:
    return set(re.findall(r"datum\.(\w+)", str(expression)))


def _sums(spec: object) -> Iterator[dict[str, object]]:
    for one in _transforms(spec):
        yield from one.get("aggregate", [])  # type: ignore[misc]


def _transforms(spec: object) -> Iterator[dict[str, object]]:
    for steps in _values(spec, "transform"):
        yield from steps  # type: ignore[misc]
