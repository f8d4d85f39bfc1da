# Copyright 2020-2026 The HuggingFace Team. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

# /// script
# dependencies = [
#     "trl",
#     "peft",
#     "nuggets_trainer",
# ]
# ///

"""
Select the rows to fine-tune on by golden scores (https://huggingface.co/papers/2312.10302), and run SFT on them.

pip install nuggets_trainer

# LoRA on the best tenth of the rows
python examples/scripts/sft_golden_set.py \
    --model_name_or_path Qwen/Qwen3-0.6B-Base \
    --dataset_name trl-lib/Capybara \
    --top_fraction 0.1 \
    --num_anchors 100 \
    --learning_rate 2.0e-4 \
    --use_peft \
    --output_dir Qwen3-0.6B-golden
"""

from datasets import load_dataset
from nuggets_trainer import NuggetsConfig, SelectedSFTTrainer

from trl import ModelConfig, ScriptArguments, SFTConfig, TrlParser, get_peft_config


if __name__ == "__main__":
    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, NuggetsConfig))
    script_args, training_args, model_args, nuggets_config = parser.parse_args_and_config()

    dataset = load_dataset(script_args.dataset_name, name=script_args.dataset_config)
    has_eval = training_args.eval_strategy != "no"

    trainer = SelectedSFTTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=dataset[script_args.dataset_train_split],
        eval_dataset=dataset[script_args.dataset_test_split] if has_eval else None,
        peft_config=get_peft_config(model_args),
        nuggets_config=nuggets_config,
    )
    trainer.train()

    # Save and push to Hub
    trainer.save_model(training_args.output_dir)
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
