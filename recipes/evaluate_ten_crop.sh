#!/usr/bin/env bash
# The paper's protocol at test time: embed five crops of each image and of its mirror image, and take their mean.
#
#     recipes/evaluate_ten_crop.sh EXPERIMENT QUERY.csv GALLERY.csv EXCLUDER RESULT.json [flags of evaluate.py]
#
# EXCLUDER is an --excluder of evaluate.py: market1501, duke, ... The experiment must have been trained with
# --crop_augment, like the paper's. This takes ten times as long as embedding each image once. On Market-1501, the
# paper's TriNet reaches mAP 69.14 with this protocol, 65.48 with images resized to the input size, and 66.29 with the
# center crop (not measured here).
set -euo pipefail
trap 'exit 130' INT TERM
if [ $# -lt 5 ]; then
    echo "usage: $0 EXPERIMENT QUERY.csv GALLERY.csv EXCLUDER RESULT.json [flags of evaluate.py]" >&2
    exit 2
fi
experiment=$1 query=$2 gallery=$3 excluder=$4 result=$5
code=$(cd "$(dirname "$0")/.." && pwd)

for part in query gallery; do # --overwrite: those of an earlier call
    python "$code/embed.py" --experiment_root "$experiment" --dataset "${!part}" --filename "${part}_ten_crop.h5" \
        --crop_augment five --flip_augment --aggregator mean --overwrite
done
python "$code/evaluate.py" --excluder "$excluder" --experiment_root "$experiment" --filename "$result" \
    --query_dataset "$query" --query_embeddings "$experiment/query_ten_crop.h5" \
    --gallery_dataset "$gallery" --gallery_embeddings "$experiment/gallery_ten_crop.h5" "${@:6}"
