"""Dialogues to read aloud as pages: Markdown for the screen, HTML for the printer.

What to listen for comes after all dialogues, on pages of its own: who has read it no longer
speaks as they would, so speakers get the dialogues alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files

from speakeasy.dialect.audio import Dialogue

MARKDOWN = "audio_recording_prompts.md"
HTML = "audio_recording_prompts.html"
TEMPLATE = "audio_recording_prompts.html.j2"

TITLE = "Audio recording prompts"
HOW_TO = (
    "Record native speakers of the region, a dialogue of two speakers at a time. Give them the "
    "dialogues alone: what to listen for is for you.",
    "Ask for consent in writing, and say what the recordings are for. Note for each speaker: age "
    "group, where they grew up, the languages of their home.",
    "Take a quiet room with curtains or a carpet, a microphone or telephone 30 cm "
    "from both mouths, and WAV or FLAC at 44.1 kHz or more; no noise reduction.",
    "Let them read a dialogue silently first. Then they say its number, wait two seconds, and "
    "read it aloud twice, at their own pace.",
    "They speak as they do at home. Nobody acts an accent. A phrase that they would never say "
    "they say in their own words; write down which.",
    "Name each file after the dialogue and its speakers, such as audio-01_maria_joan.wav.",
    "Keep these texts, and what is recorded of them, out of every training set: they are for "
    "judging.",
)
LISTENING = "What to listen for"
FOR_LISTENERS = "For those who judge the recordings; do not show it to the speakers."


def markdown_page(dialogues: Sequence[Dialogue]) -> str:
    """The page as Markdown (CommonMark)."""
    parts = [f"# {TITLE}", "## How to record"]
    parts.append("\n".join(f"{number}. {_escaped(step)}" for number, step in enumerate(HOW_TO, 1)))
    for number, dialogue in enumerate(dialogues, 1):
        parts.append(f"## {number}. {_escaped(dialogue.title)}")
        parts.append(f"*{_escaped(dialogue.scenario)}* ({_escaped(dialogue.id)})")
        parts += [f"**{_escaped(line.speaker)}:** {_escaped(line.text)}" for line in dialogue.lines]
    noted = [(number, each) for number, each in enumerate(dialogues, 1) if each.note]
    if noted:
        parts += ["---", f"## {LISTENING}", FOR_LISTENERS]
        parts += [
            f"**{number}. {_escaped(each.title)}.** {_escaped(each.note)}" for number, each in noted
        ]
    return "\n\n".join(parts) + "\n"


def html_page(dialogues: Sequence[Dialogue]) -> str:
    """The page as one HTML file that needs no other, laid out for A4."""
    from jinja2 import Environment, StrictUndefined

    source = files("speakeasy.dialect").joinpath("data", TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source, globals={"title": TITLE}).render(
        steps=HOW_TO, dialogues=dialogues, listening=LISTENING, for_listeners=FOR_LISTENERS
    )


def _escaped(text: str) -> str:
    """Text in which Markdown finds nothing of its own."""
    return re.sub(r"([\\`*_\[\]<>&])", r"\\\1", text)
