#!/usr/bin/env bash
# The whole study: score four pools with two models, then compare all arms on each pool. It takes days on 2 cores.
#
#   bash recipes/study/run.sh DATA OUT [POOL ...]
#
# DATA is what recipes/study/pools.py wrote; scores and runs go to OUT. SMOLLM2 and GEMMA name the models, by default
# those of the hub. The same command continues a run that was killed.
set -euo pipefail
DATA=$1 OUT=$2
shift 2
[ $# -gt 0 ] || set -- half_spoilt natural gsm8k targeted
SMOLLM2=${SMOLLM2:-HuggingFaceTB/SmolLM2-135M-Instruct} GEMMA=${GEMMA:-google/gemma-3-270m}
CONFIG=$(dirname "$0")/study.yaml

place() { echo "\"$1\": \"$DATA/heldout_$1.jsonl\""; }

# Writes the first rows of a file of anchors to a file of their own, and prints its place.
first() {
  local file=$OUT/anchors/${1%.jsonl}_$2.jsonl
  mkdir -p "$OUT/anchors"
  head -n "$2" "$DATA/$1" > "$file"
  echo "$file"
}

for pool in "$@"; do
  # As many anchors as the scores of docs/log have: 16 with both models, 100 with SmolLM2 on the half spoilt pool.
  anchors=$(first anchors.jsonl 16) gemma_anchors=$(first anchors.jsonl 16) heldout=$(place alpaca)
  case $pool in
    half_spoilt) anchors=$DATA/anchors.jsonl ;;
    natural) heldout="$heldout, $(place lima)" ;;
    gsm8k | targeted) anchors=$(first gsm8k_anchors.jsonl 10) gemma_anchors=$anchors heldout="$(place gsm8k), $heldout" ;;
  esac
  rows=(--dataset_name "$DATA/$pool.jsonl")
  scoring=(--dtype bfloat16 --schedule exact --row_signals true)
  nuggets score "${rows[@]}" --anchors "$anchors" "${scoring[@]}" --model_name_or_path "$SMOLLM2" --template chat \
    --score_dir "$OUT/scores/smollm2-$pool"
  gemma=$OUT/scores/gemma-$pool
  nuggets score "${rows[@]}" --anchors "$gemma_anchors" "${scoring[@]}" --model_name_or_path "$GEMMA" --template plain \
    --score_dir "$gemma"
  nuggets compare --config "$CONFIG" --model_name_or_path "$SMOLLM2" "${rows[@]}" --anchors "$anchors" \
    --eval_dataset_name "{$heldout, $(place alpaca_eval)}" --score_dir "$OUT/scores/smollm2-$pool" \
    --scores "gemma_golden=$gemma/scores.parquet:golden_score" "gemma_gain=$gemma/scores.parquet:gain" \
    --output_dir "$OUT/$pool"
done
