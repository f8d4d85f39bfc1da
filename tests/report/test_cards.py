"""A model card says how the training data was chosen, once."""

from __future__ import annotations

import copy
import re

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard, constants
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from nuggets_trainer import NuggetsConfig, NuggetsDataCallback, SelectedSFTTrainer
from nuggets_trainer.report.card_fields import TAGS, with_fields
from nuggets_trainer.report.cards import SECTION, with_section
from tests.support.rows import alpaca_rows

RANDOM_ANCHORS = NuggetsConfig(top_k=5, num_anchors=4, anchor_selection="random")
LORA = LoraConfig(task_type="CAUSAL_LM", r=2)


def trained(cls, model, tokenizer, output_dir, save_strategy="steps", peft_config=LORA, **options):
    args = SFTConfig(
        *(str(output_dir),),
        max_steps=2,
        save_steps=1,
        save_strategy=save_strategy,
        use_cpu=True,
        bf16=False,
        report_to="none",
        learning_rate=1e-3,
    )
    rows = Dataset.from_list(alpaca_rows(20, seed=1))
    rows.info.download_checksums = {"hf://datasets/user/rows@abc123/data/train.parquet": {}}  # as `load_dataset` does
    return cls(
        copy.deepcopy(model),  # PEFT changes it
        args,
        train_dataset=rows.rename_columns({"instruction": "prompt", "output": "completion"}),
        processing_class=tokenizer,
        peft_config=peft_config,
        **options,
    )


def read_card(place):
    """Read a card, and check what can be checked of it without the hub."""
    card = ModelCard.load(place / "README.md")  # raises where the head cannot be read
    fields = card.data.to_dict()
    assert "licence" not in fields and {"trl", "sft", "nuggets", "data-selection"} <= set(fields["tags"])
    assert fields["datasets"] == ["user/rows"]
    assert "[user/rows](https://huggingface.co/datasets/user/rows), 5 were kept" in card.text
    for wrong in ("None", "More Information Needed", str(place), "](https://huggingface.co/)"):
        assert wrong not in str(card)
    assert card.text.count(SECTION) == 1 and "Whether to trust this golden set is not known: " in card.text
    return card


@pytest.mark.parametrize("peft_config", [LORA, None], ids=["lora", "full"])
def test_a_saved_model_has_a_card_without_any_checkpoint(peft_config, llama, tokenizer, tmp_path):
    """PEFT wrote an empty form, with the path of the base model, and a full model had no card."""
    place = tmp_path / "out"
    options = {"save_strategy": "no", "peft_config": peft_config, "nuggets_config": RANDOM_ANCHORS}
    trainer = trained(SelectedSFTTrainer, llama, tokenizer, place, **options)
    trainer.save_model(str(tmp_path / "before"))  # nothing is chosen yet
    trainer.train()
    trainer.save_model()
    card = read_card(place)
    assert "trained with Nuggets, a method introduced in [One-Shot Learning" in card.text
    assert card.text.count("@inproceedings{li2024nuggets,") == 1
    assert "2312.10302" not in str(list((tmp_path / "before").glob("*.md")))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("---\nlicense: mit\n---\n# My words\n")
    trainer.save_model(str(tmp_path / "other"))
    if peft_config is None:  # PEFT itself reads the card
        (tmp_path / "latin").mkdir()
        (tmp_path / "latin" / "README.md").write_bytes(b"caf\xe9")
        trainer.save_model(str(tmp_path / "latin"))  # the model matters more than its card
    own = (tmp_path / "other" / "README.md").read_text()
    assert "# My words" in own and "license: mit" in own and own.count(SECTION) == 1


def test_a_resumed_job_knows_the_verdict(llama, tokenizer, tmp_path):
    trained(SelectedSFTTrainer, llama, tokenizer, tmp_path, nuggets_config=RANDOM_ANCHORS).train()
    resumed = trained(SelectedSFTTrainer, llama, tokenizer, tmp_path, nuggets_config=RANDOM_ANCHORS)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert resumed.scores is None
    for place in (tmp_path, tmp_path / "checkpoint-2"):
        read_card(place)


def test_local_paths_become_names_where_the_hub_knows_them(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = tmp_path / "models--user--base" / "snapshots" / "abc"
    commit.mkdir(parents=True)
    (commit / "README.md").write_text("---\nlicense: other\nlicense_name: own\nlanguage: en\n---\nBase")
    (commit.parent.parent / "refs").mkdir()
    (commit.parent.parent / "refs" / "main").write_text("abc")
    written = (
        f"---\nbase_model: {commit}\nlicence: license\ntags:\n- base_model:adapter:{commit}\n- lora\n---\n"
        f'A fine-tuned version of [None](https://huggingface.co/None).\npipeline(model="None")\n'
    )
    for base in (str(commit), "user/base"):
        card = ModelCard(with_fields(written.replace(str(commit), base), base, [], "mine"))
        assert card.data.to_dict() == {
            "base_model": "user/base",
            "license": "other",
            "license_name": "own",
            "tags": ["lora", "base_model:adapter:user/base", *TAGS] if base != "user/base" else card.data.tags,
        }
        assert "version of [user/base](https://huggingface.co/user/base)." in card.text
        assert 'model="mine"' in card.text
    card = ModelCard(with_fields(written.replace(str(commit), "/models/own"), "/models/own", [], "mine"))
    assert card.data.to_dict() == {"tags": ["lora", *TAGS]} and "version of `own`." in card.text
    broken = "---\n: [\n---\nText"
    assert with_fields(broken, "user/base", [], "mine") == broken


def test_the_model_card_says_how_rows_were_chosen(llama, tokenizer, tmp_path):
    trainer = trained(SelectedSFTTrainer, llama, tokenizer, tmp_path, nuggets_config=RANDOM_ANCHORS)
    trainer.train()
    card = (tmp_path / "README.md").read_text()
    assert card.count(SECTION) == 1 and card.index(SECTION) < card.index("## Citations")
    assert "Of 20 rows of [user/rows](" in card and "4, chosen from the pool (random)" in card
    assert f"{trainer.golden_set.cut:.3f}" in card and str(tmp_path) not in card
    trainer.create_model_card(model_name="again")
    assert (tmp_path / "README.md").read_text().count(SECTION) == 1


def test_an_attached_callback_writes_the_section_too(llama, tokenizer, tmp_path):
    attached = trained(SFTTrainer, llama, tokenizer, tmp_path / "attached")
    NuggetsDataCallback(RANDOM_ANCHORS).attach(attached)
    attached.train()
    attached.save_model()
    cards = {}
    for name, cls in (("stock", SFTTrainer), ("ours", SelectedSFTTrainer)):
        trained(cls, llama, tokenizer, tmp_path / name).train()
        cards[name] = (tmp_path / name / "README.md").read_text().replace(name, "")
    assert "trained with SFT." in read_card(tmp_path / "attached").text
    assert re.sub("Selected", "", cards["ours"]) == cards["stock"]


def test_a_section_takes_the_place_of_an_older_one():
    new = f"{SECTION}\n\nnew \\1\n"
    assert with_section("# Card\n\n## Citations\n\nx", new) == f"# Card\n\n{new}\n## Citations\n\nx"
    assert with_section("# Card\n", new) == f"# Card\n\n{new}"
    old = f"# Card\n\n{SECTION}\n\nold\n\n## Citations\n\nx"
    assert with_section(old, new) == f"# Card\n\n{new}\n## Citations\n\nx"
