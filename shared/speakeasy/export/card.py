"""The model card of an export: what it is, what it was made of, how it was checked, how to load it.

Metadata as the Hub defines them (https://huggingface.co/docs/hub/model-cards). Figures are the
run's own and the gate's; nothing is claimed that is not in ``export.json`` or the run.
"""

from __future__ import annotations

from typing import Any

from speakeasy.config import PretrainConfig
from speakeasy.export.material import Material, license_of
from speakeasy.training.ancestry import data_names
from speakeasy.weights.directory import read_json_object

_FIGURES = {
    "eval_bits_per_byte": "bits per byte, held out",
    "eval_loss": "loss per token, held out",
    "eval_word_perplexity": "perplexity per word, held out",
    "neutral_bits_per_byte": "bits per byte, neutral text",
}


def card_text(material: Material, record: dict[str, Any], name: str) -> str:
    """The README of an export.

    Args:
        material: what it was made of.
        record: the content of ``export.json``.
        name: what the export is loaded by: a repository on the Hub, or a directory's name. Its last
            part is the title.
    """
    parts = [
        _metadata(material, record),
        f"# {name.rpartition('/')[2]}",
        _what(material, record),
        _figures(material),
        _vocabulary(material),
        _loading(name, record),
        _checks(record),
        _licence(material),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(material: Material, record: dict[str, Any]) -> str:
    """The YAML between the dashes, written by the Hub's own library."""
    from huggingface_hub import ModelCardData

    licence = license_of(material.model)
    tags = ["speakeasy", "catalan", "spanish", "dialect"]
    tags += ["lora", "merged"] if material.adapter else []
    tags += ["gguf"] if record.get("gguf") else []
    data = ModelCardData(
        language=["es", "ca"],
        license=licence,
        license_name="see-base-model" if licence == "other" else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=material.base if _on_the_hub(material.base) else None,
        base_model_relation="finetune" if _on_the_hub(material.base) else None,
        tags=tags,
    )
    return f"---\n{data.to_yaml()}\n---"


def _on_the_hub(base: str) -> bool:
    return base.count("/") == 1


def _what(material: Material, record: dict[str, Any]) -> str:
    adapter = material.adapter
    lines = [f"Made by speakeasy {record['versions']['speakeasy']} from {material.base}"]
    if adapter is not None:
        kind = "DoRA" if adapter.dora else "LoRA"
        lines[0] += (
            f", with a {kind} adapter (rank {adapter.r}, {len(adapter.modules)} layers) merged in"
        )
    lines[0] += f". Weights are {record['dtype']}."
    if material.rows is not None:
        lines.append(f"{len(material.rows.ids):,} rows of the embedding were trained beside it.")
    if material.other_base is not None:
        lines.append(
            f"Training saw another base (fingerprint {material.other_base}) than the one that this "
            f"was merged into (fingerprint {material.fingerprint}); it was forced."
        )
    if material.quantized:
        lines.append(_forms(material))
    return "\n".join(lines)


def _forms(material: Material) -> str:
    """What training held the base in, and what the figures were measured with."""
    text = (
        f"Training held the base in {' and '.join(material.forms)}; what it learned is merged into "
        "the full-precision base."
    )
    summary = (material.run and material.run.summary) or {}
    if material.other_base is None and (measured_on := summary.get("measured_on")):
        text += f" The figures below were measured with {measured_on}."
    return text


def _figures(material: Material) -> str:
    run = material.run
    if run is None or run.summary is None:
        return ""
    summary = run.summary
    kind = "continued pre-training on raw text" if isinstance(run.config, PretrainConfig) else (
        "training on conversations"
    )  # fmt: skip
    lines = ["## Training", "", f"{kind.capitalize()}; data: {data_names(run.config)}.", ""]
    did = f"{summary['steps']:,} steps, {summary['tokens']:,} tokens, {_where(material, summary)}."
    if material.other_base is not None:
        return "\n".join(
            [*lines, f"{did} Its figures were measured on another base, so they are left out."]
        )
    lines += ["| | before | after |", "|---|---|---|"]
    for key, what in _FIGURES.items():
        before, after = summary.get(f"{key}_before"), summary.get(key)
        if before is not None and after is not None:
            lines.append(f"| {what} | {before:,.3f} | {after:,.3f} |")
    lines += [
        "",
        f"{did} Bits per byte can be compared between models with different tokenizers; loss per "
        "token cannot.",
    ]
    return "\n".join(lines)


def _where(material: Material, summary: dict[str, Any]) -> str:
    """The backend and device of a run; with the steps of each where there were several."""
    parts = material.parts
    if len(parts) < 2:
        return f"backend {summary['backend']} on {summary['device']}, {summary['precision']}"
    return "; ".join(
        f"steps {part['first_step']:,} to {part['last_step']:,} by backend {part['backend']} on "
        f"{part['device']}, {part['precision']}, "
        f"base in {part['quantization'] or part['precision']}"
        for part in parts
    )


def _vocabulary(material: Material) -> str:
    file = material.model.path / "expansion.json"
    if not file.is_file():
        return ""
    record = read_json_object(file)
    added = record.get("added", [])
    some = ", ".join(dict.fromkeys(entry.get("form", "").strip() for entry in added[:40]))
    return (
        f"## Vocabulary\n\n{len(added):,} entries were added to the base's "
        f"{record.get('vocabulary_before', 0):,} (mode {record.get('mode')}), among them: {some}. "
        "`expansion.json` says which, and what was compared to see that no other word suffers."
    )


def _loading(name: str, record: dict[str, Any]) -> str:
    text = f"""## Use

With transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
prompt = tokenizer.apply_chat_template(
    [{{"role": "user", "content": "Bon dia! ¿Qué tal?"}}],
    add_generation_prompt=True, return_dict=True, return_tensors="pt",
)
answer = model.generate(**prompt, max_new_tokens=200)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))
```

With mlx-lm:

```bash
mlx_lm.generate --model {name} --prompt "Bon dia! ¿Qué tal?"
```"""
    if quantized := record.get("mlx_4bit"):
        text += f"\n\nA 4-bit copy for mlx-lm is in `{quantized['directory']}`."
    if gguf := record.get("gguf"):
        text += (
            "\n\nWith llama.cpp:\n\n```bash\n"
            f'llama-cli -m {gguf["file"]} -p "Bon dia! ¿Qué tal?" -cnv\n```'
        )
    return text


def _checks(record: dict[str, Any]) -> str:
    gate = record["gate"]
    lines = [
        "## How it was checked",
        "",
        "Each library loaded these files in a process of its own. Logits on "
        f"{gate['prompts']} fixed prompts, in float32, against base and adapter apart:",
        "",
        "| | largest difference | root mean square, of the logits' | largest divergence, nats |",
        "|---|---|---|---|",
    ]
    rows = {library: gate[library] for library in ("transformers", "mlx-lm") if library in gate}
    rows |= {"4-bit copy, mlx-lm": record["mlx_4bit"]} if record.get("mlx_4bit") else {}
    rows |= {f"GGUF {record['gguf']['type']}": record["gguf"]} if record.get("gguf") else {}
    for what, found in rows.items():
        if "largest" not in found:
            lines.append(f"| {what} | not checked: {found['not_checked']} | | |")
            continue
        label = f"{what} {found['version']}" if what in gate else what
        lines.append(
            f"| {label} | {found['largest']:.2g} | {found['relative']:.2g} | "
            f"{found['divergence']:.2g} |"
        )
    return "\n".join([*lines, "", "The ids of all texts are those of the base's tokenizer."])


def _licence(material: Material) -> str:
    return (
        f"## Licence\n\nThat of the base, {material.base}. Texts of the training data may be under "
        "licences of their own. Nobody has checked what the model says: it can be wrong, and "
        "offend."
    )
