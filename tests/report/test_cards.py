"""A model card says how the training data was chosen, once."""

from __future__ import annotations

import copy
import re

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from nuggets_trainer import NuggetsConfig, NuggetsDataCallback, SelectedSFTTrainer
from nuggets_trainer.report.cards import SECTION, with_section
from tests.support.rows import alpaca_rows


def trained(cls, model, tokenizer, output_dir, **options):
    args = SFTConfig(
        str(output_dir), max_steps=2, save_steps=1, use_cpu=True, bf16=False, report_to="none", learning_rate=1e-3
    )
    return cls(
        copy.deepcopy(model),  # PEFT changes it
        args,
        train_dataset=Dataset.from_list(alpaca_rows(20, seed=1)).rename_columns(
            {"instruction": "prompt", "output": "completion"}
        ),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=2),
        **options,
    )


def test_the_model_card_says_how_rows_were_chosen(llama, tokenizer, tmp_path):
    config = NuggetsConfig(top_k=5, num_anchors=4, anchor_selection="random")
    trainer = trained(SelectedSFTTrainer, llama, tokenizer, tmp_path, nuggets_config=config)
    trainer.train()
    card = (tmp_path / "README.md").read_text()
    assert card.count(SECTION) == 1 and card.index(SECTION) < card.index("## Citations")
    assert "Of 20 rows, 5 were kept" in card and "4, chosen from the pool (random)" in card
    assert f"{trainer.golden_set.cut:.3f}" in card and str(tmp_path) not in card[card.index(SECTION) :]
    trainer.create_model_card(model_name="again")
    assert (tmp_path / "README.md").read_text().count(SECTION) == 1


def test_an_attached_callback_writes_the_section_too(llama, tokenizer, tmp_path):
    attached = trained(SFTTrainer, llama, tokenizer, tmp_path / "attached")
    NuggetsDataCallback(NuggetsConfig(top_k=5, num_anchors=4, anchor_selection="random")).attach(attached)
    attached.train()
    cards = {}
    for name, cls in (("stock", SFTTrainer), ("ours", SelectedSFTTrainer)):
        trained(cls, llama, tokenizer, tmp_path / name).train()
        cards[name] = (tmp_path / name / "README.md").read_text().replace(name, "")
    assert SECTION in (tmp_path / "attached" / "README.md").read_text()
    assert re.sub("Selected", "", cards["ours"]) == cards["stock"]


def test_a_section_takes_the_place_of_an_older_one():
    new = f"{SECTION}\n\nnew \\1\n"
    assert with_section("# Card\n\n## Citations\n\nx", new) == f"# Card\n\n{new}\n## Citations\n\nx"
    assert with_section("# Card\n", new) == f"# Card\n\n{new}"
    old = f"# Card\n\n{SECTION}\n\nold\n\n## Citations\n\nx"
    assert with_section(old, new) == f"# Card\n\n{new}\n## Citations\n\nx"
