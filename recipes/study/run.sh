#!/usr/bin/env bash
# The whole study: score three pools with two models, then compare all arms on each pool. It takes days on 2 cores.
#
#   bash recipes/study/run.sh DATA OUT [POOL ...]
#
# DATA is what recipes/study/pools.py wrote; scores and runs go to OUT. SMOLLM2 and GEMMA name the models, by default
# those of the hub. The same command continues a run that was killed.
set -euo pipefail
DATA=$1 OUT=$2
shift 2
[ $# -gt 0 ] || set -- half_spoilt natural gsm8k
SMOLLM2=${SMOLLM2:-HuggingFaceTB/SmolLM2-135M-Instruct} GEMMA=${GEMMA:-google/gemma-3-270m}
CONFIG=$(dirname "$0")/study.yaml

place() { echo "\"$1\": \"$DATA/heldout_$1.jsonl\""; }

for pool in "$@"; do
  anchors=$DATA/anchors.jsonl heldout=$(place alpaca)
  case $pool in
    natural) heldout="$heldout, $(place lima)" ;;
    gsm8k) anchors=$DATA/gsm8k_anchors.jsonl heldout=$(place gsm8k) ;;
  esac
  rows=(--dataset_name "$DATA/$pool.jsonl" --anchors "$anchors")
  scoring=(--dtype bfloat16 --schedule exact --row_signals true)
  nuggets score "${rows[@]}" "${scoring[@]}" --model_name_or_path "$SMOLLM2" --template chat \
    --score_dir "$OUT/scores/smollm2-$pool"
  gemma=$OUT/scores/gemma-$pool
  nuggets score "${rows[@]}" "${scoring[@]}" --model_name_or_path "$GEMMA" --template plain --score_dir "$gemma"
  nuggets compare --config "$CONFIG" --model_name_or_path "$SMOLLM2" "${rows[@]}" \
    --eval_dataset_name "{$heldout, $(place alpaca_eval)}" --score_dir "$OUT/scores/smollm2-$pool" \
    --scores "gemma_golden=$gemma/scores.parquet:golden_score" "gemma_gain=$gemma/scores.parquet:gain" \
    --output_dir "$OUT/$pool"
done
